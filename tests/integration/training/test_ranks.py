"""Two processes that train one trial together, over gloo, do what one does alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file

from hms_tune.config.augmentation import AugmentationConfig
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.store import Store
from hms_tune.database.connect import Storage
from hms_tune.errors import CheckpointError, DataError, RankLostError, TrainingError, UsageError
from hms_tune.training import rank_trials
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.distributed.group import RankGroup, RankPlace, join, place_from_environment
from hms_tune.training.distributed.ranks import Ranks
from hms_tune.training.events import CheckpointWritten, CrossValidationEnded, EpochEnded, Event
from hms_tune.training.fold import FoldTraining
from hms_tune.training.rank_trials import TrialRequest, dismiss, follow_trials, lead_trial
from hms_tune.training.workspace import Workspace
from hms_tune.worker.devices import slot_groups

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXT = multiprocessing.get_context("forkserver")  # processes that need not load again what this file uses
OURS = ("training.cross_validation", "training.rank_trials", "worker.devices", "database.connect")
CONTEXT.set_forkserver_preload([*(f"hms_tune.{name}" for name in OURS), "optuna", "psutil", "pytest"])
CPU = torch.device("cpu")
TIMEOUT_S = 60.0
RELATIVE, ABSOLUTE = 1e-4, 2e-5
"""Sums over a batch are taken in another order, and training amplifies the last bit of float32. Plain SGD:
Adam turns the rounding error of a gradient near zero into a step of full length."""


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
                "learning_rate": 0.05,
                "optimizer": "sgd",
                "few_votes_weight": 0.3,
                "second_stage": {"epochs": 1, "min_votes": 3},
                "grad_clip": 1.0,
                "ema_decay": 0.9,
                **training,
            },
        }
    )


NEXT = make_config(epochs=1, second_stage=None)
"""A short trial that both ranks begin after another has gone wrong."""


@dataclass(frozen=True)
class Script:
    """What the second rank does wrong, if anything: at a step of a fold's training."""

    fault: str = ""
    epoch: int = 1


def second_rank(meeting: Path, store_path: Path, script: Script) -> None:
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
        rank_trials._PATIENCE_S = 1.0
    group = join(RankPlace(1, 2, meeting), CPU, timeout_s=TIMEOUT_S)
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
    second: ForkServerProcess

    def run(self, config: TrialConfig, directory: Path | None = None) -> Iterator[Event]:
        trial = CrossValidation(
            config, self.workspace, directory=directory, keep_weights=directory is not None
        )
        return lead_trial(self.group, trial)


@contextmanager
def pair(store: Store, meeting: Path) -> Iterator[Pair]:
    second = CONTEXT.Process(target=second_rank, args=(meeting, store.path, Script()), daemon=True)
    second.start()
    group = join(RankPlace(0, 2, meeting), CPU, timeout_s=TIMEOUT_S)
    try:
        yield Pair(group, Workspace(store, CPU, ranks=group.ranks), second)
    finally:
        dismiss(group)
        torch.distributed.destroy_process_group()
        second.join(30)
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


def without_checkpoints(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, CheckpointWritten)]


def alone_in(store: Store) -> Callable[[TrialConfig, Path], Iterator[Event]]:
    """As :meth:`Pair.run`, without a second rank."""
    return lambda config, directory: CrossValidation(
        config, Workspace(store, CPU), directory=directory, keep_weights=True
    ).run()


Alone = Callable[[TrialConfig], tuple[list[Event], Path]]


@pytest.fixture(scope="module")
def ranks(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two ranks that run one trial after another, as those of a slot do."""
    with pair(store, tmp_path_factory.mktemp("meeting")) as both:
        yield both
    assert both.second.exitcode == 0


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_two_ranks_learn_what_one_learns(ranks: Pair, tmp_path: Path, alone: Alone, backbone: str) -> None:
    config = make_config(backbone)
    assert_alike(list(ranks.run(config, tmp_path)), tmp_path, *alone(config))


def test_frozen_layers_and_plain_images_are_learnt_from_alike(
    ranks: Pair, tmp_path: Path, alone: Alone
) -> None:
    config = make_config(second_stage=None, ema_decay=None, scheduler={"name": "plateau", "patience": 0})
    model = config.model.model_copy(update={"frozen_layers": 2})
    config = config.model_copy(update={"model": model, "augmentation": AugmentationConfig()})
    assert_alike(list(ranks.run(config, tmp_path)), tmp_path, *alone(config))


@pytest.mark.parametrize("more_ranks_first", [False, True])
def test_a_trial_goes_on_with_another_number_of_ranks(
    ranks: Pair, store: Store, tmp_path: Path, alone: Alone, more_ranks_first: bool
) -> None:
    config = make_config()
    first, second = (ranks.run, alone_in(store)) if more_ranks_first else (alone_in(store), ranks.run)
    for event in first(config, tmp_path):
        if isinstance(event, CheckpointWritten) and event.epoch == 1:
            break
    events = list(second(config, tmp_path))
    assert sum(isinstance(event, EpochEnded) and event.replayed for event in events) == 2
    whole, whole_directory = alone(config)
    assert_alike(without_checkpoints(events), tmp_path, without_checkpoints(whole), whole_directory)


def test_a_trial_the_first_rank_leaves_is_left_by_both(ranks: Pair, tmp_path: Path, alone: Alone) -> None:
    """Pruning: the caller stops iterating, and the next trial begins on both ranks."""
    for event in ranks.run(make_config()):
        if isinstance(event, EpochEnded):
            break
    assert_alike(list(ranks.run(NEXT, tmp_path)), tmp_path, *alone(NEXT))


def test_a_trial_that_fails_on_every_rank_fails_as_on_one(ranks: Pair, tmp_path: Path, alone: Alone) -> None:
    with pytest.raises(DataError, match="0 rows of many votes"):
        list(ranks.run(make_config(second_stage={"epochs": 1, "min_votes": 10_000})))
    assert_alike(list(ranks.run(NEXT, tmp_path)), tmp_path, *alone(NEXT))


def test_a_trial_whose_directory_is_of_another_fails_on_every_rank(
    ranks: Pair, tmp_path: Path, alone: Alone
) -> None:
    with pytest.raises(CheckpointError, match="another trial"):
        list(ranks.run(make_config(learning_rate=0.01), alone(NEXT)[1]))
    assert_alike(list(ranks.run(NEXT, tmp_path)), tmp_path, *alone(NEXT))


def test_a_batch_smaller_than_the_ranks_is_refused() -> None:
    several = Ranks()
    several.size = 3
    assert several.begin_batch(5) == slice(0, 1)
    with pytest.raises(TrainingError, match="a batch of 2 cannot be shared by 3 ranks"):
        several.begin_batch(2)


def first_rank(meeting: Path, store_path: Path, config: str, directory: Path, pipe: Connection) -> None:
    """The life of a rank 0 that loses the other; tells by which error."""
    torch.set_num_threads(1)
    group = join(RankPlace(0, 2, meeting), CPU, timeout_s=TIMEOUT_S)
    workspace = Workspace(Store.open(store_path), CPU, ranks=group.ranks)
    trial = CrossValidation(TrialConfig.model_validate_json(config), workspace, directory=directory)
    try:
        list(lead_trial(group, trial))
    except RankLostError as error:
        pipe.send(str(error))


@pytest.mark.parametrize(
    ("fault", "said", "exitcode"),
    [
        ("killed", "waits in vain: another one is gone", -signal.SIGKILL),
        ("alone", "rank 1: MemoryError: no room on this rank", 1),
    ],
)
def test_a_rank_that_is_lost_ends_the_other_with_an_error(
    store: Store,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    fault: str,
    said: str,
    exitcode: int,
) -> None:
    meeting = tmp_path_factory.mktemp("meeting")
    heard, telling = CONTEXT.Pipe(duplex=False)
    config = make_config(batch_size=3).canonical_json()
    first = CONTEXT.Process(target=first_rank, args=(meeting, store.path, config, tmp_path, telling))
    second = CONTEXT.Process(target=second_rank, args=(meeting, store.path, Script(fault)))
    first.start()
    second.start()
    first.join(TIMEOUT_S)
    second.join(TIMEOUT_S)
    assert heard.poll()
    assert said in heard.recv()
    assert second.exitcode == exitcode
    assert [path.name for path in tmp_path.glob("checkpoint-*.pt")] == ["checkpoint-000000.pt"]


def test_processes_find_their_place_as_torchrun_says_it() -> None:
    environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert place_from_environment(environment) == RankPlace(1, 2)
    assert place_from_environment(environment | {"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert place_from_environment({"WORLD_SIZE": "8"}) is None
    with pytest.raises(UsageError, match="no rank 2 of 2"):
        place_from_environment(environment | {"RANK": "2"})


def test_devices_are_grouped_into_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slot_groups("cpu", 1, 2) == (("cpu+1", ("cpu", "cpu")),)
    assert slot_groups("cpu", 2, 1) == (("cpu-0", ("cpu",)), ("cpu-1", ("cpu",)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert slot_groups("auto", 1, 2) == (
        ("cuda0+1", ("cuda:0", "cuda:1")),
        ("cuda2+3", ("cuda:2", "cuda:3")),
    )
    with pytest.raises(UsageError, match="4 devices cannot be divided into groups of 3"):
        slot_groups("auto", 1, 3)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert slot_groups("auto", 1, 1, place=RankPlace(7, 8)) == (("cuda3+rank7of8", ("cuda:3",)),)


STUDY = """
study: {name}
data: {{folds: 2, holdout: 0.0}}
input: {{eeg: {{name: stft, n_fft: 256}}, image: [32, 32], channels: 1}}
model: {{backbone: test_resnet, pretrained: false}}
training: {{epochs: 12, batch_size: 8, learning_rate: {{low: 1.0e-3, high: 1.0e-2, log: true}}}}
search: {{sampler: random, pruner: none, seed: 3}}
budget: {{trials: 1}}
tracking: {{wandb: {{mode: off}}}}
"""


def children(pid: int) -> list[int]:
    """The slot's processes, in the order of their start: further ranks, then the first."""
    started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in started if "slot " in Path(f"/proc/{child}/cmdline").read_text()]


def reachable_from_outside(pid: int) -> list[str]:
    """Where a process and those it started listen, beyond this machine's own addresses."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    listening = [
        each.laddr.ip
        for process in family
        for each in process.net_connections(kind="inet")
        if each.status == psutil.CONN_LISTEN
    ]
    assert listening  # the ranks' own lines
    return [address for address in listening if not address.startswith("127.")]


@pytest.mark.slow
def test_a_worker_of_two_ranks_completes_its_study_although_one_is_killed(
    store: Store, storage: Storage, database_url: str, study_name: str, tmp_path: Path
) -> None:
    study_file = tmp_path / "ranks.yaml"
    study_file.write_text(STUDY.format(name=study_name))
    options = {"--study": study_file, "--data": store.root, "--device": "cpu"}
    worker = subprocess.Popen(
        [sys.executable, "-m", "hms_tune", "worker", "--verbose", "--ranks-per-trial", "2"]
        + [str(part) for option in options.items() for part in option],
        env=os.environ | {"HMS_TUNE_HOME": str(tmp_path / "home"), "HMS_TUNE_STORAGE": database_url},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert worker.stderr is not None
    for line in worker.stderr:
        if "epoch 2/" in line:
            break
    assert reachable_from_outside(worker.pid) == []
    os.kill(children(worker.pid)[0], signal.SIGKILL)
    said = worker.communicate(timeout=4 * TIMEOUT_S)[1]
    assert worker.returncode == 0, said
    assert "Rank 1 of slot cpu+1 died" in said
    lost, complete = optuna.load_study(study_name=study_name, storage=storage.optuna).get_trials()
    assert lost.state == TrialState.FAIL
    assert "is gone" in lost.user_attrs["reason"]
    assert complete.state == TrialState.COMPLETE
    assert complete.params == lost.params
