"""What processes of one study keep from each other, and that nobody else can keep anything from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from receiver import receiver
from roles import a_role
from slots import a_slot
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.database import locks
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.connection.url import parse_address
from hms_tune.database.read_only import open_read_only
from hms_tune.errors import StorageError
from hms_tune.reports.dashboard.publisher import Publisher, PublisherPlan
from hms_tune.studies.status import list_studies, status
from hms_tune.tracking.notify.watch import StudyWatch
from hms_tune.tracking.notify.webhook import Receivers
from hms_tune.trial_state import TrialState
from hms_tune.worker.open_study import join_search
from studies import ONE_TRIAL, write_study


def test_webhooks_go_out_while_a_publisher_is_elected(
    storage: Storage, database_url: str, study_name: str, tmp_path: Path
) -> None:
    written = write_study(storage, study_name, trials=8)
    told: list[list[str]] = []
    with receiver() as webhook:
        watch = StudyWatch(
            storage,
            written.study_id,
            study_name,
            "watcher",
            lambda outlook: None,
            receivers=Receivers(webhook.address),
            events=frozenset({"new_best"}),
        )

        def wait(_seconds: float, calls: list[None] = []) -> bool | None:  # noqa: B006
            calls.append(None)
            if len(calls) == 1:  # not elected yet
                return None
            watch.look()
            told.append(webhook.events())
            return False

        Publisher(PublisherPlan(study_name, database_url, tmp_path, tmp_path)).run(wait)
    assert told == [["new_best"]]


def test_a_stranger_who_holds_the_set_up_lock_stops_nobody_for_whom_all_is_there(
    storage: Storage, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SETUP_S", 1)
    with storage.setup_lock():
        open_storage(database_url).close()  # as every command does; the tables are there
        with (
            pytest.raises(StorageError, match="has held hms-tune's set-up lock for more than 1 s") as error,
            storage.setup_lock(),
        ):
            pass
    assert "pg_terminate_backend" in str(error.value)
    with storage.setup_lock():  # free again
        pass


def test_a_role_without_rights_that_takes_advisory_locks_stops_no_command_and_no_trial(
    database_url: str, tmp_path: Path
) -> None:
    study = StudyFile.parse(ONE_TRIAL.format(name="guarded").replace("trials: 1", "trials: 4"), "test")

    def train(_config: object, _directory: Path) -> Iterator[object]:
        yield a_fold_start()
        yield an_epoch()
        yield a_fold_end()
        yield an_ending(0.5)

    with (
        a_role(database_url, "owner", "secret", database="guarded") as owner,
        a_role(database_url, "stranger", "secret") as stranger,
    ):
        owner.ask("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        owner.ask("GRANT ALL ON SCHEMA public TO owner")  # before PostgreSQL 15 it is not the owner's
        storage = open_storage(owner.url())
        study_id = join_search(storage, study).study_id
        url = parse_address(stranger.url()).set(database="guarded")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as theirs:
            for number in (locks.SETUP_LOCK, 4_865_142, 4_865_143, 4_865_144):  # of versions before
                theirs.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
                for key in (study_id, 0):
                    theirs.execute(text("SELECT pg_advisory_lock(:one, :two)"), {"one": number, "two": key})
            with pytest.raises(ProgrammingError, match="permission denied"):
                theirs.execute(text("SELECT * FROM hms_tune.studies FOR UPDATE"))
            reader = open_read_only(owner.url())
            assert [each.study for each in list_studies(reader)] == ["guarded"]
            assert status(reader, "guarded").trials[TrialState.COMPLETE] == 0
            reader.close()
            other = open_storage(owner.url())
            assert a_slot(other, join_search(other, study), train, tmp_path / "store").run() == 4
            other.close()
            with receiver() as webhook:
                watch = StudyWatch(
                    storage,
                    study_id,
                    "guarded",
                    "watcher",
                    lambda outlook: None,
                    receivers=Receivers(webhook.address),
                    events=frozenset({"study_finished"}),
                )
                watch.look()
                assert webhook.events() == ["study_finished"]
            with storage.statements() as connection:
                assert locks.elect_publisher(connection, study_id, "mine")
        engine.dispose()
        storage.close()
