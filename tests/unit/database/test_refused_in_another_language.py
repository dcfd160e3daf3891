"""A server refuses a connection in its own language, before an encoding has been agreed on."""

from __future__ import annotations

import socket
import struct
import threading

import psycopg2
import pytest

from hms_tune.database.connection.connections import connector
from hms_tune.database.connection.url import parse_address

SAID = "la base de données « nodb » n'existe pas"


def refuse(listener: socket.socket) -> None:
    """What PostgreSQL does, with lc_messages = fr_FR.iso88591."""
    client, _ = listener.accept()
    with client:
        (length,) = struct.unpack("!i", client.recv(4))
        if client.recv(length - 4)[:4] == struct.pack("!i", 80877103):  # asks for TLS
            client.sendall(b"N")
            (length,) = struct.unpack("!i", client.recv(4))
            client.recv(length - 4)
        fields = b"SFATAL\0VFATAL\0C3D000\0M" + SAID.encode("latin-1") + b"\0\0"
        client.sendall(b"E" + struct.pack("!i", len(fields) + 4) + fields)


def test_its_sentence_is_told_and_no_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, args=(listener,), daemon=True).start()
        url = f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/nodb"
        with pytest.raises(psycopg2.OperationalError, match=SAID):
            connector(parse_address(url))()
