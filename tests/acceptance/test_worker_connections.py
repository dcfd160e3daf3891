"""A worker whose slot gets no connection to the database, and then does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from roles import a_role

from hms_tune.database.connect import Storage
from hms_tune.database.embedded.server import start_embedded
from studies import ONE_TRIAL


@pytest.mark.slow
def test_a_slot_without_a_connection_says_at_once_why_how_long_and_what_fixes_it(
    home: Path, storage: Storage, tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=8, test_recordings=1)
    study = tmp_path / "limited.yaml"
    study.write_text(ONE_TRIAL.format(name="limited"))
    with a_role(start_embedded(home / "postgres"), "limited", "secret") as role:
        worker = subprocess.Popen(
            [sys.executable, "-m", "hms_tune", "worker", "--study", str(study), "--data", str(root)],
            env=os.environ | {"HMS_TUNE_HOME": str(tmp_path), "HMS_TUNE_STORAGE": role.url()},
            stderr=subprocess.PIPE,
            text=True,
        )
        log = []
        assert worker.stderr is not None
        for line in worker.stderr:
            log.append(line)
            if line == "limited: runs one trial at a time, on cpu\n":  # what the worker itself needs it has
                role.ask("ALTER ROLE limited CONNECTION LIMIT 0")
            if line.startswith("warning: Slot cpu: "):
                role.ask("ALTER ROLE limited CONNECTION LIMIT -1")
        assert worker.wait(timeout=120) == 0, "".join(log)
        (said,) = [line for line in log if line.startswith("warning: Slot cpu: ")]
        assert said == (
            'warning: Slot cpu: the database cannot be used: FATAL: too many connections for role "limited". '
            "It is asked again for up to 30 min. Raise the role's CONNECTION LIMIT (ALTER ROLE), or run "
            "fewer slots: allow four connections for each (docs/fleet.md)\n"
        )
        assert [line for line in log if line.startswith("Slot cpu: the database answers again, after ")]
        assert role.ask("SELECT count(*) FROM trials WHERE state = 'COMPLETE'") == [(1,)]
