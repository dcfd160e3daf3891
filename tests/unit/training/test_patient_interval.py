"""Intervals that know patients."""

from __future__ import annotations

import numpy as np

from hms_tune.training.scores import patient_interval


def test_rows_of_the_same_patients_give_a_wider_interval_than_rows_of_many() -> None:
    values = np.repeat(np.random.default_rng(0).normal(1.0, 0.3, 20), 50)
    few, many = np.repeat(np.arange(20), 50), np.arange(1000)
    by_patient, by_row = patient_interval(values, few), patient_interval(values, many)
    assert by_patient is not None
    assert by_row is not None
    assert by_patient[0] < values.mean() < by_patient[1]
    assert by_patient[1] - by_patient[0] > 5 * (by_row[1] - by_row[0])


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(0.0, 1.0, 40)
        low, high = patient_interval(values, np.arange(40), repeats=500) or (0.0, 0.0)
        held += low < 0.0 < high
    assert 0.88 <= held / 200 <= 0.99


def test_one_patient_has_no_interval() -> None:
    assert patient_interval(np.ones(5), np.zeros(5, dtype=np.int64)) is None
