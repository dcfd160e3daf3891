"""The arms of ``control_plane.py``: the product's own slot, of some commit, and stock Optuna.

Both run the same trials: ten parameters, twenty reports that a median pruner looks at and never prunes (all
trials report the same), a value at the end. Nothing is trained; :attr:`Task.trial_s` is slept.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

FOLDS, EPOCHS = 5, 4
REPORTS = FOLDS * EPOCHS

STUDY = """\
study: {name}
data: {{folds: 5}}
input: {{eeg: {{name: stft, n_fft: 256}}, image: [32, 64], channels: 1}}
augmentation:
  left_right_swap: {{low: 0.0, high: 0.5}}
  sign_flip: {{low: 0.0, high: 0.5}}
  time_mask: {{low: 0.0, high: 0.4}}
  frequency_mask: {{low: 0.0, high: 0.4}}
model:
  backbone: {{choices: [test_resnet, test_efficientnet]}}
  pretrained: false
  dropout: {{low: 0.0, high: 0.5}}
training:
  epochs: 4
  batch_size: {{choices: [16, 32, 64]}}
  learning_rate: {{low: 1.0e-5, high: 1.0e-2, log: true}}
  weight_decay: {{low: 1.0e-4, high: 0.1, log: true}}
  label_smoothing: {{low: 0.0, high: 0.2}}
search: {{sampler: {sampler}, seed: 0, pruner: {{name: median, startup_trials: 5}}}}
budget: {{trials: {trials}}}
tracking: {{wandb: {{mode: off}}}}
"""


@dataclass(frozen=True, slots=True)
class Task:
    """One cell of the table: a study, how many trials it holds by now, and how many are to be run.

    ``stock``: by Optuna alone; else by the slot of the code that is imported.
    """

    stock: bool
    url: str
    name: str
    sampler: str
    workers: int
    trials: int
    in_study: int
    trial_s: float
    folder: str
    by_caller: bool

    @property
    def study_text(self) -> str:
        """The study file; the budget holds what is there, a first trial of each worker, and the trials."""
        budget = self.in_study + self.workers + self.trials
        return STUDY.format(name=self.name, sampler=self.sampler, trials=budget)


@dataclass(slots=True)
class Measured:
    """Seconds of each call, by its kind, and how many trials ended."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ended: int = 0
    asked_at: float | None = None
    """When the first trial had its values."""
    last_end: float = 0.0
    slept: float = 0.0

    def timed(self, kind: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """``work``, whose calls are timed."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            result = work(*arguments, **keywords)
            self._note(kind, time.perf_counter() - began)
            return result

        return timed

    def add(self, kind: str, *parts: str) -> None:
        """Take note of a call that consists of the last call of each of these kinds."""
        self._note(kind, sum(self.seconds[part][-1] for part in parts))

    def _note(self, kind: str, seconds: float) -> None:
        self.seconds[kind].append(seconds)
        if kind == "ask" and self.asked_at is None:
            self.asked_at = time.perf_counter()

    def trial_over(self) -> None:
        """Take note of the end of a trial."""
        self.ended += 1
        self.last_end = time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """The training that is not done here."""
        if seconds > 0.0:
            began = time.perf_counter()
            time.sleep(seconds)
            self.slept += time.perf_counter() - began


class Arm(Protocol):
    """One worker of an arm."""

    def run(self, most: int | None) -> None:
        """Run trials until the budget is spent, or so many are done."""

    def close(self) -> None:
        """Give connections back."""


class TimedQueue:
    """A study's queue whose calls are timed. A claim has the recovery before it."""

    def __init__(self, queue: Any, measured: Measured) -> None:
        self._queue, self._measured = queue, measured
        self.recover = measured.timed("recover", queue.recover)
        self.start = measured.timed("start", queue.start)
        self._claim = measured.timed("grant", queue.claim)
        self._end = measured.timed("tell", queue.end)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def claim(self, token: str, **how: Any) -> Any:
        claimed = self._claim(token, **how)
        self._measured.add("claim", "recover", "grant")
        return claimed

    def end(self, attempt: Any, result: Any) -> Any:
        written = self._end(attempt, result)
        self._measured.trial_over()
        return written


class Ours:
    """A slot with a worker's own settings, its trainer aside."""

    def __init__(self, task: Task, index: int, measured: Measured) -> None:
        from optuna.exceptions import ExperimentalWarning

        from hms_tune.config.study_file import StudyFile
        from hms_tune.database.connect import open_patiently
        from hms_tune.database.queue.lease import Holder
        from hms_tune.machine.processes import this_process
        from hms_tune.studies import record_writer
        from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
        from hms_tune.worker.open_study import join_search

        try:
            from hms_tune.database.connection.retry import Patience
        except ImportError:  # where earlier commits had it
            Patience = import_module("hms_tune.database.retry").Patience  # noqa: N806
        earlier = getattr(record_writer, "Place", None)  # what earlier commits called it
        equipment = earlier or record_writer.Equipment
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        self.task, self.measured = task, measured
        study_file = StudyFile.parse(task.study_text, task.name)
        self.storage = open_patiently(task.url, Patience())
        search = join_search(self.storage, study_file)
        self.recorder = record_writer.TrialRecorder(
            self.storage, search.study_id, equipment("cpu", 0.0, "none")
        )
        self.holder = Holder(f"worker-{index}", f"slot-{index}", this_process())
        folder = Path(task.folder)
        self.artifacts = Artifacts.at(folder / "store", folder / f"scratch-{index}", task.name)
        self.search = self._timed(search)

    def run(self, most: int | None) -> None:
        from hms_tune.database.queue.study_queue import StudyQueue
        from hms_tune.worker.attempt import SlotSetup
        from hms_tune.worker.slot import Slot

        queue = StudyQueue(
            self.storage, self.search.study, self.search.study_id, self.holder, max_trials=most
        )
        timed: Any = TimedQueue(queue, self.measured)
        Slot(
            SlotSetup(
                queue=timed,
                search=self.search,
                train=self._train,
                artifacts=self.artifacts,
                observers=[self.recorder],
            )
        ).run()

    def close(self) -> None:
        self.recorder.close()
        self.storage.close()

    def _train(self, config: Any, directory: Path) -> Iterator[Any]:
        return a_trial(
            config.training.learning_rate, lambda: self.measured.sleep(self.task.trial_s / REPORTS)
        )

    def _timed(self, search: Any) -> Any:
        """Time what stands for Optuna's ask and report. An ask has its values when they are drawn."""
        from hms_tune.training.events import EpochEnded
        from hms_tune.worker.attempt import AttemptRun

        measured, run = self.measured, cast("Any", AttemptRun)
        unmeasured = run._report
        report = measured.timed("report", unmeasured)

        def reported(attempt: Any, event: Any, reports: Any) -> Any:
            return (report if isinstance(event, EpochEnded) else unmeasured)(attempt, event, reports)

        run._report = reported
        draw = measured.timed("draw", search.suggest)

        def drawn(trial: Any) -> Any:
            config = draw(trial)
            measured.add("ask", "start", "draw")
            return config

        return replace(search, suggest=drawn)


class Stock:
    """A script with Optuna's own storage, sampler and pruner, set as the product sets them."""

    def __init__(self, task: Task, index: int, measured: Measured, *, left: Callable[[], bool]) -> None:
        import optuna

        from hms_tune.config.study_file import StudyFile
        from hms_tune.database.connection.url import parse_address
        from hms_tune.search.suggest import distributions

        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.task, self.measured, self.left = task, measured, left
        space = StudyFile.parse(task.study_text, task.name).space
        self.distributions = distributions(space)
        sampler: optuna.samplers.BaseSampler
        if task.sampler == "random":
            sampler = optuna.samplers.RandomSampler(seed=index)
        else:
            sampler = optuna.samplers.TPESampler(
                multivariate=True, group=True, constant_liar=True, seed=index
            )
        url = parse_address(task.url).render_as_string(hide_password=False)
        self.backend = optuna.storages.RDBStorage(url)
        self.study = optuna.load_study(
            study_name=task.name,
            storage=self.backend,
            sampler=sampler,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
        self.ask = measured.timed("ask", self.study.ask)
        self.report = measured.timed("report", self._report)
        self.tell = measured.timed("tell", self.study.tell)

    def run(self, most: int | None) -> None:
        while self.left() if most is None else most > 0:
            most = None if most is None else most - 1
            trial = self.ask(self.distributions)
            learning_rate = trial.params["training.learning_rate"]
            for step in range(1, REPORTS + 1):
                self.measured.sleep(self.task.trial_s / REPORTS)
                assert not self.report(trial, estimate(step), step)
            self.tell(trial, value(learning_rate))
            self.measured.trial_over()

    def close(self) -> None:
        self.backend.remove_session()
        self.backend.engine.dispose()

    @staticmethod
    def _report(trial: Any, estimate: float, step: int) -> bool:
        trial.report(estimate, step)
        return bool(trial.should_prune())


def estimate(step: int) -> float:
    """What every trial reports at a step, counted from 1: nothing for a pruner to choose by."""
    return 1.0 - 0.01 * step


def value(learning_rate: float) -> float:
    """What a trial comes to."""
    return 0.5 + 0.1 * abs(math.log10(learning_rate) + 3.5)


def a_trial(learning_rate: float, sleep: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """The events of a trial of twenty reports that trains nothing."""
    import numpy as np

    from hms_tune.training.events import (
        CrossValidationEnded,
        EpochEnded,
        FoldEnded,
        FoldStarted,
        OutOfFold,
    )

    kl = value(learning_rate)
    for fold in range(FOLDS):
        yield FoldStarted(fold=fold, folds=FOLDS, epochs=EPOCHS, train_rows=80, validation_rows=20)
        for epoch in range(EPOCHS):
            sleep()
            score = estimate(fold * EPOCHS + epoch + 1)
            yield EpochEnded(
                fold=fold,
                folds=FOLDS,
                epoch=epoch,
                epochs=EPOCHS,
                stage=0,
                train_loss=1.0,
                kl=score,
                kl_all_rows=score,
                kl_high_vote=score,
                best_kl=score,
                estimate=score,
                learning_rate=learning_rate,
                images=400,
                seconds=0.01,
            )
        yield FoldEnded(
            fold=fold,
            folds=FOLDS,
            kl=kl,
            kl_all_rows=kl,
            kl_high_vote=kl,
            best_epoch=EPOCHS - 1,
            epochs_run=EPOCHS,
            stopped_early=False,
        )
    rows = np.arange(20, dtype=np.int64)
    yield CrossValidationEnded(
        kl=kl,
        kl_all_rows=kl,
        kl_high_vote=kl,
        fold_kl=(kl,) * FOLDS,
        best_epochs=(EPOCHS - 1,) * FOLDS,
        out_of_fold=OutOfFold(
            row=rows,
            eeg_id=rows,
            patient_id=rows,
            fold=rows % FOLDS,
            probabilities=np.full((20, 6), 1 / 6, np.float32),
            targets=np.full((20, 6), 1 / 6, np.float32),
            total_votes=rows + 1,
        ),
    )
