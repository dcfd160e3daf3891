"""What a study learns from a parent."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from hms_tune.config.study_file import StudyFile
from hms_tune.errors import ConfigError, UnknownStudyError
from hms_tune.search.parent import carried_over, read_parent
from hms_tune.search.promotion.progress import TrialProgress
from hms_tune.search.promotion.surrogate import Known, Surrogate
from hms_tune.search.promotion_sampler import LearningCurveSampler, PredictedScoreSampler
from hms_tune.search.samplers import make_sampler
from hms_tune.search.study import create_or_load
from hms_tune.search.suggest import distributions, suggest

PARENT = """
study: old
data: {folds: 2}
augmentation: {mixup_alpha: {choices: [0.0, {low: 0.1, high: 2.0, log: true}]}}
model: {dropout: {low: 0.0, high: 0.5}}
training: {epochs: 5, batch_size: 32, learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
"""
CHILD = """
study: new
data: {folds: 5}
augmentation: {mixup_alpha: {choices: [0.0, {low: 0.1, high: 1.0, log: true}]}}
model: {dropout: 0.2}
training: {epochs: 10, batch_size: {choices: [16, 32]}, learning_rate: {low: 1.0e-4, high: 3.0e-3, log: true}}
search: {parent: old}
"""
OLD, NEW = StudyFile.parse(PARENT, "old.yaml"), StudyFile.parse(CHILD, "new.yaml")


def params(rate: float = 1e-3, *, dropout: float = 0.2, mixup: float = 0.0) -> dict[str, Any]:
    branch = "augmentation.mixup_alpha"
    label = next(
        each.label
        for each in OLD.space.entries["augmentation"].entries["mixup_alpha"].branches  # type: ignore[union-attr]
        if (each.label == 0.0) == (mixup == 0.0)
    )
    within = {} if mixup == 0.0 else {f"{branch}.{label}": mixup}
    return {branch: label, **within, "model.dropout": dropout, "training.learning_rate": rate}


def a_parent(*trials: tuple[dict[str, Any], float | None]) -> InMemoryStorage:
    """A study with trials; those without a value were pruned before a rung."""
    storage = InMemoryStorage()
    study = create_or_load(storage, OLD)
    known = distributions(OLD.space)
    for values, score in trials:
        state = TrialState.PRUNED if score is None else TrialState.COMPLETE
        own = {name: known[name] for name in values}
        study.add_trial(create_trial(state=state, params=values, distributions=own, value=score))
    return storage


def test_values_carry_over_where_they_lie_in_the_space_whatever_both_fix() -> None:
    found = carried_over(OLD, params(mixup=0.5), NEW.space)
    assert found is not None
    assert found["training.batch_size"] == 32  # it was fixed, and is searched
    assert found["training.learning_rate"] == 1e-3
    assert "model.dropout" not in found  # it was searched, and is fixed at this value
    assert [value for name, value in found.items() if name.startswith("augmentation.mixup_alpha.")] == [0.5]
    trial = optuna.trial.FixedTrial(found)
    assert suggest(NEW.space, trial).augmentation.mixup_alpha == 0.5


@pytest.mark.parametrize(
    "outside",
    [params(5e-3), params(dropout=0.3), params(mixup=1.5)],
    ids=["a range that is narrower", "a value that is fixed now", "a branch that is narrower"],
)
def test_values_outside_the_space_do_not_carry_over(outside: dict[str, Any]) -> None:
    assert carried_over(OLD, outside, NEW.space) is None


def test_a_parent_tells_its_scores_and_its_best_trial_that_lies_in_the_space() -> None:
    storage = a_parent((params(5e-3), 0.5), (params(1e-3), 0.7), (params(5e-4), 0.8), (params(1e-3), None))
    parent = read_parent(storage, NEW)
    assert parent is not None
    assert parent.trials == 3
    assert [known.score for known in parent.known] == [0.7, 0.8]
    assert parent.winner is not None
    assert parent.winner["training.learning_rate"] == 1e-3


def test_nothing_that_carries_over_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r'of the 1 trials of "old" .* none lies in this space') as refused:
        read_parent(a_parent((params(5e-3), 0.5)), NEW)
    assert refused.value.where == "new.yaml: search.parent"
    assert "widen the ranges" in (refused.value.hint or "")
    with pytest.raises(UnknownStudyError, match='no study "old"'):
        read_parent(InMemoryStorage(), NEW)


@pytest.mark.parametrize(
    "search",
    ["{parent: new}", "{parent: Old one}", "{parent: old, sampler: random}", "{parent: old, pruner: median}"],
)
def test_a_parent_that_teaches_nobody_is_refused_in_the_file(search: str) -> None:
    with pytest.raises(ConfigError, match="parent"):
        StudyFile.parse(CHILD.replace("{parent: old}", search), "new.yaml")


@pytest.mark.parametrize("sampler", ["learning_curves", "tpe"])
def test_the_first_draws_go_where_the_parent_was_good(sampler: str) -> None:
    rates = np.geomspace(1e-4, 3e-3, 40)
    elsewhere = []
    for rate in rates:
        found = carried_over(OLD, params(float(rate)), NEW.space)
        assert found is not None
        elsewhere.append(Known(found, 50.0 + float(np.log10(rate) + 3) ** 2))
    file = StudyFile.parse(CHILD.replace("parent: old", f"parent: old, sampler: {sampler}"), "new.yaml")
    made = make_sampler(file, worker_seed=0, elsewhere=elsewhere)
    assert isinstance(made, LearningCurveSampler | PredictedScoreSampler)
    drawn = [made.choose(number, [])["training.learning_rate"] for number in range(12)]
    assert sum(abs(np.log10(rate) + 3) < 0.35 for rate in drawn) >= 7, "half would be by chance"


def test_the_studys_own_scores_decide_what_is_to_be_beaten() -> None:
    elsewhere = [Known({"training.learning_rate": rate}, 0.1 * rate) for rate in np.geomspace(1e-4, 3e-3, 20)]
    surrogate = Surrogate(distributions(NEW.space), (1, 4), elsewhere)
    own = [
        TrialProgress(
            number, {"training.learning_rate": rate}, 4, {1: 5.0 + number, 4: 5.0 + number}, "complete"
        )
        for number, rate in enumerate(np.geomspace(1e-4, 3e-3, 6))
    ]
    posterior = surrogate.fit(own)
    mean, _ = posterior.predict([{"training.learning_rate": 1e-4}])
    assert 4.0 < float(mean[0]) < 8.0  # on this study's scale, not the parent's
    assert set(posterior.improvement_of_trials()) == set(range(6))
