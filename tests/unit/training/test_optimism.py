"""Scores without what choosing flatters, on patients whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from hms_tune.training.events import EpochScores
from hms_tune.training.optimism.correction import corrected
from hms_tune.training.scores import patient_interval

PATIENTS, FOLDS, EPOCHS = 30, 3, 6
HARD = 1.0
"""The mean KL of every trial and epoch: none is better than another, and each choice is chance."""


def a_run(seed: int, *, epochs: int = EPOCHS, patients: int = PATIENTS) -> EpochScores:
    """Patients that are hard or easy in all epochs, and chance of each epoch."""
    rng = np.random.default_rng(seed)
    kl = HARD * rng.gamma(4.0, 0.25, patients) * rng.lognormal(-0.125, 0.5, (epochs, patients))
    return EpochScores(
        fold=np.arange(patients) % FOLDS,
        patient_id=100 + np.arange(patients),
        rows=rng.integers(1, 4, patients),
        kl=kl.astype(np.float32),
    )


def chosen(run: EpochScores) -> float:
    """Mean over folds at their best epochs."""
    folds = [run.fold == fold for fold in np.unique(run.fold)]
    means = [np.average(run.kl[:, mine], axis=1, weights=run.rows[mine]) for mine in folds]
    return float(np.mean([mean.min() for mean in means]))


def test_a_score_that_was_chosen_by_chance_is_corrected_to_the_truth() -> None:
    stated, epochs_only, of_all, held = [], [], [], 0
    for seed in range(60):
        runs = sorted((a_run(100 * seed + number) for number in range(6)), key=chosen)
        first = corrected([[runs[0]]])
        best = corrected([[run] for run in runs])
        assert first is not None
        assert best is not None
        assert best.interval is not None
        assert (best.patients, best.candidates) == (PATIENTS, 6)
        stated.append(chosen(runs[0]))
        epochs_only.append(first.kl)
        of_all.append(best.kl)
        held += best.interval[0] <= HARD <= best.interval[1]
    assert np.mean(stated) == pytest.approx(0.66, abs=0.05)
    assert np.mean(stated) + 0.1 < np.mean(epochs_only) < np.mean(of_all)
    assert np.mean(of_all) == pytest.approx(HARD, abs=0.05)
    assert held >= 54


def test_where_nothing_was_chosen_the_score_and_its_interval_are_the_plain_ones() -> None:
    run = a_run(0, epochs=1)
    even = EpochScores(fold=run.fold, patient_id=run.patient_id, rows=np.ones(PATIENTS, np.int64), kl=run.kl)
    found = corrected([[even]])
    assert found is not None
    assert found.kl == pytest.approx(float(run.kl.mean()))
    assert found.interval == pytest.approx(patient_interval(run.kl[0], run.patient_id))
    assert str(found).startswith(f"{found.kl:.4f} (95 % interval ")
    assert str(found).endswith(" over 30 patients), corrected for the choice of epochs")


def test_the_interval_encloses_that_of_the_score_as_chosen_and_that_of_the_corrected_one() -> None:
    run = a_run(0)
    even = EpochScores(fold=run.fold, patient_id=run.patient_id, rows=np.ones(PATIENTS, np.int64), kl=run.kl)
    found = corrected([[even]])
    assert found is not None
    assert found.interval is not None
    folds = [even.kl[:, even.fold == fold] for fold in range(FOLDS)]
    at_best = np.concatenate([kl[kl.mean(axis=1).argmin()] for kl in folds])
    whose = np.concatenate([even.patient_id[even.fold == fold] for fold in range(FOLDS)])
    plain = patient_interval(at_best[np.argsort(whose)], np.sort(whose))
    assert plain is not None
    assert found.interval == pytest.approx((plain[0], plain[1] * found.kl / chosen(even)))
    assert found.kl > chosen(even)


def test_an_epoch_that_is_better_for_every_patient_leaves_nothing_to_correct() -> None:
    run = a_run(0)
    run.kl[3] = 0.1 * run.kl.min(axis=0)
    found = corrected([[run]])
    assert found is not None
    assert found.kl == pytest.approx(chosen(run), rel=1e-5)


def test_epochs_that_a_fold_did_not_run_are_not_chosen() -> None:
    run = a_run(0)
    run.kl[1:, run.fold == 0] = np.nan
    found = corrected([[run]])
    assert found is not None
    assert np.isfinite(found.kl)


def test_runs_of_a_candidate_count_as_their_mean_and_their_folds_may_differ() -> None:
    first, second = a_run(1, epochs=1), a_run(2, epochs=1)
    other = EpochScores(
        fold=np.flip(second.fold), patient_id=second.patient_id, rows=first.rows, kl=second.kl
    )
    both = corrected([[first, other]])
    alone = [corrected([[run]]) for run in (first, other)]
    assert both is not None
    assert both.kl == pytest.approx(np.mean([each.kl for each in alone if each is not None]), abs=0.02)


def test_equal_choices_are_corrected_equally_whatever_else_is_drawn() -> None:
    runs = [[a_run(1)], [a_run(2)]]
    assert corrected(runs) == corrected(runs)


def test_candidates_of_other_patients_are_left_out() -> None:
    found = corrected([[a_run(1)], [a_run(2, patients=20)]])
    assert found == corrected([[a_run(1)]])


def test_of_a_patient_alone_in_its_fold_nobody_else_can_choose_the_epoch() -> None:
    run = a_run(1)
    run.fold[0] = 7
    assert corrected([[run]]) is None
    assert corrected([]) is None
    assert corrected([[]]) is None
