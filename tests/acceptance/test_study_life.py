"""What a study's state is through its whole life, and what a worker's exit status says at its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hms_tune.config.study_file import load_study_file
from hms_tune.database.connect import Storage
from hms_tune.worker.open_study import open_search
from studies import ONE_TRIAL

HMS_TUNE = (sys.executable, "-m", "hms_tune")
MORE_TO_DO = 75


class Life:
    """A study, its commands and its workers."""

    def __init__(self, home: Path, file: Path, data: Path) -> None:
        self.file = file
        self._data = data
        self._environment = os.environ | {
            "HMS_TUNE_HOME": str(home),
            "HMS_TUNE_CHECKPOINT_SECONDS": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.workers: list[subprocess.Popen[str]] = []
        self.seen: list[tuple[str, str]] = []

    def hms_tune(self, *arguments: str) -> str:
        return subprocess.run(
            [*HMS_TUNE, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def look(self, moment: str) -> dict[str, Any]:
        """The study's status, which the list of studies agrees with."""
        status: dict[str, Any] = json.loads(self.hms_tune("status", "--study", str(self.file), "--json"))
        listed = {each["study"]: each for each in json.loads(self.hms_tune("study", "list", "--json"))}
        own = listed[status["study"]]
        assert own["state"] == status["state"]
        assert own["trials"] == status["trials"] or own["state"] == "running"  # a trial ended in between
        assert own["trials"]["failed"] == 0
        self.seen.append((moment, status["state"]))
        print(f"{moment}: {status['state']}, {status['hours']:.4f} h")  # noqa: T201
        return status

    def worker(self, *arguments: str) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [
                *HMS_TUNE,
                "worker",
                "--verbose",
                *("--study", str(self.file), "--data", str(self._data)),
                *arguments,
            ],
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.workers.append(worker)
        return worker


@pytest.fixture
def life(
    home: Path, storage: Storage, tmp_path: Path, competition_writer: Callable[..., Path]
) -> Iterator[Life]:
    data = competition_writer(tmp_path / "hms", patients=8, test_recordings=1)
    life = Life(home, tmp_path / "life.yaml", data)
    yield life
    for worker in life.workers:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def read_to(worker: subprocess.Popen[str], text: str) -> str:
    assert worker.stderr is not None
    for line in worker.stderr:
        if text in line:
            return line
    raise AssertionError(f"the worker ended before {text!r}")


@pytest.mark.slow
def test_a_worker_that_has_done_its_part_says_that_there_is_more_to_do(life: Life, storage: Storage) -> None:
    life.file.write_text(ONE_TRIAL.format(name="parts").replace("trials: 1", "trials: 2"))
    assert [life.worker("--max-trials", "1").wait(timeout=300) for _ in range(3)] == [MORE_TO_DO, 0, 0]


@pytest.mark.slow
def test_the_state_tells_the_truth_through_a_studys_whole_life(life: Life, storage: Storage) -> None:
    study = ONE_TRIAL.format(name="life").replace("trials: 1", "trials: 2, hours: 5")
    life.file.write_text(study.replace("epochs: 4", "epochs: 200"))
    open_search(storage, load_study_file(str(life.file)))
    assert life.look("made, no worker yet")["hours"] == 0.0

    first = life.worker()
    assert first.stderr is not None
    assert first.stderr.readline() == "life: a worker starts; it loads its libraries first\n"
    read_to(first, "fold 1/2  epoch 1/200")
    running = life.look("a worker runs")
    assert running["hours"] > 0.0
    life.hms_tune("study", "pause", "life")
    read_to(first, "the study is paused")
    paused = life.look("paused by a person")
    assert life.look("paused a while later")["hours"] == paused["hours"]
    assert life.hms_tune("study", "resume", "life") == "life: running\n"
    read_to(first, "  epoch ")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    life.look("its worker was killed")

    second = life.worker()
    read_to(second, "  epoch ")
    second.terminate()
    read_to(second, "life: there is more to do")
    assert second.wait(timeout=60) == MORE_TO_DO
    stopped = life.look("its worker was stopped")
    assert stopped["attempts"]["requeued"] == 2
    assert stopped["attempts"]["lost"] == 1
    assert stopped["attempts"]["failed"] == 0

    life.hms_tune("study", "stop", "life")
    assert life.worker().wait(timeout=300) == 0
    life.look("stopped by a person")
    assert life.hms_tune("study", "resume", "life") == "life: idle\n"

    last = life.worker()
    read_to(last, "life: the study is over")
    assert last.wait(timeout=300) == 0
    finished = life.look("its budget is spent")
    assert finished["trials"]["complete"] == 2
    assert finished["ends_at"] is None
    assert life.look("a while later")["hours"] == finished["hours"]
    assert life.worker().wait(timeout=300) == 0

    assert life.seen == [
        ("made, no worker yet", "idle"),
        ("a worker runs", "running"),
        ("paused by a person", "paused"),
        ("paused a while later", "paused"),
        ("its worker was killed", "idle"),
        ("its worker was stopped", "idle"),
        ("stopped by a person", "stopped"),
        ("its budget is spent", "finished"),
        ("a while later", "finished"),
    ]
