"""The server in front of the dashboard, with limits for everyone who asks.

Time and connections are limited for all. The body of a request is read only if the gate admits the request
by its headers: whoever lacks the password fills neither memory nor the disk.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

from waitress import create_server
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.task import WSGITask

from hms_tune.errors import UsageError
from hms_tune.reports.dashboard.access import Gate

THREADS = 8
"""Requests that are answered at once."""

MOST_CONNECTIONS = 64
"""Of a further one, the connection that has been waiting longest is closed: it fits a limit of 128 files."""

REQUEST_S = 20
"""How long a request may take to arrive whole, s, and a connection may be idle."""

MOST_BYTES = 1 << 27
"""Of the body of a request that changes something: an upload."""

UNASKED_BYTES = 1 << 16
"""Of the body of any other request. It is read so that the answer is not lost with the connection."""

_OURS = 8  # what the server listens on, and wakes itself with


def dashboard_server(application: Gate, *, host: str, port: int) -> Any:
    """A server that listens.

    Parameters
    ----------
    port : 0 takes a free one

    Raises
    ------
    UsageError
        If the port is taken, or the address is not of this machine.
    """
    try:
        server = create_server(
            application,
            host=_one_address(host),
            port=port,
            threads=THREADS,
            connection_limit=MOST_CONNECTIONS + _OURS,
            channel_timeout=REQUEST_S,
            cleanup_interval=5,
            max_request_header_size=1 << 14,
            max_request_body_size=MOST_BYTES,
            asyncore_use_poll=True,
            clear_untrusted_proxy_headers=False,  # the gatekeeper judges them
            ident=None,
        )
    except OSError as error:
        raise UsageError(
            f"{host}, port {port}, cannot be used: {error.strerror}",
            where="--port",
            hint="Choose another --port",
        ) from error
    server.channel_class = _Channel
    # That a request waited for a moment, as on any busy machine, is no news to whoever reads the log.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    return server


def _one_address(host: str) -> str:
    """Of a name that has several, one: connections are counted at one door."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])


class _Task(WSGITask):  # type: ignore[misc]
    """A request on its way through the application."""

    def get_environment(self) -> dict[str, Any]:
        """What is known of it, with both ends of its connection."""
        address, port = self.channel.our_end
        environment: dict[str, Any] = super().get_environment()
        return environment | {"SERVER_ADDR": address, "SERVER_PORT": str(port)}


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection. Whoever is slow to ask, or to ask again, gives way to others."""

    task_class = _Task

    def __init__(self, server: Any, sock: Any, *arguments: Any, **keywords: Any) -> None:
        super().__init__(server, sock, *arguments, **keywords)
        self.our_end: tuple[str, int] = sock.getsockname()[:2]
        waiting = [each for each in server.active_channels.values() if not each.requests and each is not self]
        if len(server.active_channels) > MOST_CONNECTIONS and waiting:
            min(waiting, key=lambda each: each.last_activity).handle_close()

    def parser_class(self, adjustments: Any) -> HTTPRequestParser:
        """What reads the next request."""
        return _Parser(adjustments, self)

    def handle_read(self) -> None:
        """Read a part of a request. Its time runs from its beginning, however often a part of it comes."""
        began: float = self.last_activity
        super().handle_read()
        if self.request is not None:
            self.last_activity: float = began


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """A request as it arrives. One that the gate refuses goes there without its body, and is the last."""

    chunked: bool
    content_length: int

    def __init__(self, adjustments: Any, channel: _Channel) -> None:
        super().__init__(adjustments)
        self._channel = channel

    def parse_header(self, header_plus: bytes) -> None:
        """Read the first line and the headers, and judge by them."""
        try:
            super().parse_header(header_plus)
        except (ValueError, TransferEncodingNotImplemented) as error:  # an address or a length that is none
            raise ParsingError("the request makes no sense") from error
        if (self.chunked and "CONTENT_LENGTH" in self.headers) or "TRANSFER_ENCODING" in self.headers:
            raise ParsingError("its length is told in two ways, or in one that HTTP/1.0 has not")
        if (self.chunked or self.content_length > UNASKED_BYTES) and not self._admitted():
            self.close()
            self.body_rcv, self.content_length, self.chunked = None, 0, False
            self.expect_continue = False
            self.headers["CONNECTION"] = "close"

    def _admitted(self) -> bool:
        gate: Gate = self._channel.server.application
        return gate.admits(_Task(self._channel, self).get_environment())
