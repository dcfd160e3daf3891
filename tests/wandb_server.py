"""A local stand-in for the W&B server: as much of its protocol as wandb's client speaks for a run.

GraphQL for the login, runs, files and artifacts; the file stream for history and summary; plain PUT for
files. It keeps what it was sent. Queries were found by logging what the client asks.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from serving import served


@dataclass(slots=True)
class Run:
    """What the server knows of a run."""

    name: str
    group: str | None = None
    job_type: str | None = None
    display_name: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    complete: bool = False
    exit_code: int | None = None


@dataclass(slots=True)
class Server:
    """The stand-in. ``failing`` makes it answer every request with 500."""

    address: str = ""
    runs: dict[str, Run] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    failing: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def answer(self, operation: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        self.operations.append(operation)
        answers = {
            "Viewer": self._viewer,
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert,
            "OrganizationCoreWeaveOrganizationID": lambda variables: {"entity": None},
            "CreateRunFiles": self._create_files,
            "ServerFeaturesQuery": lambda variables: {"serverInfo": {"features": []}},
            "ArtifactType": lambda variables: {"project": {"artifact": None}},
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": self._commit_artifact,
            "UpdateArtifactManifest": self._update_manifest,
        }
        if operation in answers:
            return answers[operation](variables)
        self.unknown.append(f"{operation} {query} {json.dumps(variables)}")
        return {}

    def _viewer(self, _variables: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "1", "entity": "team", "username": "me", "email": "me@example.org", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": [{"node": {"name": "team"}}]}}}

    def _project(self) -> dict[str, Any]:
        return {"id": "p1", "name": "hms", "entity": {"id": "e1", "name": "team"}}

    def _resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        bucket = None
        if run is not None:
            bucket = {
                "id": run.name,
                "name": run.name,
                "summaryMetrics": json.dumps(run.summary),
                "displayName": run.display_name,
                "logLineCount": 0,
                "historyLineCount": len(run.history),
                "eventsLineCount": len(run.events),
                "historyTail": json.dumps([json.dumps(run.history[-1])] if run.history else []),
                "eventsTail": json.dumps([json.dumps(run.events[-1])] if run.events else []),
                "config": json.dumps(run.config),
                "tags": [],
                "notes": None,
                "wandbConfig": json.dumps({"t": 1}),
            }
        return {"model": self._project() | {"bucket": bucket}}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        inserted = variables["name"] not in self.runs
        run = self.runs.setdefault(variables["name"], Run(variables["name"]))
        run.group = variables.get("groupName") or run.group
        run.job_type = variables.get("jobType") or run.job_type
        run.display_name = variables.get("displayName") or run.display_name
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        bucket = {
            "id": run.name,
            "name": run.name,
            "displayName": run.display_name or run.name,
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": self._project(),
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _create_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.runs[variables["run"]].files += variables["files"]
        files = [
            {"name": name, "uploadUrl": f"{self.address}/storage/{variables['run']}/{name}"}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def _create_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables.get("input", variables)
        self.artifacts.append(dict(given))
        number = len(self.artifacts) - 1
        sequence = {"id": "s1", "latestArtifact": None}
        artifact = {"id": str(number), "state": "PENDING", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def _create_manifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = self._file("manifest", f"wandb_manifest-{variables.get('artifactID')}.json")
        return {"createArtifactManifest": {"artifactManifest": {"id": "m1", "file": file}}}

    def _update_manifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = self._file("manifest", "updated.json")
        return {"updateArtifactManifest": {"artifactManifest": {"id": "m1", "file": file}}}

    def _create_artifact_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables.get("input", variables)
        edges = []
        for wanted in given.get("artifactFiles", []):
            file = self._file("artifact", wanted["name"])
            artifact = {"id": wanted.get("artifactID")}
            path = f"artifact/{wanted['name']}"
            edges.append({"node": file | {"storagePath": path, "artifact": artifact}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _file(self, folder: str, name: str) -> dict[str, Any]:
        url = f"{self.address}/storage/{folder}/{name}"
        return {
            "id": name,
            "name": name,
            "displayName": name,
            "uploadUrl": url,
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
        }

    def _commit_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[int(variables["artifactID"])]
        artifact["committed"] = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "0"}}}

    def stream(self, run: Run, sent: dict[str, Any]) -> None:
        """Take a piece of the file stream: lines at an offset."""
        lines = {"wandb-history.jsonl": run.history, "wandb-events.jsonl": run.events}
        for name, part in (sent.get("files") or {}).items():
            rows = [json.loads(row) for row in part["content"]]
            if name in lines:
                lines[name][part["offset"] : part["offset"] + len(rows)] = rows
            elif name == "wandb-summary.json" and rows:
                run.summary = rows[-1]
        run.complete = run.complete or bool(sent.get("complete"))
        run.exit_code = sent.get("exitcode", run.exit_code)


@contextmanager
def wandb_server(port: int = 0) -> Iterator[Server]:
    """The stand-in, on a port of its own."""
    kept = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            path = urlsplit(self.path).path
            with kept.lock:
                status, answer = (500, b"{}") if kept.failing else (200, self.taken(path, body))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def taken(self, path: str, body: bytes) -> bytes:
            if path.startswith("/storage/"):
                kept.uploads[path.removeprefix("/storage/")] = body
                return b"{}"
            if not path.startswith("/sdk/otel"):
                kept.bodies.append(body)
            if path == "/graphql":
                asked = json.loads(body)
                named = re.match(r"\s*(?:query|mutation)\s+(\w+)", asked["query"])
                operation = asked.get("operationName") or (named.group(1) if named else "")
                data = kept.answer(operation, asked["query"], asked.get("variables") or {})
                return json.dumps({"data": data}).encode()
            if stream := re.fullmatch(r"/files/[^/]*/?[^/]+/([^/]+)/file_stream", path):
                kept.stream(kept.runs[stream.group(1)], json.loads(body))
                return b'{"exitcode": null, "limits": {}}'
            return b"{}"

        do_GET = do_POST = do_PUT = do_PATCH = handle_any  # noqa: N815

        def log_message(self, *arguments: object) -> None: ...

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away is nothing to tell."""

    with served(Quiet(("127.0.0.1", port), Handler)) as kept.address:
        yield kept
