"""Which rights a database user lacks, as the GRANT that an administrator runs.

PostgreSQL is asked, not the text of its error, which names one object at a time and in the server's language.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, text

from hms_tune.database.search_path import first_schema, has_optunas_tables
from hms_tune.database.tables import SCHEMA

Use = Literal["read", "work"]
"""``read``: look at studies; ``work``: also make the tables, and run and steer searches."""

_PRIVILEGES: dict[Use, tuple[str, ...]] = {
    "read": ("SELECT",),
    "work": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}

_SCHEMAS = text("""
    SELECT quote_ident(nspname) AS name, has_schema_privilege(oid, 'USAGE') AS usage,
           has_schema_privilege(oid, 'CREATE') AS create
    FROM pg_namespace WHERE nspname IN (:optunas, :ours) ORDER BY nspname
""")
_RELATIONS = text("""
    SELECT quote_ident(nspname) AS schema, relkind = 'S' AS is_sequence
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname IN (:optunas, :ours) AND relkind IN ('r', 'S')
      AND (nspname = :ours OR relname = ANY (:tables) OR relkind = 'S' AND relname = ANY (:sequences))
      AND NOT CASE relkind
          WHEN 'S' THEN :changes = false OR has_sequence_privilege(pg_class.oid, 'USAGE')
          ELSE (SELECT bool_and(has_table_privilege(pg_class.oid, right_))
                FROM unnest(CAST(:privileges AS text[])) AS right_) END
    GROUP BY 1, 2 ORDER BY 2, 1
""")
_NAMES = text("SELECT quote_ident(current_user), quote_ident(current_database())")


def missing_grants(connection: Connection, use: Use) -> list[str]:
    """The statements that would give this user what it lacks for a use of the database; empty if nothing."""
    from hms_tune.search.optuna_private import models

    user, database = connection.execute(_NAMES).one()
    optunas = first_schema(connection)
    where = {"optunas": optunas, "ours": SCHEMA}
    schemas = {row.name: row for row in connection.execute(_SCHEMAS, where)}
    grants = [f"GRANT USAGE ON SCHEMA {name} TO {user}" for name, row in schemas.items() if not row.usage]
    tables = [*(table.name for table in models.BaseModel.metadata.sorted_tables), "alembic_version"]
    sequences = [
        f"{t.name}_{c.name}_seq" for t in models.BaseModel.metadata.sorted_tables for c in t.primary_key
    ]
    if not has_optunas_tables(connection, optunas):
        tables, sequences = [], []  # what has their names is another program's
    lacking = connection.execute(
        _RELATIONS,
        where
        | {
            "tables": tables,
            "sequences": sequences,
            "privileges": list(_PRIVILEGES[use]),
            "changes": use == "work",
        },
    ).all()
    for row in lacking:
        kind, rights = ("SEQUENCES", "USAGE") if row.is_sequence else ("TABLES", ", ".join(_PRIVILEGES[use]))
        grants.append(f"GRANT {rights} ON ALL {kind} IN SCHEMA {row.schema} TO {user}")
    if use == "work" and not _has_tables(connection):
        grants += [
            f"GRANT CREATE ON SCHEMA {name} TO {user}" for name, row in schemas.items() if not row.create
        ]
        if SCHEMA not in schemas and not _may_make_schemas(connection):
            grants.append(f"GRANT CREATE ON DATABASE {database} TO {user}")
    return grants


def _has_tables(connection: Connection) -> bool:
    """Whether a worker of ours has made its tables; who may not look into the schema need not make them."""
    found = text(
        "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = :schema AND tablename = 'schema_version')"
    )
    return bool(connection.execute(found, {"schema": SCHEMA}).scalar_one())


def _may_make_schemas(connection: Connection) -> bool:
    return bool(
        connection.execute(text("SELECT has_database_privilege(current_database(), 'CREATE')")).scalar_one()
    )
