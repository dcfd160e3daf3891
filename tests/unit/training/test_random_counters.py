"""Random numbers are counters."""

from __future__ import annotations

import torch

from hms_tune.training.step.random_counters import counter_generator, counter_seed


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
