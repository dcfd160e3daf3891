"""``deploy/skypilot.yaml``: the command, the variables and the exit status are those of the program."""

from __future__ import annotations

import os
import shlex

import yaml
from compose import ROOT, variables_read
from documents import is_complete


def test_a_spot_machine_runs_a_worker_that_is_started_again_while_there_is_more_to_do() -> None:
    task = yaml.safe_load((ROOT / "deploy" / "skypilot.yaml").read_text())
    *_, command = task["run"].strip().splitlines()
    program, *words = shlex.split(command)[1:]
    assert program.endswith("/hms-tune")
    assert is_complete(words)
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [os.EX_TEMPFAIL]
    ours = {name for name in {**task["envs"], **task["secrets"]} if name.startswith("HMS_TUNE")}
    assert ours <= variables_read()
    assert "HMS_TUNE_STORAGE" in task["secrets"]
    assert task["envs"]["HMS_TUNE_ARTIFACTS"].startswith("s3://")
    assert "[s3]" in task["setup"]
    assert task["envs"]["HMS_TUNE_DATA"] in task["file_mounts"]
