"""The observer: queues a trial's events, and sends them to W&B on a thread of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hms_tune.config.study_sections import WandbConfig
from hms_tune.errors import first_line
from hms_tune.machine.background import BackgroundQueue
from hms_tune.tracking.wandb.bundles import log_bundle
from hms_tune.tracking.wandb.metrics import Course, define_metrics, log_end, log_event, log_layers
from hms_tune.tracking.wandb.predictions import log_out_of_fold
from hms_tune.tracking.wandb.run import Session
from hms_tune.training.events import CrossValidationEnded, Event
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState

if TYPE_CHECKING:
    from hms_tune.tracking.wandb.layers import Layer

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 12.0
"""How long the end of a slot waits for events that are still to be sent."""

Task = Callable[[], None]


class WandbObserver:
    """Writes each attempt's curves and summary to Weights & Biases.

    Parameters
    ----------
    config : where the runs go, and how they are found; for ``mode: auto`` see
        :func:`~hms_tune.tracking.wandb.account.ask_account`
    directory : runs are kept in ``directory/wandb``, unless W&B's own configuration names a directory
    facts : what stands in every run's configuration beside the trial's
    gpus : how many GPUs an attempt holds, to tell its GPU-hours
    best : the study's best KL so far, None before there is one; asked when a trial is through. Tables and
        plots of its predictions are kept if nothing was better. Without ``best`` exports alone have them.
    """

    def __init__(
        self,
        config: WandbConfig,
        *,
        directory: Path,
        facts: Mapping[str, Any] | None = None,
        gpus: float = 0.0,
        best: Callable[[], float | None] | None = None,
    ) -> None:
        self._off = config.mode == "off"
        self._session = Session(config, directory=directory, facts=facts or {})
        self._gpus = gpus
        self._best = best
        self._tasks: BackgroundQueue[Task] = BackgroundQueue(self._run_task, name="wandb")
        self._warned = False
        self._run: Any = None
        self._done = 0
        self._course = Course()
        self._begun_at = 0.0
        self._address: tuple[int, str] | None = None

    def url_of(self, trial: TrialInfo) -> str | None:
        """Where the last trial that was begun can be looked at, also after its end; None of others.

        None too while its run is written to disk, or not open yet: that happens on another thread.
        """
        attempt, url = self._address or (None, None)
        return url if attempt == trial.attempt else None

    def trial_started(self, trial: TrialInfo) -> None:
        """Open the attempt's run, or go on with it."""
        self._begun_at = time.monotonic()
        if not self._off:
            from hms_tune.tracking.wandb.layers import layers_of  # brings torch and timm along

            # Here and not on the thread: building a network, even without numbers, touches torch's global
            # random state, which belongs to the trial.
            layers = layers_of(trial.config)
            self._later(lambda: self._open(trial, layers))

    def event(self, trial: TrialInfo, event: Event) -> None:
        """Log epochs and fold results; at most one call per epoch."""
        self._later(lambda: self._log(trial, event))

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        """Write how the trial ended and close its run."""
        seconds = time.monotonic() - self._begun_at
        cost = {"attempt_seconds": seconds, "gpu_hours": seconds * self._gpus / 3600.0}
        failed = state in (AttemptState.FAILED, AttemptState.INFEASIBLE)
        self._later(lambda: self._with_run(lambda run: log_end(run, self._course, state, value, reason)))
        self._later(lambda: self._close_run(cost, failed=failed))

    def bundle_written(self, trial: TrialInfo, path: Path) -> None:
        """Keep an exported bundle as an artifact of its run."""
        self._later(lambda: self._with_run(lambda run: log_bundle(run, trial, path)))

    def close(self) -> None:
        """Close what is open; the run of an unfinished trial can be resumed."""
        if not self._tasks.is_started:
            return
        self._tasks.put(lambda: self._close_run({}, failed=True))
        self._tasks.put(self._session.close)
        if not self._tasks.close(CLOSE_SECONDS):
            logger.warning("W&B still had something to send; complete its runs with: wandb sync")

    def _later(self, task: Task) -> None:
        if not self._off:
            self._tasks.put(task)

    def _run_task(self, task: Task) -> None:
        try:
            task()
        except Exception as error:  # whatever fails is told once and never reaches the trial
            logger.debug("W&B observer failed", exc_info=True)
            if not self._warned:
                self._warned = True
                logger.warning("W&B: %s; the search goes on without it", first_line(error))

    def _open(self, trial: TrialInfo, layers: tuple[Layer, ...]) -> None:
        self._close_run({}, failed=True)
        run = self._session.open(trial)
        self._run = run
        if run is None:  # nothing more is worked out for it
            self._off = True
            return
        url = run.url
        self._address = (trial.attempt, url) if isinstance(url, str) else None
        # What a run that is gone on with already has is not sent again.
        self._course = Course()
        self._done = int(run.summary.get("epochs_trained") or 0) if run.resumed else 0
        define_metrics(run)
        if layers and not run.resumed:
            log_layers(run, layers)

    def _log(self, trial: TrialInfo, event: Event) -> None:
        def log(run: Any) -> None:
            log_event(run, event, self._course, done=self._done)
            if isinstance(event, CrossValidationEnded) and self._is_news(trial, event):
                log_out_of_fold(run, event.out_of_fold)

        self._with_run(log)

    def _is_news(self, trial: TrialInfo, event: CrossValidationEnded) -> bool:
        if trial.job_type in ("export", "training"):
            return True
        if self._best is None:
            return False
        best = self._best()
        return best is None or event.kl <= best

    def _with_run(self, action: Callable[[Any], None]) -> None:
        if self._run is not None:
            action(self._run)

    def _close_run(self, summary: dict[str, Any], *, failed: bool) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.summary.update(summary)
            self._session.finish(run, failed=failed)
