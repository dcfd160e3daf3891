"""The files of ``deploy/slurm``, submitted unchanged to a SLURM that cuts every task short."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from slurm import Cluster, cluster, missing

from studies import ONE_TRIAL

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "slurm"
TRIALS = 2

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"SLURM is not installed: {', '.join(missing())}")


@pytest.mark.slow
def test_a_trial_that_its_time_limit_cuts_goes_on_from_its_checkpoint_and_the_study_finishes_by_itself(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    data = competition_writer(tmp_path / "hms", patients=8, test_recordings=1)
    project = tmp_path / "project"
    project.mkdir()
    study = ONE_TRIAL.format(name="queued").replace("trials: 1", f"trials: {TRIALS}")
    # Of an epoch there is only a moment: in so many of them somebody who looks on finds a fold under way.
    (project / "queued.yaml").write_text(study.replace("epochs: 4", "epochs: 40"))
    folder = tmp_path / "slurm"
    folder.mkdir()
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
        "HMS_TUNE_HOME": str(tmp_path / "home"),
        "HMS_TUNE_ARTIFACTS": str(tmp_path / "artifacts"),
        "HMS_TUNE_DATA": str(data),
        "HMS_TUNE_STUDIES": str(project),
        "HMS_TUNE_CHECKPOINT_SECONDS": "0",
        "OMP_NUM_THREADS": "1",
    }
    with cluster(folder, **variables) as slurm:
        fleet = _Fleet(slurm, project)
        database = fleet.submit("database.sbatch")
        limits = ("--array=0-1", "--time=60", "--signal=B:USR1@60")
        workers = fleet.submit("workers.sbatch", "queued", options=limits)
        export = fleet.submit("export.sbatch", "queued", options=(f"--dependency=afterok:{workers}",))
        task = _cut_in_its_second_fold(fleet, workers)
        fleet.until(lambda: fleet.jobs().get(task) == "PENDING")
        # SLURM lets a requeued task wait for two minutes. It fails one that begins in the very
        # second in which it was ended before.
        time.sleep(3.0)
        slurm.run("scontrol", "update", f"JobId={task}", "TimeLimit=60", "StartTime=now")
        fleet.until(lambda: fleet.jobs().get(export) == "COMPLETED")
        slurm.environment["HMS_TUNE_STORAGE"] = (project / "hms-tune.address").read_text().strip()
        status = json.loads(slurm.run("hms-tune", "status", "--study", "queued", "--json"))
        assert fleet.jobs()[database] == "RUNNING"
    logs = fleet.logs()
    starts = re.findall(r", start (\d+): worker for queued", logs)
    print(  # noqa: T201 - pytest -s shows it
        f"{logs}\njobs: database {database}, workers {workers}_[0-1], export {export}\n"
        f"starts of workers: {len(starts)}\ntrials: {status['trials']}\n"
        f"attempts: {status['attempts']}\nstate: {status['state']}"
    )
    assert sorted(starts) == ["1", "1", "2"]
    assert sorted(re.findall(r"worker ended with status (\d+)", logs)) == ["0", "0", "75"]
    assert status["state"] == "finished"
    assert (status["trials"]["complete"], status["trials"]["failed"]) == (TRIALS, 0)
    ended = {state: number for state, number in status["attempts"].items() if number}
    assert ended == {"complete": TRIALS, "requeued": 1}
    # What an attempt finds in its checkpoint it does not tell again: nobody trained a fold twice.
    (cut,) = re.findall(r"(trial \d+)  requeued  .* in fold 2 of 2", logs)
    assert re.search(rf"{cut} \(attempt \d+\)  starts on cpu", logs)
    for fold in (1, 2):
        told = re.findall(rf"\n(trial \d+).*  fold {fold}/2 ends", logs)
        assert sorted(told) == [f"trial {number}" for number in range(TRIALS)]
    (bundle,) = (each for each in (project / "bundles").iterdir() if not each.is_symlink())
    assert {"metrics.json", "config.json"} <= {path.name for path in bundle.iterdir()}


def _cut_in_its_second_fold(fleet: _Fleet, workers: str) -> str:
    """Let the first task whose first fold has ended meet its time limit in the second. Gives the task.

    How long a trial takes is the machine's to say, and SLURM looks at limits twice a minute. So the limit is
    lowered, and the task's training is held until SLURM has told it.
    """

    def in_its_second_fold() -> list[str]:
        return [task for task in (f"{workers}_0", f"{workers}_1") if "fold 1/2 ends" in fleet.log(task)]

    fleet.until(lambda: bool(in_its_second_fold()), every_s=0.1)
    (task, *_) = in_its_second_fold()
    with _held(fleet.slurm.folder, task):
        fleet.slurm.run("scontrol", "update", f"JobId={task}", f"TimeLimit={fleet.minutes(task) + 1}")
        fleet.until(lambda: "Stopping: trials are requeued" in fleet.log(task))
    return task


@contextmanager
def _held(slurm: Path, task: str) -> Iterator[None]:
    """Stop the processes of a task's slots during the block."""
    slots = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            variables = process.environ()
            of_task = f"{variables.get('SLURM_ARRAY_JOB_ID')}_{variables.get('SLURM_ARRAY_TASK_ID')}" == task
            ours = variables.get("SLURM_CONF") == str(slurm / "slurm.conf")
            if ours and of_task and "slot cpu" in process.cmdline():
                slots.append(process)
    assert slots
    for process in slots:
        process.suspend()
    try:
        yield
    finally:
        for process in slots:
            process.resume()


class _Fleet:
    """The shipped jobs of a cluster, submitted from a folder of study files."""

    def __init__(self, slurm: Cluster, project: Path) -> None:
        self.slurm = slurm
        self._project = project
        self._seen: dict[str, str] = {}

    def submit(self, file: str, *arguments: str, options: Sequence[str] = ()) -> str:
        path = str(DEPLOY / file)
        return self.slurm.run("sbatch", "--parsable", *options, path, *arguments, cwd=self._project)

    def jobs(self) -> dict[str, str]:
        """The last known state of each; SLURM forgets those that ended."""
        self._seen |= self.slurm.jobs()
        failed = [job for job, how in self._seen.items() if how in ("FAILED", "TIMEOUT", "CANCELLED")]
        assert not failed, (self._seen, self.logs(), self.slurm.said())
        return self._seen

    def minutes(self, task: str) -> int:
        """Whole minutes that a task has run for."""
        facts = self.slurm.run("scontrol", "show", "job", "--oneliner", task)
        hours, minutes, _ = map(int, re.findall(r"RunTime=(\d+):(\d+):(\d+)", facts)[0])
        return 60 * hours + minutes

    def until(self, happened: Callable[[], bool], *, every_s: float = 1.0) -> None:
        deadline = time.monotonic() + 600.0
        while not happened():
            assert time.monotonic() < deadline, (self.logs(), self.slurm.said())
            time.sleep(every_s)

    def log(self, task: str) -> str:
        path = self._project / f"hms-tune-workers-{task}.log"
        return path.read_text() if path.exists() else ""

    def logs(self) -> str:
        logs = sorted(self._project.glob("hms-tune-*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in logs)
