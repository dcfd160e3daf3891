"""Users of a PostgreSQL, each with a password and a database of the same name or another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from hms_tune.database.connection.url import parse_address


@dataclass(frozen=True)
class Role:
    """A user who must sign in with SCRAM, and its database. ``server`` is the superuser's URL."""

    server: URL
    name: str
    password: str
    database: str

    @property
    def socket(self) -> Path:
        """The server's."""
        return Path(str(self.server.query["host"])) / ".s.PGSQL.5432"

    def url(self, query: str = "", *, name: str | None = None) -> str:
        """Through the socket; ``query`` begins with ``&``."""
        signed = f"{name or self.name}:{self.password}"
        return f"postgresql://{signed}@/{self.database}?host={self.socket.parent}{query}"

    def as_superuser(self, *statements: str) -> None:
        """Run statements as superuser in the server's own database: on databases and users."""
        engine = create_engine(self.server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement as superuser in the role's database."""
        engine = create_engine(self.server.set(database=self.database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            answered = connection.execute(text(statement))
            rows = [tuple(row) for row in answered] if answered.returns_rows else []
        engine.dispose()
        return rows


@contextmanager
def a_role(
    server_url: str, name: str, password: str, *, database: str | None = None, attributes: str = ""
) -> Iterator[Role]:
    """Make the user, and the database it owns; both go with the block."""
    role = Role(parse_address(server_url), name, password, database or name)
    engine = create_engine(role.server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN {attributes} PASSWORD '{password}'"))
        connection.execute(text(f"CREATE DATABASE {role.database} OWNER {name}"))
        try:
            yield role
        finally:
            connection.execute(text(f"DROP DATABASE {role.database} WITH (FORCE)"))
            connection.execute(text(f"DROP ROLE {name}"))
    engine.dispose()
