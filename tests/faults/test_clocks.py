"""Clocks wrong by ±12 h, in mixed time zones: only the database's clock counts."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import history
from checker import check
from fleet import Fleet, Orders
from server import OwnServer
from sqlalchemy import select
from tiny import study_file, undisturbed

from hms_tune.database.connect import Storage
from hms_tune.database.tables import attempts
from hms_tune.search.optuna_private import trial_id_of
from hms_tune.studies.status import status
from hms_tune.studies.trial_record import study_record
from hms_tune.worker.open_study import open_search

HALF_A_DAY_S = 12 * 3600.0


def test_clocks_wrong_by_12_h_in_mixed_time_zones_expire_no_lease_and_show_no_absurd_duration(
    storage: Storage, server: OwnServer, fleet: Fleet, tmp_path: Path
) -> None:
    study = study_file("clocks", trials=6)
    open_search(storage, study)
    orders = Orders(server.url, study.to_json(), tmp_path, "", 3.0, 0.2, seed=1)
    began = time.monotonic()
    fleet.start(replace(orders, name="ahead", clock_s=HALF_A_DAY_S, zone="EAST-12"))
    fleet.start(replace(orders, name="behind", clock_s=-HALF_A_DAY_S, zone="WEST+12"))
    fleet.start(replace(orders, name="right", zone="UTC0"))
    for process in fleet.workers.values():
        process.join(timeout=120.0)
        assert process.exitcode == 0
    lasted = time.monotonic() - began

    said = [float(path.read_text().split()[0]) for path in tmp_path.glob("*.steps")]
    assert max(said) - min(said) > 1.9 * HALF_A_DAY_S  # their clocks were as wrong as that
    study_id = storage.optuna.get_study_id_from_name("clocks")
    trials = storage.optuna.get_all_trials(study_id)
    reference = {trial_id_of(t): undisturbed(t.params["training.learning_rate"]) for t in trials}
    with storage.engine.connect() as connection:
        own = select(attempts.c.lease_id).where(attempts.c.study_id == study_id)
        lease_ids = set(connection.execute(own).scalars())
    facts = [f for f in history.read(storage.engine) if f.attempt in reference or f.lease in lease_ids]
    verdict = check(facts, reference, trials=6)
    assert verdict.violations == ()
    assert (verdict.attempts, verdict.complete) == (6, 6)  # no lease expired: no attempt is a second one
    assert [trial.value for trial in trials] == [reference[trial_id_of(trial)].value for trial in trials]

    for trial in study_record(storage, "clocks").trials:
        assert 0.0 < trial.seconds < lasted, trial
        (attempt,) = trial.attempts
        assert abs(attempt.started_at - datetime.now(UTC)) < timedelta(seconds=lasted + 60.0)
    for trial in trials:  # what the dashboard shows
        assert trial.duration is not None
        assert timedelta(0) < trial.duration < timedelta(seconds=lasted), trial
    standing = status(storage, "clocks")
    assert standing.trials["complete"] == 6
