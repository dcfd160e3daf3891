"""Two processes that train one trial together, over gloo, do what one does alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore

from hms_tune.config.trial import TrialConfig
from hms_tune.data.prepare import prepare
from hms_tune.data.store import Store
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import CrossValidationEnded, EpochEnded, Event
from hms_tune.training.fold import FoldTraining
from hms_tune.training.rank_group import RankGroup, RankPlace, host_store, join
from hms_tune.training.rank_trials import TrialRequest, dismiss, follow_trials, lead_trial
from hms_tune.training.workspace import Workspace

CPU = torch.device("cpu")
TIMEOUT_S = 60.0
RELATIVE, ABSOLUTE = 2e-3, 2e-4
"""Sums over a batch are taken in another order; training amplifies the last bit of float32."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Store:
    root = competition_writer(tmp_path_factory.mktemp("competition") / "root", patients=8, seconds=60)
    return prepare(root, jobs=1)


def make_config(backbone: str = "test_resnet", **training: object) -> TrialConfig:
    """Everything that looks at a whole batch, or draws for it; shards of three and two rows."""
    return TrialConfig.model_validate(
        {
            "data": {"folds": 2, "holdout": 0.0},
            "input": {"eeg": {"name": "stft", "n_fft": 256}, "image": [32, 64]},
            "augmentation": {
                "left_right_swap": 0.5,
                "time_mask": 0.2,
                "window_shift_seconds": 2.0,
                "mixup_alpha": 0.4,
                "cutmix_alpha": 1.0,
            },
            "model": {"backbone": backbone, "pretrained": False, "dropout": 0.3, "drop_path": 0.2},
            "training": {
                "epochs": 2,
                "batch_size": 5,
                "learning_rate": 1e-3,
                "few_votes_weight": 0.3,
                "second_stage": {"epochs": 1, "min_votes": 3},
                "grad_clip": 1.0,
                "ema_decay": 0.9,
                **training,
            },
        }
    )


@dataclass(frozen=True)
class Script:
    """What the second rank does wrong, if anything: at a step of a fold's training."""

    fault: str = ""
    epoch: int = 1


def second_rank(port: int, store_path: Path, script: Script) -> None:
    """The life of rank 1."""
    torch.set_num_threads(1)
    step = FoldTraining._train_step

    def faulty(self: FoldTraining, stage: Any, epoch: int, number: int, rows: Any) -> Any:
        if epoch == script.epoch and number == 1:
            if script.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if script.fault == "alone":
                raise MemoryError("no room on this rank")
        return step(self, stage, epoch, number, rows)

    if script.fault:
        FoldTraining._train_step = faulty  # type: ignore[method-assign]
    group = join(RankPlace(1, 2, port), CPU, timeout_s=TIMEOUT_S)
    workspace = Workspace(Store.open(store_path), CPU, ranks=group.ranks)

    def start(request: TrialRequest) -> CrossValidation:
        return CrossValidation(
            request.config, workspace, directory=request.directory, keep_weights=request.keep_weights
        )

    follow_trials(group, start)


@dataclass
class Pair:
    """The first rank, in this process, and the process of the second."""

    group: RankGroup
    workspace: Workspace
    second: SpawnProcess

    def run(self, config: TrialConfig, directory: Path | None = None) -> Iterator[Event]:
        trial = CrossValidation(
            config, self.workspace, directory=directory, keep_weights=directory is not None
        )
        return lead_trial(self.group, trial)


@contextmanager
def pair(store: Store, script: Script = Script()) -> Iterator[Pair]:
    meeting: TCPStore = host_store()
    context = multiprocessing.get_context("spawn")
    second = context.Process(target=second_rank, args=(meeting.port, store.path, script), daemon=True)
    second.start()
    group = join(RankPlace(0, 2, meeting.port), CPU, timeout_s=TIMEOUT_S)
    try:
        yield Pair(group, Workspace(store, CPU, ranks=group.ranks), second)
        dismiss(group)
        second.join(30)
    finally:
        group.leave()
        second.kill()


def curves(events: list[Event]) -> np.ndarray[Any, Any]:
    epochs = [event for event in events if isinstance(event, EpochEnded)]
    return np.array([(e.fold, e.epoch, e.train_loss, e.kl, e.estimate, e.learning_rate) for e in epochs])


def assert_alike(events: list[Event], directory: Path, alone: list[Event], alone_directory: Path) -> None:
    """Learning curves, out-of-fold predictions and final weights."""
    assert [type(event) for event in events] == [type(event) for event in alone]
    np.testing.assert_allclose(curves(events), curves(alone), rtol=RELATIVE, atol=ABSOLUTE)
    ended, expected = events[-1], alone[-1]
    assert isinstance(ended, CrossValidationEnded)
    assert isinstance(expected, CrossValidationEnded)
    assert ended.best_epochs == expected.best_epochs
    np.testing.assert_array_equal(ended.out_of_fold.eeg_id, expected.out_of_fold.eeg_id)
    np.testing.assert_allclose(
        ended.out_of_fold.probabilities, expected.out_of_fold.probabilities, rtol=RELATIVE, atol=ABSOLUTE
    )
    for fold in range(2):
        weights = load_file(directory / f"fold_{fold}.safetensors")
        wanted = load_file(alone_directory / f"fold_{fold}.safetensors")
        assert weights.keys() == wanted.keys()
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, wanted[name], rtol=RELATIVE, atol=ABSOLUTE, msg=name)


@pytest.fixture(scope="module")
def alone(
    store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[TrialConfig], tuple[list[Event], Path]]:
    """Runs a configuration in this process alone, once."""
    workspace = Workspace(store, CPU)
    known: dict[str, tuple[list[Event], Path]] = {}

    def run(config: TrialConfig) -> tuple[list[Event], Path]:
        if config.hash not in known:
            directory = tmp_path_factory.mktemp("alone")
            trial = CrossValidation(config, workspace, directory=directory, keep_weights=True)
            known[config.hash] = list(trial.run()), directory
        return known[config.hash]

    return run


Alone = Callable[[TrialConfig], tuple[list[Event], Path]]


def test_two_ranks_learn_what_one_learns(store: Store, tmp_path: Path, alone: Alone) -> None:
    with pair(store) as ranks:
        for backbone in ("test_resnet", "test_efficientnet"):
            config = make_config(backbone)
            directory = tmp_path / backbone
            assert_alike(list(ranks.run(config, directory)), directory, *alone(config))
    assert ranks.second.exitcode == 0
