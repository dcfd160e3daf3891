"""Who is at the other end of a connection from this machine, and whose word on a visitor is believed."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hms_tune.errors import UsageError
from hms_tune.reports.dashboard import peer
from hms_tune.reports.dashboard.access import Gatekeeper
from hms_tune.reports.dashboard.peer import NOBODY, owner_of, plain_address, user_id
from hms_tune.reports.dashboard.tries import address_of

ME = os.getuid()
as_root = pytest.mark.skipif(ME != 0, reason="only root can be another user")

CONNECT = """
import os, socket, sys
user, family, address, port, ours = sys.argv[1:]
os.setuid(int(user))
made = socket.socket(int(family))
made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if ours != "0":
    made.bind(("127.0.0.1", int(ours)))
made.connect((address, int(port)))
print(made.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def connected(user: int, server: socket.socket, *, to: str = "127.0.0.1", ours: int = 0) -> Iterator[int]:
    """A connection that another process opens as ``user``; gives the port that it comes from."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    words = [str(user), str(int(family)), to, str(server.getsockname()[1]), str(ours)]
    command = [sys.executable, "-c", CONNECT, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            yield int(other.stdout.readline())
        finally:
            other.communicate("")


@contextmanager
def listening(family: socket.AddressFamily, address: str, port: int = 0) -> Iterator[socket.socket]:
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((address, port))
        server.listen()
        yield server


@contextmanager
def asked(server: socket.socket) -> Iterator[dict[str, str]]:
    """The next connection to a server, as the dashboard is told of it: it names a visitor."""
    accepted, their = server.accept()
    with accepted:
        our = accepted.getsockname()
        ends = {"SERVER_ADDR": our[0], "SERVER_PORT": str(our[1])}
        visitor = {"HTTP_X_FORWARDED_FOR": "1.1.1.1, 10.0.0.7"}
        yield {"REMOTE_ADDR": their[0], "REMOTE_PORT": str(their[1])} | ends | visitor


@pytest.mark.parametrize(
    ("family", "listens", "to"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
        (socket.AF_INET6, "::", "::ffff:127.0.0.1"),
    ],
    ids=["4", "6", "4 to 6", "mapped"],
)
def test_the_declared_proxy_names_its_visitors_and_nobody_else_does(
    family: socket.AddressFamily, listens: str, to: str
) -> None:
    with listening(family, listens) as server, connected(ME, server, to=to), asked(server) as environment:
        assert address_of(environment, proxy=ME) == "10.0.0.7"
        here = str(plain_address(environment["REMOTE_ADDR"]))
        for declared in (None, ME + 1):
            assert address_of(environment, proxy=declared) == f"{here}, user {ME}"
        odd = environment | {"HTTP_X_FORWARDED_FOR": "no address"}
        assert address_of(odd, proxy=ME) == environment["REMOTE_ADDR"]
        elsewhere = environment | {"REMOTE_ADDR": "10.0.0.9"}
        assert address_of(elsewhere, proxy=ME) == "10.0.0.9"


def test_a_connection_that_is_half_closed_belongs_to_nobody() -> None:
    with listening(socket.AF_INET, "127.0.0.1") as server, socket.socket() as proxy:
        proxy.connect(server.getsockname())
        with asked(server) as environment:
            proxy.shutdown(socket.SHUT_WR)  # a socket that is closed has 0 for its owner, as root's do
            assert address_of(environment, proxy=ME) == "127.0.0.1"


@as_root
@pytest.mark.parametrize(("user", "believed"), [(33, True), (1234, False), (0, False), (65534, False)])
def test_other_people_on_this_machine_cannot_speak_for_a_visitor(user: int, believed: bool) -> None:
    with listening(socket.AF_INET, "127.0.0.1") as server, connected(user, server), asked(server) as told:
        named = address_of(told, proxy=33)
    assert named == ("10.0.0.7" if believed else f"127.0.0.1, user {user}")


@as_root
def test_a_port_that_the_proxy_uses_elsewhere_makes_nobody_the_proxy() -> None:
    named = None
    while named is None:
        with (
            suppress(ValueError),  # somebody else has the port here
            listening(socket.AF_INET, "127.0.0.1") as ours,
            listening(socket.AF_INET, "127.0.0.2", ours.getsockname()[1]) as another,
            connected(33, another, to="127.0.0.2") as port,
            connected(1234, ours, ours=port),
            asked(ours) as told,
        ):
            named = address_of(told, proxy=33)
    assert named == "127.0.0.1, user 1234"


def test_two_connections_with_the_same_ends_belong_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    their, our = (plain_address("127.0.0.1"), 0x9C40), (plain_address("127.0.0.1"), 0x1F90)
    line = " 0: {}0100007F:9C40 {}0100007F:1F90 01 00000000:00000000 00:00000000 00000000 33 0 1\n"
    monkeypatch.setattr(peer, "_TABLES", tmp_path)
    (tmp_path / "tcp").write_text("heading\n" + line.format("", ""))
    assert owner_of(their, our) == 33
    mapped = "0000000000000000FFFF0000"
    (tmp_path / "tcp6").write_text("heading\n" + line.format(mapped, mapped))
    assert owner_of(their, our) == NOBODY
    monkeypatch.setattr(peer, "_TABLES", tmp_path / "none")
    assert owner_of(their, our) is None


@pytest.mark.parametrize(("user", "answered"), [(ME, True), (33, True), (1234, False)])
@as_root
def test_without_a_password_other_users_of_the_machine_are_refused(user: int, answered: bool) -> None:
    def inside(_environment: object, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"inside"]

    gate = Gatekeeper(inside, password=None, writable=True, proxy=33)
    said: list[str] = []
    with listening(socket.AF_INET, "127.0.0.1") as server, connected(user, server), asked(server) as told:
        body = {"wsgi.input": io.BytesIO(), "HTTP_HOST": "localhost"}
        for method in ("GET", "POST"):
            gate({"REQUEST_METHOD": method} | told | body, lambda status, _headers: said.append(status))
    assert said == (["200 OK"] * 2 if answered else ["403 Forbidden"] * 2)


def test_a_proxy_is_named_by_its_user() -> None:
    assert (user_id("root"), user_id("33")) == (0, 33)
    with pytest.raises(UsageError, match=r'--proxy: this machine has no user "nobody-here"'):
        user_id("nobody-here")
