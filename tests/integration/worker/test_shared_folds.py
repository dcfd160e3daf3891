"""Folds of a promoted trial on several slots, on a real database, with a fake in the place of training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from promoted import EPOCHS, FOLDS, Training, a_study
from slots import a_slot
from sqlalchemy import func, select, update

from hms_tune.database.connect import Storage
from hms_tune.database.queue.claim import Refusal, claim
from hms_tune.database.queue.lease import Holder, Lease, LeaseKeeper, seconds_awake_or_asleep
from hms_tune.database.queue.recovery import SilentLeases, recover
from hms_tune.database.queue.shared_folds import end_help, take_fold
from hms_tune.database.queue.start import begin_attempt
from hms_tune.database.queue.usage import gpu_hours_used
from hms_tune.database.tables import attempts, now, studies, trials
from hms_tune.errors import LeaseLostError
from hms_tune.machine.processes import ProcessIdentity, this_process
from hms_tune.studies.control import stop_trial
from hms_tune.studies.status import status
from hms_tune.trial_state import AttemptState, TrialState
from hms_tune.worker.fold_help import FoldHelp
from hms_tune.worker.open_study import Search, join_search


def helps(storage: Storage, study_id: int) -> list[tuple[int, AttemptState]]:
    """The folds that were helped with, and how that ended, in order."""
    return [help for of_trial in helps_by_trial(storage, study_id) for help in of_trial]


def helps_by_trial(storage: Storage, study_id: int) -> list[list[tuple[int, AttemptState]]]:
    with storage.statements() as connection:
        rows = connection.execute(
            select(attempts.c.trial_id, attempts.c.fold, attempts.c.state)
            .where(attempts.c.study_id == study_id, attempts.c.helps)
            .order_by(attempts.c.trial_id, attempts.c.lease_id)
        )
        found: dict[int, list[tuple[int, AttemptState]]] = {}
        for row in rows:
            found.setdefault(row.trial_id, []).append((row.fold, row.state))
        return list(found.values())


def until(condition: Callable[[], bool], most_s: float = 30.0) -> None:
    waited = threading.Event()
    for _ in range(int(most_s / 0.02)):
        if condition():
            return
        waited.wait(0.02)
    raise AssertionError("it did not come true")


def test_other_slots_train_folds_of_a_promoted_trial_and_none_is_trained_twice(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = a_study(study_name)
    search = join_search(storage, file)

    leaders: list[int] = []

    def helped_twice() -> bool:
        both = [(4, AttemptState.COMPLETE), (3, AttemptState.COMPLETE)]
        return any(of_trial[:2] == both for of_trial in helps_by_trial(storage, search.study_id))

    def wait_for_help(fold: int) -> None:
        """The first slot with a promoted trial waits in its second fold until helpers have trained two.

        Another slot may have a promoted trial too; it does not wait, so that somebody is left to help.
        """
        if fold == 1:
            leaders.append(threading.get_ident())
            if leaders[0] == threading.get_ident():
                until(helped_twice)

    training = Training(wait_for_help)

    def slot(number: int) -> int:
        setup = {"worker": f"worker{number}", "train_fold": training.train_fold}
        return a_slot(storage, join_search(storage, file), training.train, tmp_path / "store", **setup).run()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(slot, range(3)))
    shown = status(storage, study_name)
    assert shown.trials[TrialState.COMPLETE] >= 1
    assert shown.trials[TrialState.COMPLETE] + shown.trials[TrialState.PRUNED] == 4
    assert {state for _, state in helps(storage, search.study_id)} == {AttemptState.COMPLETE}
    assert helped_twice()  # from the end, towards the trial's attempt
    assert set(training.trained.values()) == {EPOCHS}
    study = search.study
    assert study.best_trial.last_step == FOLDS * EPOCHS
    assert len(study.best_trial.intermediate_values) == FOLDS * EPOCHS  # also of what others trained


@pytest.fixture
def search(storage: Storage, study_name: str) -> Search:
    return join_search(storage, a_study(study_name))


def a_holder(name: str, process: ProcessIdentity | None = None, *, gpus: float = 0.0) -> Holder:
    return Holder(name, "cpu", process or this_process(), gpus)


def a_leader(storage: Storage, search: Search, *, fold: int = 1, until: int = 5) -> Lease:
    """A trial at a fold, whose later folds others may train."""
    lease = claim(storage, search.study_id, a_holder("leader"), lease_s=60.0, promotion=search.promotion)
    assert isinstance(lease, Lease)
    attempt = begin_attempt(storage, search.study, lease)
    search.suggest(attempt.optuna_trial)
    storage.optuna.set_trial_user_attrs(attempt.optuna_trial_id, {"config_hash": "drawn"})
    assert take_fold(storage, lease, fold, until) == "ours"
    return lease


def a_helper(storage: Storage, search: Search, holder: Holder | None = None, **claims: float) -> Lease:
    lease = claim(
        storage,
        search.study_id,
        holder or a_holder("helper"),
        lease_s=claims.get("lease_s", 60.0),
        promotion=search.promotion,
        helps=True,
    )
    assert isinstance(lease, Lease)
    return lease


def test_a_fold_has_one_helper_and_the_trials_attempt_waits_for_it(storage: Storage, search: Search) -> None:
    leader = a_leader(storage, search, fold=2)
    first, second, third = (a_helper(storage, search) for _ in range(3))
    assert (first.fold, second.fold) == (4, 3)
    assert third.fold is None  # nothing is left to help with, so a new trial begins
    assert first.trial_id == second.trial_id == leader.trial_id != third.trial_id
    assert take_fold(storage, leader, 3, 5) == "taken"
    end_help(storage, second, AttemptState.COMPLETE)
    assert take_fold(storage, leader, 3, 5) == "helped"


def test_who_cannot_train_a_fold_alone_is_given_none(storage: Storage, search: Search) -> None:
    a_leader(storage, search)
    other = claim(storage, search.study_id, a_holder("ranks"), lease_s=60.0, promotion=search.promotion)
    assert isinstance(other, Lease)
    assert other.fold is None


def test_a_requeued_fold_is_helped_with_again_but_not_one_that_failed(
    storage: Storage, search: Search
) -> None:
    leader = a_leader(storage, search, fold=3)
    requeued = a_helper(storage, search)
    assert requeued.fold == 4
    end_help(storage, requeued, AttemptState.REQUEUED)
    again = a_helper(storage, search)
    assert again.fold == 4
    end_help(storage, again, AttemptState.FAILED)
    end_help(storage, again, AttemptState.FAILED)  # told again after an outage
    assert a_helper(storage, search).fold is None
    assert take_fold(storage, leader, 4, 5) == "helped"  # what it left is looked for, and the rest trained


def test_the_fold_of_a_dead_helper_is_its_trials_again_and_the_trial_counts_no_loss(
    storage: Storage, search: Search
) -> None:
    leader = a_leader(storage, search, fold=3)
    lease = a_helper(storage, search, lease_s=-1.0)
    assert take_fold(storage, leader, 4, 5) == "taken"
    (recovered,) = recover(storage, search.study_id, this_process(), SilentLeases(60.0))
    assert recovered.lease == lease
    assert take_fold(storage, leader, 4, 5) == "helped"
    with pytest.raises(LeaseLostError):
        end_help(storage, lease, AttemptState.COMPLETE)
    assert helps(storage, search.study_id) == [(4, AttemptState.LOST)]
    with storage.statements() as connection:
        trial = connection.execute(select(trials).where(trials.c.trial_id == leader.trial_id)).one()
    assert (trial.state, trial.losses) == (TrialState.RUNNING, 0)


def test_a_helper_hears_that_its_trial_was_stopped_or_has_ended(
    storage: Storage, search: Search, study_name: str
) -> None:
    leader = a_leader(storage, search)
    helper = a_helper(storage, search)
    keeper = LeaseKeeper(storage, helper, lease_s=60.0)
    assert keeper.requested(fresh_s=0.0) == "running"
    stop_trial(storage, study_name, 0)
    assert keeper.requested(fresh_s=0.0) == "trial stopped"
    end_help(storage, helper, AttemptState.REQUEUED)
    assert a_helper(storage, search).fold is None  # nobody helps with a trial that is to stop
    with storage.transaction() as connection:
        row = update(trials).where(trials.c.trial_id == leader.trial_id)
        connection.execute(row.values(requested="run", state=TrialState.PRUNED, ended_at=now()))
    assert keeper.requested(fresh_s=0.0) in ("trial stopped", "stopped")


def test_helping_counts_gpu_hours_but_neither_a_trial_of_the_budget_nor_one_of_the_worker(
    storage: Storage, search: Search
) -> None:
    a_leader(storage, search)
    helper = a_helper(storage, search, a_holder("helper", gpus=1.0))
    with storage.transaction() as connection:
        row = update(attempts).where(attempts.c.lease_id == helper.lease_id)
        connection.execute(row.values(claimed_at=now() - func.make_interval(0, 0, 0, 0, 2)))
        assert gpu_hours_used(connection, search.study_id) == pytest.approx(2.0, abs=0.01)
        budget = update(studies).where(studies.c.study_id == search.study_id)
        connection.execute(budget.values(budget_gpu_hours=1.9))
    over = claim(storage, search.study_id, a_holder("third"), lease_s=60.0, promotion=search.promotion)
    assert over is Refusal.OUT_OF_GPU_HOURS
    with storage.transaction() as connection:
        connection.execute(budget.values(budget_gpu_hours=None))
    end_help(storage, helper, AttemptState.COMPLETE)
    most = {"max_trials": 1, "lease_s": 60.0, "promotion": search.promotion}
    next_one = claim(storage, search.study_id, a_holder("helper"), helps=True, **most)
    assert isinstance(next_one, Lease)
    assert next_one.fold is not None
    shown = status(storage, search.study.study_name)
    assert shown.trials[TrialState.RUNNING] == 1
    assert [(each.trial, each.fold) for each in shown.running] == [(0, None), (0, 3)]


def test_a_worker_whose_store_has_nothing_of_the_trial_leaves_the_fold_to_it(
    storage: Storage, search: Search, tmp_path: Path
) -> None:
    a_leader(storage, search)
    lease, training = a_helper(storage, search), Training()
    slot = a_slot(storage, search, training.train, tmp_path / "store", train_fold=training.train_fold)
    with slot._setup.queue.keep(lease, granted_at=seconds_awake_or_asleep()) as keeper:
        FoldHelp(slot._setup, lease, 4, keeper).run()
    assert helps(storage, search.study_id) == [(4, AttemptState.FAILED)]
    assert not training.trained
