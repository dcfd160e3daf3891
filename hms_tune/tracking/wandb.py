"""Weights & Biases: one run for each trial, grouped by study.

A run's identity follows from the trial alone (study, lineage, configuration), so an attempt that goes on
elsewhere continues the same run. Nothing here can hurt a trial: without a key, or when the server does not
answer within seconds, the run is written to disk, and ``wandb sync`` completes it later.
"""

from __future__ import annotations

import logging
import netrc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from hms_tune.tracking.observer import Outcome, TrialInfo
from hms_tune.training.events import CrossValidationEnded, EpochEnded, Event, FoldEnded, FoldStarted

logger = logging.getLogger(__name__)

Mode = Literal["auto", "online", "offline", "off"]

SERVER_TIMEOUT_SECONDS = 10.0
"""How long a trial may wait for the server at its start, and again at its end."""

OFFLINE_SECONDS = 600.0
"""After the server failed to answer, how long runs go to disk before it is tried again."""


def resolve_mode(mode: Mode) -> Literal["online", "offline", "off"]:
    """What ``auto`` means here: online when a key is at hand, offline otherwise.

    The variable ``WANDB_MODE`` (online, offline, disabled) decides ``auto`` when it is set.
    """
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("online", "offline"):
        return "online" if asked == "online" else "offline"
    if asked in ("disabled", "dryrun"):
        return "off" if asked == "disabled" else "offline"
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host is not None and netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def run_id(trial: TrialInfo) -> str:
    """The run's identity: the same for every attempt of a lineage, on any machine."""
    kind = "" if trial.job_type == "trial" else f"-{trial.job_type}"
    return f"{trial.study}{kind}-{trial.lineage}-{trial.config.hash[:8]}"


class WandbObserver:
    """Writes each trial's curves and summary to Weights & Biases.

    Parameters
    ----------
    project, entity : where the runs go; the account's default entity when None
    mode : online, offline, off, or auto (see :func:`resolve_mode`)
    directory : runs are kept in ``directory/wandb``
    """

    def __init__(
        self, *, project: str, directory: Path, mode: Mode = "auto", entity: str | None = None
    ) -> None:
        self._project = project
        self._entity = entity
        self._directory = directory
        self._mode = resolve_mode(mode)
        self._offline_until = 0.0
        self._warned = False
        self._run: Any = None

    def trial_started(self, trial: TrialInfo) -> None:
        """Open the trial's run, or go on with it."""
        self._abandon()
        if self._mode != "off":
            self._safely(lambda: self._open(trial))

    def event(self, trial: TrialInfo, event: Event) -> None:
        """Log epochs and fold results; at most one call per epoch."""
        run = self._run
        if run is not None and not (run.resumed and getattr(event, "replayed", False)):
            self._safely(lambda: _log(run, event))

    def trial_ended(
        self, trial: TrialInfo, outcome: Outcome, value: float | None, reason: str | None
    ) -> None:
        """Write how the trial ended and close its run."""
        run, self._run = self._run, None
        if run is None:
            return

        def finish() -> None:
            if outcome != "lost":  # the run is another worker's
                run.summary.update({"outcome": outcome, "value": value, "reason": reason})
            run.finish(exit_code=1 if outcome == "failed" else 0)

        self._safely(finish)

    def close(self) -> None:
        """Close what is open; the run of an unfinished trial can be resumed."""
        self._abandon()

    def _abandon(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            self._safely(lambda: run.finish(exit_code=1))

    def _open(self, trial: TrialInfo) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._mode == "online" and time.monotonic() >= self._offline_until:
            try:
                self._run = self._init(trial, "online")
                return
            except Exception as error:
                self._offline_until = time.monotonic() + OFFLINE_SECONDS
                logger.debug("wandb.init failed", exc_info=True)
                logger.warning(
                    "W&B does not answer (%s); runs go to %s, send them later with: wandb sync",
                    _first_line(error),
                    self._directory / "wandb",
                )
                _forget_failed_start()
        self._run = self._init(trial, "offline")

    def _init(self, trial: TrialInfo, mode: Literal["online", "offline"]) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")  # wandb's login reads only the environment
        import wandb

        return _with_metrics(
            wandb.init(
                project=self._project,
                entity=self._entity,
                id=run_id(trial),
                resume="allow",
                name=f"{trial.study} {trial.lineage}",
                group=trial.study,
                job_type=trial.job_type,
                dir=str(self._directory),
                mode=mode,
                config=trial.config.model_dump(mode="json")
                | {
                    "params": trial.params,
                    "trial": trial.number,
                    "lineage": trial.lineage,
                    "slot": trial.slot,
                },
                allow_val_change=True,
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_code=True,
                    disable_git=True,
                    x_disable_meta=True,  # it holds the command line, which may name a database's password
                    symlink=False,
                    init_timeout=SERVER_TIMEOUT_SECONDS,
                    login_timeout=SERVER_TIMEOUT_SECONDS,
                    finish_timeout=SERVER_TIMEOUT_SECONDS,
                    finish_timeout_raises=False,
                ),
            )
        )

    def _safely(self, action: Callable[[], None]) -> None:
        """Run ``action``; whatever fails is told once and never reaches the trial."""
        try:
            action()
        except Exception as error:
            logger.debug("W&B observer failed", exc_info=True)
            if not self._warned:
                self._warned = True
                logger.warning("W&B: %s; the search goes on without it", _first_line(error))


def _with_metrics(run: Any) -> Any:
    run.define_metric("epoch", hidden=True)
    run.define_metric("epochs_trained", hidden=True)
    run.define_metric("estimate", step_metric="epochs_trained")
    return run


def _log(run: Any, event: Event) -> None:
    match event:
        case FoldStarted():
            run.define_metric(f"fold_{event.fold}/*", step_metric="epoch")
            run.define_metric(f"fold_{event.fold}/kl", step_metric="epoch", summary="min")
        case EpochEnded():
            prefix = f"fold_{event.fold}"
            run.log(
                {
                    "epoch": event.epoch + 1,
                    "epochs_trained": event.fold * event.epochs + event.epoch + 1,
                    "estimate": event.estimate,
                    f"{prefix}/kl": event.kl,
                    f"{prefix}/kl_all_rows": event.kl_all_rows,
                    f"{prefix}/kl_high_vote": event.kl_high_vote,
                    f"{prefix}/best_kl": event.best_kl,
                    f"{prefix}/train_loss": event.train_loss,
                    f"{prefix}/learning_rate": event.learning_rate,
                    f"{prefix}/images_per_second": event.images / event.seconds if event.seconds > 0 else 0.0,
                }
            )
        case FoldEnded():
            run.summary.update(
                {f"fold_kl/{event.fold}": event.kl, f"best_epoch/{event.fold}": event.best_epoch + 1}
            )
        case CrossValidationEnded():
            run.summary.update(
                {"kl": event.kl, "kl_all_rows": event.kl_all_rows, "kl_high_vote": event.kl_high_vote}
            )
        case _:
            pass


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _forget_failed_start() -> None:
    """Stop wandb's background service, which still holds the identity of the run that failed to start."""
    import wandb

    wandb.teardown(exit_code=0)
