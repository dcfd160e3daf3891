"""The arms of ``trials.py``, each to be run in a process of its own by :func:`serve`."""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from machine import cpu_seconds
from trial_task import Size, draw, long_names, study_text


@dataclass
class Round:
    """What one arm did in one round; seconds but for ``images`` and ``kl``. None: not measured."""

    seconds: float
    images: int
    kl: list[float]
    data: float
    storage: float
    compiling: float
    cpu: float
    gpu_busy: float | None = None


class NotebookArm:
    """A and A+."""

    def __init__(self, size: Size, root: Path, *, tuned: bool) -> None:
        import torch
        from notebook import PLAIN, TUNED, Competition, Notebook

        from hms_tune.config.study_file import StudyFile
        from hms_tune.config.trial import TrialConfig
        from hms_tune.data.store.prepare import prepare
        from hms_tune.search.suggest import config_of
        from hms_tune.training.workspace import Workspace

        study_file = StudyFile.parse(study_text(size, "notebook", 1, 0), "notebook")
        config: TrialConfig = config_of(study_file.space, long_names(draw(size)[0]))
        data = Workspace(prepare(root), torch.device("cpu")).trial_data(config)
        rows = torch.arange(len(data.labels))
        images = torch.cat([data.images.clean(some) for some in rows.split(64)]).contiguous().numpy()
        folds = [data.fold_rows(fold) for fold in range(size.train_folds)]
        competition = Competition(images, data.labels.targets, folds)
        del data
        habits = TUNED if tuned else PLAIN
        self.notebook = Notebook(competition, habits, epochs=size.epochs, backbones=list(size.backbones))

    def run(self, chosen: list[dict[str, Any]]) -> Round:
        """Run some configurations."""
        import optuna
        from notebook import Spent

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.notebook.spent = Spent()
        study = optuna.create_study()
        for values in chosen:
            study.enqueue_trial(values)
        inside = 0.0

        def objective(trial: optuna.Trial) -> float:
            nonlocal inside
            began = time.perf_counter()
            kl = self.notebook.objective(trial)
            inside += time.perf_counter() - began
            return kl

        cpu, began = cpu_seconds(), time.perf_counter()
        study.optimize(objective, n_trials=len(chosen))
        seconds = time.perf_counter() - began
        spent = self.notebook.spent
        return Round(seconds, spent.images, spent.kl, spent.data, seconds - inside, 0.0, cpu_seconds() - cpu)


@dataclass
class Told:
    """Observer of our slot: images learnt from and the result of each trial, by its values."""

    images: int = 0
    kl: dict[str, float] = field(default_factory=dict)

    def trial_started(self, trial: Any) -> None:
        """Nothing to note."""

    def event(self, trial: Any, event: Any) -> None:
        """Count images."""
        if type(event).__name__ == "EpochEnded":
            self.images += event.images

    def trial_ended(self, trial: Any, state: str, value: float | None, reason: str | None) -> None:
        """Note the score by the learning rate, which no two configurations share."""
        if state != "complete" or value is None:
            raise RuntimeError(f"trial {trial.trial}: {state} ({reason})")
        self.kl[repr(trial.config.training.learning_rate)] = value

    def close(self) -> None:
        """Nothing is held open."""


class OurArm:
    """The product's slot."""

    def __init__(self, size: Size, root: Path, home: Path, *, seed: int) -> None:
        import torch

        from hms_tune.config.acceleration import AccelerationSettings
        from hms_tune.data.store.prepare import prepare
        from hms_tune.database.connect import open_storage
        from hms_tune.database.embedded.server import start_embedded
        from hms_tune.machine.cores import cpu_threads
        from hms_tune.machine.device import resolve_device
        from hms_tune.training.workspace import Workspace

        device = resolve_device("auto")
        if device.type == "cpu":
            torch.set_num_threads(cpu_threads(1))
        self.size, self.seed, self.home, self.rounds = size, seed, home, 0
        self.storage = open_storage(start_embedded(home / "postgres"))
        acceleration = AccelerationSettings(
            times=home.parent / "steps.json", trials_to_come=size.configurations
        )
        self.workspace = Workspace(prepare(root), device, acceleration)
        self.data = self.checkpoints = 0.0
        self._time_data()
        self._time_checkpoints()

    def _time_data(self) -> None:
        """Time the calls that get images; on a GPU that is the host's share, for the device works apart."""
        from hms_tune.training.images.images import RowImages

        def timed(owner: Any, name: str) -> None:
            method = getattr(owner, name)

            def outermost(*arguments: Any, **named: Any) -> Any:
                if self._inside:
                    return method(*arguments, **named)
                began = time.perf_counter()
                self._inside = True
                try:
                    return method(*arguments, **named)
                finally:
                    self._inside = False
                    self.data += time.perf_counter() - began

            setattr(owner, name, outermost)

        self._inside = False
        timed(self.workspace, "trial_data")
        for name in ("clean", "augmented", "signals"):
            if hasattr(RowImages, name):
                timed(RowImages, name)

    def _time_checkpoints(self) -> None:
        from hms_tune.training import cross_validation

        write = cross_validation.write_checkpoint

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return write(*arguments, **named)
            finally:
                self.checkpoints += time.perf_counter() - began

        cross_validation.write_checkpoint = timed

    def run(self, chosen: list[dict[str, Any]]) -> Round:
        """Run some configurations as a study of their own."""
        from hms_tune.config.settings import DEFAULT_CHECKPOINT_SECONDS
        from hms_tune.config.study_file import StudyFile
        from hms_tune.database.queue.lease import Holder
        from hms_tune.database.queue.study_queue import StudyQueue
        from hms_tune.machine.processes import this_process
        from hms_tune.training.cross_validation import CrossValidation
        from hms_tune.worker.attempt import SlotSetup
        from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
        from hms_tune.worker.open_study import join_search
        from hms_tune.worker.slot import Slot

        self.rounds += 1
        name = f"trials-{self.seed}-{self.rounds}"
        study_file = StudyFile.parse(study_text(self.size, name, len(chosen), self.seed), name)
        search = join_search(self.storage, study_file)
        for values in chosen:
            search.study.enqueue_trial(long_names(values))
        told, inside = Told(), 0.0

        def train(config: Any, directory: Path) -> Any:
            nonlocal inside
            events = CrossValidation(
                config, self.workspace, directory=directory, checkpoint_every_s=DEFAULT_CHECKPOINT_SECONDS
            ).run()
            while True:
                began = time.perf_counter()
                event = next(events, None)
                inside += time.perf_counter() - began
                if event is None:
                    return
                yield event

        queue = StudyQueue(
            self.storage, search.study, search.study_id, Holder("benchmark", "slot", this_process())
        )
        artifacts = Artifacts.at(self.home / "artifacts", self.home / "scratch", name)
        slot = Slot(SlotSetup(queue, search, train, artifacts, observers=[told]))
        self.data, self.checkpoints, compiled = 0.0, 0.0, compile_seconds()
        cpu, began = cpu_seconds(), time.perf_counter()
        slot.run()
        seconds = time.perf_counter() - began
        kl = [told.kl[repr(values["learning_rate"])] for values in chosen]
        return Round(
            seconds,
            told.images,
            kl,
            self.data,
            seconds - inside + self.checkpoints,
            compile_seconds() - compiled,
            cpu_seconds() - cpu,
        )


def compile_seconds() -> float:
    """What torch.compile says it has spent so far; 0 where it was never used."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    spent = getattr(dynamo, "compilation_time_metrics", {}) if dynamo else {}
    return float(sum(spent.get("entire_frame_compile", [])))


def serve(arm: str, size: Size, root: Path, home: Path, pipe: Connection) -> None:
    """The process of an arm: configurations in, a round out, until there are none."""
    # A spawned process would spawn in its turn, and loader workers that import torch anew take seconds each;
    # in a notebook on Linux (up to Python 3.13) they are forked.
    multiprocessing.set_start_method("fork", force=True)
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    made = (
        OurArm(size, root, home, seed=int("seed 1" in arm))
        if arm.startswith("ours")
        else NotebookArm(size, root, tuned=arm == "A+")
    )
    pipe.send("ready")
    try:
        while (chosen := pipe.recv()) is not None:
            pipe.send(made.run(chosen))
    except EOFError:  # the benchmark is gone, and said why
        return
