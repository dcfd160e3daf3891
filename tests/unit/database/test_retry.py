"""What is said of a database that refuses: at once, once, with the reason, the patience and a hint."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import IntegrityError, OperationalError
from stories import a_trial

from hms_tune.database.connection.refusals import hint_of
from hms_tune.database.connection.retry import Caller, Patience, as_storage_error, passes, through_outages
from hms_tune.database.queue.lease import Lease, LeaseKeeper
from hms_tune.errors import StorageAwayError, StorageError
from hms_tune.reports.dashboard.publisher import PublisherPlan, publishing
from hms_tune.studies.record_writer import Equipment, TrialRecorder

FULL = 'FATAL:  too many connections for role "fleet"\n'


def refusal(message: str, pgcode: str | None = None) -> OperationalError:
    coded = type("Coded", (psycopg2.OperationalError,), {"pgcode": pgcode})
    return OperationalError("SELECT 1", None, coded(message))


def test_the_first_refusal_is_said_at_once_with_its_reason_the_patience_and_the_hint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    said_before_the_second_try: list[str] = []

    def work() -> None:
        if not caplog.messages:
            raise refusal(FULL)
        said_before_the_second_try[:] = caplog.messages

    through_outages(work, patience=Patience(who="Slot cpu"))
    assert said_before_the_second_try == [
        'Slot cpu: the database cannot be used: FATAL: too many connections for role "fleet". It is asked '
        "again for up to 30 min. Raise the role's CONNECTION LIMIT (ALTER ROLE), or run fewer slots: allow "
        "four connections for each (docs/fleet.md)"
    ]
    assert caplog.messages[1:] == ["Slot cpu: the database answers again, after 0 s"]


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("FATAL:  sorry, too many clients already", "Raise max_connections"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            "Raise max_",
        ),
        ('FATAL:  too many connections for database "hms"', "Raise the database's CONNECTION LIMIT"),
        ("FATAL:  the database system is starting up", "Nothing, unless it lasts"),
        ("FATAL:  the database system is shutting down", "Nothing, unless it lasts"),
        ('FATAL:  password authentication failed for user "x"', "Check the password"),
        ("Connection refused", "Check that the server runs"),
    ],
)
def test_each_refusal_has_its_hint(message: str, hint: str) -> None:
    assert hint_of(refusal(message)).startswith(hint)


def test_what_is_only_to_be_tried_again_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    faults = [refusal("deadlock detected", "40P01"), refusal("could not serialize", "40001")]

    def work() -> None:
        if faults:
            raise faults.pop()

    caplog.set_level(logging.INFO)
    through_outages(work)
    assert caplog.messages == []


def test_an_outage_that_several_meet_is_said_once_and_over_when_all_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    patience = Patience()
    with Caller(patience) as one, Caller(patience) as other:
        for caller in (one, other, one):
            caller.refused(refusal(FULL))
        other.answered()  # one connection is there; the other is still refused
        other.refused(refusal(FULL))
        assert len(caplog.messages) == 1
        one.refused(refusal("FATAL:  the database system is shutting down"))  # another reason is news
        assert len(caplog.messages) == 2
        one.answered()
        other.answered()
        assert caplog.messages[2:] == ["hms-tune: the database answers again, after 0 s"]
        one.refused(refusal(FULL))  # the next outage
    assert len(caplog.messages) == 4


def test_patience_that_is_over_repeats_the_reason() -> None:
    def work() -> None:
        raise refusal(FULL)

    with pytest.raises(StorageAwayError, match='away for 0 s: FATAL: too many connections for role "fleet"'):
        through_outages(work, patience=Patience(most_s=0.1))


class FullDatabase:
    """Refuses every connection; ``asked_twice`` once somebody has come back."""

    def __init__(self) -> None:
        self.patience = Patience(who="Slot cpu")
        self.engine = self.optuna = self.shared = self
        self.asked_twice = threading.Event()
        self._asked = 0

    def transaction(self) -> None:
        self.begin()

    def statements(self) -> None:
        self.begin()

    def get_trial_id_from_study_id_trial_number(self, *_which: int) -> None:
        self.begin()

    def get_trial(self, _which: int) -> None:
        self.begin()

    def begin(self) -> None:
        self._asked += 1
        if self._asked > 1:
            self.asked_twice.set()
        raise refusal(FULL)


def test_the_renewal_of_a_lease_says_that_it_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    storage: Any = FullDatabase()
    with LeaseKeeper(storage, Lease(1, 1, 1, None), lease_s=60.0, every_s=0.01):
        assert storage.asked_twice.wait(20.0)
    assert [message.partition(". ")[0] for message in caplog.messages] == [
        'Slot cpu: the database cannot be used: FATAL: too many connections for role "fleet"'
    ]


def test_a_record_that_waits_says_that_it_is_refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hms_tune.studies.record_writer.AGAIN_S", 0.01)
    storage: Any = FullDatabase()
    recorder = TrialRecorder(storage, 1, Equipment("cpu", 0.0, "digest"))
    recorder.trial_started(a_trial())
    recorder.trial_ended(a_trial(), "pruned", 0.5, "pruned")
    assert storage.asked_twice.wait(20.0)
    monkeypatch.setattr(storage, "begin", lambda: 1 / 0)  # what is not an outage ends the wait
    recorder.close()
    assert caplog.messages[0].startswith("Slot cpu: the database cannot be used: FATAL: too many connections")
    assert sum("too many connections" in message for message in caplog.messages) == 1


def test_a_publisher_without_a_connection_says_so_in_the_workers_log(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    plan = PublisherPlan("study", "postgresql://me:canary@127.0.0.1:1/db", tmp_path, tmp_path)
    with publishing(plan, is_stopping=lambda: False):
        pass
    (said,) = caplog.messages
    assert said.startswith("The dashboard's notes and figures wait: the database cannot be used: ")
    assert "It is tried again every 10 s. Check that the server runs" in said
    assert "canary" not in said


def operational(pgcode: str | None) -> OperationalError:
    class Coded(psycopg2.OperationalError):
        pass

    original = Coded("gone")
    wrapped = OperationalError("SELECT 1", None, original)
    if pgcode is not None:
        wrapped.orig = type("Coded", (psycopg2.OperationalError,), {"pgcode": pgcode})("gone")
    return wrapped


@pytest.mark.parametrize(
    ("pgcode", "passing"),
    [(None, True), ("40001", True), ("40P01", True), ("57P01", True), ("53300", True), ("28P01", False)],
)
def test_only_faults_that_pass_are_tried_again(pgcode: str | None, passing: bool) -> None:
    error = operational(pgcode)
    assert passes(error) is passing
    wrapped = StorageInternalError("Optuna's words")
    wrapped.__cause__ = error
    assert passes(wrapped) is passing
    assert isinstance(as_storage_error(error), StorageAwayError) is passing
    assert not passes(IntegrityError("INSERT", None, Exception("duplicate")))
    assert not passes(StorageInternalError("without a cause"))


def test_work_is_repeated_until_the_fault_has_passed() -> None:
    faults = [operational(None), operational("40001")]

    def work() -> str:
        if faults:
            raise faults.pop()
        return "done"

    assert through_outages(work) == "done"
    assert faults == []


def test_a_database_that_stays_away_is_a_storage_error() -> None:
    def work() -> None:
        raise operational(None)

    with pytest.raises(StorageError, match="the database was away"):
        through_outages(work, patience=Patience(most_s=0.2))


def test_other_errors_are_not_tried_again() -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        through_outages(work)
    assert len(calls) == 1
