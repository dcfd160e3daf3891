"""A database that takes a question and never answers is as far away as one that refuses the connection.

A link that is half dead (a fail-over behind a proxy, a firewall that forgot it) leaves a client waiting until
TCP gives up, a quarter of an hour later. psycopg2 lets a program wait for the answer itself; here that wait
ends. Waiting for a lock counts too, and is then simply begun again.
"""

from __future__ import annotations

import select

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, STATUS_SETUP, set_wait_callback

CONNECT_S = 5.0
"""How long a server may take to accept a connection, s."""

ANSWER_S = 60.0
"""How long it may take to answer a statement, s: a third of a lease."""


def limit_waiting() -> None:
    """Let every psycopg2 connection of this process wait no longer than that. Safe to repeat."""
    set_wait_callback(_wait)


def _wait(connection: psycopg2.extensions.connection) -> None:
    limit = CONNECT_S if connection.status == STATUS_SETUP else ANSWER_S
    try:
        while (state := connection.poll()) != POLL_OK:
            poll = select.poll()
            events = {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}[state]
            poll.register(connection.fileno(), events)
            if not poll.poll(limit * 1000.0):
                raise psycopg2.OperationalError(f"the database did not answer within {limit:.0f} s")
    finally:
        # An error's traceback keeps this frame. A refused connection would stay open with it, and the
        # server would wait for it to sign in.
        del connection
