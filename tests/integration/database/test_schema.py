"""The product's own tables: made, brought up to date, refused where a newer program made them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from slots import a_slot
from sqlalchemy import Engine, NullPool, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.trial import TrialConfig
from hms_tune.data.identity import DataIdentity
from hms_tune.database import schema, tables
from hms_tune.database.connect import open_storage
from hms_tune.database.connection.url import parse_address
from hms_tune.database.queries.data_sets import data_of_study
from hms_tune.database.read_only import open_read_only
from hms_tune.errors import StorageError
from hms_tune.search.study import stored_study_file
from hms_tune.studies.lookup import load_study
from hms_tune.studies.status import status
from hms_tune.studies.trial_record import study_record, trial_record
from hms_tune.training.events import Event
from hms_tune.trial_state import AttemptState, TrialState
from hms_tune.worker.open_study import join_search

OLD = Path(__file__).parent / "database_of_0_1_0.sql"
"""What pg_dump wrote of a database that 0.1.0 had made and worked on, shortened."""

_numbers = itertools.count()

Description = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def server(database_url: str) -> Engine:
    return create_engine(parse_address(database_url), isolation_level="AUTOCOMMIT", poolclass=NullPool)


@contextmanager
def a_database(server: Engine, template: str = "template1") -> Iterator[Engine]:
    """A database of one's own, empty or the copy of another; gone with the block."""
    name = f"schema_{os.getpid()}_{next(_numbers)}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield create_engine(server.url.set(database=name), poolclass=NullPool)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def database(server: Engine) -> Iterator[Engine]:
    """An empty database."""
    with a_database(server) as made:
        yield made


@pytest.fixture(scope="module")
def of_0_1_0(server: Engine) -> Iterator[str]:
    """The name of a database that 0.1.0 made, with a study half done. Nobody opens it."""
    with a_database(server) as made:
        optunas = RDBStorage(made.url.render_as_string(hide_password=False))
        optunas.remove_session()
        optunas.engine.dispose()
        with made.begin() as connection:
            connection.exec_driver_sql(OLD.read_text())
        yield str(made.url.database)


@pytest.fixture
def old(server: Engine, of_0_1_0: str) -> Iterator[Engine]:
    """A copy of it."""
    with a_database(server, of_0_1_0) as made:
        yield made


@pytest.fixture(scope="module")
def upgraded(server: Engine, of_0_1_0: str) -> Iterator[Engine]:
    """A copy that was opened once. Nobody changes it."""
    with a_database(server, of_0_1_0) as made:
        open_storage(made.url).close()
        yield made


def is_there(engine: Engine, name: str) -> bool:
    with engine.connect() as connection:
        return bool(
            connection.execute(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": name}).scalar()
        )


def description(engine: Engine) -> Description:
    """Columns, constraints and indexes of the product's own tables, as PostgreSQL has them."""
    queries = {
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default"
        " FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE table_schema = 'hms_tune' AND table_type = 'BASE TABLE'",
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE connamespace = 'hms_tune'::regnamespace AND contype <> 'n'",
        "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'hms_tune'",
    }
    with engine.connect() as connection:
        return {
            kind: sorted(
                tuple(row) for row in connection.execute(text(query)) if schema.VERSION_TABLE not in row[0]
            )
            for kind, query in queries.items()
        }


@pytest.fixture(scope="module")
def declared(server: Engine) -> Description:
    """What :mod:`hms_tune.database.tables` declares, made without a revision."""
    with a_database(server) as made:
        with made.begin() as connection:
            connection.execute(text("CREATE SCHEMA hms_tune"))
            tables.metadata.create_all(connection)
        return description(made)


def test_the_revisions_make_the_tables_that_the_code_declares(
    database: Engine, declared: Description
) -> None:
    open_storage(database.url).close()
    assert description(database) == declared


def test_the_tables_of_0_1_0_become_those_that_the_code_declares(
    upgraded: Engine, declared: Description
) -> None:
    assert description(upgraded) == declared


def test_a_study_of_0_1_0_keeps_to_the_data_that_all_its_trials_ran_on(upgraded: Engine) -> None:
    storage = open_storage(upgraded.url)
    with storage.statements() as connection:
        assert data_of_study(connection, 1) == DataIdentity("d1")
    storage.close()


def test_tables_from_before_0_1_0_get_the_columns_constraints_and_indexes_they_lack(
    old: Engine, declared: Description
) -> None:
    with old.begin() as connection:
        connection.exec_driver_sql("""
            ALTER TABLE hms_tune.studies DROP COLUMN budget_gpu_hours;
            ALTER TABLE hms_tune.workers DROP COLUMN wanted, DROP COLUMN usage;
            ALTER TABLE hms_tune.lineages DROP COLUMN wanted, DROP COLUMN given;
            ALTER TABLE hms_tune.leases DROP COLUMN gpus, DROP COLUMN token;
            DROP INDEX hms_tune.leases_of_study;
            DROP TABLE hms_tune.trial_records, hms_tune.out_of_fold;
            DROP TABLE hms_tune.notices, hms_tune.worker_minutes;
        """)
    open_storage(old.url).close()
    assert description(old) == declared


def test_what_0_1_0_had_made_without_a_constraint_has_it_afterwards(
    old: Engine, declared: Description
) -> None:
    """0.1.0 added the columns that an older table lacked, and not their constraints."""
    with old.begin() as connection:
        connection.exec_driver_sql("""
            ALTER TABLE hms_tune.workers DROP CONSTRAINT worker_wanted;
            ALTER TABLE hms_tune.lineages DROP CONSTRAINT lineage_wanted;
            ALTER TABLE hms_tune.leases DROP CONSTRAINT leases_token_key;
            DROP INDEX hms_tune.leases_of_study;
        """)
    open_storage(old.url).close()
    assert description(old) == declared


def test_opening_a_database_that_is_up_to_date_asks_two_questions_and_changes_nothing(
    database: Engine,
) -> None:
    open_storage(database.url).close()
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "hms_tune" in statement or "pg_advisory" in statement or statement.startswith(("CREATE", "ALTER")):
            asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        open_storage(database.url).close()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    where_tables_are, revision = asked
    assert where_tables_are.startswith("SELECT to_regclass(")
    assert revision == "SELECT version_num FROM hms_tune.schema_version"


def test_workers_that_start_at_once_upgrade_a_database_once(old: Engine, declared: Description) -> None:
    def start(_number: int) -> None:
        open_storage(old.url).close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))
    with old.connect() as connection:
        revisions = connection.execute(text("SELECT count(*) FROM hms_tune.schema_version")).scalar_one()
    assert revisions == 1
    assert description(old) == declared


@pytest.mark.parametrize("opening", [open_storage, open_read_only])
def test_a_database_newer_than_the_program_is_refused(database: Engine, opening: Any) -> None:
    open_storage(database.url).close()
    with database.begin() as connection:
        connection.execute(text("UPDATE hms_tune.schema_version SET version_num = '9999'"))
    with pytest.raises(
        StorageError, match=r"revision 9999, made by a newer hms-tune; .* pip install"
    ) as caught:
        opening(database.url)
    assert str(database.url.database) in str(caught.value)


def test_who_only_looks_leaves_an_earlier_versions_tables_alone(old: Engine) -> None:
    before = description(old)
    with pytest.raises(StorageError, match=r"those of an earlier hms-tune.*start one of this version"):
        open_read_only(old.url)
    assert description(old) == before
    assert not is_there(old, "hms_tune.schema_version")
    open_storage(old.url).close()
    open_read_only(old.url).close()


def test_a_login_that_may_read_the_tables_of_0_1_0_may_read_the_revision(
    old: Engine, database_url: str
) -> None:
    login = f"reader_{os.getpid()}"
    with old.begin() as connection:
        connection.exec_driver_sql(f"""
            CREATE ROLE {login} LOGIN PASSWORD 'looks';
            GRANT USAGE ON SCHEMA public, hms_tune TO {login};
            GRANT SELECT ON ALL TABLES IN SCHEMA public, hms_tune TO {login};
        """)
    try:
        open_storage(old.url).close()
        address: URL = old.url.set(username=login, password="looks")
        open_read_only(address).close()
    finally:
        with old.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {login}; DROP ROLE {login}")


def test_states_of_0_1_0_become_those_of_today(upgraded: Engine) -> None:
    with upgraded.connect() as connection:
        trials = connection.execute(text("SELECT number, state FROM hms_tune.trials ORDER BY trial_id"))
        assert [tuple(row) for row in trials] == [
            (0, "complete"),
            (1, "pruned"),
            (2, "infeasible"),
            (3, "failed"),
            (4, "pruned"),
            (6, "running"),
            (None, "waiting"),
        ]
        attempts = connection.execute(text("SELECT number, state FROM hms_tune.attempts ORDER BY lease_id"))
        assert [tuple(row) for row in attempts] == [
            (0, "complete"),
            (1, "pruned"),
            (2, "infeasible"),
            (3, "failed"),
            (4, "requeued"),
            (5, "pruned"),
            (6, "lost"),
            (7, "running"),
        ]
        told = connection.execute(
            text(
                "SELECT trial_id, value_json FROM trial_user_attributes"
                " WHERE key = 'attempt_state' ORDER BY trial_id"
            )
        )
        assert [(number - 1, json.loads(state)) for number, state in told] == [
            (0, "complete"),
            (1, "pruned"),
            (2, "infeasible"),
            (3, "failed"),
            (4, "requeued"),
            (5, "pruned"),
            (6, "lost"),
        ]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE hms_tune.trials SET state = 'ended', ended_at = now()",
        "UPDATE hms_tune.trials SET state = 'complete', ended_at = NULL",
        "UPDATE hms_tune.trials SET state = 'waiting', ended_at = now()",
        "UPDATE hms_tune.attempts SET state = 'handed_back'",
        "UPDATE hms_tune.attempts SET state = 'waiting', ended_at = now()",
        "UPDATE hms_tune.attempts SET state = 'running', ended_at = now()",
    ],
)
def test_the_database_refuses_a_state_that_there_is_not(upgraded: Engine, statement: str) -> None:
    with upgraded.begin() as connection, pytest.raises(IntegrityError, match="violates check constraint"):
        connection.execute(text(statement))


def test_0_1_0_cannot_make_its_tables_anew_beside_those_of_today(upgraded: Engine) -> None:
    """It adds columns to its table of trials, if it finds no such table to have them."""
    with upgraded.begin() as connection, pytest.raises(DBAPIError, match="lineages"):
        connection.execute(text("ALTER TABLE hms_tune.lineages ADD COLUMN lineage_id bigserial"))


def test_a_study_half_done_by_0_1_0_goes_on_to_its_end(old: Engine, tmp_path: Path) -> None:
    def train(config: TrialConfig, _directory: Path) -> Iterator[Event]:
        yield a_fold_start(0)
        yield an_epoch(0, 0, kl=1.0)
        yield a_fold_end(0, kl=0.5)
        yield an_ending(config.training.learning_rate)

    storage = open_storage(old.url)
    study_file = stored_study_file(load_study(storage, "half-done"))
    before = trial_record(storage, "half-done", 0)
    assert (before.state, before.value, before.version) == (
        AttemptState.COMPLETE,
        1.9023583149856151,
        "0.1.0",
    )
    # 9 trials are allowed, 6 claimed; one of these waits with the values that a person gave
    assert a_slot(storage, join_search(storage, study_file), train, tmp_path).run() == 5
    done = status(storage, "half-done")
    assert done.trials == {
        TrialState.WAITING: 0,
        TrialState.RUNNING: 0,
        TrialState.PAUSED: 0,
        TrialState.COMPLETE: 6,
        TrialState.PRUNED: 2,
        TrialState.FAILED: 1,
        TrialState.INFEASIBLE: 1,
    }
    assert (done.attempts[AttemptState.REQUEUED], done.attempts[AttemptState.LOST]) == (1, 2)
    assert done.attempts[AttemptState.COMPLETE] == 6
    # The trial of the dead worker goes on with its values, and so does the one that was enqueued.
    on = trial_record(storage, "half-done", 6)
    assert (on.trial, on.attempt, on.state) == (6, 8, AttemptState.COMPLETE)
    assert [(each.attempt, each.state) for each in on.attempts] == [(6, "lost"), (7, "lost"), (8, "complete")]
    assert on.value == on.params["training.learning_rate"] == 0.00023729097126308203
    enqueued = trial_record(storage, "half-done", 9)
    assert enqueued.params == {"training.learning_rate": 0.002}
    assert {trial.trial for trial in study_record(storage, "half-done").trials} == {
        0,
        1,
        2,
        3,
        4,
        6,
        9,
        10,
        11,
        12,
    }
    storage.close()
