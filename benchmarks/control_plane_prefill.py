"""A study that holds many finished trials, written in bulk: Optuna's rows and, for our arm, ours beside."""

from __future__ import annotations

from typing import Any

from control_plane_arms import REPORTS, Task, estimate
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from sqlalchemy import Connection, text


def write_trials(
    connection: Connection, task: Task, study_id: int, space: dict[str, BaseDistribution]
) -> None:
    """Finished trials with values, parameters and reports; none is better than another by its reports."""
    given = {"study": study_id, "trials": task.in_study}
    run = lambda statement, **more: connection.execute(text(statement), given | more)  # noqa: E731
    run(
        "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete) "
        "SELECT n, :study, 'COMPLETE', now() - interval '1 h', now() FROM generate_series(0, :trials - 1) n"
    )
    run(
        "INSERT INTO trial_values (trial_id, objective, value, value_type) "
        "SELECT trial_id, 0, 0.6 + random(), 'FINITE' FROM trials WHERE study_id = :study"
    )
    for name, distribution in space.items():
        run(
            "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
            f"SELECT trial_id, :name, {_drawn(distribution)}, :json FROM trials WHERE study_id = :study",
            name=name,
            json=distribution_to_json(distribution),
        )
    for step in range(1, REPORTS + 1):
        run(
            "INSERT INTO trial_intermediate_values "
            "(trial_id, step, intermediate_value, intermediate_value_type) "
            "SELECT trial_id, :step, :value, 'FINITE' FROM trials WHERE study_id = :study",
            step=step,
            value=estimate(step),
        )


def write_fleet(connection: Connection, study_id: int) -> None:
    """What our tables and attributes say of the same trials, in one attempt each."""
    run: Any = lambda statement: connection.execute(text(statement), {"study": study_id})  # noqa: E731
    run(
        "INSERT INTO hms_tune.trials (study_id, state, number, last_optuna_trial_id, ended_at) "
        "SELECT study_id, 'complete', number, trial_id, now() FROM trials WHERE study_id = :study"
    )
    keeps_estimates = connection.execute(
        text(
            "SELECT FROM information_schema.columns WHERE table_schema = 'hms_tune' "
            "AND table_name = 'trials' AND column_name = 'estimate'"
        )
    ).first()
    if keeps_estimates is not None:  # earlier commits look them up
        run(
            "UPDATE hms_tune.trials SET estimate = value FROM trial_values "
            "WHERE trials.study_id = :study AND trial_values.trial_id = trials.last_optuna_trial_id"
        )
    run(
        "INSERT INTO hms_tune.attempts (study_id, trial_id, worker_id, slot, host, pid, optuna_trial_id, "
        "number, claimed_at, expires_at, ended_at, state) "
        "SELECT study_id, trial_id, 'gone', 'slot', 'here', 1, last_optuna_trial_id, number, "
        "now() - interval '1 h', now(), now(), 'complete' FROM hms_tune.trials WHERE study_id = :study"
    )
    for key, value in {
        "trial": "number::text",
        "lease": "number::text",
        "worker": "'\"here:slot\"'",
        "config_hash": "'\"0123456789abcdef\"'",
        "attempt_state": "'\"complete\"'",
        "seconds": "'1.5'",
        "kl_all_rows": "'0.7'",
        "kl_high_vote": "'0.7'",
        "fold_kl": "'[0.7, 0.7, 0.7, 0.7, 0.7]'",
        "best_epochs": "'[3, 3, 3, 3, 3]'",
    }.items():
        run(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) "
            f"SELECT trial_id, '{key}', {value} FROM trials WHERE study_id = :study"
        )


def _drawn(distribution: BaseDistribution) -> str:
    """SQL of a value at random, as Optuna stores it."""
    match distribution:
        case CategoricalDistribution():
            return f"floor(random() * {len(distribution.choices)})"
        case FloatDistribution(log=True) | IntDistribution(log=True):
            return f"exp(ln({distribution.low}) + random() * ln({distribution.high / distribution.low}))"
        case FloatDistribution() | IntDistribution():
            return f"{distribution.low} + random() * {distribution.high - distribution.low}"
    raise TypeError(type(distribution).__name__)
