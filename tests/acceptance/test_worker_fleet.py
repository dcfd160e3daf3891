"""``hms-tune worker`` as a team runs it: several processes, one database, and some of them killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from hms_tune.database.connect import Storage
from studies import ONE_TRIAL

STUDIES = Path(__file__).resolve().parents[2] / "studies"


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    """A tiny competition folder."""
    return competition_writer(tmp_path_factory.mktemp("data") / "hms", patients=8, test_recordings=1)


EVERY_EPOCH = {"HMS_TUNE_CHECKPOINT_SECONDS": "0"}
"""These trials are over before a checkpoint would be written otherwise."""


def environment(home: Path) -> dict[str, str]:
    return (
        os.environ
        | {"HMS_TUNE_HOME": str(home), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
        | EVERY_EPOCH
    )


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start ``hms-tune worker`` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hms_tune", "worker", "--verbose", *arguments],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def command(home: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "hms_tune", *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_three_workers_run_a_budget_of_twelve_exactly_once(
    home: Path, storage: Storage, competition: Path
) -> None:
    workers = [
        start(home, "--study", str(STUDIES / "smoke.yaml"), "--data", str(competition)) for _ in range(3)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=600)
        assert worker.returncode == 0, errors
    trials = optuna.load_study(study_name="smoke", storage=storage.optuna).trials
    attempts = Counter(trial.state.name for trial in trials)
    assert set(attempts) == {"COMPLETE", "PRUNED"}
    assert len({trial.user_attrs["config_hash"] for trial in trials}) == 12
    assert len({trial.user_attrs["trial"] for trial in trials}) == 12
    assert len({trial.user_attrs["lease"] for trial in trials}) == len(trials)

    status = command(home, "status", "--study", "smoke", "--json")
    counted = {state: number for state, number in status["trials"].items() if number}
    assert counted == {"complete": attempts["COMPLETE"], "pruned": 12 - attempts["COMPLETE"]}
    assert status["best"]["value"] == min(trial.value for trial in trials if trial.state.name == "COMPLETE")
    assert (status["workers"], status["running"]) == ([], [])


def wait_for(worker: subprocess.Popen[str], text: str) -> None:
    """Read the worker's log up to a line with ``text``."""
    assert worker.stderr is not None
    read = []
    for line in worker.stderr:
        read.append(line)
        if text in line:
            return
    pytest.fail(f"the worker ended before {text!r}: {''.join(read)}")


def value_of(storage: Storage, name: str) -> float:
    return optuna.load_study(study_name=name, storage=storage.optuna).best_value


@pytest.fixture(scope="module")
def undisturbed(
    home: Path, storage: Storage, competition: Path, tmp_path_factory: pytest.TempPathFactory
) -> float:
    """The KL of the trial when nothing happens to it."""
    file = tmp_path_factory.mktemp("study") / "calm.yaml"
    file.write_text(ONE_TRIAL.format(name="calm"))
    worker = start(home, "--study", str(file), "--data", str(competition))
    _, errors = worker.communicate(timeout=300)
    assert worker.returncode == 0, errors
    return value_of(storage, "calm")


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_ends_with_the_value_of_an_undisturbed_one(
    home: Path, storage: Storage, competition: Path, tmp_path: Path, undisturbed: float
) -> None:
    file = tmp_path / "killed.yaml"
    file.write_text(ONE_TRIAL.format(name="killed"))
    arguments = ("--study", str(file), "--data", str(competition))
    victim = start(home, *arguments)
    wait_for(victim, "fold 1/2  epoch 3/4")
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()

    heir = start(home, *arguments)
    _, errors = heir.communicate(timeout=300)
    assert heir.returncode == 0, errors
    assert "trial 0 (attempt 1)" in errors
    assert "fold 1/2  epoch 1/4" not in errors  # it did not begin again
    assert value_of(storage, "killed") == undisturbed
    lost, complete = command(home, "study", "show", "killed", "--json")
    assert (lost["state"], lost["reason"]) == ("lost", "lease lost")
    assert (complete["state"], complete["params"]) == ("complete", lost["params"])


@pytest.mark.slow
def test_a_worker_asked_to_stop_requeues_its_trial_and_exits_75(
    home: Path, storage: Storage, competition: Path, tmp_path: Path, undisturbed: float
) -> None:
    file = tmp_path / "stopped.yaml"
    file.write_text(ONE_TRIAL.format(name="stopped"))
    arguments = ("--study", str(file), "--data", str(competition))
    first = start(home, *arguments)
    wait_for(first, "fold 1/2  epoch 2/4")
    first.terminate()
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 75, errors
    assert "requeued" in errors

    second = start(home, *arguments)
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert value_of(storage, "stopped") == undisturbed
    status = command(home, "status", "--study", str(file), "--json")
    assert (status["trials"]["complete"], status["attempts"]["requeued"]) == (1, 1)
