"""Estimates on one scale."""

from __future__ import annotations

import pytest

from hms_tune.training.fold_difficulty import comparable_estimate


def test_an_easy_first_fold_is_put_on_the_scale_of_all() -> None:
    prior = [0.8, 1.2, 1.6]
    assert comparable_estimate(0.6, 0, prior) == pytest.approx(0.9)
    assert comparable_estimate(0.75, 1, prior) == pytest.approx(0.9)
    assert comparable_estimate(0.9, 2, prior) == pytest.approx(0.9)


def test_a_trial_as_good_as_the_prior_everywhere_has_one_value_after_every_fold() -> None:
    prior = [0.8, 1.2, 1.6]
    means = [0.8, 1.0, 1.2]
    values = [comparable_estimate(mean, fold, prior) for fold, mean in enumerate(means)]
    assert values == pytest.approx([1.2] * 3)
