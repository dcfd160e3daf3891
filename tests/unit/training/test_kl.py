"""The competition's metric, against figures worked out by hand and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import rel_entr

from hms_tune.training.scores import kl_divergence, kl_per_row


def test_kl_of_a_perfect_prediction_is_zero() -> None:
    targets = np.array([[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1.0]])
    assert kl_divergence(targets, targets) == pytest.approx(0.0, abs=1e-12)


def test_uniform_prediction_of_a_unanimous_row_scores_log_six() -> None:
    targets = np.array([[1.0, 0, 0, 0, 0, 0]])
    assert kl_divergence(targets, np.full((1, 6), 1 / 6)) == pytest.approx(math.log(6))


def test_kl_agrees_with_scipy_where_nothing_is_clipped() -> None:
    rng = np.random.default_rng(0)
    targets, predictions = rng.dirichlet(np.ones(6), 50), rng.dirichlet(np.ones(6), 50)
    np.testing.assert_allclose(kl_per_row(targets, predictions), rel_entr(targets, predictions).sum(axis=1))


def test_zero_prediction_of_a_voted_class_is_clipped_and_not_renormalised() -> None:
    targets = np.array([[1.0, 0, 0, 0, 0, 0]])
    predictions = np.array([[0.0, 1.0, 0, 0, 0, 0]])
    assert kl_divergence(targets, predictions) == pytest.approx(-math.log(1e-15))


def test_no_rows_have_no_score() -> None:
    assert math.isnan(kl_divergence(np.empty((0, 6)), np.empty((0, 6))))
