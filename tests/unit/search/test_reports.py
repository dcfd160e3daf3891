"""What a trial reports, and when it is pruned."""

from __future__ import annotations

import math

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from stories import a_fold_end, a_fold_start, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.errors import NonFiniteLossError
from hms_tune.search.reports import Reporter
from hms_tune.training.events import EpochEnded, FoldEnded


class Counting(optuna.pruners.BasePruner):
    """Prunes always, and notes the steps at which it was asked."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        self.asked.append(trial.last_step)
        return True


def reporter(pruner: str = "median") -> tuple[Reporter, optuna.Study, Counting]:
    text = f"study: x\ndata: {{folds: 3}}\ntraining: {{epochs: 4}}\nsearch: {{pruner: {pruner}}}\n"
    counting = Counting()
    study = optuna.create_study(pruner=counting)
    return Reporter(study.ask(), StudyFile.parse(text, "x.yaml")), study, counting


def epoch(
    fold: int, epoch: int, estimate: float = 1.0, *, kl: float = 1.0, replayed: bool = False
) -> EpochEnded:
    return an_epoch(fold, epoch, folds=3, epochs=4, kl=kl, estimate=estimate, replayed=replayed)


def fold_ended(fold: int, kl: float = 1.0, *, replayed: bool = False) -> FoldEnded:
    return a_fold_end(fold, folds=3, kl=kl, replayed=replayed)


def test_the_estimate_is_reported_at_its_step() -> None:
    observer, study, counting = reporter()
    assert observer.observe(epoch(0, 0, 0.9))
    assert observer.observe(epoch(1, 3, 0.7))
    assert not observer.observe(fold_ended(1))
    assert study.trials[0].intermediate_values == {1: 0.9, 8: 0.7}
    assert counting.asked == [1, 8]


def test_the_wilcoxon_pruner_is_told_fold_scores() -> None:
    observer, study, counting = reporter("wilcoxon")
    assert not observer.observe(epoch(0, 3, 0.9))
    assert observer.observe(fold_ended(0, 0.8))
    assert study.trials[0].intermediate_values == {0: 0.8}
    assert counting.asked == [0]


def test_a_trial_is_not_given_up_when_nothing_is_left_to_save() -> None:
    observer, study, counting = reporter()
    assert not observer.observe(epoch(2, 3))
    assert counting.asked == []
    observer, study, counting = reporter("wilcoxon")
    assert not observer.observe(fold_ended(2))
    assert study.trials[0].intermediate_values == {2: 1.0}
    assert counting.asked == []


def test_replayed_events_are_reported_and_the_open_decision_is_taken_at_the_first_new_one() -> None:
    observer, study, counting = reporter()
    for number in range(4):
        assert not observer.observe(epoch(0, number, replayed=True))
    assert not observer.observe(fold_ended(0, replayed=True))
    assert sorted(study.trials[0].intermediate_values) == [1, 2, 3, 4]
    assert counting.asked == []
    started = a_fold_start(1, folds=3, epochs=4)
    assert observer.observe(started)
    assert counting.asked == [4]


def test_the_rungs_of_successive_halving_are_noted_again_when_a_trial_resumes() -> None:
    observer, _, counting = reporter("successive_halving")
    for number in range(3):
        assert not observer.observe(epoch(0, number, replayed=True))
    assert counting.asked == [1, 2, 3]


def test_an_event_seen_twice_is_reported_once(recwarn: pytest.WarningsRecorder) -> None:
    observer, study, _ = reporter()
    observer.observe(epoch(0, 0, 0.9))
    assert not observer.observe(epoch(0, 0, 0.8))
    assert study.trials[0].intermediate_values == {1: 0.9}
    assert not list(recwarn)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_reported_to_nobody(value: float) -> None:
    observer, study, _ = reporter()
    with pytest.raises(NonFiniteLossError, match="epoch 2 of fold 0"):
        observer.observe(epoch(0, 1, kl=value))
    with pytest.raises(NonFiniteLossError):
        observer.observe(epoch(0, 1, estimate=value))
    with pytest.raises(NonFiniteLossError):
        observer.observe(fold_ended(0, value))
    assert study.trials[0].intermediate_values == {}
    assert study.trials[0].state == TrialState.RUNNING
