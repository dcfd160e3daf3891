"""A slot's process dies; its supervisor starts another, and the trial ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch

from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.prepare import prepare
from hms_tune.database.connect import Storage
from hms_tune.studies.trial_record import trial_record
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import CrossValidationEnded
from studies import ONE_TRIAL

LONG = os.environ.get("HMS_TUNE_FAULTS_LONG") == "1"


def slot_of(worker: int) -> int:
    """The process of a worker's only slot."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == worker and b"slot cpu" in command:
            return int(path.name)
    raise AssertionError("no slot")


@pytest.mark.slow
@pytest.mark.parametrize(
    "death",
    [signal.SIGSEGV, pytest.param(signal.SIGKILL, marks=pytest.mark.skipif(not LONG, reason="make faults"))],
)
def test_a_slot_that_dies_is_started_again_and_the_value_is_that_of_an_undisturbed_trial(
    home: Path,
    storage: Storage,
    tmp_path: Path,
    competition_writer: Callable[..., Path],
    death: signal.Signals,
) -> None:
    root = competition_writer(tmp_path / "hms", patients=8, test_recordings=1)
    name = f"died-{death.name.lower()}"
    file = tmp_path / f"{name}.yaml"
    file.write_text(ONE_TRIAL.format(name=name))
    worker = subprocess.Popen(
        [sys.executable, "-m", "hms_tune", "worker", "-v", "--study", str(file), "--data", str(root)],
        env=os.environ
        | {"HMS_TUNE_HOME": str(home), "OMP_NUM_THREADS": "1", "HMS_TUNE_CHECKPOINT_SECONDS": "0"}
        | {"HMS_TUNE_LEASE_SECONDS": "30"},  # dead is who does not renew for two ninths of it
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stderr is not None
    log = []
    for line in worker.stderr:
        log.append(line)
        if "fold 1/2  epoch 2/4" in line and sum("epoch 2/4" in each for each in log) == 1:
            os.kill(slot_of(worker.pid), death)
    assert worker.wait(timeout=120) == 0, "".join(log)
    text = "".join(log)
    assert f"slot cpu died ({death.name}); it starts again in 1 s" in text
    assert "lost its worker; its trial goes on in a new attempt" in text
    trial = optuna.load_study(study_name=name, storage=storage.optuna).best_trial
    config = TrialConfig.model_validate(trial_record(storage, name, trial.number).config)
    torch.set_num_threads(1)
    *_, ended = CrossValidation(config, prepare(root), "cpu").run()
    assert isinstance(ended, CrossValidationEnded)
    assert trial.value == ended.kl
