"""The dashboard behind nginx, with the configuration of docs/fleet.md. Skipped where there is no nginx."""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from serving import serving_dashboard

from hms_tune.database.connect import Storage
from hms_tune.reports.dashboard.serve import dashboard_app
from hms_tune.search.optuna_private import study_id_of

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx")

FLEET = Path(__file__).parents[3] / "docs" / "fleet.md"
PASSWORD = "canary-of-the-proxy"


def documented(prefix: str | None) -> str:
    """The server block of the document, without its certificate; with a prefix, its other location."""
    server, below = re.findall(r"```nginx\n(.*?)```", FLEET.read_text(), re.DOTALL)
    kept = "\n".join(line for line in server.splitlines() if "ssl_" not in line)
    if prefix is None:
        return kept
    assert f"location {prefix}/ {{" in below
    return re.sub(r"    location / \{.*?\n    \}\n", lambda _: below, kept, flags=re.DOTALL)


@pytest.fixture(params=[None, "/hms-tune"])
def prefix(request: pytest.FixtureRequest) -> str | None:
    return request.param


@pytest.fixture
def proxy(storage: Storage, tmp_path: Path, prefix: str | None) -> Iterator[int]:
    """The port of an nginx in front of a writable dashboard."""
    assert NGINX is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    application = dashboard_app(
        storage, tmp_path, password=PASSWORD, writable=True, prefix=prefix, proxy=os.getuid()
    )
    with serving_dashboard(application) as server:
        block = documented(prefix).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
        block = block.replace("127.0.0.1:8080", f"127.0.0.1:{server.effective_port}")
        config = tmp_path / "nginx.conf"
        paths = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"daemon off; pid {tmp_path}/pid; error_log stderr; user root; events {{}}\n"
            f"http {{ access_log off; {paths}\n{block}\n}}\n"
        )
        process = subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(config)])
        try:
            tries = threading.Event()
            for _ in range(400):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                tries.wait(0.025)
            yield port
        finally:
            process.terminate()
            process.wait(20)


def ask(port: int, path: str, *, password: str = PASSWORD, method: str = "GET", **headers: str) -> int:
    known = base64.b64encode(f"me:{password}".encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        headers={"Host": "dashboard.example.org", "Authorization": f"Basic {known}", **headers},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_dashboard_works_behind_the_documented_proxy(
    proxy: int, storage: Storage, study_name: str, prefix: str | None
) -> None:
    study = study_id_of(optuna.create_study(study_name=study_name, storage=storage.optuna))
    below = prefix or ""
    for path in ("/dashboard/", "/static/bundle.js", "/api/studies", f"/api/studies/{study}"):
        assert ask(proxy, below + path) == 200, path
        assert below == "" or ask(proxy, path) == 404
    path = f"{below}/api/studies/{study}"
    assert ask(proxy, path, method="DELETE", Origin="https://attacker.example") == 403
    assert ask(proxy, path, method="DELETE", Origin="https://dashboard.example.org") == 204


def test_the_first_page_leads_to_the_dashboard_and_names_no_host(proxy: int, prefix: str | None) -> None:
    known = base64.b64encode(f":{PASSWORD}".encode()).decode()
    head = f"GET {prefix or ''}/ HTTP/1.0\r\nHost: dashboard.example.org\r\nAuthorization: Basic {known}\r\n"
    with socket.create_connection(("127.0.0.1", proxy)) as visitor:
        visitor.sendall(f"{head}X-Forwarded-Host: attacker.example\r\n\r\n".encode())
        answer = visitor.makefile("rb").read().decode()
    assert re.findall(r"(?m)^Location: (.*?)\r$", answer) == [f"{prefix or ''}/dashboard"]


def test_one_who_guesses_through_the_proxy_locks_out_nobody_else(proxy: int, prefix: str | None) -> None:
    path = f"{prefix or ''}/api/studies"
    codes = [ask(proxy, path, password=f"guess {number}") for number in range(12)]
    assert codes == [401] * 10 + [429] * 2
    with socket.create_connection(("127.0.0.1", proxy), source_address=("127.0.0.2", 0)) as other:
        known = base64.b64encode(f":{PASSWORD}".encode()).decode()
        head = f"GET {path} HTTP/1.0\r\nHost: x\r\nAuthorization: Basic {known}\r\n\r\n"
        other.sendall(head.encode())
        assert b" 200 " in other.makefile("rb").readline()
