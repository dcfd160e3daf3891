"""Studies for tests: one to run, and ones written into the database as a long search leaves them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.trial import TrialState as OptunaState

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.database.tables import attempts, studies
from hms_tune.database.tables import trials as trials_table
from hms_tune.search.optuna_private import models
from hms_tune.studies.status import attempt_list, attempts_shown, estimate_scale
from hms_tune.studies.status_types import TrialSummary
from hms_tune.trial_state import TrialState
from hms_tune.worker.open_study import open_search

STUDY = """
study: {name}
data: {{folds: 5}}
training: {{epochs: 4, learning_rate: {{low: 1.0e-5, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.0, high: 0.5}}}}
search: {{sampler: random}}
budget: {{trials: {trials}, hours: 1000}}
"""

ONE_TRIAL = """
study: {name}
data: {{folds: 2, holdout: 0.0}}
input: {{eeg: {{name: stft, n_fft: 256}}, image: [32, 32], channels: 1}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.1, high: 0.3}}}}
training: {{epochs: 4, batch_size: 8, learning_rate: {{low: 1.0e-3, high: 1.0e-2, log: true}}}}
search: {{sampler: random, pruner: none, seed: 3}}
budget: {{trials: 1}}
tracking: {{wandb: {{mode: off}}}}
"""
"""A study of one trial that trains in seconds."""

STATES = (OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.PRUNED, OptunaState.FAIL)
"""Of four trials one completes, one is pruned in its first fold, one in its second, and one fails."""


ENDS = {
    OptunaState.COMPLETE: TrialState.COMPLETE,
    OptunaState.PRUNED: TrialState.PRUNED,
    OptunaState.FAIL: TrialState.FAILED,
}


@dataclass(frozen=True, slots=True)
class Written:
    """A study that was written. ``best`` is the number of its best trial."""

    study_file: StudyFile
    study_id: int
    best: int


def write_study(
    storage: Storage, name: str, *, trials: int, budget: int | None = None, hours: float = 10.0
) -> Written:
    """A study of so many ended trials, evenly spread over the last hours; the last quarter scores best."""
    study_file = StudyFile.parse(STUDY.format(name=name, trials=budget or 2 * trials), "test")
    study_id = open_search(storage, study_file).study_id
    ended = [datetime.now(UTC) - timedelta(hours=hours) * (trials - i - 0.5) / trials for i in range(trials)]
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("trials", "params", "values", "reports", "attributes")
    }
    with storage.engine.begin() as connection:
        start = datetime.now(UTC) - timedelta(hours=hours)
        connection.execute(studies.update().where(studies.c.study_id == study_id).values(started_at=start))
        table: Any = models.TrialModel.__table__
        numbers = range(trials)
        ids = (
            connection.execute(
                table.insert().returning(table.c.trial_id, sort_by_parameter_order=True),
                [
                    {
                        "number": i,
                        "study_id": study_id,
                        "state": STATES[i % 4],
                        "datetime_start": ended[i] - timedelta(seconds=60),
                        "datetime_complete": ended[i],
                    }
                    for i in numbers
                ],
            )
            .scalars()
            .all()
        )
        for number, trial_id in zip(numbers, ids, strict=True):
            _write_trial(rows, number, trial_id, value_of(number, trials))
        for model, key in (
            (models.TrialParamModel, "params"),
            (models.TrialValueModel, "values"),
            (models.TrialIntermediateValueModel, "reports"),
            (models.TrialUserAttributeModel, "attributes"),
        ):
            connection.execute(model.__table__.insert(), rows[key])  # type: ignore[attr-defined]
        ours = (
            connection.execute(
                trials_table.insert().returning(trials_table.c.trial_id, sort_by_parameter_order=True),
                [
                    {
                        "study_id": study_id,
                        "state": ENDS[STATES[i % 4]],
                        "number": i,
                        "last_optuna_trial_id": ids[i],
                        "reason": "out of device memory at batch size 64"
                        if STATES[i % 4] == OptunaState.FAIL
                        else None,
                        "ended_at": ended[i],
                    }
                    for i in numbers
                ],
            )
            .scalars()
            .all()
        )
        connection.execute(
            attempts.insert(),
            [
                {
                    "study_id": study_id,
                    "trial_id": ours[i],
                    "worker_id": "gone",
                    "slot": "cuda0",
                    "host": "here",
                    "pid": 1,
                    "optuna_trial_id": ids[i],
                    "number": i,
                    # They follow one another: somebody was at work for all these hours.
                    "claimed_at": ended[i] - timedelta(hours=hours) / trials / 2,
                    "expires_at": ended[i] + timedelta(hours=hours) / trials / 2,
                    "ended_at": ended[i] + timedelta(hours=hours) / trials / 2,
                    "state": ENDS[STATES[i % 4]],
                }
                for i in numbers
            ],
        )
    complete = [number for number in numbers if STATES[number % 4] == OptunaState.COMPLETE]
    return Written(study_file, study_id, min(complete, key=lambda number: value_of(number, trials)))


def value_of(number: int, trials: int) -> float:
    """The value of a trial: it falls over the study, with some scatter."""
    return 1.2 - 0.4 * number / trials + 0.05 * ((number * 37) % 11) / 11


def _write_trial(rows: dict[str, list[dict[str, Any]]], number: int, trial_id: int, value: float) -> None:
    state = STATES[number % 4]
    distributions = {
        "training.learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "model.dropout": FloatDistribution(0.0, 0.5),
    }
    drawn = {"training.learning_rate": 1e-5 * 1.005**number, "model.dropout": (number % 50) / 100}
    rows["params"] += [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": drawn[name],
            "distribution_json": distribution_to_json(distribution),
        }
        for name, distribution in distributions.items()
    ]
    steps = {OptunaState.COMPLETE: 20, OptunaState.PRUNED: 3 if number % 4 == 1 else 6}.get(state, 1)
    rows["reports"] += [
        {
            "trial_id": trial_id,
            "step": step,
            "intermediate_value": value + 0.02 * (20 - step),
            "intermediate_value_type": models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE,
        }
        for step in range(1, steps + 1)
    ]
    if state == OptunaState.COMPLETE:
        finite = models.TrialValueModel.TrialValueType.FINITE
        rows["values"].append({"trial_id": trial_id, "objective": 0, "value": value, "value_type": finite})
    attributes = {"trial": number, "kl_high_vote": value - 0.1, "fold_kl": [value] * 5}
    rows["attributes"] += [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(content)}
        for key, content in attributes.items()
    ]


def show_trials(storage: Storage, name: str) -> list[TrialSummary]:
    """All attempts of a study."""
    scale = estimate_scale(storage, name)
    ids = [key.optuna_trial_id for key in attempt_list(storage, scale)]
    return list(attempts_shown(storage, ids, scale))
