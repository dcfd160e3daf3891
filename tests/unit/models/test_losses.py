"""Losses on soft targets, with figures worked out by hand."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from hms_tune.config.trial import LossName
from hms_tune.models.losses import make_loss

LOGITS = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [math.log(5.0), 0.0, 0.0, 0.0, 0.0, 0.0]])
TARGETS = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0, 0.0]])


def test_kl_is_the_batch_mean_of_the_divergence() -> None:
    second = 0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.1)
    expected = (math.log(6) + second) / 2
    assert make_loss("kl", 0.0)(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_is_kl_plus_the_entropy_of_the_targets() -> None:
    entropy = math.log(2) / 2
    difference = make_loss("cross_entropy", 0.0)(LOGITS, TARGETS) - make_loss("kl", 0.0)(LOGITS, TARGETS)
    assert difference.item() == pytest.approx(entropy, rel=1e-6)


def test_bce_averages_over_classes() -> None:
    expected = (11 * math.log(2) + 0.5 * math.log(6 / 5) + 0.5 * math.log(6)) / 12
    assert make_loss("bce", 0.0)(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", get_args(LossName))
def test_label_smoothing_spreads_the_target(name: str) -> None:
    smoothed = 0.88 * TARGETS + 0.02
    assert make_loss(name, 0.12)(LOGITS, TARGETS).item() == pytest.approx(
        make_loss(name, 0.0)(LOGITS, smoothed).item(), rel=1e-5
    )


@pytest.mark.parametrize("name", get_args(LossName))
def test_gradients_are_finite_where_targets_are_zero_and_logits_are_bfloat16(name: str) -> None:
    logits = (100 * LOGITS).bfloat16().requires_grad_()
    loss = make_loss(name, 0.0)(logits, TARGETS)
    loss.backward()
    assert loss.dtype == torch.float32
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_gradient_of_kl_is_the_softmax_minus_the_target() -> None:
    logits = LOGITS.clone().requires_grad_()
    make_loss("kl", 0.0)(logits, TARGETS).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (LOGITS.softmax(dim=-1) - TARGETS) / 2)
