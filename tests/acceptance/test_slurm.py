"""The files of ``deploy/slurm``, submitted unchanged to a SLURM that cuts every task short."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm import Cluster, cluster, missing

from studies import ONE_TRIAL

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "slurm"
TRIALS = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"SLURM is not installed: {', '.join(missing())}"),
]


def test_a_search_longer_than_its_time_limit_finishes_by_itself_and_loses_no_trial(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    data = competition_writer(tmp_path / "hms", patients=8, test_recordings=1)
    project = tmp_path / "project"
    project.mkdir()
    study = ONE_TRIAL.format(name="queued").replace("trials: 1", f"trials: {TRIALS}")
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
        database = slurm.run("sbatch", "--parsable", str(DEPLOY / "database.sbatch"), cwd=project)
        limits = ("--array=0-1", "--time=60", "--signal=B:USR1@60")
        workers = slurm.run(
            "sbatch", "--parsable", *limits, str(DEPLOY / "workers.sbatch"), "queued", cwd=project
        )
        after = f"--dependency=afterok:{workers}"
        export = slurm.run(
            "sbatch", "--parsable", after, str(DEPLOY / "export.sbatch"), "queued", cwd=project
        )
        deadline, state, seen = time.monotonic() + 3000.0, "", {}
        while state not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"):
            assert time.monotonic() < deadline, slurm.said()
            time.sleep(2.0)
            for task in range(2):
                _cut_short(slurm, project, workers, task)
            seen |= slurm.jobs()
            state = seen.get(export, "")
            failed = [job for job, how in seen.items() if how in ("FAILED", "TIMEOUT", "CANCELLED")]
            assert not failed, (seen, _logs(project), slurm.said())
        slurm.environment["HMS_TUNE_STORAGE"] = (project / "hms-tune.address").read_text().strip()
        status = json.loads(slurm.run("hms-tune", "status", "--study", "queued", "--json"))
        assert slurm.jobs()[database] == "RUNNING"
    logs = _logs(project)
    starts = [int(number) for number in re.findall(r", start (\d+): worker for queued", logs)]
    cut = len(re.findall("worker ended with status 75", logs))
    print(  # noqa: T201 - pytest -s shows it
        f"{logs}\njobs: database {database}, workers {workers}_[0-1], export {export}\n"
        f"starts of workers: {len(starts)}, cut short: {cut}\ntrials: {status['trials']}\n"
        f"attempts: {status['attempts']}\nstate: {status['state']}"
    )
    assert state == "COMPLETED"
    assert cut >= 2, "no task met its time limit"
    assert len(starts) == cut + 2
    assert re.findall(r"worker ended with status (\d+)", logs).count("0") == 2
    assert status["state"] == "finished"
    assert status["trials"]["complete"] == TRIALS
    assert (status["trials"]["failed"], status["attempts"]["lost"], status["attempts"]["failed"]) == (0, 0, 0)
    (bundle,) = (each for each in (project / "bundles").iterdir() if not each.is_symlink())
    assert {"metrics.json", "config.json"} & {path.name for path in bundle.iterdir()}


def _cut_short(slurm: Cluster, project: Path, workers: str, task: int) -> None:
    """Lower a task's time limit, once, when its first fold has ended; its next start has an hour again.

    How long a search takes is the machine's to say, so no limit set beforehand is shorter on all of them. The
    two minutes that SLURM lets a requeued task wait are not waited for.
    """
    log = project / f"hms-tune-workers-{workers}_{task}.log"
    told = log.read_text() if log.exists() else ""
    if "fold 1/2 ends" not in told:
        return
    job = f"{workers}_{task}"
    facts = dict(re.findall(r"(\w+)=(\S+)", slurm.run("scontrol", "show", "job", "--oneliner", job)))
    was_cut = "worker ended with status 75" in told
    if not was_cut and (facts["JobState"], facts["TimeLimit"]) == ("RUNNING", "01:00:00"):
        hours, minutes, _ = map(int, facts["RunTime"].split(":"))
        slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={60 * hours + minutes + 1}")
    elif was_cut and facts["JobState"] == "PENDING" and facts["TimeLimit"] != "01:00:00":
        slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60", "StartTime=now")


def _logs(project: Path) -> str:
    return "\n".join(f"--- {log.name}\n{log.read_text()}" for log in sorted(project.glob("hms-tune-*.log")))
