"""Studies of made-up trials that have ended, written in bulk: Optuna's rows, and ours beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from optuna.distributions import distribution_to_json
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.reports.dashboard.publish import publish_study
from hms_tune.search.suggest import config_of, distributions
from hms_tune.studies.predictions import keep_out_of_fold
from hms_tune.training.events import OutOfFold
from hms_tune.training.history import EpochRecord, FoldRecord, folds_as_json
from hms_tune.worker.open_study import open_search

NAME = "many"
FOLDS, EPOCHS = 5, 4
STEPS = FOLDS * EPOCHS
BESTS = 12
"""Trials that have out-of-fold predictions."""

STUDY = f"""
study: {NAME}
model: {{backbone: {{choices: [resnet18, resnet34]}}, pretrained: false, dropout: {{low: 0.0, high: 0.5}}}}
training:
  epochs: {EPOCHS}
  learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}
  weight_decay: {{low: 1.0e-6, high: 5.0e-2, log: true}}
  batch_size: {{choices: [16, 32, 64]}}
  label_smoothing: {{low: 0.0, high: 0.2}}
augmentation: {{time_mask: {{low: 0.0, high: 0.5}}, frequency_mask: {{low: 0.0, high: 0.5}}}}
budget: {{trials: 100000}}
"""

# Of twenty trials one failed, eleven were pruned after two to ten reports, and eight are complete.
_DRAWN = """
CREATE TEMPORARY TABLE drawn ON COMMIT DROP AS
SELECT n, n + :first AS trial_id, 0.6 + 0.3 * random() + 0.4 / (1 + n / 50.0) AS value,
       CASE WHEN kind = 0 THEN 'FAIL' WHEN kind < 12 THEN 'PRUNED' ELSE 'COMPLETE' END AS state,
       CASE WHEN kind = 0 THEN 1 WHEN kind < 12 THEN 2 + n * 31 % 9 ELSE :steps END AS steps
FROM (SELECT n, n * 7919 % 20 AS kind FROM generate_series(0, :trials - 1) n) numbered
"""
_TRIALS = """
INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete)
SELECT trial_id, n, :study, state::trialstate, timestamp '2026-01-01' + n * interval '30 s',
       timestamp '2026-01-01' + (n + 1) * interval '30 s' FROM drawn;
INSERT INTO trial_values (trial_id, objective, value, value_type)
SELECT trial_id, 0, value, 'FINITE' FROM drawn WHERE state = 'COMPLETE';
INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
SELECT trial_id, step, value + 0.5 / step, 'FINITE' FROM drawn, LATERAL generate_series(1, steps) step;
INSERT INTO trial_user_attributes (trial_id, key, value_json)
SELECT trial_id, key, attribute FROM drawn, LATERAL (VALUES
  ('lease', trial_id::text), ('trial', n::text), ('worker', '"host:cuda0"'), ('seconds', '28.5'),
  ('attempt_state', CASE state WHEN 'FAIL' THEN '"failed"' ELSE to_json(lower(state))::text END),
  ('config_hash', '"0123456789abcdef"')) told (key, attribute);
INSERT INTO trial_user_attributes (trial_id, key, value_json)
SELECT trial_id, key, attribute FROM drawn, LATERAL (VALUES
  ('kl_all_rows', value::text), ('kl_high_vote', value::text), ('fold_kl', '[0.7, 0.7, 0.7, 0.7, 0.7]')
  ) told (key, attribute) WHERE state = 'COMPLETE';
INSERT INTO trial_user_attributes (trial_id, key, value_json)
SELECT trial_id, 'reason', '"out of memory: 24.0 GiB"' FROM drawn WHERE state = 'FAIL';
"""
_PARAMETER = """
INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
SELECT trial_id, :name, {value}, :distribution FROM drawn
"""
_OURS = """
INSERT INTO hms_tune.trials
  (trial_id, study_id, state, number, last_optuna_trial_id, reason, ended_at, estimate)
SELECT trial_id, :study, CASE state WHEN 'FAIL' THEN 'failed' ELSE lower(state) END, n, trial_id,
       CASE state WHEN 'FAIL' THEN 'out of memory: 24.0 GiB' END, now(),
       CASE state WHEN 'COMPLETE' THEN value END
FROM drawn;
INSERT INTO hms_tune.attempts (lease_id, study_id, trial_id, worker_id, slot, host, pid,
                               optuna_trial_id, number, claimed_at, expires_at, ended_at, state)
SELECT trial_id, :study, trial_id, 'worker', 'cuda' || n % 4, 'host', 1, trial_id, n,
       timestamptz '2026-01-01' + n * interval '30 s', now(),
       timestamptz '2026-01-01' + (n + 1) * interval '30 s',
       CASE state WHEN 'FAIL' THEN 'failed' ELSE lower(state) END
FROM drawn;
INSERT INTO hms_tune.attempt_records (study_id, number, config, folds, closed_at, device, device_name, gpus,
                                      peak_memory, data_digest, version, note)
SELECT :study, n, CAST(:config AS jsonb), CAST(:folds AS jsonb) -> steps, now(), 'cuda:0', 'a GPU', 1,
       8000000000, repeat('0123456789abcdef', 4), '0.1.0', replace(:note, 'N', n::text)
FROM drawn;
"""
_NOTE = "**Complete: KL 0.7N.**\n\n| fold | KL | best epoch | train loss |\n|---|---|---|---|\n" + "".join(
    f"| {fold} | 0.7N{fold} | 3 of {EPOCHS} | 0.5N |\n" for fold in range(1, FOLDS + 1)
)


def fill(storage: Storage, trials: int, artifacts: Path | None) -> None:
    """Write a study of trials that have ended.

    Parameters
    ----------
    artifacts : where pictures are written to, as a worker does; None: write Optuna's tables alone
    """
    study_file = StudyFile.parse(STUDY, "benchmark")
    opened = open_search(storage, study_file)
    study, space = opened.study_id, distributions(study_file.space)
    values = {"study": study, "trials": trials, "steps": STEPS, "first": 1}
    with storage.engine.begin() as connection:
        connection.execute(text("SELECT setseed(0.5)"))
        connection.execute(text(_DRAWN), values)
        for statement in filter(str.strip, _TRIALS.split(";")):
            connection.execute(text(statement), values)
        for name, each in space.items():
            low, high = getattr(each, "low", 0), getattr(each, "high", 0)
            value = (
                f"floor(random() * {len(each.choices)})"
                if hasattr(each, "choices")
                else f"{low} + random() * {high - low}"
            )
            connection.execute(
                text(_PARAMETER.format(value=value)),
                {"name": name, "distribution": distribution_to_json(each)},
            )
        if artifacts is None:
            return
        drawn = {name: each.choices[0] if hasattr(each, "choices") else each.high for name, each in space.items()}
        told = {
            "folds": json.dumps([folds_as_json(_folds(steps)) for steps in range(STEPS + 1)]),
            "config": config_of(study_file.space, drawn).model_dump_json(),
            "note": _NOTE,
        }
        for statement in filter(str.strip, _OURS.split(";")):
            connection.execute(text(statement), values | told)
        bests = connection.execute(
            text("SELECT n FROM drawn WHERE state = 'COMPLETE' ORDER BY value LIMIT :bests"), {"bests": BESTS}
        ).scalars().all()
    for number in bests:
        keep_out_of_fold(storage, study, number, _predictions())
    publish_study(storage, study_file.study, artifacts)


def _folds(steps: int) -> tuple[FoldRecord, ...]:
    """What a trial of so many epochs told."""
    folds = []
    for fold in range(-(-steps // EPOCHS)):
        run = min(EPOCHS, steps - fold * EPOCHS)
        epochs = tuple(
            EpochRecord(
                epoch=epoch,
                stage=0,
                train_loss=0.812345,
                kl=0.723456,
                kl_all_rows=0.723456,
                kl_high_vote=0.623456,
                learning_rate=0.000123,
                images=13671,
                seconds=1.23456,
            )
            for epoch in range(run)
        )
        ended = run == EPOCHS
        folds.append(
            FoldRecord(
                fold=fold,
                epochs_planned=EPOCHS,
                train_rows=13671,
                validation_rows=3418,
                epochs=epochs,
                kl=0.723456 if ended else None,
                best_epoch=2 if ended else None,
                stopped_early=False if ended else None,
            )
        )
    return tuple(folds)


def _predictions(rows: int = 600) -> OutOfFold:
    generator = np.random.default_rng(0)
    numbers = np.arange(rows)
    return OutOfFold(
        row=numbers,
        eeg_id=numbers,
        patient_id=numbers // 4,
        fold=numbers % 5,
        probabilities=generator.dirichlet(np.ones(6), rows).astype(np.float32),
        targets=generator.dirichlet(np.ones(6), rows).astype(np.float32),
        total_votes=generator.integers(1, 20, rows),
    )


def new_database(server: str, name: str) -> str:
    """The address of a new database of a server."""
    address = make_url(server).set(drivername="postgresql+psycopg2")
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return address.set(database=name).render_as_string(hide_password=False)
