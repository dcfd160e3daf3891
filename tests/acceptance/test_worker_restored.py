"""An older backup is restored under a whole worker: it goes on with what is there, to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from roles import a_role

from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.embedded.server import start_embedded
from hms_tune.studies.status import status
from studies import ONE_TRIAL, show_trials

TRIALS = 4


@pytest.mark.slow
def test_a_worker_whose_database_was_set_back_goes_on_with_what_is_there(
    home: Path, storage: Storage, tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=8, test_recordings=1)
    study = tmp_path / "restored.yaml"
    study.write_text(ONE_TRIAL.format(name="restored").replace("trials: 1", f"trials: {TRIALS}"))
    with a_role(start_embedded(home / "postgres"), "restored", "secret") as role:
        environment = os.environ | {"HMS_TUNE_HOME": str(tmp_path), "HMS_TUNE_STORAGE": role.url()}
        command = [sys.executable, "-m", "hms_tune", "worker", str(study), "--data", str(root)]
        first = subprocess.run([*command, "--max-trials", "1"], env=environment, check=False)
        assert first.returncode == os.EX_TEMPFAIL
        role.as_superuser("CREATE DATABASE restored_backup TEMPLATE restored OWNER restored")

        worker = subprocess.Popen([*command, "-v"], env=environment, stderr=subprocess.PIPE, text=True)
        assert worker.stderr is not None
        log = []
        for line in worker.stderr:
            log.append(line)
            if line.startswith("trial 2 ") and not any("restored_backup" in each for each in log):
                log.append("restored_backup takes its place\n")
                role.as_superuser(
                    "DROP DATABASE restored WITH (FORCE)",
                    "ALTER DATABASE restored_backup RENAME TO restored",
                )
        assert worker.wait(timeout=60) == 0, "".join(log)
        assert any("the database is older than it was: a backup was restored" in each for each in log)
        assert not any("Traceback" in each for each in log), "".join(log)

        now = open_storage(role.url())
        assert status(now, "restored").state == "finished"
        ended = [trial for trial in show_trials(now, "restored") if trial.reason != "lease lost"]
        assert [trial.state for trial in ended] == ["complete"] * TRIALS
        now.close()
