"""What out-of-fold predictions are worth: each prediction counts once."""

from __future__ import annotations

import numpy as np
import pytest
from stories import some_predictions

from hms_tune.training.scores import confusion, kl_divergence, reliability, scores_by_class


def test_reliability_weighs_every_prediction_once() -> None:
    predictions = some_predictions(50)
    found = reliability(predictions)
    assert found.count.sum() == 300
    assert (found.predicted * found.count).sum() == pytest.approx(predictions.probabilities.sum())
    assert (found.voted * found.count).sum() == pytest.approx(predictions.targets.sum())
    assert all(0.0 <= value <= 1.0 for value in [*found.predicted, *found.voted])


def test_the_gap_of_predictions_that_are_the_votes_is_zero() -> None:
    predictions = some_predictions(50)
    predictions.probabilities[:] = predictions.targets
    assert reliability(predictions).mean_gap == 0.0


def test_confusion_counts_every_row_once_and_shares_are_of_the_voted_class() -> None:
    predictions = some_predictions(50)
    found = confusion(predictions)
    assert found.counts.sum() == 50
    assert found.counts[found.voted[7], found.likeliest[7]] > 0
    there = found.counts.sum(axis=1) > 0
    np.testing.assert_allclose(found.shares.sum(axis=1)[there], 1.0)
    np.testing.assert_array_equal(found.counts.sum(axis=1), np.bincount(found.voted, minlength=6))


def test_scores_by_class_weighed_by_their_rows_give_the_overall_score() -> None:
    predictions = some_predictions(50)
    scores = scores_by_class(predictions)
    overall = kl_divergence(predictions.targets, predictions.probabilities)
    assert sum(each.kl * each.rows for each in scores) / 50 == pytest.approx(overall)
