"""How trials are drawn by several workers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hms_tune.config.study_file import StudyFile
from hms_tune.errors import UsageError
from hms_tune.search.random_draws import derived_seed, uniform_draw, value_at
from hms_tune.search.samplers import make_sampler
from hms_tune.search.suggest import grid, suggest

TEXT = """\
study: example
model: {dropout: {low: 0.0, high: 0.5}, hidden: {choices: [0, 64, 128]}}
training:
  learning_rate: {low: 1e-4, high: 1e-1, log: true}
  epochs: {low: 2, high: 9}
  scheduler: {choices: [cosine, {name: plateau, patience: {low: 1, high: 4}}]}
search: {sampler: SAMPLER}
"""
GRID = """\
study: example
model: {dropout: {low: 0.0, high: 0.4, step: 0.2}, hidden: {choices: [0, 64]}}
training: {scheduler: {choices: [cosine, {name: plateau, patience: {low: 1, high: 3}}]}}
search: {sampler: grid}
"""


def workers(text: str, seeds: tuple[int, ...]) -> list[optuna.Study]:
    """Several workers' views of one study."""
    study_file = StudyFile.parse(text, "x.yaml")
    storage = optuna.storages.InMemoryStorage()
    return [
        optuna.create_study(
            storage=storage,
            study_name="example",
            load_if_exists=True,
            sampler=make_sampler(study_file, worker_seed=seed),
        )
        for seed in seeds
    ]


def draw(study: optuna.Study, text: str) -> dict[str, Any]:
    trial = study.ask()
    suggest(StudyFile.parse(text, "x.yaml").space, trial)
    return dict(trial.params)


def loss(params: dict[str, Any]) -> float:
    value = abs(np.log10(params["training.learning_rate"]) + 2.5) + params["model.dropout"]
    return float(value + (params["training.scheduler"] == "cosine"))


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "cma_es", "qmc"])
def test_start_up_draws_of_workers_never_repeat_even_with_one_seed(sampler: str) -> None:
    text = TEXT.replace("SAMPLER", sampler)
    studies = workers(text, (0, 0, 1))
    drawn = [draw(study, text) for _ in range(8) for study in studies]
    assert len({params["training.learning_rate"] for params in drawn}) == 24
    assert len({params["model.dropout"] for params in drawn}) == 24


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_draws_depend_on_the_trial_number_alone(sampler: str) -> None:
    text = TEXT.replace("SAMPLER", sampler)
    (alone,) = workers(text, (7,))
    team = workers(text, (0, 1, 2))
    assert [draw(alone, text) for _ in range(12)] == [draw(team[i % 3], text) for i in range(12)]


@pytest.mark.parametrize("sampler", ["tpe", "cma_es"])
def test_a_model_based_sampler_beats_its_own_start(sampler: str) -> None:
    text = TEXT.replace("SAMPLER", sampler)
    study_file = StudyFile.parse(text, "x.yaml")
    (study,) = workers(text, (0,))
    values = []
    for _ in range(30):
        trial = study.ask()
        suggest(study_file.space, trial)
        values.append(loss(trial.params))
        study.tell(trial, values[-1])
    assert np.mean(values[-10:]) < np.mean(values[:10]) - 0.2


def test_the_gaussian_process_takes_over_after_its_start() -> None:
    text = TEXT.replace("sampler: SAMPLER", "sampler: gp, startup_trials: 5")
    study_file = StudyFile.parse(text, "x.yaml")
    (study,) = workers(text, (0,))
    (random,) = workers(text.replace("gp, startup_trials: 5", "random"), (0,))
    for number in range(6):
        trial = study.ask()
        suggest(study_file.space, trial)
        same = trial.params == draw(random, text)
        assert same == (number < 5)
        study.tell(trial, loss(trial.params))


def test_every_cell_of_a_grid_is_tried_once_by_interleaved_workers() -> None:
    space = StudyFile.parse(GRID, "x").space
    studies = workers(GRID, (0, 1, 2))
    cells = [draw(studies[i % 3], GRID) for i in range(24)]
    assert Counter(map(repr, map(sorted, map(dict.items, cells)))) == Counter(
        map(repr, map(sorted, map(dict.items, grid(space))))
    )
    assert cells[:24] != grid(space), "the order is shuffled"
    with pytest.raises(UsageError, match="all 24 cells of the grid have been tried"):
        draw(studies[0], GRID)


def test_enqueued_trials_take_no_cell_of_the_grid() -> None:
    (study,) = workers(GRID, (0,))
    study.enqueue_trial({"model.dropout": 0.2, "model.hidden": 64})
    first = draw(study, GRID)
    assert (first["model.dropout"], first["model.hidden"]) == (0.2, 64)
    assert first["training.scheduler"] in ("cosine", "plateau")
    drawn = []
    for i in range(24):
        if i % 5 == 0:
            study.enqueue_trial({"model.dropout": 0.0}, skip_if_exists=False)
            draw(study, GRID)
        drawn.append(repr(sorted(draw(study, GRID).items())))
    assert len(set(drawn)) == 24


def test_a_failed_trial_keeps_its_cell() -> None:
    (study,) = workers(GRID, (0,))
    drawn = []
    for _ in range(24):
        trial = study.ask()
        suggest(StudyFile.parse(GRID, "x").space, trial)
        drawn.append(repr(sorted(trial.params.items())))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert len(set(drawn)) == 24


def test_quasi_random_points_cover_every_eighth_of_a_range() -> None:
    text = TEXT.replace("SAMPLER", "qmc")
    studies = workers(text, (0, 1))
    drops = [draw(studies[i % 2], text)["model.dropout"] for i in range(16)]
    assert sorted(int(drop / 0.5 * 16) for drop in drops) == list(range(16))


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(0.1, 0.7),
        FloatDistribution(1e-5, 1e-1, log=True),
        FloatDistribution(0.0, 0.3, step=0.05),
        IntDistribution(3, 9),
        IntDistribution(0, 12, step=4),
        IntDistribution(1, 512, log=True),
        CategoricalDistribution([None, True, "x", 0.5]),
        FloatDistribution(0.5, 0.5),
        IntDistribution(4, 4, log=True),
    ],
    ids=str,
)
def test_every_position_gives_a_value_of_the_distribution(distribution: Any) -> None:
    for position in (0.0, *np.linspace(0, 1, 97, endpoint=False), 1 - 2**-53):
        value = value_at(distribution, float(position))
        internal = distribution.to_internal_repr(value)
        assert distribution._contains(internal), (position, value)


def test_positions_weigh_values_as_the_distribution_does() -> None:
    positions = (np.arange(10_000) + 0.5) / 10_000
    steps = Counter(value_at(IntDistribution(3, 9), float(x)) for x in positions)
    assert set(steps) == set(range(3, 10))
    assert max(steps.values()) - min(steps.values()) <= 1
    logs = np.log10([value_at(FloatDistribution(1e-4, 1e-2, log=True), float(x)) for x in positions])
    assert abs(np.mean(logs) + 3) < 1e-3


def test_draws_are_uniform_and_differ_in_every_part() -> None:
    draws = [uniform_draw(seed, number, name) for seed in (0, 1) for number in range(500) for name in "ab"]
    assert len(set(draws)) == 2000
    assert abs(np.mean(draws) - 0.5) < 0.02
    assert derived_seed(1, "2") != derived_seed("1", 2) != derived_seed(12)
