"""Learning-rate schedules: ends, peaks and what a checkpoint must keep."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from hms_tune.config.trial import (
    ConstantSchedule,
    CosineSchedule,
    CyclicSchedule,
    LearningRateSchedule,
    OneCycleSchedule,
    PlateauSchedule,
)
from hms_tune.training.schedules import make_schedule


def factors(config, *, epochs: int = 10, steps_per_epoch: int = 10) -> list[float]:
    schedule = make_schedule(config, epochs=epochs, steps_per_epoch=steps_per_epoch)
    return [schedule.factor(step) for step in range(epochs * steps_per_epoch)]


def test_cosine_warms_up_linearly_and_ends_at_its_final_factor() -> None:
    values = factors(CosineSchedule(warmup=0.1, final=0.05))
    assert values[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert values[10] == pytest.approx(1.0)
    assert values[-1] == pytest.approx(0.05)
    assert values[10:] == sorted(values[10:], reverse=True)


def test_cosine_begins_again_after_equal_times() -> None:
    schedule = make_schedule(CosineSchedule(restarts=2), epochs=3, steps_per_epoch=31)
    factors = [schedule.factor(step) for step in range(93)]
    assert [factors[step] for step in (0, 31, 62)] == pytest.approx([1.0, 1.0, 1.0], abs=3e-3)
    assert [factors[step] for step in (30, 61, 92)] == pytest.approx([0.0, 0.0, 0.0], abs=3e-3)
    assert sum(after > before for before, after in itertools.pairwise(factors)) == 2


def test_one_cycle_rises_to_one_and_falls_to_its_final_factor() -> None:
    values = factors(OneCycleSchedule(rise=0.3, start=0.04, final=1e-5))
    assert values[0] == pytest.approx(0.04)
    assert values[30] == pytest.approx(1.0)
    assert values[-1] == pytest.approx(1e-5)
    assert values.index(max(values)) == 30


def test_cyclic_is_a_triangle_of_the_given_epochs() -> None:
    values = factors(CyclicSchedule(cycle_epochs=2.0, floor=0.1))
    assert values[0] == pytest.approx(0.1)
    assert values[10] == pytest.approx(1.0)
    assert values[20] == pytest.approx(0.1)
    assert values[5] == pytest.approx(0.55)


def test_constant_stays_after_its_warm_up() -> None:
    values = factors(ConstantSchedule(warmup=0.2))
    assert values[0] == pytest.approx(1 / 21)
    assert set(values[20:]) == {1.0}


def test_plateau_shrinks_after_more_epochs_without_improvement_than_its_patience() -> None:
    schedule = make_schedule(PlateauSchedule(patience=1, factor=0.5), epochs=10, steps_per_epoch=1)
    seen = []
    for kl in [1.0, 0.9, 0.95, 0.96, 0.97, 0.98]:
        schedule.epoch_ended(kl)
        seen.append(schedule.factor(5))
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]


def test_plateau_goes_on_from_its_state() -> None:
    config = PlateauSchedule(patience=0, factor=0.5)
    first = make_schedule(config, epochs=10, steps_per_epoch=1)
    for kl in [1.0, 1.1]:
        first.epoch_ended(kl)
    second = make_schedule(config, epochs=10, steps_per_epoch=1)
    second.load_state_dict(first.state_dict())
    second.epoch_ended(1.2)
    assert second.factor(3) == 0.25


@pytest.mark.parametrize("config", [kind() for kind in get_args(get_args(LearningRateSchedule)[0])])
def test_factors_stay_between_zero_and_one_even_for_a_single_step(config) -> None:
    assert all(0.0 <= value <= 1.0 for value in factors(config, epochs=1, steps_per_epoch=1))
