"""Trials set aside at rungs and taken up again."""

from __future__ import annotations

import random
from math import inf

import pytest

from hms_tune.search.promotion.drift import Drift
from hms_tune.search.promotion.progress import ProgressState, TrialProgress
from hms_tune.search.promotion.rule import Promotion, rungs

RUNGS = (2, 4, 10, 50)


def trial(
    number: int, *estimates: float, state: ProgressState = "paused", step: int | None = None
) -> TrialProgress:
    """A trial with these estimates at its first rungs."""
    known = dict(zip(RUNGS, estimates, strict=False))
    reached = max(known, default=0) if step is None else step
    return TrialProgress(number, {"x": number}, reached, known, state)


@pytest.mark.parametrize(
    ("epochs", "folds", "expected"),
    [
        (10, 5, (2, 4, 10, 50)),
        (9, 5, (2, 4, 9, 45)),
        (10, 3, (1, 2, 10, 30)),
        (10, 1, (1, 2, 10)),
        (10, 20, (10, 20, 40, 200)),
        (1, 1, (1,)),
        (1, 5, (1, 5)),
    ],
)
def test_rungs_are_whole_epochs_then_whole_folds(epochs: int, folds: int, expected: tuple[int, ...]) -> None:
    assert rungs(epochs, folds, (0.04, 0.08, 0.2, 1.0)) == expected


def test_rungs_ascend_and_end_with_the_trial_whatever_the_study() -> None:
    for epochs in range(1, 40):
        for folds in range(1, 12):
            found = rungs(epochs, folds)
            assert found == tuple(sorted(set(found))), (epochs, folds)
            assert found[0] >= 1, (epochs, folds)
            assert found[-1] == epochs * folds, (epochs, folds)


def test_the_best_of_a_rung_goes_on_once_enough_reached_it() -> None:
    promotion = Promotion(RUNGS, 4)
    few = [trial(0, 1.3), trial(1, 1.1), trial(2, 1.2)]
    assert promotion.next(few) is None
    assert promotion.next([*few, trial(3, 1.4)]) == 1


def test_one_that_waits_at_a_higher_rung_goes_on_before_one_at_a_lower() -> None:
    low = [trial(number, 1.0 + number / 100) for number in range(8)]
    high = [trial(10 + number, 0.9, 0.9, 0.8 + number / 100) for number in range(4)]
    assert Promotion(RUNGS, 4).next(low + high) == 10


def test_of_equal_trials_the_older_one_goes_on() -> None:
    assert Promotion(RUNGS, 4).next([trial(number, 1.0) for number in (7, 3, 9, 5)]) == 3


def test_a_late_starter_is_held_against_those_that_went_on_before_it() -> None:
    gone = [trial(number, 0.9 + number / 100, 0.9, 0.9, state="running") for number in range(4)]
    behind = [trial(10 + number, 1.2) for number in range(3)]
    assert Promotion(RUNGS, 4).next([*gone, *behind, trial(20, 1.0, 1.0)]) is None
    assert Promotion(RUNGS, 4).next([*gone, *behind, trial(20, 0.5)]) == 20


def test_one_that_was_not_good_enough_goes_on_when_more_trials_are_worse() -> None:
    promotion = Promotion(RUNGS, 4)
    trials = [trial(0, 1.0, 1.0), trial(1, 1.1), trial(2, 1.2), trial(3, 1.3)]
    assert promotion.next(trials) is None
    assert promotion.next(trials + [trial(number, 2.0) for number in range(4, 8)]) == 1


def test_running_complete_and_pruned_trials_never_go_on_but_count_at_the_rungs_they_reached() -> None:
    others = [
        trial(1, 1.0, state="running"),
        trial(2, 1.1, state="pruned"),
        trial(3, 1.2, 1.2, 1.2, 1.2, state="complete"),
    ]
    assert Promotion(RUNGS, 4).next([trial(0, 2.0), *others]) is None
    assert Promotion(RUNGS, 4).next([trial(0, 0.5), *others]) == 0


def test_an_interrupted_trial_goes_on_before_all_others() -> None:
    waiting = [trial(number, 1.0 + number / 100) for number in range(4)]
    assert Promotion(RUNGS, 4).next([*waiting, trial(9, 1.5, step=3)]) == 9
    assert Promotion(RUNGS, 4).next([*waiting, trial(9, step=0)]) == 9


def test_a_diverged_trial_is_the_last_to_go_on() -> None:
    assert Promotion(RUNGS, 4).next([trial(0, inf), trial(1, 9.0), trial(2, inf), trial(3, inf)]) == 1


def test_a_fold_that_stopped_early_is_at_the_rung_of_its_end() -> None:
    early = TrialProgress(0, {}, 10, {1: 1.2, 2: 1.1, 5: 0.9}, "paused")
    assert Promotion(RUNGS, 4).level(early) == 2
    assert early.value(10) == early.value(5) == 0.9
    assert early.value(4) == 1.1


def test_no_trial_is_lost_and_every_one_of_a_small_study_can_be_finished() -> None:
    """Whatever the order of events: a trial waits, runs or is complete, and the best is complete."""
    rng = random.Random(0)
    promotion = Promotion(RUNGS, 3)
    finals = [rng.uniform(0.8, 1.4) for _ in range(60)]
    trials: dict[int, TrialProgress] = {}
    running: list[int] = []
    for _ in range(2000):
        if len(running) < 4:
            number = promotion.next(trials.values())
            if number is None and len(trials) < len(finals):
                number = len(trials)
                trials[number] = trial(number, state="running")
            if number is not None:
                assert number not in running
                held = trials[number]
                trials[number] = trial(number, *held.estimates.values(), state="running")
                running.append(number)
                continue
        if not running:
            break
        number = running.pop(rng.randrange(len(running)))
        reached = [*trials[number].estimates.values(), finals[number]]
        trials[number] = trial(number, *reached, state="complete" if len(reached) == 4 else "paused")
    assert not running
    assert len(trials) == 60
    assert {each.state for each in trials.values()} == {"paused", "complete"}
    assert trials[min(range(60), key=finals.__getitem__)].state == "complete"


def test_one_configuration_is_finished_when_nothing_else_begins() -> None:
    promotion = Promotion(RUNGS, 4)
    only = [trial(0, 1.0)]
    assert promotion.next(only) is None
    assert promotion.finish(only) == [0]
    assert promotion.finish(only, left=47) == []
    assert promotion.finish([]) == []


def test_what_may_still_beat_the_best_is_finished_at_the_end_and_the_rest_is_not() -> None:
    done = [
        trial(number, 1.3 + number / 50, 1.2, 1.1, 1.0 + number / 50, state="complete") for number in range(6)
    ]
    promotion = Promotion(RUNGS, 4)
    near, far = trial(10, 1.3, 1.2, 1.05), trial(11, 1.9)
    assert promotion.finish([*done, near, far]) == [10]
    assert promotion.finish([*done, near, far], left=39) == []


def test_without_a_complete_trial_the_most_advanced_one_is_finished() -> None:
    assert Promotion(RUNGS, 4).finish([trial(0, 0.8), trial(1, 1.2, 1.1), trial(2, 1.2, 1.0)]) == [2]


def test_the_move_from_a_rung_to_the_end_is_learnt_from_trials_that_went_on() -> None:
    done = [trial(n, 1.5, 1.4, 1.2, 1.0, state="complete") for n in range(5)]
    drift = Drift.of([*done, trial(9, 1.9)], RUNGS)
    assert drift.shift == pytest.approx((-0.5, -0.4, -0.2, 0.0))
    assert drift.variance[3] == 0.0
    assert list(drift.variance) == sorted(drift.variance, reverse=True)


def test_a_diverged_trial_does_not_spoil_what_is_learnt_from_the_others() -> None:
    done = [trial(n, 1.5, 1.4, 1.2, 1.0 + n / 100, state="complete") for n in range(5)]
    clean, spoilt = Drift.of(done, RUNGS), Drift.of([*done, trial(9, 1.6, inf)], RUNGS)
    assert spoilt.shift == clean.shift
    assert max(spoilt.variance) < 0.1


def test_how_far_a_diverged_trial_comes_back_says_nothing_of_the_others() -> None:
    usual = [trial(n, 1.5 + n / 100, 1.4, 1.2, 1.0 + n / 100, state="complete") for n in range(5)]
    back = trial(9, 5.0, 3.0, 2.5, 2.0, state="complete")
    clean, spoilt = Drift.of(usual, RUNGS), Drift.of([*usual, back], RUNGS)
    assert spoilt.shift == pytest.approx(clean.shift)
    assert max(spoilt.variance) < 0.1
