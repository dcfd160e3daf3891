"""Samplers keep away from draws that were infeasible."""

from __future__ import annotations

from typing import Literal

import optuna
from optuna.trial import TrialState, create_trial

from hms_tune.config.study_file import StudyFile
from hms_tune.search.memory_constraint import CONSTRAINT, is_infeasible, mark_infeasible
from hms_tune.search.samplers import StartupSampler, make_sampler
from hms_tune.search.suggest import distributions

STUDY = """
study: memory
training: {epochs: 1, batch_size: {choices: [8, 256, 512, 1024]}}
model: {backbone: test_resnet, pretrained: false, dropout: {low: 0.0, high: 0.5}}
search: {sampler: tpe, pruner: none, startup_trials: 5}
"""

SIZE, DROPOUT = "training.batch_size", "model.dropout"


def searched(infeasible: int, *, told: Literal["constraint", "failure"]) -> optuna.Study:
    """A study with six complete trials of batch size 8, and others that did not fit."""
    file = StudyFile.parse(STUDY, "test")
    study = optuna.create_study(sampler=make_sampler(file, worker_seed=0))
    given = distributions(file.space)
    for number in range(6):
        params = {SIZE: 8, DROPOUT: 0.08 * number}
        study.add_trial(create_trial(params=params, distributions=given, value=1.0 + 0.01 * number))
    for number in range(infeasible):
        params = {SIZE: (256, 512, 1024)[number % 3], DROPOUT: 0.02 * number}
        state = TrialState.PRUNED if told == "constraint" else TrialState.FAIL
        constraints = {CONSTRAINT: 0.5} if told == "constraint" else None
        study.add_trial(
            create_trial(params=params, distributions=given, state=state, constraints=constraints)
        )
    return study


def share_that_fits(study: optuna.Study, draws: int = 40) -> float:
    fitting = 0
    for _ in range(draws):
        trial = study.ask(distributions(StudyFile.parse(STUDY, "test").space))
        fitting += trial.params[SIZE] == 8
        study.tell(trial, state=TrialState.FAIL)
    return fitting / draws


def test_tpe_avoids_what_was_infeasible_and_would_not_avoid_what_failed() -> None:
    avoiding = share_that_fits(searched(18, told="constraint"))
    assert avoiding >= 0.9
    assert avoiding > share_that_fits(searched(18, told="failure"))


def test_infeasible_draws_do_not_end_the_start_up() -> None:
    study = searched(18, told="constraint")
    sampler = study.sampler
    assert isinstance(sampler, StartupSampler)
    assert sampler._current(study) is sampler._model
    empty = optuna.create_study(sampler=sampler)
    for trial in study.get_trials(states=(TrialState.PRUNED,)):
        empty.add_trial(trial)
    assert sampler._current(empty) is sampler._start


def test_a_mark_may_be_repeated() -> None:
    study = optuna.create_study()
    trial = study.ask()
    mark_infeasible(trial, 0.25)
    mark_infeasible(trial, 0.5)
    study.tell(trial, state=TrialState.PRUNED)
    (frozen,) = study.trials
    assert frozen.constraints == {CONSTRAINT: 0.25}
    assert is_infeasible(frozen)
