"""Intervals that know patients."""

from __future__ import annotations

import numpy as np
import pytest

from hms_tune.training.scores import difference_interval, patient_interval


def test_rows_of_the_same_patients_give_a_wider_interval_than_rows_of_many() -> None:
    values = np.repeat(np.random.default_rng(0).normal(1.0, 0.3, 20), 50)
    few, many = np.repeat(np.arange(20), 50), np.arange(1000)
    by_patient, by_row = patient_interval(values, few), patient_interval(values, many)
    assert by_patient is not None
    assert by_row is not None
    assert by_patient[0] < values.mean() < by_patient[1]
    assert by_patient[1] - by_patient[0] > 5 * (by_row[1] - by_row[0])


@pytest.mark.parametrize(("patients", "least"), [(6, 0.9), (40, 0.9)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(patients: int, least: float) -> None:
    """KL of patients, which is skewed: plain percentiles hold it in three quarters of cases with six."""
    held = 0
    for seed in range(300):
        values = np.random.default_rng(seed).lognormal(0.0, 0.8, patients)
        low, high = patient_interval(values, np.arange(patients), repeats=500) or (0.0, 0.0)
        held += low < np.exp(0.32) < high
    assert least <= held / 300 <= 0.99


def test_a_difference_over_the_same_patients_is_known_better_than_either() -> None:
    rng = np.random.default_rng(0)
    hard = rng.lognormal(0.0, 0.8, 30)
    first, second = hard + 0.05 + rng.normal(0, 0.03, 30), hard + rng.normal(0, 0.03, 30)
    apart = difference_interval(first, second, np.arange(30))
    alone = patient_interval(first, np.arange(30))
    assert apart is not None
    assert alone is not None
    assert 0.0 < apart[0] < 0.05 < apart[1]
    assert apart[1] - apart[0] < 0.2 * (alone[1] - alone[0])


def test_equal_models_differ_by_nothing() -> None:
    values = np.random.default_rng(0).lognormal(0.0, 0.8, 12)
    assert difference_interval(values, values, np.arange(12)) == (0.0, 0.0)


def test_one_patient_has_no_interval() -> None:
    assert patient_interval(np.ones(5), np.zeros(5, dtype=np.int64)) is None
    assert difference_interval(np.ones(5), np.ones(5), np.zeros(5, dtype=np.int64)) is None


def test_two_patients_have_a_wide_one() -> None:
    low, high = patient_interval(np.array([0.9, 1.1]), np.arange(2)) or (1.0, 1.0)
    assert low < 0.3
    assert high > 3.0


def test_the_order_in_which_rows_are_summed_makes_no_difference() -> None:
    """A draw of one patient three times has no error, or one of rounding; it is left out either way."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        values, patients = rng.lognormal(0.0, 0.8, 60), np.repeat(np.arange(3), [7, 20, 33])
        forward = patient_interval(values, patients)
        assert patient_interval(values[::-1], patients[::-1]) == pytest.approx(forward, rel=1e-9)
        apart = difference_interval(values, values**2, patients)
        backward = difference_interval(values[::-1], values[::-1] ** 2, patients[::-1])
        assert backward == pytest.approx(apart, rel=1e-9)
