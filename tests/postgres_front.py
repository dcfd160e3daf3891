"""A door in front of a PostgreSQL that listens on a local socket only: TCP, with TLS or without.

The embedded server is built without TLS. PostgreSQL negotiates it before anything else: a client sends eight
bytes that ask for it, the server answers one letter, and the handshake follows. This does that part, and
passes what comes after on.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TLS_WANTED = struct.pack("!ii", 8, 80877103)


@dataclass
class Front:
    """An open door. ``encrypted`` counts the connections that came over TLS, ``refused`` the others."""

    port: int
    encrypted: int = 0
    refused: int = 0
    _open: set[socket.socket] = field(default_factory=set)


@contextlib.contextmanager
def front(server_socket: Path, *, context: ssl.SSLContext | None) -> Iterator[Front]:
    """Listen on a free port of 127.0.0.1; ``context`` None: without TLS, as a server that has none."""
    listener = socket.create_server(("127.0.0.1", 0))
    door = Front(listener.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=attend, args=(client,), daemon=True).start()

    def attend(client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(client.close)
            wants_tls = client.recv(8, socket.MSG_PEEK) == TLS_WANTED
            if wants_tls:
                client.recv(8)
                client.sendall(b"N" if context is None else b"S")
            if context is not None and not wants_tls:
                door.refused += 1
                return
            stream = client
            if context is not None:
                stream = context.wrap_socket(client, server_side=True)
                stack.callback(stream.close)
                door.encrypted += 1
            server = socket.socket(socket.AF_UNIX)
            stack.callback(server.close)
            server.connect(str(server_socket))
            _pass_on(stream, server)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield door
    finally:
        listener.close()


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    while True:
        waiting = isinstance(client, ssl.SSLSocket) and client.pending() > 0
        ready = [client] if waiting else select.select([client, server], [], [])[0]
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            (server if source is client else client).sendall(data)
