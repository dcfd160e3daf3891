"""The budget, leases and recovery, each against a real PostgreSQL and real Optuna tables."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.connection import Connection

import optuna
import pytest
from optuna.trial import TrialState as OptunaState
from sqlalchemy import func, select, text, update

from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.queue import recovery
from hms_tune.database.queue.attempt import Attempt, Result
from hms_tune.database.queue.claim import Budget, Refusal, claim, next_ordinal, register_study
from hms_tune.database.queue.end import end_attempt, release
from hms_tune.database.queue.lease import Holder, Lease, LeaseKeeper, lock_lease
from hms_tune.database.queue.recovery import MOST_LOSSES, SilentLeases, end_orphans, recover
from hms_tune.database.queue.start import begin_attempt, bind
from hms_tune.database.tables import attempts, studies, trials
from hms_tune.errors import LeaseLostError, UnknownStudyError
from hms_tune.machine.child_processes import ChildProcess
from hms_tune.machine.processes import ProcessIdentity, leave_mark, remove_mark, this_process
from hms_tune.studies.status import status
from hms_tune.trial_state import AttemptState, TrialState

GONE = ProcessIdentity(host="elsewhere", pid=1, started=1, machine="another-boot:1")
ME = this_process()


def holder(worker: str = "worker", process: ProcessIdentity = ME) -> Holder:
    return Holder(worker_id=worker, slot="cpu", process=process)


@pytest.fixture
def study(storage: Storage, study_name: str) -> optuna.Study:
    return optuna.create_study(
        study_name=study_name, storage=storage.optuna.shared, sampler=optuna.samplers.RandomSampler(seed=0)
    )


def register(
    storage: Storage,
    study: optuna.Study,
    trials: int | None = 10,
    hours: float | None = None,
    gpu_hours: float | None = None,
) -> int:
    return register_study(storage, study.study_name, Budget(trials, hours, gpu_hours))


def claimed(
    storage: Storage, study_id: int, *, process: ProcessIdentity = ME, lease_s: float = 60.0
) -> Lease:
    lease = claim(storage, study_id, holder(process=process), lease_s=lease_s)
    assert isinstance(lease, Lease)
    return lease


def asked(storage: Storage, study: optuna.Study, study_id: int, **keywords: object) -> Attempt:
    return begin_attempt(storage, study, claimed(storage, study_id, **keywords))  # type: ignore[arg-type]


def drawn(attempt: Attempt) -> float:
    """Draw the attempt's values as a slot does, with the mark that says they are whole."""
    value = attempt.optuna_trial.suggest_float("x", 0.0, 1.0)
    attempt.optuna_trial.set_user_attr("config_hash", "whole")
    return value


def expire(storage: Storage, lease: Lease) -> None:
    with storage.engine.begin() as connection:
        connection.execute(
            update(attempts)
            .where(attempts.c.lease_id == lease.lease_id)
            .values(expires_at=func.clock_timestamp() - text("interval '1 second'"))
        )


def trial_row(storage: Storage, lease: Lease) -> tuple[TrialState, int]:
    with storage.engine.connect() as connection:
        row = connection.execute(
            select(trials.c.state, trials.c.losses).where(trials.c.trial_id == lease.trial_id)
        ).one()
    return row.state, row.losses


def test_eight_claimants_start_exactly_as_many_trials_as_the_budget_holds(
    database_url: str, storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=20)

    def work(worker: int) -> list[int]:
        mine = open_storage(database_url)
        own = optuna.load_study(study_name=study.study_name, storage=mine.optuna.shared)
        numbers = []
        while isinstance(lease := claim(mine, study_id, holder(f"w{worker}"), lease_s=60.0), Lease):
            attempt = begin_attempt(mine, own, lease)
            numbers.append(attempt.number)
            end_attempt(mine, own, attempt, Result(AttemptState.COMPLETE, value=1.0))
        mine.close()
        return numbers

    with ThreadPoolExecutor(8) as pool:
        numbers = [number for mine in pool.map(work, range(8)) for number in mine]
    assert sorted(numbers) == list(range(20))
    assert status(storage, study.study_name).attempts["complete"] == 20
    assert claim(storage, study_id, holder(), lease_s=60.0) is Refusal.BUDGET_SPENT


def test_a_worker_claims_no_more_than_it_was_asked_to(storage: Storage, study: optuna.Study) -> None:
    study_id = register(storage, study)
    for _ in range(2):
        assert isinstance(claim(storage, study_id, holder("one"), lease_s=60.0, max_trials=2), Lease)
    assert claim(storage, study_id, holder("one"), lease_s=60.0, max_trials=2) is Refusal.WORKER_DONE
    assert isinstance(claim(storage, study_id, holder("two"), lease_s=60.0, max_trials=2), Lease)


def test_a_spent_budget_waits_for_trials_of_others_and_hours_end_it(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    attempt = asked(storage, study, study_id)
    assert claim(storage, study_id, holder(), lease_s=60.0) is Refusal.OTHERS_RUNNING
    end_attempt(storage, study, attempt, Result(AttemptState.COMPLETE, value=0.5))
    assert claim(storage, study_id, holder(), lease_s=60.0) is Refusal.BUDGET_SPENT
    register(storage, study, trials=5, hours=1e-9)
    assert claim(storage, study_id, holder(), lease_s=60.0) is Refusal.OUT_OF_HOURS


def test_a_search_that_stood_still_overnight_has_its_hours_left_and_work_uses_them_up(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=None, hours=1.0)
    first = claimed(storage, study_id)
    day, begun = timedelta(days=1), attempts.c.claimed_at
    worked = {
        "claimed_at": begun - day,
        "ended_at": begun - day + timedelta(hours=0.5),
        "state": AttemptState.REQUEUED,
    }
    with storage.engine.begin() as connection:
        mine = studies.c.study_id == study_id
        connection.execute(update(studies).where(mine).values(started_at=studies.c.started_at - day))
        of_first = attempts.c.lease_id == first.lease_id
        connection.execute(update(attempts).where(of_first).values(**worked))
    second = claimed(storage, study_id)
    with storage.engine.begin() as connection:
        of_second = attempts.c.lease_id == second.lease_id
        connection.execute(update(attempts).where(of_second).values(claimed_at=begun - timedelta(hours=0.6)))
    assert claim(storage, study_id, holder("other"), lease_s=60.0) is Refusal.OUT_OF_HOURS


def test_a_requeued_trial_continues_with_its_values_and_costs_no_budget(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    first = asked(storage, study, study_id)
    value = drawn(first)
    for _ in range(MOST_LOSSES + 1):
        end_attempt(storage, study, first, Result(AttemptState.REQUEUED, reason="requeued"))
        second = asked(storage, study, study_id)
        assert drawn(second) == value
        assert (second.trial, second.number) == (0, first.number + 1)
        first = second
    end_attempt(storage, study, first, Result(AttemptState.COMPLETE, value=0.25))
    assert status(storage, study.study_name).trials["complete"] == 1
    assert study.best_value == 0.25


def test_an_expired_lease_is_recovered_once_and_its_holder_can_write_nothing(
    database_url: str, storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    attempt = asked(storage, study, study_id)
    value = drawn(attempt)
    assert recover(storage, study_id, ME, SilentLeases(60.0)) == ()
    expire(storage, attempt.lease)
    (recovered,) = recover(storage, study_id, ME, SilentLeases(60.0))
    assert (recovered.number, recovered.result.state) == (0, "lost")
    assert recover(storage, study_id, ME, SilentLeases(60.0)) == ()

    with pytest.raises(LeaseLostError):
        end_attempt(storage, study, attempt, Result(AttemptState.COMPLETE, value=0.0))
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        attempt.optuna_trial.report(0.1, 1)
    frozen = study.trials[0]
    assert (frozen.state, frozen.user_attrs["reason"]) == (OptunaState.FAIL, "lease lost")

    successor = asked(storage, study, study_id)
    assert drawn(successor) == value
    assert successor.optuna_trial.user_attrs["continues"] == 0
    assert end_attempt(storage, study, successor, Result(AttemptState.COMPLETE, value=0.5)).value == 0.5
    assert Counter(trial.state for trial in study.trials) == {OptunaState.FAIL: 1, OptunaState.COMPLETE: 1}


DEAD = dataclasses.replace(ME, started=(ME.started or 0) - 1)
"""A process that this machine had and has no more."""


class Watch:
    """Looks of one slot at the leases of others, every two seconds of a clock that nobody waits for."""

    def __init__(self, storage: Storage, study_id: int) -> None:
        self.at = 0.0
        self._storage, self._study_id = storage, study_id
        self._silent = SilentLeases(60.0, clock=lambda: self.at)

    def look(self, *, after_s: float = 2.0) -> list[Lease]:
        self.at += after_s
        found = recover(self._storage, self._study_id, ME, self._silent)
        return [recovered.lease for recovered in found]

    def seconds_until(self, lease: Lease, *, within_s: float) -> float:
        """How long it looks until it takes the lease."""
        began = self.at
        while self.at - began < within_s:
            if (found := self.look()) != []:
                assert found == [lease]
                return self.at - began
        raise AssertionError("it took none")


@pytest.fixture
def mark() -> Iterator[None]:
    """What says that the worker ran on this machine; a snapshot of the machine has it, too."""
    leave_mark("worker")
    yield
    remove_mark("worker")


def test_a_dead_process_of_this_machine_is_recovered_before_its_lease_expires(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study)
    lease = claimed(storage, study_id, process=DEAD)
    claimed(storage, study_id, process=GONE)  # another machine: only time tells
    watch = Watch(storage, study_id)
    assert [watch.look() for _ in range(20)] == [[]] * 20  # nothing says that its worker ran here
    leave_mark("worker")
    try:
        assert watch.seconds_until(lease, within_s=60.0) == 16.0  # a look, and two renewals' time
    finally:
        remove_mark("worker")


def renew_when_told(url: str, lease: Lease, pipe: Connection) -> None:
    """The worker of a machine: renews its lease whenever it is told to."""
    storage = open_storage(url)
    keeper = LeaseKeeper(storage, lease, lease_s=60.0)
    while pipe.recv() == "renew":
        pipe.send(keeper._renew())
    storage.close()


@pytest.mark.usefixtures("mark")
def test_a_worker_that_died_on_a_clone_of_its_machine_keeps_its_trial_while_the_original_renews_it(
    database_url: str, storage: Storage, study: optuna.Study
) -> None:
    """A machine was cloned while the worker ran; both have all marks, and here the worker's process died."""
    study_id = register(storage, study)
    lease = claimed(storage, study_id, process=DEAD)
    original = ChildProcess(renew_when_told, database_url, lease, name="original")
    watch = Watch(storage, study_id)
    for _ in range(40):
        original.pipe.send("renew")
        assert original.pipe.recv() is True
        assert [watch.look() for _ in range(3)] == [[]] * 3  # renewed every 6 s, for four leases' time
    original.pipe.send("dies")
    original.join()
    assert watch.seconds_until(lease, within_s=60.0) < 16.0
    with pytest.raises(LeaseLostError):
        release(storage, lease)


@pytest.mark.usefixtures("mark")
def test_a_lease_that_lasts_longer_than_ours_is_watched_for_longer(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study)
    lease = claimed(storage, study_id, process=DEAD, lease_s=600.0)
    assert 130.0 < Watch(storage, study_id).seconds_until(lease, within_s=200.0) <= 136.0


@pytest.mark.usefixtures("mark")
def test_a_watch_that_was_broken_off_begins_anew(
    storage: Storage, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = register(storage, study)
    lease = claimed(storage, study_id, process=DEAD)
    watch = Watch(storage, study_id)
    assert [watch.look() for _ in range(6)] == [[]] * 6
    assert watch.look(after_s=600.0) == []  # a trial lay between
    assert [watch.look() for _ in range(6)] == [[]] * 6
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "statements", lambda self: 1 / 0)  # the database is away: nobody can renew
        with pytest.raises(ZeroDivisionError):
            watch.look()
    assert watch.seconds_until(lease, within_s=60.0) == 16.0


def test_a_worker_whose_lease_has_its_number_again_after_a_restored_backup_loses_it(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=2)
    lost = asked(storage, study, study_id)
    with storage.engine.begin() as connection:  # what a backup that is older than the claim does
        connection.execute(attempts.delete().where(attempts.c.lease_id == lost.lease.lease_id))
        later = claimed(storage, study_id)
        connection.execute(
            update(attempts).where(attempts.c.lease_id == later.lease_id).values(lease_id=lost.lease.lease_id)
        )
    others = dataclasses.replace(later, lease_id=lost.lease.lease_id)
    with LeaseKeeper(storage, lost.lease, lease_s=600.0, every_s=0.01) as keeper:
        assert keeper.requested() == "stopped"
        assert keeper.lost
    for give_up in (
        lambda: release(storage, lost.lease),
        lambda: end_attempt(storage, study, lost, Result(AttemptState.COMPLETE, value=0.0)),
        lambda: begin_attempt(storage, study, lost.lease),
    ):
        with pytest.raises(LeaseLostError):
            give_up()
    with LeaseKeeper(storage, others, lease_s=60.0, every_s=0.01) as keeper:
        assert keeper.requested() == "running"
    assert begin_attempt(storage, study, others).lease == others


def test_a_trial_that_took_three_workers_is_set_aside_and_says_so(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    for loss in range(1, MOST_LOSSES + 1):
        attempt = asked(storage, study, study_id)
        expire(storage, attempt.lease)
        (recovered,) = recover(storage, study_id, ME, SilentLeases(60.0))
        assert recovered.set_aside == (loss == MOST_LOSSES)
    assert trial_row(storage, attempt.lease) == ("failed", 3)
    assert study.trials[2].user_attrs["reason"] == "set aside: 3 workers were lost with it"
    assert claim(storage, study_id, holder(), lease_s=60.0) is Refusal.BUDGET_SPENT


def test_dying_between_the_claim_and_the_trial_loses_no_budget(storage: Storage, study: optuna.Study) -> None:
    study_id = register(storage, study, trials=1)
    expire(storage, claimed(storage, study_id))
    recover(storage, study_id, ME, SilentLeases(60.0))
    attempt = asked(storage, study, study_id)
    assert attempt.number == 0
    assert study.trials[0].state == OptunaState.RUNNING


def test_dying_between_the_trial_and_its_binding_leaves_no_running_orphan(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    attempt = asked(storage, study, study_id)
    with storage.engine.begin() as connection:  # as if the transaction that binds had never been committed
        connection.execute(
            update(attempts).values(optuna_trial_id=None, number=None).where(attempts.c.study_id == study_id)
        )
        connection.execute(
            update(trials).values(last_optuna_trial_id=None, number=None).where(trials.c.study_id == study_id)
        )
    expire(storage, attempt.lease)
    (recovered,) = recover(storage, study_id, ME, SilentLeases(60.0))
    assert recovered.number == 0
    assert study.trials[0].state == OptunaState.FAIL
    assert asked(storage, study, study_id).trial == 0


def test_dying_between_optunas_result_and_ours_keeps_the_result(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    attempt = asked(storage, study, study_id)
    study.tell(attempt.optuna_trial, 0.125)
    expire(storage, attempt.lease)
    (recovered,) = recover(storage, study_id, ME, SilentLeases(60.0))
    assert recovered.result == Result(AttemptState.COMPLETE, value=0.125)
    assert trial_row(storage, attempt.lease) == ("complete", 0)
    assert len(study.trials) == 1


def test_a_trial_that_arrives_after_its_lease_has_ended_is_ended_too(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=2)
    first = claimed(storage, study_id)
    release(storage, first)
    late = optuna.trial.create_trial(state=OptunaState.RUNNING, user_attrs={"lease": first.lease_id})
    late_id = storage.optuna.create_new_trial(study_id, late)
    attempt = asked(storage, study, study_id)
    twice = optuna.trial.create_trial(state=OptunaState.RUNNING, user_attrs={"lease": attempt.lease.lease_id})
    twice_id = storage.optuna.create_new_trial(study_id, twice)
    end_orphans(storage, study_id)
    states = [storage.optuna.get_trial(each).state for each in (late_id, twice_id, attempt.optuna_trial_id)]
    assert states == [OptunaState.FAIL, OptunaState.FAIL, OptunaState.RUNNING]


def test_a_recovery_that_died_after_failing_the_attempt_is_finished_by_the_next(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    attempt = asked(storage, study, study_id)
    expire(storage, attempt.lease)

    with storage.transaction() as connection:
        (row,) = recovery._gone(connection, study_id, ME, SilentLeases(60.0), among=[attempt.lease.lease_id])
        recovery._recover_one(storage, connection, row, MOST_LOSSES)
        connection.rollback()  # what the server does when a process dies
    assert study.trials[0].state == OptunaState.FAIL
    assert trial_row(storage, attempt.lease) == ("running", 0)
    recover(storage, study_id, ME, SilentLeases(60.0))
    assert trial_row(storage, attempt.lease) == ("waiting", 1)
    assert asked(storage, study, study_id).trial == 0


def test_a_trial_that_a_person_failed_in_the_dashboard_ends_as_failed(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    attempt = asked(storage, study, study_id)
    storage.optuna.set_trial_state_values(attempt.optuna_trial_id, OptunaState.FAIL)
    told = end_attempt(storage, study, attempt, Result(AttemptState.COMPLETE, value=0.5))
    assert told == Result(AttemptState.FAILED, reason="ended by a person in the dashboard")
    assert trial_row(storage, attempt.lease) == ("failed", 0)


def test_a_result_that_was_told_twice_after_an_outage_stands_once(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    attempt = asked(storage, study, study_id)
    study.tell(attempt.optuna_trial, 0.75)  # the first time, of which the answer was lost
    result = Result(AttemptState.COMPLETE, value=0.75)
    assert end_attempt(storage, study, attempt, result) == result


def test_asking_again_after_an_outage_takes_up_the_trial_that_was_made(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    lease = claimed(storage, study_id)
    first = begin_attempt(storage, study, lease)
    again = begin_attempt(storage, study, lease)
    assert (again.number, len(study.trials)) == (first.number, 1)


def test_an_enqueued_trial_is_taken_first_and_by_one_slot(storage: Storage, study: optuna.Study) -> None:
    study_id = register(storage, study, trials=2)
    study.enqueue_trial({"x": 0.5})
    assert drawn(asked(storage, study, study_id)) == 0.5
    assert drawn(asked(storage, study, study_id)) != 0.5
    assert claim(storage, study_id, holder(), lease_s=60.0) is Refusal.OTHERS_RUNNING


def test_a_lost_enqueued_trial_keeps_the_values_it_was_given(storage: Storage, study: optuna.Study) -> None:
    study_id = register(storage, study, trials=1)
    study.enqueue_trial({"x": 0.5})
    attempt = asked(storage, study, study_id)  # dies before it reads its values
    expire(storage, attempt.lease)
    recover(storage, study_id, ME, SilentLeases(60.0))
    assert drawn(asked(storage, study, study_id)) == 0.5


def test_a_released_claim_is_taken_again(storage: Storage, study: optuna.Study) -> None:
    study_id = register(storage, study, trials=1)
    lease = claimed(storage, study_id)
    release(storage, lease)
    assert claimed(storage, study_id).trial_id == lease.trial_id


def test_the_keeper_renews_through_expiry_and_sees_the_loss(storage: Storage, study: optuna.Study) -> None:
    study_id = register(storage, study)
    attempt = asked(storage, study, study_id)
    with LeaseKeeper(storage, attempt.lease, lease_s=60.0, every_s=0.02) as keeper:
        expire(storage, attempt.lease)
        for _ in range(500):
            if not _expired(storage, attempt.lease):
                break
            threading.Event().wait(0.01)
        assert recover(storage, study_id, ME, SilentLeases(60.0)) == ()
        assert keeper.requested(fresh_s=0.0) == "running"
        keeper.check()
        with storage.engine.begin() as connection:
            connection.execute(
                update(attempts)
                .where(attempts.c.lease_id == attempt.lease.lease_id)
                .values(ended_at=func.clock_timestamp(), state=AttemptState.LOST)
            )
        keeper.requested(fresh_s=0.0)
        with pytest.raises(LeaseLostError):
            keeper.check()


def _expired(storage: Storage, lease: Lease) -> bool:
    with storage.engine.connect() as connection:
        expired = connection.execute(
            select(attempts.c.expires_at < func.clock_timestamp()).where(
                attempts.c.lease_id == lease.lease_id
            )
        ).scalar_one()
    return bool(expired)


def test_a_deleted_study_is_named(storage: Storage, study: optuna.Study) -> None:
    study_id = register(storage, study)
    lease = claimed(storage, study_id)
    optuna.delete_study(study_name=study.study_name, storage=storage.optuna)
    with pytest.raises(UnknownStudyError, match="deleted"):
        begin_attempt(storage, study, lease)


def test_each_slot_that_joins_gets_the_next_ordinal(storage: Storage, study: optuna.Study) -> None:
    study_id = register(storage, study)
    assert [next_ordinal(storage, study_id) for _ in range(3)] == [0, 1, 2]


def test_the_keeper_waits_for_no_lock_with_the_connection_that_a_result_needs(
    storage: Storage, study: optuna.Study
) -> None:
    attempt = asked(storage, study, register(storage, study, trials=1))
    keeper = LeaseKeeper(storage, attempt.lease, lease_s=60.0)
    with storage.transaction() as connection:
        lock_lease(connection, attempt.lease)
        assert keeper._renew() is None  # held, and locked
    assert keeper._renew() is True
    end_attempt(storage, study, attempt, Result(AttemptState.COMPLETE, value=0.5))
    assert keeper._renew() is False


def test_one_trial_cannot_have_two_live_leases(storage: Storage, study: optuna.Study) -> None:
    import sqlalchemy.exc

    from hms_tune.database.queue.lease import grant

    study_id = register(storage, study)
    lease = claimed(storage, study_id)
    with pytest.raises(sqlalchemy.exc.IntegrityError), storage.engine.begin() as connection:
        grant(connection, study_id, lease.trial_id, holder(), lease_s=60.0)
    attempt = begin_attempt(storage, study, lease)
    other = claimed(storage, study_id)
    with pytest.raises(sqlalchemy.exc.IntegrityError), storage.engine.begin() as connection:
        bind(connection, other, attempt.optuna_trial_id, attempt.number)


def test_a_renamed_study_keeps_what_it_has_spent_when_its_old_name_begins_another(
    storage: Storage, study: optuna.Study
) -> None:
    study_id = register(storage, study, trials=1)
    assert isinstance(claim(storage, study_id, holder(), lease_s=60.0), Lease)
    name = f"{study.study_name}-renamed"
    with storage.engine.begin() as connection:
        connection.execute(
            text("UPDATE studies SET study_name = :name WHERE study_id = :id"), {"name": name, "id": study_id}
        )
    another = optuna.create_study(study_name=study.study_name, storage=storage.optuna.shared)
    assert register(storage, another, trials=1) != study_id
    renamed = optuna.load_study(study_name=name, storage=storage.optuna)
    assert register(storage, renamed, trials=1) == study_id
    assert claim(storage, study_id, holder(), lease_s=60.0) is Refusal.OTHERS_RUNNING
