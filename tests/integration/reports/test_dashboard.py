"""The dashboard over HTTP, on a real PostgreSQL, in the forms that it is served in."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from serving import serving_dashboard
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.connection.url import parse_address
from hms_tune.database.read_only import READER, open_read_only
from hms_tune.errors import StorageError
from hms_tune.reports.dashboard.access import READ_ONLY, Gatekeeper
from hms_tune.reports.dashboard.serve import dashboard_app
from hms_tune.reports.dashboard.server import MOST_CONNECTIONS, REQUEST_S
from hms_tune.search.optuna_private import study_id_of, trial_id_of

Ask = Callable[..., tuple[int, bytes]]
PASSWORD = "canary-of-the-dashboard"


@pytest.fixture
def study(storage: Storage, study_name: str) -> optuna.Study:
    """A study of three trials, one of which runs."""
    made = optuna.create_study(study_name=study_name, storage=storage.optuna)
    for value in (0.25, 0.5):
        trial = made.ask()
        trial.suggest_float("x", 0.0, 1.0)
        trial.report(value, 1)
        made.tell(trial, value)
    made.ask()
    return made


@contextmanager
def served(application: Gatekeeper, *, host: str = "127.0.0.1", password: str | None = None) -> Iterator[Ask]:
    """Serve in a thread; yields what sends a request and returns status and body."""
    with serving_dashboard(application, host=host) as server:
        address = f"http://127.0.0.1:{server.effective_port}"

        def ask(
            path: str, method: str = "GET", body: object = None, *, given: str | None = password
        ) -> tuple[int, bytes]:
            headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
            if given is not None:
                headers["Authorization"] = "Basic " + base64.b64encode(f"me:{given}".encode()).decode()
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(address + path, data=data, headers=headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        yield ask


@pytest.fixture
def reading(database_url: str) -> Iterator[Storage]:
    """The database as the dashboard opens it."""
    opened = open_read_only(database_url)
    yield opened
    opened.close()


def writes(study: optuna.Study) -> list[tuple[str, str, object]]:
    """Every request of the page that would change something."""
    number = study_id_of(study)
    trial = trial_id_of(study.trials[2])
    return [
        ("DELETE", f"/api/studies/{number}", {}),
        ("POST", "/api/studies", {"study_name": f"{study.study_name}-2", "directions": ["minimize"]}),
        ("POST", f"/api/studies/{number}/rename", {"study_name": f"{study.study_name}-3"}),
        ("PUT", f"/api/studies/{number}/note", {"version": 1, "body": "note"}),
        ("PUT", f"/api/studies/{number}/{trial}/note", {"version": 1, "body": "note"}),
        ("POST", f"/api/trials/{trial}/tell", {"state": "Fail"}),
        ("POST", f"/api/trials/{trial}/user-attrs", {"user_attrs": {"x": 1}}),
        ("POST", f"/api/artifacts/{number}", {"file": "data:text/plain;base64,eA==", "filename": "x.txt"}),
        (
            "POST",
            f"/api/artifacts/{number}/{trial}",
            {"file": "data:text/plain;base64,eA==", "filename": "x"},
        ),
    ]


def snapshot(study: optuna.Study) -> list[object]:
    return [
        optuna.get_all_study_names(study._storage),
        study._storage.get_study_system_attrs(study_id_of(study)),
        study.get_trials(deepcopy=False),
    ]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_view_of_the_read_only_dashboard_loads_and_every_change_is_refused(
    study: optuna.Study, reading: Storage, tmp_path: Path
) -> None:
    before = snapshot(study)
    number = study_id_of(study)
    with served(dashboard_app(reading, tmp_path)) as ask:
        for path in (
            "/dashboard/",
            f"/dashboard/studies/{number}",
            "/static/bundle.js",
            "/favicon.ico",
            "/api/meta",
            "/api/studies",
            f"/api/studies/{number}",
            f"/api/studies/{number}?after=2",
            f"/api/studies/{number}/param_importances",
            f"/csv/{number}",
        ):
            status, body = ask(path)
            assert (status, bool(body)) == (200, True), path
        assert len(json.loads(ask(f"/api/studies/{number}")[1])["trials"]) == 3
        for method, path, body in writes(study):
            status, answer = ask(path, method, body)
            assert (status, json.loads(answer)) == (403, {"reason": READ_ONLY}), path
    assert snapshot(study) == before
    assert list(tmp_path.iterdir()) == []


def test_the_database_itself_refuses_what_the_gatekeeper_would_let_through(
    study: optuna.Study, reading: Storage, tmp_path: Path
) -> None:
    before = snapshot(study)
    with reading.engine.connect() as connection:
        assert connection.execute(text("SELECT current_user")).scalar_one() == READER
    with served(dashboard_app(reading, tmp_path, writable=True)) as ask:
        for method, path, body in writes(study):
            assert ask(path, method, body)[0] in (400, 500), path
    assert snapshot(study) == before
    with reading.engine.connect() as connection:
        connection.execute(text("SET default_transaction_read_only = off"))
        connection.commit()
        with pytest.raises(DBAPIError, match="permission denied"):
            connection.execute(text("DELETE FROM trials"))


def test_the_writable_dashboard_changes_what_it_is_asked_to(
    study: optuna.Study, storage: Storage, tmp_path: Path
) -> None:
    number = study_id_of(study)
    with served(dashboard_app(storage, tmp_path, writable=True)) as ask:
        assert ask(f"/api/studies/{number}/note", "PUT", {"version": 1, "body": "a note"})[0] == 204
        upload = {"file": "data:text/plain;base64,eA==", "filename": "x.txt"}
        assert ask(f"/api/artifacts/{number}", "POST", upload)[0] == 201
        assert ask(f"/api/studies/{number}", "DELETE", {})[0] == 204
    assert study.study_name not in optuna.get_all_study_names(storage.optuna)


def test_dashboard_exposed_delete_is_refused_without_the_password(
    study: optuna.Study, storage: Storage, tmp_path: Path
) -> None:
    number = study_id_of(study)
    application = dashboard_app(storage, tmp_path, password=PASSWORD, writable=True)
    with served(application, host="0.0.0.0", password=PASSWORD) as ask:
        for method, path, body in [*writes(study), ("GET", "/api/studies", None)]:
            assert ask(path, method, body, given=None)[0] == 401, path
        for given in ("", "wrong"):
            assert ask(f"/api/studies/{number}", "DELETE", {}, given=given)[0] == 401, given
        assert study.study_name in optuna.get_all_study_names(storage.optuna)
        assert ask("/api/studies")[0] == 200
        assert ask(f"/api/studies/{number}", "DELETE", {})[0] == 204


def answer(connection: socket.socket, request: bytes) -> bytes:
    """The status line of the answer; nothing if the connection was closed instead."""
    connection.settimeout(20.0)
    connection.sendall(request)
    with connection.makefile("rb") as reading:
        return reading.readline()


def inside(environment: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "0")])
    return []


def test_clients_that_never_finish_a_request_lock_nobody_out() -> None:
    gate = Gatekeeper(inside, password=PASSWORD, writable=False)
    known = b"Authorization: Basic " + base64.b64encode(f":{PASSWORD}".encode())
    with serving_dashboard(gate) as server, ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", server.effective_port)))

        for _ in range(3 * MOST_CONNECTIONS):
            connect().sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert b"200 OK" in answer(connect(), b"GET / HTTP/1.1\r\n" + known + b"\r\n\r\n")
        assert len(server.active_channels) <= MOST_CONNECTIONS + 1


def test_a_name_with_two_addresses_has_one_door(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def two_of_localhost(host: str, *rest: Any, **named: Any) -> list[Any]:
        addresses = ("::1", "127.0.0.1") if host == "localhost" else (host,)
        return [found for each in addresses for found in resolve(each, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", two_of_localhost)
    with serving_dashboard(Gatekeeper(inside, password=None, writable=False), host="localhost") as server:
        address = "127.0.0.1", server.effective_port
        with socket.create_connection(address) as connection:
            assert b"200 OK" in answer(connection, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_a_request_has_a_deadline_however_steadily_it_trickles_in() -> None:
    with serving_dashboard(Gatekeeper(inside, password=None, writable=False)) as server:
        looked = threading.Event()

        def arrived(count: int) -> float:
            """When the connection's time began, as soon as so many bytes of the request are there."""
            while True:
                for each in list(server.active_channels.values()):
                    if each.request is not None and each.request.header_bytes_received >= count:
                        return float(each.last_activity)
                looked.wait(0.005)

        with socket.create_connection(("127.0.0.1", server.effective_port)) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n")
            began = arrived(16)
            slow.sendall(b"X-A: 1\r\n")
            assert arrived(24) == began
            server.trigger.pull_trigger(lambda: server.maintenance(began + REQUEST_S + 1))
            slow.settimeout(20.0)
            assert slow.recv(1) == b""


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 4000 + b"\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nAuthorization: Basic \xe9\xe9\xe9\xe9\r\n\r\n", b"401"),
        (b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n", b"431"),
    ],
    ids=["length", "negative", "authorization", "host", "long"],
)
def test_headers_that_make_no_sense_are_refused(request_head: bytes, status: bytes) -> None:
    with (
        serving_dashboard(Gatekeeper(inside, password=PASSWORD, writable=False)) as server,
        socket.create_connection(("127.0.0.1", server.effective_port)) as connection,
    ):
        assert answer(connection, request_head).split()[1] == status


def test_a_slow_answer_holds_up_no_other(tmp_path: Path) -> None:
    going_on = threading.Event()

    def slow(environment: dict[str, object], start_response: Callable[..., object]) -> list[bytes]:
        if environment["PATH_INFO"] == "/slow":
            assert going_on.wait(20.0)
        else:
            going_on.set()
        start_response("200 OK", [])
        return [b"done"]

    with served(Gatekeeper(slow, password=None, writable=False)) as ask:
        answers: list[tuple[int, bytes]] = []
        waiting = threading.Thread(target=lambda: answers.append(ask("/slow")))
        waiting.start()
        assert ask("/quick") == (200, b"done")
        waiting.join(timeout=20.0)
        assert answers == [(200, b"done")]


def test_that_a_request_waits_for_its_turn_is_nothing_to_log(caplog: pytest.LogCaptureFixture) -> None:
    with serving_dashboard(Gatekeeper(inside, password=None, writable=False)) as server:
        server.task_dispatcher.queue_logger.warning("Task queue depth is %d", 1)
    assert caplog.messages == []


@contextmanager
def database(url: URL) -> Iterator[URL]:
    """A database of its own with a plain user, who owns it and may create no roles."""
    name = f"plain_{os.getpid()}"
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection, ExitStack() as stack:
        for made, undone in (
            (f"CREATE ROLE {name} LOGIN PASSWORD 'plain'", f"DROP ROLE {name}"),
            (f"CREATE DATABASE {name} OWNER {name}", f"DROP DATABASE {name} WITH (FORCE)"),
        ):
            connection.execute(text(made))
            stack.callback(connection.execute, text(undone))
        yield url.set(username=name, password="plain", database=name)
    server.dispose()


def test_a_user_who_may_not_create_roles_reads_in_read_only_transactions(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with database(parse_address(database_url)) as url:
        reading = open_read_only(url)  # the tables were not there yet
        assert optuna.get_all_study_names(reading.optuna) == []
        with reading.engine.connect() as connection, pytest.raises(StorageError, match="opened to read"):
            connection.execute(text("DELETE FROM trials"))
        reading.close()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        f"The database user may not create the role {READER}"
    ]


def test_a_login_that_may_only_read_is_enough_for_the_dashboard(database_url: str) -> None:
    with database(parse_address(database_url)) as url:
        open_storage(url).close()
        owner = create_engine(url)
        with owner.begin() as connection:
            connection.execute(text("REVOKE ALL ON SCHEMA public FROM PUBLIC"))
        owner.dispose()
        superuser = create_engine(parse_address(database_url).set(database=url.database))
        with superuser.begin() as connection:
            connection.execute(text("CREATE ROLE looker LOGIN PASSWORD 'looks'"))
            connection.execute(text("GRANT USAGE ON SCHEMA public, hms_tune TO looker"))
            connection.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public, hms_tune TO looker"))
        reading = open_read_only(url.set(username="looker", password="looks"))
        assert optuna.get_all_study_names(reading.optuna) == []
        reading.close()
        with superuser.begin() as connection:
            connection.execute(text("DROP OWNED BY looker"))
            connection.execute(text("DROP ROLE looker"))
        superuser.dispose()


def test_a_database_that_is_away_is_one_error() -> None:
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:1"):
        open_read_only("postgresql://me@127.0.0.1:1/x")


def test_the_page_of_a_study_of_another_program_is_the_dashboards_own(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    made = optuna.create_study(study_name=study_name, storage=storage.optuna, directions=["maximize"])
    values = {step: 0.1 * step for step in range(3)}
    made.add_trials([optuna.trial.create_trial(value=0.5, intermediate_values=values) for _ in range(80)])
    with served(dashboard_app(storage, tmp_path)) as ask:
        answer, body = ask(f"/api/studies/{study_id_of(made)}")
    assert answer == 200
    told = [len(trial["intermediate_values"]) for trial in json.loads(body)["trials"]]
    assert told == [3] * 80
