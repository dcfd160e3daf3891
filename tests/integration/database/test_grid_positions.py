"""A stray trial, a successor, or what a person enqueued never takes the turn of a grid's cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import optuna
import pytest
from sqlalchemy import func, text, update

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.database.optuna_trial import LEASE_ATTRIBUTE
from hms_tune.database.queue.attempt import Attempt, Result
from hms_tune.database.queue.claim import Refusal, claim
from hms_tune.database.queue.end import end_attempt
from hms_tune.database.queue.lease import Holder, Lease
from hms_tune.database.queue.recovery import SilentLeases, end_orphans, recover
from hms_tune.database.queue.start import begin_attempt
from hms_tune.database.tables import attempts
from hms_tune.machine.processes import ProcessIdentity, this_process
from hms_tune.search.list_turns import TURN
from hms_tune.search.suggest import grid
from hms_tune.trial_state import AttemptState
from hms_tune.worker.open_study import Search, join_search, open_search

STUDY = """
study: {name}
model: {{backbone: test_resnet, pretrained: false, dropout: {{choices: [0.0, 0.1, 0.2]}}}}
training: {{batch_size: {{choices: [16, 32]}}}}
search: {{sampler: {sampler}, pruner: none}}
budget: {{trials: {trials}}}
tracking: {{wandb: {{mode: off}}}}
"""
CELLS = 6
ME = this_process()
GONE = ProcessIdentity(host="elsewhere", pid=1, started=1, machine="another-boot:1")


def study_file(name: str, *, trials: int = 100, sampler: str = "grid") -> StudyFile:
    return StudyFile.parse(STUDY.format(name=name, trials=trials, sampler=sampler), "test")


@pytest.fixture
def search(storage: Storage, study_name: str) -> Search:
    return join_search(storage, study_file(study_name))


def claimed(storage: Storage, search: Search, process: ProcessIdentity = ME) -> Lease:
    lease = claim(storage, search.study_id, Holder("worker", "cpu", process), lease_s=600.0)
    assert isinstance(lease, Lease)
    return lease


def cell(attempt: Attempt, search: Search) -> str:
    """Draw an attempt's values as a slot does."""
    search.suggest(attempt.optuna_trial)
    attempt.optuna_trial.set_user_attr("config_hash", "whole")
    return repr(sorted(attempt.optuna_trial.params.items()))


def expire(storage: Storage, lease: Lease) -> None:
    past = func.clock_timestamp() - text("interval '1 second'")
    with storage.engine.begin() as connection:
        own = attempts.c.lease_id == lease.lease_id
        connection.execute(update(attempts).where(own).values(expires_at=past))


def rest(storage: Storage, search: Search) -> Iterator[str]:
    """Run what the budget has left; the cells in their order."""
    while isinstance(
        lease := claim(storage, search.study_id, Holder("worker", "cpu", ME), lease_s=600.0), Lease
    ):
        attempt = begin_attempt(storage, search.study, lease)
        yield cell(attempt, search)
        end_attempt(storage, search.study, attempt, Result(AttemptState.COMPLETE, value=1.0))
    assert lease is Refusal.BUDGET_SPENT


def every_cell_once(cells: list[str], study: StudyFile) -> None:
    expected = {repr(sorted(each.items())) for each in grid(study.space)}
    assert Counter(cells) == dict.fromkeys(expected, 1)


def stray(storage: Storage, search: Search, lease: Lease, turn: int) -> int:
    """The trial of a worker that died: committed after its lease had ended, bound to nothing."""
    template = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        user_attrs={LEASE_ATTRIBUTE: lease.lease_id},
        system_attrs={TURN: turn},
    )
    return int(storage.optuna.create_new_trial(search.study_id, template))


def test_a_stray_trial_takes_no_cell_of_the_grid(storage: Storage, search: Search, study_name: str) -> None:
    lease = claimed(storage, search, GONE)
    expire(storage, lease)
    recover(storage, search.study_id, ME, SilentLeases(60.0))
    late = stray(storage, search, lease, turn=0)
    first = begin_attempt(storage, search.study, claimed(storage, search))  # the orphan's trial goes on
    assert first.number > storage.optuna.get_trial(late).number
    cells = [cell(first, search)]
    end_attempt(storage, search.study, first, Result(AttemptState.COMPLETE, value=1.0))
    end_orphans(storage, search.study_id)
    assert storage.optuna.get_trial(late).state == optuna.trial.TrialState.FAIL
    every_cell_once([*cells, *rest(storage, search)], study_file(study_name))


def test_a_stray_that_is_found_after_its_turn_was_given_away_takes_another(
    storage: Storage, search: Search, study_name: str
) -> None:
    lease = claimed(storage, search, GONE)  # its INSERT is under way
    second = begin_attempt(storage, search.study, claimed(storage, search))
    cells = [cell(second, search)]
    stray(storage, search, lease, turn=0)  # now it is there, with the turn that the second one has
    expire(storage, lease)
    (recovered,) = recover(storage, search.study_id, ME, SilentLeases(60.0))
    assert recovered.number is not None  # it was bound to its lease: it is no stray any more
    end_attempt(storage, search.study, second, Result(AttemptState.COMPLETE, value=1.0))
    every_cell_once([*cells, *rest(storage, search)], study_file(study_name))


def test_a_successor_takes_no_cell_of_the_grid_before_or_after_its_values_were_drawn(
    storage: Storage, search: Search, study_name: str
) -> None:
    cells = []
    for drawn in (True, False, True):
        lease = claimed(storage, search, GONE)
        attempt = begin_attempt(storage, search.study, lease)
        if drawn:
            cells.append(cell(attempt, search))
        expire(storage, lease)
        recover(storage, search.study_id, ME, SilentLeases(60.0))
        successor = begin_attempt(storage, search.study, claimed(storage, search))
        goes_on = cell(successor, search)
        if drawn:
            assert goes_on == cells[-1]
        else:
            cells.append(goes_on)
        end_attempt(storage, search.study, successor, Result(AttemptState.COMPLETE, value=1.0))
    every_cell_once([*cells, *rest(storage, search)], study_file(study_name))


def test_a_trial_enqueued_by_hand_takes_no_cell_of_the_grid(storage: Storage, study_name: str) -> None:
    study = study_file(study_name)
    search = join_search(storage, study)
    cells = []
    for _ in range(2):
        search.study.enqueue_trial({"model.dropout": 0.1, "training.batch_size": 16}, skip_if_exists=False)
        by_hand = begin_attempt(storage, search.study, claimed(storage, search))
        assert cell(by_hand, search) == repr([("model.dropout", 0.1), ("training.batch_size", 16)])
        end_attempt(storage, search.study, by_hand, Result(AttemptState.COMPLETE, value=1.0))
        drawn = begin_attempt(storage, search.study, claimed(storage, search))
        cells.append(cell(drawn, search))
        end_attempt(storage, search.study, drawn, Result(AttemptState.COMPLETE, value=1.0))
        open_search(storage, study)  # another worker joins
    every_cell_once([*cells, *rest(storage, search)], study)


def test_what_is_enqueued_by_hand_stays_within_the_budget_that_a_person_gave(
    storage: Storage, study_name: str
) -> None:
    search = join_search(storage, study_file(study_name, trials=CELLS))
    search.study.enqueue_trial({"model.dropout": 0.1, "training.batch_size": 16})
    assert len(list(rest(storage, search))) == CELLS


def test_a_stray_trial_takes_no_point_of_a_quasi_random_search(storage: Storage, study_name: str) -> None:
    plain = join_search(storage, study_file(f"{study_name}-plain", trials=4, sampler="qmc"))
    undisturbed = list(rest(storage, plain))
    search = join_search(storage, study_file(study_name, trials=4, sampler="qmc"))
    lease = claimed(storage, search, GONE)
    expire(storage, lease)
    recover(storage, search.study_id, ME, SilentLeases(60.0))
    stray(storage, search, lease, turn=0)
    assert list(rest(storage, search)) == undisturbed
