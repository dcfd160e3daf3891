"""The product's own tables, brought to this program's revision, whichever version made them.

``migrations/versions`` has one module for each revision. Alembic applies those that a database lacks, in one
transaction, and keeps the number of the last in ``hms_tune.schema_version``. Optuna's tables are Optuna's to
change: it keeps a number of its own.
"""

from __future__ import annotations

import functools
import logging

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg2.errors import UndefinedTable
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.schema import CreateSchema

from hms_tune.database.tables import SCHEMA
from hms_tune.errors import StorageError

VERSION_TABLE = "schema_version"


def is_current(connection: Connection, *, where: str) -> bool:
    """Whether the tables are those of this program. One query; the connection is of no use after a False.

    Parameters
    ----------
    where : the database, for an error

    Raises
    ------
    StorageError
        If a newer version of the program made them.
    """
    try:
        revision = connection.execute(text(f"SELECT version_num FROM {SCHEMA}.{VERSION_TABLE}")).scalar()
    except ProgrammingError as error:
        if isinstance(error.orig, UndefinedTable):
            return False
        raise
    known = _revisions()
    if revision is not None and revision not in known:
        raise StorageError(
            f"the tables are at revision {revision}, made by a newer hms-tune; this one knows {known[0]}",
            where=where,
            hint="Install the version that the other workers have: pip install --upgrade hms-tune",
        )
    return bool(revision == known[0])


def upgrade(connection: Connection) -> None:
    """Apply the revisions that the database lacks, in the caller's transaction and under its set-up lock."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    connection.execute(CreateSchema(SCHEMA, if_not_exists=True))
    config = _config()
    config.attributes["options"] = {
        "connection": connection,
        "version_table": VERSION_TABLE,
        "version_table_schema": SCHEMA,
    }
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "hms_tune.database:migrations")
    return config


@functools.cache
def _revisions() -> tuple[str, ...]:
    """Every revision that this program knows, the newest first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())
