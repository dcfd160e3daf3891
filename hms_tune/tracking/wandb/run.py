"""Opening and closing runs: online where the server answers, else on disk."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

from hms_tune.training.observer import TrialInfo, first_line
from hms_tune.trial_state import label

logger = logging.getLogger(__name__)

SERVER_TIMEOUT_SECONDS = 8.0
"""How long the server has for each of: the login, the start of a run, its end."""

OFFLINE_SECONDS = 600.0
"""After the server failed to answer, how long runs go to disk before it is tried again."""


def run_id(trial: TrialInfo) -> str:
    """The run's identity, on any machine: that of the attempt, which is the fencing token.

    A worker that lost its trial goes on writing, if at all, to a run that is its own.
    """
    kind = "" if trial.job_type == "trial" else f"-{trial.job_type}"
    return f"{trial.study}{kind}-{trial.attempt}-{trial.config.hash[:8]}"


class Session:
    """The account's side of runs.

    Parameters
    ----------
    project, entity : where the runs go; the account's default entity when None
    directory : runs are kept in ``directory/wandb``
    online : whether the server is asked at all
    """

    def __init__(self, *, project: str, entity: str | None, directory: Path, online: bool) -> None:
        self._project = project
        self._entity = entity
        self._directory = directory
        self._online = online
        self._offline_until = 0.0

    def open(self, trial: TrialInfo) -> Any:
        """Start the attempt's run, or go on with it where it was interrupted."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._online and time.monotonic() >= self._offline_until:
            try:
                return self._init(trial, "online")
            except Exception as error:
                logger.debug("wandb.init failed", exc_info=True)
                self._stay_offline(f"W&B does not answer ({first_line(error)})")
                _stop_service()  # it still holds the identity of the run that failed to start
        return self._init(trial, "offline")

    def finish(self, run: Any, *, failed: bool) -> None:
        """End a run. What the server did not take in time stays on disk."""
        start = time.monotonic()
        run.finish(exit_code=1 if failed else 0)
        if not run.offline and time.monotonic() - start >= SERVER_TIMEOUT_SECONDS:
            self._stay_offline(f"W&B did not take all of run {run.id} in time")

    def close(self) -> None:
        """Wait until all that was written is on disk: a slot's process ends without wandb's own farewell."""
        if "wandb" in sys.modules:
            _stop_service()

    def _stay_offline(self, reason: str) -> None:
        self._offline_until = time.monotonic() + OFFLINE_SECONDS
        folder = self._directory / "wandb"
        logger.warning("%s; runs go to %s, send them later with: wandb sync", reason, folder)

    def _init(self, trial: TrialInfo, mode: Literal["online", "offline"]) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")  # wandb's login reads only the environment
        os.environ.setdefault("WANDB_DATA_DIR", str(self._directory / "wandb" / "data"))
        import wandb

        return wandb.init(
            project=self._project,
            entity=self._entity,
            id=run_id(trial),
            resume="allow",
            name=run_name(trial),
            group=trial.study,
            job_type=trial.job_type,
            dir=str(self._directory),
            mode=mode,
            config=run_config(trial),
            allow_val_change=True,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,  # it holds the command line, which may name a database's password
                x_save_requirements=False,
                symlink=False,
                init_timeout=SERVER_TIMEOUT_SECONDS,
                login_timeout=SERVER_TIMEOUT_SECONDS,
                finish_timeout=SERVER_TIMEOUT_SECONDS,
                finish_timeout_raises=False,
            ),
        )


def run_name(trial: TrialInfo) -> str:
    """``effnet 5``, for people; with what kind of job it is, and which attempt if not the first."""
    kind = "" if trial.job_type == "trial" else f" {trial.job_type}"
    return f"{trial.study}{kind} {label(trial.trial, trial.attempt)}"


def run_config(trial: TrialInfo) -> dict[str, Any]:
    """The trial configuration, and what tells attempts of one trial from those of another."""
    return trial.config.model_dump(mode="json") | {
        "params": trial.params,
        "trial": trial.trial,
        "attempt": trial.attempt,
        "slot": trial.slot,
        "config_hash": trial.config.hash,
    }


def _stop_service() -> None:
    """Stop wandb's background process; the next run starts another."""
    import wandb

    wandb.teardown(exit_code=0)
