"""Pruning over folds."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState

from hms_tune.config.study_file import StudyFile
from hms_tune.search.pruners import PatientPruner, fold_of, make_pruner

FOLDS, EPOCHS = 3, 6
EASY, HARD = 0.5, 1.0


def study_file(pruner: str, *, folds: int = FOLDS) -> StudyFile:
    text = (
        f"study: x\ndata: {{folds: {folds}}}\ntraining: {{epochs: {EPOCHS}}}\nsearch: {{pruner: {pruner}}}\n"
    )
    return StudyFile.parse(text, "x.yaml")


def estimates(
    *, worse: float = 0.0, first_fold_worse: float = 0.0, folds: int = FOLDS, stop: int = EPOCHS
) -> dict[int, float]:
    """Values by step of a trial: fold 0 is easy, the others are hard; KL falls by 0.05 an epoch."""
    values: dict[int, float] = {}
    finished: list[float] = []
    for fold in range(folds):
        base = EASY + first_fold_worse if fold == 0 else HARD + worse
        best = base
        for epoch in range(stop):
            best = base - 0.05 * epoch
            values[fold * EPOCHS + epoch + 1] = (sum(finished) + best) / (fold + 1)
        finished.append(best)
    return values


def complete(study: optuna.Study, values: dict[int, float]) -> None:
    last = values[max(values)]
    study.add_trial(
        optuna.trial.create_trial(state=TrialState.COMPLETE, value=last, intermediate_values=values)
    )


def pruned_at(study: optuna.Study, values: dict[int, float]) -> int | None:
    """The step at which a trial with these values is given up."""
    trial = study.ask()
    for step, value in values.items():
        trial.report(value, step)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return step
    study.tell(trial, values[max(values)])
    return None


def study_with(pruner: optuna.pruners.BasePruner, others: int = 6) -> optuna.Study:
    study = optuna.create_study(pruner=pruner)
    for i in range(others):
        complete(study, estimates(worse=0.01 * i))
    return study


def test_an_easy_first_fold_does_not_shield_a_trial_that_is_worse_in_the_others() -> None:
    bad = estimates(worse=0.3, first_fold_worse=-0.05)
    stock = study_with(optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2))
    assert pruned_at(stock, bad) is None
    ours = study_with(make_pruner(study_file("median")))
    assert pruned_at(ours, bad) == EPOCHS + 2, "fold 1, after one epoch of warm-up"


def test_a_trial_that_is_better_in_every_fold_is_never_pruned() -> None:
    study = study_with(make_pruner(study_file("{name: median, warmup_epochs: 0}")))
    assert pruned_at(study, estimates(worse=-0.05, first_fold_worse=-0.05)) is None


def test_a_fold_that_ended_early_counts_with_its_last_value() -> None:
    study = optuna.create_study(pruner=make_pruner(study_file("median")))
    for _ in range(6):
        complete(study, estimates(stop=3))
    slow = {step: value + 0.5 for step, value in estimates().items() if step > 3}
    assert pruned_at(study, slow) == 4, "no other trial trained a fourth epoch"


def test_percentile_keeps_the_share_it_names() -> None:
    pruner = "{name: percentile, percentile: 25, startup_trials: 4, warmup_epochs: 0}"
    for worse, step in ((0.05, 1), (-0.005, None)):
        study = optuna.create_study(pruner=make_pruner(study_file(pruner)))
        for i in range(9):
            complete(study, estimates(worse=0.1 * i, first_fold_worse=0.1 * i))
        value = estimates(worse=0.2 + worse, first_fold_worse=0.2 + worse)
        assert pruned_at(study, value) == step


def test_nothing_is_pruned_before_the_start_up_trials_or_in_the_warm_up_of_a_fold() -> None:
    pruner = make_pruner(study_file("{name: median, startup_trials: 7, warmup_epochs: 3}"))
    bad = estimates(worse=1.0, first_fold_worse=1.0)
    assert pruned_at(study_with(pruner, others=6), bad) is None
    assert pruned_at(study_with(pruner, others=7), bad) == 4


def test_patience_waits_for_a_fold_without_improvement() -> None:
    values = estimates(worse=1.0, first_fold_worse=1.0)
    flat = {step: (values[step] if step < 4 else values[3]) for step in range(1, EPOCHS + 1)}
    pruner = "{name: median, warmup_epochs: 0, patience: 2}"
    assert pruned_at(study_with(make_pruner(study_file(pruner))), values) is None
    assert pruned_at(study_with(make_pruner(study_file(pruner))), flat) == 5
    stock = optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(n_startup_trials=5), patience=2)
    assert pruned_at(study_with(stock), flat) is None, (
        "waits for values to get worse, which best values never do"
    )


def test_patience_begins_anew_in_each_fold() -> None:
    class Always(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return True

    study = optuna.create_study(pruner=PatientPruner(Always(), epochs=3, patience=1))
    assert pruned_at(study, {1: 3.0, 2: 2.0, 3: 1.0, 4: 9.0, 5: 8.0, 6: 7.0, 7: 7.0, 8: 7.0}) == 8


def test_successive_halving_and_hyperband_give_up_bad_trials() -> None:
    for pruner in ("successive_halving", "{name: hyperband, min_epochs: 1}"):
        study = optuna.create_study(study_name="x", pruner=make_pruner(study_file(pruner)))
        ends = [
            pruned_at(study, estimates(worse=0.1 * (i % 5), first_fold_worse=0.1 * (i % 5)))
            for i in range(20)
        ]
        assert any(end is not None for end in ends)
        assert any(end is None for end in ends)


def test_wilcoxon_compares_whole_folds_with_the_best_trial() -> None:
    study = optuna.create_study(pruner=make_pruner(study_file("wilcoxon", folds=6)))
    folds = {fold: 1.0 + 0.1 * fold for fold in range(6)}
    study.add_trial(optuna.trial.create_trial(value=1.25, intermediate_values=folds))
    # p = 2⁻ⁿ < 0.1 first holds at the fourth fold
    assert pruned_at(study, {fold: value + 0.1 for fold, value in folds.items()}) == 3
    assert pruned_at(study, {fold: value - 0.1 for fold, value in folds.items()}) is None


def test_no_pruner_prunes_nothing() -> None:
    study = study_with(make_pruner(study_file("none")))
    assert pruned_at(study, estimates(worse=9.0, first_fold_worse=9.0)) is None


@pytest.mark.parametrize(("step", "fold"), [(1, 0), (6, 0), (7, 1), (12, 1), (13, 2)])
def test_steps_count_from_one_within_folds(step: int, fold: int) -> None:
    assert fold_of(step, EPOCHS) == fold
