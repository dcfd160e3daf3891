"""How a connection is opened: nothing about it is left to the defaults of a server, a role or a database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import psycopg2
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import URL

from hms_tune.database.connection.pooler import is_pooled, set_in_each_transaction
from hms_tune.database.connection.url import without_secrets
from hms_tune.database.connection.wait_limit import limit_waiting

Connect = Callable[[], psycopg2.extensions.connection]
"""Opens a connection."""

OPTUNAS_SCHEMA = "public"
"""Where Optuna's tables are, unless a person names another search path in the URL or in PGOPTIONS."""

_SETTINGS = {
    # PostgreSQL's own default begins with "$user": a user called hms_tune would find our tables for Optuna's.
    "search_path": OPTUNAS_SCHEMA,
    "default_transaction_isolation": "read committed",
    "timezone": "UTC",
    "extra_float_digits": "1",  # a number comes back as it was written, to the last bit
    # A process that is stopped in a transaction (SIGSTOP, a laptop's lid) would hold up the whole fleet with
    # the rows it has locked.
    "idle_in_transaction_session_timeout": "60s",
    # How long an answer is waited for is ours to say (wait_limit.py); a limit of the server's would end what
    # merely waits for a lock.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
}
# One statement after the start instead of start-up options, which connection poolers refuse.
_APPLY = """
    SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS setting (name, value)
    WHERE current_setting(name, true) IS NOT NULL  -- an older server lacks some
      AND (name NOT IN ('search_path', 'idle_in_transaction_session_timeout') OR NOT EXISTS (
          SELECT FROM pg_settings WHERE pg_settings.name = setting.name AND source = 'client'
      ))  -- what a person names in the URL or in PGOPTIONS stays
"""


def _first(arguments: Sequence[Any], keywords: dict[str, Any]) -> psycopg2.extensions.connection:
    """A connection to the first host that answers.

    libpq goes on to the next host after a refusal. A host that says nothing is ours to give up
    (:mod:`~hms_tune.database.connection.wait_limit`); then each of the others comes first in its turn.
    """
    for before in range(str(keywords.get("host", "")).count(",")):
        try:
            return _open(arguments, _turned(keywords, before))
        except psycopg2.OperationalError:
            continue
    return _open(arguments, _turned(keywords, -1))


def _open(arguments: Sequence[Any], keywords: dict[str, Any]) -> psycopg2.extensions.connection:
    """A connection. Before one is open, a server says why not in the encoding of its own language."""
    try:
        return psycopg2.connect(*arguments, **keywords)
    except UnicodeDecodeError as error:
        raise psycopg2.OperationalError(error.object.decode("latin-1")) from None


def _turned(keywords: dict[str, Any], by: int) -> dict[str, Any]:
    """The same hosts, in the order that begins at another of them."""
    turned = dict(keywords)
    for name in ("host", "port"):
        each = str(keywords.get(name, "")).split(",")
        if len(each) > 1:
            turned[name] = ",".join(each[by:] + each[:by])
    return turned


def connector(url: URL, **settings: str) -> Connect:
    """What opens a connection to a database, with this product's settings and further ``settings``."""
    arguments, keywords = cast("Dialect", PGDialect_psycopg2()).create_connect_args(url)  # type: ignore[no-untyped-call]
    ours: dict[str, Any] = {
        "application_name": "hms-tune",
        "client_encoding": "UTF8",
        # A peer that vanished without a word is noticed in about a minute.
        "keepalives": 1,
        "keepalives_idle": 20,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    wanted = {**_SETTINGS, **settings}
    limit_waiting()

    def connect() -> psycopg2.extensions.connection:
        try:
            connection = _first(arguments, {**keywords, **ours})
        except psycopg2.Error as error:
            raise type(error)(without_secrets(str(error), url)) from None
        try:
            connection.autocommit = True  # what is set in a transaction goes with it
            pooled = is_pooled(connection)
            if pooled:
                set_in_each_transaction(connection, wanted)
            else:
                with connection.cursor() as cursor:
                    cursor.execute(_APPLY, (list(wanted), list(wanted.values())))
            connection.autocommit = False
            if pooled:  # psycopg2 says it with each BEGIN, and sends a statement whenever autocommit ends
                connection.isolation_level = psycopg2.extensions.ISOLATION_LEVEL_READ_COMMITTED
        except psycopg2.Error:
            connection.close()
            raise
        return connection

    return connect
