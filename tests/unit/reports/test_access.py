"""What stands before the dashboard, with a fake application behind it."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest

from hms_tune.errors import UsageError
from hms_tune.reports.dashboard.access import READ_ONLY, Gatekeeper, is_loopback
from hms_tune.reports.dashboard.serve import check_exposure
from hms_tune.reports.dashboard.tries import MOST, PAUSE_S, Tries, address_of


class Behind:
    """An application that counts what reaches it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def __call__(self, environment: dict[str, Any], start_response: Any) -> list[bytes]:
        self.reached.append(f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"inside"]


def ask(
    gate: Gatekeeper,
    method: str = "GET",
    path: str = "/api/studies",
    *,
    host: str = "127.0.0.1:8080",
    body: bytes = b"",
    remote: str = "127.0.0.1",
    length: str | None = None,
    **headers: str,
) -> tuple[str, dict[str, str], bytes]:
    answered: list[tuple[str, dict[str, str]]] = []
    environment = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "HTTP_HOST": host,
        "REMOTE_ADDR": remote,
        "CONTENT_LENGTH": str(len(body)) if length is None else length,
        "wsgi.input": io.BytesIO(body),
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }

    def start(status: str, pairs: list[tuple[str, str]], *_rest: Any) -> None:
        answered.append((status, dict(pairs)))

    content = b"".join(gate(environment, start))
    ((status, shown),) = answered
    return status, shown, content


def basic(password: str, user: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_reading_is_let_through_and_framing_forbidden() -> None:
    behind = Behind()
    status, headers, content = ask(Gatekeeper(behind, password=None, writable=False))
    assert (status, content, behind.reached) == ("200 OK", b"inside", ["GET /api/studies"])
    assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "delete", "PROPFIND"])
def test_the_read_only_dashboard_lets_no_change_through_and_says_why(method: str) -> None:
    behind = Behind()
    gate = Gatekeeper(behind, password=None, writable=False)
    status, headers, content = ask(gate, method, body=b"x" * 100)
    assert (status, json.loads(content)) == ("403 Forbidden", {"reason": READ_ONLY})
    assert headers["Content-Type"] == "application/json"
    status, headers, content = ask(gate, method, "/elsewhere")
    assert (status, content.decode()) == ("403 Forbidden", f"{READ_ONLY}\n")
    assert behind.reached == []


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !!!",
        "Bearer sésame",
        basic(""),
        basic("sésam"),
        basic("sésame "),
        "Basic " + base64.b64encode("sésame".encode()).decode(),
    ],
)
def test_nothing_is_seen_without_the_password(authorization: str) -> None:
    behind = Behind()
    gate = Gatekeeper(behind, password="sésame", writable=True)
    for method, path in (("GET", "/"), ("GET", "/api/studies"), ("DELETE", "/api/studies/1")):
        status, headers, _ = ask(gate, method, path, authorization=authorization)
        assert status == "401 Unauthorized"
        assert headers["WWW-Authenticate"].startswith("Basic ")
    assert behind.reached == []


def test_the_password_opens_whatever_the_user_is_called_and_the_host_too() -> None:
    gate = Gatekeeper(Behind(), password="sésame:ouvre", writable=False)
    for user in ("", "me"):
        status, _, _ = ask(gate, host="gpu-1.example", authorization=basic("sésame:ouvre", user))
        assert status == "200 OK"
    status, _, _ = ask(gate, "DELETE", authorization=basic("sésame:ouvre"))
    assert status == "403 Forbidden"


@pytest.mark.parametrize("host", ["attacker.example", "attacker.example:8080", "", "10.0.0.7:8080"])
def test_a_page_whose_name_was_made_to_point_here_reads_nothing(host: str) -> None:
    behind = Behind()
    status, _, _ = ask(Gatekeeper(behind, password=None, writable=True), host=host)
    assert (status, behind.reached) == ("403 Forbidden", [])


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
def test_this_machines_names_are_answered(host: str) -> None:
    assert ask(Gatekeeper(Behind(), password=None, writable=False), host=host)[0] == "200 OK"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8080", "200 OK"),
        ("http://attacker.example", "403 Forbidden"),
        ("http://127.0.0.1:9999", "403 Forbidden"),
        ("null", "403 Forbidden"),
    ],
)
def test_another_sites_page_cannot_delete_a_study_of_a_writable_dashboard(origin: str, status: str) -> None:
    gate = Gatekeeper(Behind(), password=None, writable=True)
    assert ask(gate, "DELETE", "/api/studies/1", origin=origin)[0] == status
    assert ask(gate, "DELETE", "/api/studies/1")[0] == "200 OK"  # no browser: a script of the user's


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_sites_page_costs_nothing_and_locks_its_visitor_out_of_nothing(site: str) -> None:
    behind = Behind()
    gate = Gatekeeper(behind, password="sésame", writable=True)
    page = {"sec_fetch_site": site, "sec_fetch_mode": "no-cors"}
    for _ in range(2 * MOST):
        path = "/api/studies/1/param_importances"
        assert ask(gate, path=path, authorization=basic("guess"), **page)[0] == "403 Forbidden"
    assert behind.reached == []
    for follows in (page | {"sec_fetch_mode": "navigate"}, page | {"sec_fetch_site": "same-origin"}):
        assert ask(gate, authorization=basic("sésame"), **follows)[0] == "200 OK"


@pytest.mark.parametrize("origin", ["null", "", "http://", "[", "http://["])
def test_an_origin_without_a_name_is_not_that_of_a_request_without_one(origin: str) -> None:
    gate = Gatekeeper(Behind(), password="sésame", writable=True)
    known = basic("sésame")
    assert ask(gate, "DELETE", host="", origin=origin, authorization=known)[0] == "403 Forbidden"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("x.y", False),
    ],
)
def test_without_a_password_the_dashboard_is_for_this_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    check_exposure(host, "a long password")
    if loopback:
        check_exposure(host, None)
    else:
        with pytest.raises(UsageError, match="ssh -L"):
            check_exposure(host, None)


def test_an_address_that_guesses_is_refused_for_a_minute_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    gate = Gatekeeper(Behind(), password="sésame", writable=False)
    gate._tries = Tries(lambda: now[0])

    def status(password: str | None, address: str = "10.0.0.7", **headers: str) -> str:
        if password is not None:
            headers["authorization"] = basic(password)
        return ask(gate, remote=address, **headers)[0].split()[0]

    assert [status(None) for _ in range(20)] == ["401"] * 20  # a browser asks like this first
    assert [status(f"guess {i}") for i in range(MOST)] == ["401"] * MOST
    assert status("sésame") == "429"
    assert status("sésame", "10.0.0.8") == "200"
    assert caplog.messages == [f"{MOST} wrong passwords from 10.0.0.7: it is refused for 60 s"]
    now[0] += PAUSE_S
    assert status("sésame") == "200"


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "٣", "1e3"])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    gate = Gatekeeper(Behind(), password=None, writable=True)
    assert ask(gate, "POST", length=length)[0] == "400 Bad Request"


@pytest.mark.parametrize(
    "host",
    [
        "[",
        "[::1",
        "[::1::]",
        "[v1.x]",
        "a b",
        "a/b",
        "a@b",
        "a:b",
        "a, b",
        "\xff",
        "a\x00",
        "x" * 99 + ":1" * 99,
    ],
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    behind = Behind()
    for password in (None, "sésame"):
        gate = Gatekeeper(behind, password=password, writable=True)
        assert ask(gate, host=host, authorization=basic("sésame"))[0] == "400 Bad Request"
    assert behind.reached == []


def test_nothing_that_was_forwarded_reaches_the_application_and_a_redirection_names_no_host() -> None:
    seen: list[dict[str, Any]] = []

    def redirecting(environment: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environment)
        start_response("302 Found", [("Location", f"http://{environment['HTTP_HOST']}/dashboard?x=1")])
        return []

    gate = Gatekeeper(redirecting, password=None, writable=False)
    forwarded = dict.fromkeys(("x_forwarded_for", "x_forwarded_host", "x_forwarded_proto", "forwarded"), "x")
    status, headers, _ = ask(gate, **forwarded)
    assert (status, headers["Location"]) == ("302 Found", "/dashboard?x=1")
    assert [name for name in seen[0] if "FORWARDED" in name] == []


def test_only_a_request_that_is_allowed_to_change_something_brings_a_body() -> None:
    known = {"HTTP_AUTHORIZATION": basic("sésame")}
    for writable, method, headers, admitted in [
        (True, "POST", known, True),
        (True, "GET", known, False),
        (True, "POST", {}, False),
        (True, "POST", {"HTTP_AUTHORIZATION": basic("guess")}, False),
        (True, "POST", known | {"HTTP_ORIGIN": "http://attacker.example"}, False),
        (False, "POST", known, False),
    ]:
        gate = Gatekeeper(Behind(), password="sésame", writable=writable)
        assert gate.admits({"REQUEST_METHOD": method, "HTTP_HOST": "x", **headers}) is admitted
        assert gate._tries._wrong == {}  # the request is counted when it is answered


def test_a_password_that_is_quickly_guessed_is_refused() -> None:
    with pytest.raises(UsageError, match="fewer than 12 characters"):
        check_exposure("127.0.0.1", "short")
    check_exposure("0.0.0.0", "a" * 12)


def test_of_addresses_of_version_6_the_network_counts() -> None:
    one, two = (address_of({"REMOTE_ADDR": peer}) for peer in ("2001:db8::1:2:3:4", "2001:db8::5"))
    assert one == two


def test_addresses_of_version_4_in_one_of_6_are_told_apart() -> None:
    first, second = (address_of({"REMOTE_ADDR": f"::ffff:{peer}"}) for peer in ("9.9.9.9", "8.8.8.8"))
    assert (first, second) == ("9.9.9.9", "8.8.8.8")
