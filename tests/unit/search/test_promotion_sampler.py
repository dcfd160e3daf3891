"""Which configuration begins next."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from hms_tune.config.study_file import StudyFile
from hms_tune.search.promotion.progress import TrialProgress
from hms_tune.search.promotion_sampler import LearningCurveSampler
from hms_tune.search.random_draws import CountedRandomSampler
from hms_tune.search.samplers import make_sampler
from hms_tune.search.suggest import suggest

TEXT = """
study: x
data: {folds: 2}
augmentation: {mixup_alpha: {choices: [0.0, {low: 0.1, high: 2.0, log: true}]}}
model: {dropout: {low: 0.0, high: 0.5}}
training: {epochs: 2, learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
"""


def drawn(seed: int, numbers: range, progress: list[TrialProgress]) -> list[dict[str, object]]:
    space = StudyFile.parse(TEXT, "x").space
    sampler = LearningCurveSampler(space, seed, (1, 4), candidates=30)
    return [sampler.choose(number, progress) for number in numbers]


def progress_of_a_study() -> list[TrialProgress]:
    """Forty trials; a learning rate near 10⁻³ and no mixup are best."""
    space, found = StudyFile.parse(TEXT, "x").space, []
    study = optuna.create_study(sampler=CountedRandomSampler(5))
    for number in range(40):
        trial = study.ask()
        suggest(space, trial)
        rate = np.log10(trial.params["training.learning_rate"]) + 3
        value = float(1 + rate**2 + 0.5 * (trial.params["augmentation.mixup_alpha"] != 0.0))
        found.append(TrialProgress(number, trial.params, 1, {1: value}, "paused"))
    return found


def test_draws_depend_on_seed_number_and_progress_alone() -> None:
    progress = progress_of_a_study()
    assert drawn(3, range(6), progress) == drawn(3, range(6), progress)
    assert drawn(3, range(6), progress) != drawn(4, range(6), progress)
    assert len({str(params) for params in drawn(3, range(6), progress)}) == 6


def test_the_first_draws_are_those_of_the_random_sampler() -> None:
    space = StudyFile.parse(TEXT, "x").space
    study = optuna.create_study(sampler=CountedRandomSampler(3))
    trials = [study.ask() for _ in range(5)]
    for trial in trials:
        suggest(space, trial)
    assert drawn(3, range(5), []) == [trial.params for trial in trials]


def test_draws_go_where_the_model_expects_the_best_and_keep_to_the_space() -> None:
    params = drawn(3, range(20), progress_of_a_study())
    near = sum(abs(np.log10(each["training.learning_rate"]) + 3) < 0.35 for each in params)  # type: ignore[call-overload]
    assert near >= 13, "a third would be by chance"
    without = [each for each in params if each["augmentation.mixup_alpha"] == 0.0]
    assert len(without) >= 14
    assert all(len(each) == 3 for each in without)
    assert all(len(each) == 4 for each in params if each not in without)


@pytest.mark.parametrize("sampler", ["learning_curves", "tpe"])
def test_a_trial_of_another_program_with_other_parameters_is_left_out_and_named_once(
    sampler: str, caplog: pytest.LogCaptureFixture
) -> None:
    search = f"search: {{scheduler: promotion, sampler: {sampler}, startup_trials: 1}}"
    study_file = StudyFile.parse(f"{TEXT}{search}\n", "x")
    study = optuna.create_study(sampler=make_sampler(study_file, worker_seed=0))
    for other in ({"x": 1.0}, {}):
        distributions = {name: FloatDistribution(0.0, 2.0) for name in other}
        study.add_trial(create_trial(value=0.3, params=other, distributions=distributions))
    for _ in range(4):
        trial = study.ask()
        suggest(study_file.space, trial)
        study.tell(trial, 1.0 + trial.params["model.dropout"])
    told = "trial 0 has values that this study does not search; the sampler leaves it out"
    assert [each for each in caplog.messages if "sampler" in each] == [told]
