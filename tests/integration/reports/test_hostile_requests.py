"""What strangers send to the dashboard: headers without sense, and bodies without a password."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import optuna
import pytest
from serving import serving_dashboard

from hms_tune.database.connect import Storage
from hms_tune.reports.dashboard.files import DashboardFiles
from hms_tune.reports.dashboard.serve import dashboard_app
from hms_tune.reports.dashboard.tries import MOST
from hms_tune.search.optuna_private import study_id_of

PASSWORD = "canary-of-the-dashboard"
KNOWN = b"Authorization: Basic " + base64.b64encode(f":{PASSWORD}".encode()) + b"\r\n"
HOST = b"Host: localhost\r\n"

Send = Callable[..., "socket.socket"]


@pytest.fixture
def study(storage: Storage, study_name: str) -> int:
    made = optuna.create_study(study_name=study_name, storage=storage.optuna)
    made.tell(made.ask(), 0.5)
    return study_id_of(made)


@pytest.fixture
def connect(storage: Storage, tmp_path: Path) -> Iterator[Callable[..., Callable[[], socket.socket]]]:
    """Serves a dashboard; gives what opens a connection to it."""
    with ExitStack() as stack:

        def serve(**options: Any) -> Callable[[], socket.socket]:
            server = stack.enter_context(serving_dashboard(dashboard_app(storage, tmp_path, **options)))

            def open_one() -> socket.socket:
                made = socket.create_connection(("127.0.0.1", server.effective_port), timeout=20.0)
                return stack.enter_context(made)

            return open_one

        yield serve


def status(connection: socket.socket, request: bytes) -> int:
    """The answer's status; 0 if the connection was closed instead."""
    connection.sendall(request)
    with connection.makefile("rb") as reading:
        line = reading.readline().split()
    return int(line[1]) if line else 0


def asked(path: bytes, *headers: bytes, method: bytes = b"GET", body: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    head = b"%s %s HTTP/1.1\r\n" % (method, path) + b"".join(headers) + length
    return head + b"Connection: close\r\n\r\n" + body


ODD = {
    "nothing": b"",
    "bracket": b"[",
    "no text": b"\xff\xfe",
    "NUL": b"\x00",
    "digits": b"9" * 5000,
    "negative": b"-1",
    "range": b"bytes=9-1,a-b",
    "quote": b'"',
    "letters": b"a" * 9000,
    "year": b"Thu, 01 Jan 99999999999 00:00:00 GMT",
    "entity": b"=;=,;\t*%00",
}


@pytest.mark.parametrize(
    "name",
    [
        *(b"Host", b"Origin", b"Authorization", b"Cookie", b"Content-Length", b"Content-Type", b"Expect"),
        *(b"Transfer-Encoding", b"Range", b"If-Range", b"If-None-Match", b"If-Modified-Since", b"Accept"),
        *(b"Accept-Encoding", b"Accept-Language", b"Forwarded", b"X-Forwarded-For", b"X-Forwarded-Host"),
        *(b"X-Forwarded-Proto", b"Connection", b"Upgrade", b"TE", b"Content-Encoding"),
    ],
)
@pytest.mark.parametrize(
    "everywhere", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["in turn", "everywhere"]
)
def test_a_header_without_sense_is_refused_or_left_out_and_never_a_fault(
    name: bytes, everywhere: bool, study: int, connect: Callable[..., Send], caplog: pytest.LogCaptureFixture
) -> None:
    open_one = connect(writable=True)
    note = b"/api/studies/%d/note" % study
    body = b'{"version": 1, "body": "x"}'
    pages = (b"/", b"/dashboard/", b"/static/bundle.js", b"/api/studies", b"/csv/%d" % study)
    for number, (meaning, value) in enumerate(ODD.items()):
        for path in (*(pages if everywhere else pages[number % len(pages) :][:1]), note):
            headers = [] if name == b"Host" else [HOST]
            if path == note and name != b"Content-Type":
                headers.append(b"Content-Type: application/json\r\n")
            headers.append(name + b": " + value + b"\r\n")
            changes = {"method": b"PUT", "body": body} if path == note else {}
            got = status(open_one(), asked(path, *headers, **changes))
            assert 200 <= got < 500, (meaning, path, got)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("request_head", "refused"),
    [
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 401),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_or_in_none_is_refused(
    request_head: bytes, refused: int, connect: Callable[..., Send], caplog: pytest.LogCaptureFixture
) -> None:
    assert status(connect(password=PASSWORD)(), request_head) == refused
    assert caplog.messages == []


def test_what_is_not_there_is_not_found(
    study: int, connect: Callable[..., Send], caplog: pytest.LogCaptureFixture
) -> None:
    open_one = connect()
    for path in (b"/artifacts/%d/ab", b"/artifacts/%d/99999999999/ab", b"/artifacts/99999999999%d/ab"):
        assert status(open_one(), asked(path % study, HOST)) == 404
    for path in (b"/api/studies/%d?after=abc", b"/api/studies/%d?after=%%ff", b"/api/studies/%d?after=-1"):
        assert status(open_one(), asked(path % study, HOST)) == 400
    assert caplog.messages == []


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"{", b"\xff", b"[" * 60000])
def test_a_change_that_is_no_json_object_is_refused(
    body: bytes, study: int, connect: Callable[..., Send], caplog: pytest.LogCaptureFixture
) -> None:
    open_one = connect(writable=True)
    headers = [HOST, b"Content-Type: application/json\r\n"]
    for method, path in ((b"POST", b"/api/studies"), (b"PUT", b"/api/studies/%d/note" % study)):
        assert status(open_one(), asked(path, *headers, method=method, body=body)) == 400
    assert caplog.messages == []


def test_a_change_without_a_body_is_one_of_nothing(
    study: int, storage: Storage, connect: Callable[..., Send]
) -> None:
    storage.optuna.set_study_system_attr(study, "preference:is_preferential", True)
    (trial,) = storage.optuna.get_all_trials(study)
    path = b"/api/studies/%d/%d/skip" % (study, trial._trial_id)
    assert status(connect(writable=True)(), asked(path, HOST, method=b"POST")) == 204


@pytest.mark.parametrize(
    "described",
    [{"mimetype": "text/html\r\nX-Evil: 1"}, {"mimetype": 7, "encoding": "a\nb"}, {}, None, "text"],
    ids=["newline", "number", "empty", "removed", "text"],
)
def test_a_file_that_somebody_described_wrongly_is_not_found(
    described: object,
    study: int,
    storage: Storage,
    connect: Callable[..., Send],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    DashboardFiles(tmp_path).write("ab", BytesIO(b"x"))
    storage.optuna.set_study_system_attr(study, "artifacts:ab", json.dumps(described))
    assert status(connect()(), asked(b"/artifacts/%d/ab" % study, HOST)) == 404
    assert caplog.messages == []


@pytest.mark.parametrize("length", [b"Content-Length: 100000000\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_the_body_of_a_request_that_is_refused_is_not_waited_for(
    length: bytes, expects: bytes, connect: Callable[..., Send]
) -> None:
    writable, read_only = (connect(password=PASSWORD, writable=writable) for writable in (True, False))
    head = b"POST /api/studies HTTP/1.1\r\n" + HOST + length + expects
    assert status(writable(), head + b"\r\n") == 401
    assert status(read_only(), head + KNOWN + b"\r\n") == 403
    guess = head + b"Authorization: Basic " + base64.b64encode(b":guess") + b"\r\n\r\n"
    assert [status(writable(), guess) for _ in range(MOST + 1)] == [401] * MOST + [429]


def test_what_follows_a_refused_request_is_no_second_request(connect: Callable[..., Send]) -> None:
    inner = b"GET /api/studies HTTP/1.1\r\n" + HOST + KNOWN + b"\r\n"
    connection = connect(password=PASSWORD)()
    connection.sendall(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + inner)
    with connection.makefile("rb") as reading:
        answered = reading.read()
    assert answered.count(b"HTTP/1.1 ") == 1
    assert answered.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_of_a_megabyte_arrives_with_the_password(
    chunked: bool, study: int, connect: Callable[..., Send], tmp_path: Path
) -> None:
    content = bytes(1 << 20)
    uploaded = {"file": "data:text/plain;base64," + base64.b64encode(content).decode(), "filename": "x.bin"}
    body = json.dumps(uploaded).encode()
    length = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % len(body)
    head = b"POST /api/artifacts/%d HTTP/1.1\r\n" % study + HOST + KNOWN + length
    sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    request = head + b"Content-Type: application/json\r\n\r\n" + sent
    assert status(connect(password=PASSWORD, writable=True)(), request) == 201
    (stored,) = (tmp_path / "dashboard").iterdir()
    assert stored.read_bytes() == content
