"""The model over parameters and partial curves."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hms_tune.search.promotion.progress import ProgressState, TrialProgress
from hms_tune.search.promotion.surrogate import MOST_KNOWN, Encoder, Surrogate

RUNGS = (1, 4)
SPACE = {"x": FloatDistribution(0.0, 1.0), "kind": CategoricalDistribution(["a", "b"])}


def seen(
    number: int, x: float, *estimates: float, kind: str = "a", state: ProgressState = "paused"
) -> TrialProgress:
    known = dict(zip(RUNGS, estimates, strict=False))
    return TrialProgress(number, {"x": x, "kind": kind}, max(known, default=0), known, state)


def valley(noise: float = 0.0) -> list[TrialProgress]:
    """Twenty trials whose score is smallest at x = 0.5."""
    rng = np.random.default_rng(0)
    return [
        seen(n, float(x), float(1 + (x - 0.5) ** 2 + noise * rng.normal()))
        for n, x in enumerate(np.linspace(0, 1, 20))
    ]


def test_numbers_lie_between_0_and_1_choices_are_one_hot_and_absent_ones_neutral() -> None:
    encode = Encoder(
        {
            "rate": FloatDistribution(1e-4, 1e-2, log=True),
            "layers": IntDistribution(2, 6),
            "kind": CategoricalDistribution(["a", None]),
            "fixed": IntDistribution(3, 3),
        }
    )
    rows = encode([{"rate": 1e-3, "layers": 6, "kind": None, "fixed": 3}, {"kind": "a"}])
    assert rows == pytest.approx(np.array([[0.5, 1.0, 0.0, 0.7], [0.5, 0.5, 0.7, 0.0]]))


def test_the_model_prefers_configurations_like_the_good_ones() -> None:
    gains = (
        Surrogate(SPACE, RUNGS)
        .fit(valley())
        .expected_improvement([{"x": x, "kind": "a"} for x in (0.02, 0.5, 0.98)])
    )
    assert gains.argmax() == 1


def test_a_better_choice_is_preferred() -> None:
    trials = [seen(n, 0.1 * (n // 2), 1.0 + 0.3 * (n % 2), kind="ab"[n % 2]) for n in range(20)]
    gains = (
        Surrogate(SPACE, RUNGS)
        .fit(trials)
        .expected_improvement([{"x": 0.55, "kind": "a"}, {"x": 0.55, "kind": "b"}])
    )
    assert gains[0] > 2 * gains[1]


def test_conditional_parameters_are_neutral_where_they_do_not_exist() -> None:
    space = {**SPACE, "only_b": FloatDistribution(0.0, 1.0)}
    trials = [
        TrialProgress(
            n,
            {"kind": "a", "x": 0.5} if n % 2 else {"kind": "b", "x": 0.5, "only_b": n / 20},
            1,
            {1: 1.2 if n % 2 else 1.0 + n / 40},
            "paused",
        )
        for n in range(20)
    ]
    posterior = Surrogate(space, RUNGS).fit(trials)
    low, high, other = posterior.predict(
        [
            {"kind": "b", "x": 0.5, "only_b": 0.0},
            {"kind": "b", "x": 0.5, "only_b": 1.0},
            {"kind": "a", "x": 0.5},
        ]
    )[0]
    assert low < high - 0.1
    assert low < other - 0.1


def test_a_score_is_predicted_at_the_end_and_not_at_the_rung() -> None:
    finished = [seen(n, n / 10, 1.5, 1.0 + (n % 3) / 10, state="complete") for n in range(9)]
    posterior = Surrogate(SPACE, RUNGS).fit([*finished, seen(20, 0.5, 1.5)])
    mean, _ = posterior.predict([{"x": 0.5, "kind": "a"}])
    assert mean[0] == pytest.approx(1.1, abs=0.05)


def test_an_early_look_counts_less_than_a_full_score() -> None:
    """Two trials of one value: the one seen only at a noisy rung moves the prediction less."""

    def with_last(*estimates: float) -> float:
        noisy = [
            seen(n, 0.9, 1.2 + 0.2 * (n % 2), 1.2 + 0.2 * (n // 2 % 2), state="complete") for n in range(12)
        ]
        last = seen(99, 0.1, *estimates)
        return float(Surrogate(SPACE, RUNGS).fit([*noisy, last]).predict([{"x": 0.1, "kind": "a"}])[0][0])

    assert with_last(0.8, 0.8) < with_last(0.8) < 1.3


def test_what_trains_now_makes_its_neighbourhood_less_worth_a_look() -> None:
    trials = valley(noise=0.02)
    surrogate, here = Surrogate(SPACE, RUNGS), [{"x": 0.5, "kind": "a"}]
    alone = surrogate.fit(trials).expected_improvement(here)[0]
    busy = [seen(50 + n, 0.5, state="running") for n in range(4)]
    assert surrogate.fit([*trials, *busy]).expected_improvement(here)[0] < 0.9 * alone


def test_a_paused_trial_has_an_expected_improvement_of_its_own() -> None:
    gains = Surrogate(SPACE, RUNGS).fit(valley()).improvement_of_trials()
    assert sorted(gains) == list(range(20))
    assert max(gains, key=lambda number: gains[number]) in (9, 10)


def test_a_diverged_trial_counts_as_bad_and_breaks_nothing() -> None:
    trials = [*valley(), seen(30, 0.52, inf), seen(31, 0.48, 700.0)]
    mean, deviation = Surrogate(SPACE, RUNGS).fit(trials).predict([{"x": 0.1, "kind": "a"}])
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
    assert mean[0] < 1.5


def test_one_trial_and_equal_trials_can_be_learnt_from() -> None:
    for trials in ([seen(0, 0.5, 1.0)], [seen(n, 0.5, 1.0) for n in range(12)]):
        gains = Surrogate(SPACE, RUNGS).fit(trials).expected_improvement([{"x": 0.1, "kind": "b"}])
        assert np.isfinite(gains).all()


def test_of_thousands_of_trials_the_model_knows_the_best_and_some_of_every_time() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.uniform(0, 1, 2500)
    trials = [seen(n, float(x), float(1 + (x - 0.5) ** 2)) for n, x in enumerate(drawn)]
    posterior = Surrogate(SPACE, RUNGS).fit(trials)
    known = posterior.improvement_of_trials()
    assert len(known) == MOST_KNOWN
    best = sorted(trials, key=lambda trial: trial.estimates[1])[: MOST_KNOWN // 4]
    assert {trial.number for trial in best} <= known.keys()
    assert np.bincount(np.array(list(known)) // 250).min() > 70
    gains = posterior.expected_improvement([{"x": x, "kind": "a"} for x in (0.02, 0.5, 0.98)])
    assert gains.argmax() == 1
