"""Weights of a blend, and an honest score of them."""

from __future__ import annotations

import numpy as np
import pytest

from hms_tune.errors import UsageError
from hms_tune.export.blend_weights import choose_blend, greedy_weights, mix
from hms_tune.training.scores import kl_divergence

RNG = np.random.default_rng(0)


def world(patients: int = 40, rows: int = 8, models: int = 5, noise: float = 1.0):
    """Targets, and models that are right but for noise of their own."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (patients * rows, 6))
    patient_id = np.repeat(np.arange(patients), rows)
    guesses = logits + rng.normal(0, noise, (models, *logits.shape))
    return softmax(guesses), softmax(logits), patient_id


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_weights_sum_to_one_and_beat_every_single_model() -> None:
    predictions, targets, _ = world()
    weights = greedy_weights(predictions, targets)
    assert weights.sum() == pytest.approx(1.0)
    assert kl_divergence(targets, mix(predictions, weights)) < min(
        kl_divergence(targets, each) for each in predictions
    )


def test_a_model_of_noise_gets_no_weight() -> None:
    predictions, targets, _ = world()
    noise = softmax(RNG.normal(0, 3, targets.shape))
    assert greedy_weights(np.stack([*predictions, noise]), targets)[-1] == 0.0


def test_no_more_models_than_asked_for_get_a_weight() -> None:
    predictions, targets, _ = world(models=8)
    assert np.count_nonzero(greedy_weights(predictions, targets, most=3)) == 3
    assert np.count_nonzero(greedy_weights(predictions, targets)) > 3


def test_the_score_is_not_that_of_the_patients_the_weights_were_chosen_on() -> None:
    """Fifty models of pure noise: on what they were chosen on they seem useful, on others they are not."""
    _, targets, patient_id = world(patients=12, rows=2)
    noise = softmax(np.random.default_rng(1).normal(0, 2, (50, *targets.shape)))
    found = choose_blend(noise, targets, patient_id)
    assert kl_divergence(targets, mix(noise, found.weights)) < found.kl - 0.05


def test_the_gain_over_the_best_single_model_has_an_interval_over_patients() -> None:
    predictions, targets, patient_id = world()
    found = choose_blend(predictions, targets, patient_id)
    assert found.gain is not None
    assert 0.0 < found.gain[0] < found.single_kl - found.kl < found.gain[1]
    assert found.interval is not None
    assert found.interval[0] < found.kl < found.interval[1]
    assert (found.patients, found.rows) == (40, 320)


def test_the_order_of_rows_changes_nothing() -> None:
    predictions, targets, patient_id = world()
    order = RNG.permutation(len(targets))
    first = choose_blend(predictions, targets, patient_id)
    again = choose_blend(predictions[:, order], targets[order], patient_id[order])
    assert again.weights == first.weights
    assert again.kl == pytest.approx(first.kl)


def test_one_patient_leaves_nothing_to_judge_on() -> None:
    predictions, targets, _ = world(patients=1)
    with pytest.raises(UsageError, match="two patients"):
        choose_blend(predictions, targets, np.zeros(len(targets), np.int64))
