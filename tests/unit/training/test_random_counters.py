"""Random numbers are counters."""

from __future__ import annotations

import traceback

import pytest
import torch

from hms_tune.training.step.random_counters import counter_generator, counter_seed, seed_device


def test_equal_counters_draw_equal_numbers() -> None:
    first = torch.rand(5, generator=counter_generator(7, "order", 1, 2))
    second = torch.rand(5, generator=counter_generator(7, "order", 1, 2))
    assert torch.equal(first, second)


def test_any_other_counter_seed_or_purpose_draws_others() -> None:
    seeds = {
        counter_seed(7, "order", 1, 2),
        counter_seed(7, "order", 2, 1),
        counter_seed(7, "order", 12),
        counter_seed(8, "order", 1, 2),
        counter_seed(7, "augmentation", 1, 2),
    }
    assert len(seeds) == 5


def test_seeds_fit_a_generator() -> None:
    assert all(0 <= counter_seed(seed, "weights", fold) < 2**63 for seed in range(50) for fold in range(20))


def test_a_step_is_seeded_as_torch_would_without_a_look_at_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    expected = torch.rand(5)
    monkeypatch.setattr(traceback, "format_stack", pytest.fail)  # a millisecond or more
    seed_device(7, torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected)
