"""The dashboard with a note on every trial.

The dashboard keeps notes as attributes of the study and looks through all of them once for every trial, so
that notes on a thousand trials would slow each page by a quarter. Ours lie in our own table and are laid
into the answer that the page asks for. A note that a person wrote in the dashboard comes first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import select

from hms_tune.service.storage import Storage
from hms_tune.service.tables import trial_records

_STUDY = re.compile(r"/api/studies/(\d+)/?")

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]


class TrialNotes:
    """A WSGI application around the dashboard's."""

    def __init__(self, app: Application, storage: Storage) -> None:
        self._app = app
        self._storage = storage

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        asked = _STUDY.fullmatch(environ.get("PATH_INFO", ""))
        if asked is None or environ.get("REQUEST_METHOD") != "GET":
            return self._app(environ, start_response)
        answer: list[Any] = []

        def begin(status: str, headers: list[tuple[str, str]], *rest: Any) -> None:
            answer[:] = [status, headers, rest]

        parts = self._app(environ, begin)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        status, headers, rest = answer
        if status.startswith("200"):
            body = self._noted(body, int(asked.group(1)))
            kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers = [*kept, ("Content-Length", str(len(body)))]
        start_response(status, headers, *rest)
        return [body]

    def _noted(self, body: bytes, study_id: int) -> bytes:
        content = json.loads(body)
        trials = [*content.get("trials", ()), *content.get("best_trials", ())]
        if not trials:
            return body
        notes = self._notes(study_id, first=min(trial["number"] for trial in trials))
        for trial in trials:
            note = notes.get(trial["number"])
            if note and not trial["note"]["body"]:
                trial["note"]["body"] = note
        return json.dumps(content, separators=(",", ":")).encode()

    def _notes(self, study_id: int, *, first: int) -> dict[int, str]:
        wanted = select(trial_records.c.number, trial_records.c.note).where(
            trial_records.c.study_id == study_id,
            trial_records.c.number >= first,
            trial_records.c.note.is_not(None),
        )
        with self._storage.engine.connect() as connection:
            return {row.number: row.note for row in connection.execute(wanted)}
