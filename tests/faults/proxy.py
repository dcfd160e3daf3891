"""A TCP proxy before PostgreSQL that can cut, stall, and swallow the answer to a COMMIT."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from hms_tune.database.connection.url import parse_address

COMMIT = b"COMMIT\x00"


@dataclass(eq=False, slots=True)
class _Link:
    """A client's connection, and the server's."""

    client: socket.socket
    server: socket.socket
    swallow: bool = field(default=False)

    def close(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Forwards ``127.0.0.1:port`` to the Unix socket of the server at ``url`` until told otherwise."""

    def __init__(self, url: str) -> None:
        self._server = parse_address(url)
        self._server_socket = f"{self._server.query['host']}/.s.PGSQL.5432"
        self._flowing = threading.Event()
        self._flowing.set()
        self._open = True
        self._to_swallow = 0
        self.swallowed = 0
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    @property
    def url(self) -> str:
        """The database, through the proxy."""
        url = self._server.set(host="127.0.0.1", port=self.port, query={})
        return url.render_as_string(hide_password=False)

    def cut(self) -> None:
        """Drop every connection, and refuse new ones until :meth:`restore`."""
        self._open = False
        self.drop()

    def restore(self) -> None:
        """Let everything through again."""
        self._open = True
        self._flowing.set()

    def drop(self) -> None:
        """Drop every connection."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.close()

    def stall(self) -> None:
        """Hold back every byte, and drop nothing, until :meth:`restore`."""
        self._flowing.clear()

    def swallow_commits(self, number: int) -> None:
        """Of the next COMMITs let that many through to the server, and drop the connection at the answer."""
        with self._lock:
            self._to_swallow = number

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._open:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._server_socket)
            except OSError:
                client.close()
                continue
            link = _Link(client, server)
            with self._lock:
                self._links.add(link)
            threading.Thread(target=self._ask, args=(link,), daemon=True).start()
            threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _ask(self, link: _Link) -> None:
        with suppress(OSError):
            while data := link.client.recv(65536):
                self._flowing.wait()
                if COMMIT in data:
                    with self._lock:
                        if self._to_swallow > 0:
                            self._to_swallow -= 1
                            link.swallow = True
                link.server.sendall(data)
        self._end(link)

    def _answer(self, link: _Link) -> None:
        with suppress(OSError):
            while data := link.server.recv(65536):
                self._flowing.wait()
                if link.swallow:
                    self.swallowed += 1
                    break
                link.client.sendall(data)
        self._end(link)

    def _end(self, link: _Link) -> None:
        link.close()
        with self._lock:
            self._links.discard(link)
