"""What a process asks of PostgreSQL: statements and transactions, counted where psycopg2 sends them.

Whatever is built on psycopg2 is counted, SQLAlchemy's pings of pooled connections included; BEGIN and COMMIT
are not statements here, they are told as transactions.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

CALLERS = 2
"""How many of the product's functions name a caller, the innermost last."""


@dataclass(slots=True)
class Counts:
    """What a process asked since :meth:`reset`."""

    statements: int = 0
    transactions: int = 0
    connections: int = 0
    by_caller: Counter[str] = field(default_factory=Counter)
    seconds_by_caller: Counter[str] = field(default_factory=Counter)
    named: bool = False
    lock: Any = field(default_factory=threading.Lock)

    def reset(self) -> None:
        """Begin anew."""
        with self.lock:
            self.statements = self.transactions = self.connections = 0
            self.by_caller.clear()
            self.seconds_by_caller.clear()

    def asked(self, statement: str, seconds: float, *, own_transaction: bool) -> None:
        """Take note of a statement."""
        caller = f"{_caller()} | {_shape(statement)}" if self.named else ""
        with self.lock:
            self.statements += 1
            self.transactions += own_transaction
            if caller:
                self.by_caller[caller] += 1
                self.seconds_by_caller[caller] += seconds

    def ended(self) -> None:
        """Take note of the end of a transaction."""
        with self.lock:
            self.transactions += 1


def count_statements(*, named: bool = False) -> Counts:
    """Count what this process asks through psycopg2 from now on.

    Parameters
    ----------
    named : also by the product's function that asked and the kind of statement, which costs time
    """
    counts = Counts(named=named)

    class CountedCursor(Cursor):  # type: ignore[misc]
        def execute(self, query: Any, vars: Any = None) -> None:
            began = time.perf_counter()
            try:
                super().execute(query, vars)
            finally:
                text = query.decode() if isinstance(query, bytes) else str(query)
                seconds = time.perf_counter() - began
                counts.asked(text, seconds, own_transaction=self.connection.autocommit)

    class CountedConnection(Connection):  # type: ignore[misc]
        def commit(self) -> None:
            self._count()
            super().commit()

        def rollback(self) -> None:
            self._count()
            super().rollback()

        def _count(self) -> None:
            if self.info.transaction_status != TRANSACTION_STATUS_IDLE:
                counts.ended()

    connect = psycopg2.connect

    def counted(*arguments: Any, **keywords: Any) -> Any:
        counts.connections += 1
        factories = {"connection_factory": CountedConnection, "cursor_factory": CountedCursor}
        return connect(*arguments, **{**keywords, **factories})

    psycopg2.connect = counted
    return counts


def _caller() -> str:
    """The product's functions that led to a statement, else Optuna's; the innermost last."""
    frame = sys._getframe(3)
    names: dict[str, list[str]] = {"hms_tune": [], "optuna": []}
    while frame is not None:
        package, _, module = frame.f_globals.get("__name__", "").partition(".")
        if package in names:
            names[package].append(f"{module.rpartition('.')[2]}.{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    plumbing = ("retry.", "optuna_storage.waiting", "optuna_storage.<lambda>")
    ours = [name for name in names["hms_tune"] if not name.startswith(plumbing)]
    optunas = [name for name in names["optuna"] if not name.startswith("storage.<lambda>")]
    return " > ".join(reversed(ours[:CALLERS])) + (f" > {optunas[0]}" if optunas else "")


def _shape(statement: str) -> str:
    """A statement's kind and its table."""
    text = " ".join(statement.split())
    verb = text.partition(" ")[0].upper()
    lock = " FOR UPDATE" if "FOR UPDATE" in text else ""
    table = re.search(r"(?:FROM|INTO|UPDATE)\s+([\w.\"]+)", text)
    return f"{verb}{lock} {table[1] if table else text[:40]}"
