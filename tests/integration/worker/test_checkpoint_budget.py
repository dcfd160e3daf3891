"""Checkpoints of trials that wait have a budget in bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from promoted import EPOCHS, Training, a_study
from slots import a_slot

from hms_tune.database.connect import Storage
from hms_tune.studies.status import status
from hms_tune.trial_state import TrialState
from hms_tune.worker.open_study import join_search


def test_beyond_the_budget_the_worst_that_wait_lose_theirs_and_begin_anew_if_promoted(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    search = join_search(storage, a_study(study_name, trials=6, more=", checkpoint_gb: 0.001"))
    assert search.checkpoint_bytes == 1e6
    training = Training()
    slot = a_slot(storage, replace(search, checkpoint_bytes=1.0), training.train, tmp_path / "store")
    slot.run()
    shown = status(storage, study_name)
    assert shown.trials[TrialState.COMPLETE] >= 1
    assert sum(shown.trials.values()) == 6
    # Nothing was kept while a trial waited, so the promoted ones trained their first fold twice.
    best = min(rate for rate, _ in training.trained)
    assert training.trained[best, 0] == 2 * EPOCHS
    assert training.trained[best, 1] == EPOCHS
    assert search.study.best_trial.params["training.learning_rate"] == best
