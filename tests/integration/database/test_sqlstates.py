"""Errors that a real server raises at the tables of a search: what passes is waited for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_study import STUDY, train
from psycopg2 import errors
from roles import Role, a_role
from slots import a_slot
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.connection.retry import passes
from hms_tune.database.connection.sqlstates import Fate, entry_of
from hms_tune.database.tables import attempts
from hms_tune.worker.open_study import join_search
from studies import show_trials

PASSING = ["08006", "25006", "25P03", "40001", "53300", "57014", "57P01", "58030"]
"""One of each kind; ``tests/unit/database/test_sqlstates.py`` has them all."""

FAULTS = """
CREATE SEQUENCE faults;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('faults') % 5 = 0 THEN
        RAISE EXCEPTION 'injected' USING ERRCODE = current_setting('test.state');
    END IF;
    RETURN COALESCE(NEW, OLD);
END $$;
"""
"""Each fifth write fails. A sequence counts on when its transaction is undone."""


@pytest.fixture(scope="module")
def role(database_url: str) -> Iterator[Role]:
    with a_role(database_url, "sqlstates", "secret") as made:
        open_storage(made.url()).close()
        made.ask(FAULTS)
        made.ask("GRANT ALL ON SEQUENCE faults TO sqlstates")
        yield made


@pytest.mark.parametrize("state", PASSING)
def test_a_trial_runs_to_its_end_through_every_error_that_passes(
    role: Role, state: str, tmp_path: Path, study_name: str
) -> None:
    storage = open_storage(role.url())
    search = join_search(storage, StudyFile.parse(STUDY.format(name=study_name, trials=1), "test"))
    try:
        with ExitStack() as stack:
            role.ask(f"ALTER ROLE sqlstates SET test.state = '{state}'")
            storage.engine.dispose()
            for table in ("hms_tune.attempts", "hms_tune.trials", "trials", "trial_params"):
                at = f"BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW"
                role.ask(f"CREATE TRIGGER fail {at} EXECUTE FUNCTION fail()")
                stack.callback(role.ask, f"DROP TRIGGER fail ON {table}")
            assert a_slot(storage, search, train, tmp_path).run() == 1
    finally:
        shown = show_trials(storage, study_name)
        storage.close()
    assert [trial.state for trial in shown if trial.state != "failed"] in (["complete"], ["pruned"])


@pytest.fixture
def storage(role: Role) -> Iterator[Storage]:
    opened = open_storage(role.url())
    yield opened
    opened.close()


def test_connections_to_a_standby_are_given_up_for_new_ones(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind an address that moved on, the pool's old connections still reach the server that was demoted."""
    caplog.set_level(logging.INFO)
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(storage.engine.connect())
            connection.execute(text("SET default_transaction_read_only = on"))
            connection.commit()

    def write() -> None:
        with storage.transaction() as connection:
            connection.execute(select(attempts).with_for_update())

    storage.through_outages(write)
    told, answered = caplog.messages
    assert "read-only transaction. It is asked again for up to 30 min. Nothing during a fail-over" in told
    assert answered.startswith("hms-tune: the database answers again")


def test_a_plan_that_a_change_of_the_tables_outdated_is_made_again(storage: Storage, role: Role) -> None:
    role.ask("CREATE TABLE outdated (one integer)")
    role.ask("ALTER TABLE outdated OWNER TO sqlstates")
    with storage.engine.connect() as connection:
        connection.execute(text("PREPARE kept AS SELECT * FROM outdated"))
        connection.commit()
        role.ask("ALTER TABLE outdated ADD COLUMN two integer")
        with pytest.raises(DBAPIError) as caught:
            connection.execute(text("EXECUTE kept"))
    assert isinstance(caught.value.orig, errors.FeatureNotSupported)
    assert entry_of(caught.value).fate is Fate.RECONNECT
    assert passes(caught.value)
    role.ask("DROP TABLE outdated")
