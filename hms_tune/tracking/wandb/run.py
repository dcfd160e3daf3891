"""Open and close runs: online if the server answers, else on disk."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hms_tune.config.study_sections import WandbConfig
from hms_tune.errors import first_line
from hms_tune.machine.private_folder import private_folder
from hms_tune.tracking.wandb.account import ask_account, keep_away, load_settings
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import label

logger = logging.getLogger(__name__)

PROJECT = "hms-tune"
"""Where runs go when neither the study file nor W&B's own configuration names a project."""

SERVER_TIMEOUT_SECONDS = 8.0
"""How long the server has for each of: the login, the start of a run, its end."""

OFFLINE_SECONDS = 600.0
"""After the server failed to answer, how long runs go to disk before it is tried again."""


def run_id(trial: TrialInfo) -> str:
    """The run's identity, equal on every machine; each attempt has its own.

    If a worker that lost its trial still writes, it writes to the run of its own attempt.
    """
    kind = "" if trial.job_type == "trial" else f"-{trial.job_type}"
    return f"{trial.study}{kind}-{trial.attempt}-{trial.config.hash[:8]}"


class Session:
    """Opens and closes runs with one account.

    Parameters
    ----------
    config : of all its runs; for what is None or empty W&B's own configuration counts, for ``mode: auto``
        :func:`~hms_tune.tracking.wandb.account.ask_account`
    facts : what stands in each run's configuration beside the trial's
    directory : runs are kept in ``directory/wandb``, unless W&B's own configuration names a directory
    """

    def __init__(self, config: WandbConfig, *, directory: Path, facts: Mapping[str, Any]) -> None:
        self._config = config
        self._facts = facts
        self._directory = directory
        self._mode = config.mode
        self._offline_until = 0.0
        keep_away()

    def open(self, trial: TrialInfo) -> Any | None:
        """Start the attempt's run, or go on with it where it was interrupted. None: W&B is disabled."""
        os.environ.setdefault("WANDB_DATA_DIR", str(self._directory / "wandb" / "data"))
        if self._mode == "auto":
            account = ask_account()
            if account.faulty:
                logger.warning("W&B: %s; runs stay on disk", account.reason)
            self._mode = account.mode
        if self._mode == "off":
            return None
        if self._mode == "online" and time.monotonic() >= self._offline_until:
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
        """Wait until everything is on disk: a slot's process ends without running wandb's exit handler."""
        if "wandb" in sys.modules:
            _stop_service()

    def _stay_offline(self, reason: str) -> None:
        self._offline_until = time.monotonic() + OFFLINE_SECONDS
        folder = self._runs_folder(load_settings()) / "wandb"
        logger.warning("%s; runs go to %s, send them later with: wandb sync", reason, folder)

    def _runs_folder(self, settings: Any) -> Path:
        named = "root_dir" in settings.model_fields_set  # else it is the working directory
        return Path(settings.root_dir) if named else self._directory

    def _init(self, trial: TrialInfo, mode: Literal["online", "offline"]) -> Any:
        import wandb

        configured = load_settings()
        folder = self._runs_folder(configured)
        private_folder(folder / "wandb")  # patients' predictions
        return wandb.init(
            project=self._config.project or configured.project or PROJECT,
            entity=self._config.entity,
            tags=self._config.tags or None,
            notes=self._config.notes,
            id=run_id(trial),
            resume="allow",
            name=run_name(trial),
            group=trial.study,
            job_type=trial.job_type,
            dir=str(folder),
            mode=mode,
            config=run_config(trial) | dict(self._facts),
            allow_val_change=True,
            settings=wandb.Settings(
                silent=True,
                console="off",
                sagemaker_disable=True,  # it would name the run
                disable_code=True,
                disable_git=True,
                host="",  # else W&B asks the machine
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
    """The trial configuration, what of it is searched, and the numbers of trial and attempt.

    W&B shows ``{"training": {"epochs": 5}}`` as ``training.epochs``, the study file's own name for it. Values
    that are searched do not stand there again.
    """
    return _drawable(trial.config.model_dump(mode="json")) | {
        "searched": sorted(trial.params),
        "trial": trial.trial,
        "attempt": trial.attempt,
        "slot": trial.slot,
        "config_hash": trial.config.hash,
    }


def _drawable(values: dict[str, Any]) -> dict[str, Any]:
    """Lists of plain values as text, which W&B's panels draw as a category; of a list they draw nothing."""

    def drawn(value: Any) -> Any:
        if isinstance(value, dict):
            return _drawable(value)
        is_plain = isinstance(value, list) and not any(isinstance(each, dict | list) for each in value)
        return json.dumps(value) if is_plain else value

    return {key: drawn(value) for key, value in values.items()}


def _stop_service() -> None:
    """Stop wandb's background process; the next run starts another."""
    import wandb

    wandb.teardown(exit_code=0)
