"""Disk full while checkpointing, and at every other write of a trial's life and of the store's making.

``HMS_TUNE_FAULTS_LONG=1`` fails every call there is, and lets the disk stay full from the first of every
kind; without it, one call of every fourth kind, by turns once and from there on.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from full_disk import Call, FullDisk
from slots import a_slot
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.study_sections import WandbConfig
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.prepare import prepare
from hms_tune.database.connect import Storage
from hms_tune.errors import ArtifactError, CheckpointError, HmsTuneError, StoreError
from hms_tune.studies.record_writer import Equipment, TrialRecorder
from hms_tune.studies.trial_record import trial_record
from hms_tune.tracking.wandb import WandbObserver
from hms_tune.tracking.wandb.run import Session
from hms_tune.training.checkpoint import read_newest_checkpoint, verify_checkpoint, write_checkpoint
from hms_tune.training.events import CheckpointFailed, CheckpointWritten, Event
from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
from hms_tune.worker.open_study import join_search
from hms_tune.worker.stop import Stop
from studies import show_trials

LONG = os.environ.get("HMS_TUNE_FAULTS_LONG") == "1"
FULL = "No space left on device"

STUDY = """
study: {name}
data: {{folds: 2}}
training: {{epochs: 3, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false}}
search: {{sampler: random, pruner: none, seed: 5}}
budget: {{trials: 1}}
tracking: {{wandb: {{mode: offline}}}}
"""


def campaign(calls: Sequence[Call]) -> list[tuple[Call, bool]]:
    """Which call to fail, and whether the disk stays full."""
    kinds = dict.fromkeys(kind for kind, _ in calls)
    if LONG:
        return [(call, False) for call in dict.fromkeys(calls)] + [((kind, 0), True) for kind in kinds]
    return [((kind, 0), index % 8 == 4) for index, kind in enumerate(kinds) if index % 4 == 0]


class LoggedRun:
    """A run of Weights & Biases that keeps what it is told in its directory, as the real one does."""

    resumed, offline, id, url = False, True, "run", None

    def __init__(self, folder: Path) -> None:
        self._path = folder / "wandb" / "run.log"
        self.summary: dict[str, Any] = {}

    def log(self, row: dict[str, Any]) -> None:
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("a") as file:
            file.write(f"{row}\n")

    def define_metric(self, *_arguments: Any, **_named: Any) -> None: ...

    def finish(self, **_named: Any) -> None: ...


def score(weight: float, step: int) -> float:
    """A map in which a step left out or done twice is seen in the value."""
    return (weight * 3.9999 * (1.0 - weight) + 0.1 * step) % 1.0


def trainer(stop: Stop | None = None, stop_at: int = -1) -> Callable[[TrialConfig, Path], Iterator[Event]]:
    """Two folds of three epochs that go on from the newest checkpoint, as cross-validation does."""

    def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
        saved = read_newest_checkpoint(directory)
        told = [] if saved is None else list(saved["told"])
        replayed = len(told)
        for fold in range(2):
            yield a_fold_start(fold, replayed=3 * fold < replayed)
            for number in range(3):
                step = 3 * fold + number
                if step >= replayed:
                    told.append(score(told[-1] if told else config.training.learning_rate, step))
                yield an_epoch(fold, number, kl=told[step], replayed=step < replayed)
                if step >= replayed:
                    if step == stop_at and stop is not None:
                        stop.request()
                    yield written(directory, step, {"told": told}, fold, number)
            yield a_fold_end(fold, kl=told[3 * fold + 2])
        yield an_ending(sum(told))

    return train


def written(directory: Path, step: int, state: dict[str, Any], fold: int, epoch: int) -> Event:
    """Write a checkpoint; where it fails, the one before it must load."""
    before = read_newest_checkpoint(directory)
    try:
        return CheckpointWritten(path=write_checkpoint(directory, step, state), fold=fold, epoch=epoch)
    except CheckpointError as error:
        newest = read_newest_checkpoint(directory)
        assert newest in (before, state)  # whole either way: the disk may fill up after it is in place
        return CheckpointFailed(reason=str(error), fold=fold, epoch=epoch)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for room that will not come; no wandb of the real kind."""
    monkeypatch.setattr("hms_tune.worker.checkpoint_store.uploads.AGAIN_S", 0.01)
    monkeypatch.setattr("hms_tune.worker.attempt.STORE_S", 0.0)
    monkeypatch.setattr("hms_tune.worker.attempt.FLUSH_S", 0.2)

    def init(session: Session, _trial: Any, _mode: str) -> LoggedRun:
        return LoggedRun(session._directory)

    monkeypatch.setattr(Session, "_init", init)
    monkeypatch.setattr("hms_tune.tracking.wandb.layers.layers_of", lambda config: ())


def live(storage: Storage, name: str, folder: Path) -> list[HmsTuneError]:
    """A trial's life on two machines: begun on one, requeued, ended on the other. What ended workers."""
    study = StudyFile.parse(STUDY.format(name=name), "test")
    raised: list[HmsTuneError] = []
    for machine, stop_at in (("one", 3), ("two", -1)):
        stop = Stop()
        search = join_search(storage, study)
        observers = [
            WandbObserver(WandbConfig(project="test", mode="offline"), directory=folder / machine),
            TrialRecorder(storage, search.study_id, Equipment("cpu", 0.0, "0" * 64)),
        ]
        artifacts = Artifacts.at(folder / "shared", folder / machine / "scratch", name)
        train = trainer(stop, stop_at)
        slot = a_slot(
            storage, search, train, artifacts, worker=machine, observers=observers, stop=stop, poll_s=0.01
        )
        try:
            slot.run()
        except HmsTuneError as error:
            raised.append(error)
        finally:
            for observer in observers:
                observer.close()
    return raised


def value_of(storage: Storage, name: str) -> float:
    (complete,) = [trial for trial in show_trials(storage, name) if trial.state == "complete"]
    assert complete.value is not None
    return complete.value


def whole(folder: Path) -> None:
    """Every checkpoint under its final name is whole."""
    for path in folder.rglob("checkpoint-*.pt"):
        verify_checkpoint(path)


@pytest.mark.slow
def test_disk_full_while_checkpointing_or_at_any_other_write_of_a_trial_costs_no_trial(
    storage: Storage, study_name: str, tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    with FullDisk(tmp_path / "undisturbed").mounted() as disk:
        assert live(storage, study_name, tmp_path / "undisturbed") == []
    undisturbed = value_of(storage, study_name)
    kinds = {kind.split()[0] for kind, _ in disk.calls}
    assert {"mkdir", "open", "write", "fsync", "replace", "link"} <= kinds
    assert any("wandb" in kind for kind, _ in disk.calls)

    for number, (call, stays) in enumerate(campaign(disk.calls)):
        name, folder = f"{study_name}-{number}", tmp_path / str(number)
        caplog.clear()
        with caplog.at_level(logging.WARNING), FullDisk(folder, call, stays=stays).mounted() as full:
            ended = live(storage, name, folder)
        assert full.failed or call[1], call  # of several uploads a newer one may take the place of an older
        whole(folder)
        for error in ended:  # a worker may end, and says so; its trial is requeued
            assert isinstance(error, ArtifactError), call
            assert FULL in str(error), call
            assert error.hint, call
        states = {trial.state for trial in show_trials(storage, name)}
        assert "complete" in states or ended, (call, states)
        if "complete" not in states:
            assert live(storage, name, folder) == [], call  # there is room again
        assert value_of(storage, name) == undisturbed, call
        assert trial_record(storage, name, show_trials(storage, name)[-1].attempt).traceback is None
        shutil.rmtree(folder, ignore_errors=True)


def bytes_of(store: Path) -> dict[str, bytes]:
    """Every file but the manifest, which says where it lies."""
    return {path.name: path.read_bytes() for path in store.iterdir() if path.suffix != ".json"}


def test_disk_full_at_any_write_of_the_store_leaves_no_store_and_the_same_bytes_later(
    tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(
        tmp_path / "hms", patients=1, recordings_per_patient=1, test_recordings=1, seconds=50
    )
    whole = tmp_path / "whole"
    whole.mkdir()
    with FullDisk(whole).mounted() as disk:
        undisturbed = prepare(root, store=whole / "stores" / "a", jobs=1).manifest.digest
    assert {call.split()[0] for call, _ in disk.calls} >= {
        "mkdir",
        "open",
        "write",
        "pwrite",
        "fsync",
        "rename",
    }
    for number, (call, stays) in enumerate(campaign(disk.calls)):
        folder = tmp_path / str(number)
        folder.mkdir()
        store = folder / "stores" / "a"
        with FullDisk(folder, call, stays=stays).mounted() as full, pytest.raises(StoreError, match=FULL):
            prepare(root, store=store, jobs=1)
        assert full.failed, call
        assert not store.exists(), call
        assert prepare(root, store=store, jobs=1).manifest.digest == undisturbed, call
        assert [path.name for path in store.parent.iterdir()] == ["a"], call
        assert bytes_of(store) == bytes_of(whole / "stores" / "a"), call
        shutil.rmtree(folder)
