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

import numpy as np
from machine import cpu_seconds


@dataclass(frozen=True)
class Size:
    """How large the benchmark is. ``patients`` have about five EEGs each."""

    backbones: tuple[str, ...]
    image: tuple[int, int]
    patients: int
    folds: int
    train_folds: int
    epochs: int
    configurations: int
    rounds: int
    minutes: float


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


def study_text(size: Size, name: str, trials: int, seed: int) -> str:
    """The study file of ours; the notebook draws the same parameters."""
    return f"""
study: {name}
data: {{folds: {size.folds}, train_folds: {size.train_folds}, holdout: 0.0, rows: row}}
input: {{eeg: {{name: stft, n_fft: 512}}, image: [{size.image[0]}, {size.image[1]}]}}
model:
  backbone: {{choices: [{", ".join(size.backbones)}]}}
  pretrained: false
  dropout: {{low: 0.0, high: 0.5}}
training:
  epochs: {size.epochs}
  batch_size: {{choices: [16, 32, 64]}}
  learning_rate: {{low: 3.0e-4, high: 3.0e-3, log: true}}
  weight_decay: {{low: 1.0e-4, high: 5.0e-2, log: true}}
  scheduler: cosine
  seed: {seed}
search: {{sampler: random, pruner: none}}
budget: {{trials: {trials}}}
tracking: {{wandb: {{mode: off}}}}
"""


def draw(size: Size) -> list[dict[str, Any]]:
    """The configurations, by short parameter names."""
    rng = np.random.default_rng(0)
    return [
        {
            "backbone": size.backbones[number % len(size.backbones)],
            "batch_size": int(rng.choice([16, 32, 64])),
            "learning_rate": float(np.exp(rng.uniform(np.log(3e-4), np.log(3e-3)))),
            "weight_decay": float(np.exp(rng.uniform(np.log(1e-4), np.log(5e-2)))),
            "dropout": float(rng.uniform(0.0, 0.5)),
        }
        for number in range(size.configurations)
    ]


class NotebookArm:
    """A and A+."""

    def __init__(self, size: Size, root: Path, *, tuned: bool) -> None:
        import torch
        from notebook import PLAIN, TUNED, Competition, Notebook

        from hms_tune.config.study_file import StudyFile
        from hms_tune.config.trial import TrialConfig
        from hms_tune.data.prepare import prepare
        from hms_tune.search.space import config_of
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

    def trial_ended(self, trial: Any, outcome: str, value: float | None, reason: str | None) -> None:
        """Note the score by the learning rate, which no two configurations share."""
        if outcome != "complete" or value is None:
            raise RuntimeError(f"trial {trial.number}: {outcome} ({reason})")
        self.kl[repr(trial.config.training.learning_rate)] = value

    def close(self) -> None:
        """Nothing is held open."""


class OurArm:
    """The product's slot."""

    def __init__(self, size: Size, root: Path, home: Path, *, seed: int) -> None:
        import torch

        from hms_tune.data.prepare import prepare
        from hms_tune.service.devices import cpu_threads
        from hms_tune.service.embedded import start_embedded
        from hms_tune.service.storage import open_storage
        from hms_tune.training.device import resolve_device
        from hms_tune.training.workspace import Workspace

        device = resolve_device("auto")
        if device.type == "cpu":
            torch.set_num_threads(cpu_threads(1))
        self.size, self.seed, self.home, self.rounds = size, seed, home, 0
        self.storage = open_storage(start_embedded(home / "postgres"))
        self.workspace = Workspace(prepare(root), device)
        self.data = self.checkpoints = 0.0
        self._time_data()
        self._time_checkpoints()

    def _time_data(self) -> None:
        """Time the calls that get images; on a GPU that is the host's share, for the device works apart."""
        from hms_tune.training.images import RowImages

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
        for name in ("clean", "augmented"):
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
        from hms_tune.config.study_file import StudyFile
        from hms_tune.service.artifacts import Artifacts
        from hms_tune.service.leases import Holder
        from hms_tune.service.machine import this_process
        from hms_tune.service.slot import Slot
        from hms_tune.service.study import join_search
        from hms_tune.training.cross_validation import CrossValidation

        self.rounds += 1
        name = f"trials-{self.seed}-{self.rounds}"
        study_file = StudyFile.parse(study_text(self.size, name, len(chosen), self.seed), name)
        search = join_search(self.storage, study_file)
        for values in chosen:
            search.study.enqueue_trial(long_names(values))
        told, inside = Told(), 0.0

        def train(config: Any, directory: Path) -> Any:
            nonlocal inside
            events = CrossValidation(config, self.workspace, directory=directory).run()
            while True:
                began = time.perf_counter()
                event = next(events, None)
                inside += time.perf_counter() - began
                if event is None:
                    return
                yield event

        slot = Slot(
            self.storage,
            search,
            Holder("benchmark", "slot", this_process()),
            train=train,
            artifacts=Artifacts(self.home / "artifacts", name),
            observers=[told],
        )
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


def long_names(values: dict[str, Any]) -> dict[str, Any]:
    """Parameter names as a study file has them; a choice of one backbone is a choice all the same."""
    model = ("backbone", "dropout")
    return {f"{'model' if name in model else 'training'}.{name}": value for name, value in values.items()}


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
