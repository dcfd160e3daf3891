"""How long a connection waits, and that one that was refused is gone."""

from __future__ import annotations

import socket
import threading

import psycopg2
import pytest

from hms_tune.database.connection.wait_limit import limit_waiting


def test_a_refused_connection_is_closed_while_its_error_is_kept() -> None:
    limit_waiting()
    ended: list[bytes] = []

    def refuse() -> None:
        with listener.accept()[0] as client:
            client.recv(8)  # asks for TLS
            client.sendall(b"N")
            client.settimeout(10.0)
            ended.append(client.recv(8))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=refuse)
        server.start()
        with pytest.raises(psycopg2.OperationalError, match="does not support SSL") as kept:
            psycopg2.connect(f"postgresql://127.0.0.1:{listener.getsockname()[1]}/?sslmode=require")
        server.join()
    assert kept.value is not None
    assert ended == [b""]
