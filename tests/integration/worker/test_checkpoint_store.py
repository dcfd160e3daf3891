"""Checkpoints that the fleet shares: in a folder, and in a local S3 server."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

from hms_tune.cli.doctor import artifacts_check
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.database.connection.retry import Patience
from hms_tune.errors import ArtifactError, UsageError
from hms_tune.tracking.console import ConsoleObserver
from hms_tune.training import cross_validation
from hms_tune.training.checkpoint import read_newest_checkpoint, write_checkpoint
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import CheckpointFailed, CheckpointWritten, CrossValidationEnded, EpochEnded
from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
from hms_tune.worker.checkpoint_store.files import DirectoryStore, ObjectStore
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.checkpoint_store.uploads import Uploader
from hms_tune.worker.options import WorkerOptions
from hms_tune.worker.worker import Worker


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Endpoint of a local S3 server, with the AWS variables set and the bucket ``fleet`` made."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    endpoint = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="fleet")
    yield endpoint
    patch.undo()
    server.stop()


def test_a_profile_of_the_aws_files_serves_as_well_as_variables(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[profile fleet]\nregion = us-east-1\nendpoint_url = {s3}\n")
    (tmp_path / "keys").write_text("[fleet]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "fleet")
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # as in a new process
    store = open_store(f"s3://fleet/{tmp_path.name}")
    store.put("a/b", tmp_path / "file")
    assert list(store.sizes("")) == ["a/b"]


def test_a_configuration_that_boto3_refuses_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(UsageError, match=r"profile \(absent\) could not be found") as refused:
        open_store("s3://fleet/prefix")
    assert refused.value.where == "HMS_TUNE_ARTIFACTS"


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind, empty."""
    if request.param == "folder":
        return str(tmp_path / "shared")
    request.getfixturevalue("s3")
    return f"s3://fleet/{tmp_path.name}"


def test_files_come_back_as_they_were_and_are_gone_when_removed(location: str, tmp_path: Path) -> None:
    store = open_store(location)
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 100)
    for key in ("study/trial-1/a", "study/trial-1/b", "study/trial-12/a"):
        store.put(key, file)
    assert list(store.sizes("study/trial-1/")) == ["study/trial-1/a", "study/trial-1/b"]
    store.fetch("study/trial-1/a", tmp_path / "deep" / "back")
    assert (tmp_path / "deep" / "back").read_bytes() == file.read_bytes()
    store.remove(["study/trial-1/a", "study/trial-1/never"])
    assert list(store.sizes("study/")) == ["study/trial-1/b", "study/trial-12/a"]
    with pytest.raises(ArtifactError):
        store.fetch("study/trial-1/a", tmp_path / "back")
    with pytest.raises(FileNotFoundError):
        store.put("study/x", tmp_path / "nothing")


def test_a_store_that_can_be_written_to_is_left_as_it_was(location: str, tmp_path: Path) -> None:
    store = open_store(location)
    store.check_writable()
    assert store.sizes("") == {}
    assert not (tmp_path / "shared").exists()


@pytest.fixture(params=["folder", "s3"])
def closed_location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind that takes nothing."""
    if request.param == "folder":
        (tmp_path / "file").touch()
        return str(tmp_path / "file" / "shared")
    request.getfixturevalue("s3")
    return "s3://absent/prefix"


def test_a_worker_whose_store_takes_nothing_ends_before_it_reads_data_or_study(
    closed_location: str, tmp_path: Path
) -> None:
    options = WorkerOptions(
        study_file=StudyFile.parse("study: effnet", "effnet.yaml"),
        storage=None,
        home=tmp_path / "home",
        data_root=tmp_path / "absent",
        artifacts=closed_location,
    )
    with pytest.raises(ArtifactError) as refused:
        Worker(options, ConsoleObserver()).run()
    assert closed_location in str(refused.value.where)
    assert refused.value.exit_code == 1


def test_doctor_finds_a_store_that_takes_nothing(closed_location: str, tmp_path: Path) -> None:
    found = artifacts_check(Settings(home=tmp_path / "home", artifacts=closed_location))
    assert found.state == "fail"
    assert closed_location in found.detail


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="gs:// cannot hold artifacts"):
        open_store("gs://bucket/x")
    with pytest.raises(UsageError, match="no bucket"):
        open_store("s3:///x")


def attempt(
    location: str, scratch: Path, number: int, steps: range, *, damage: bool = False, held: bool = True
) -> int | None:
    """Train some steps as one attempt of trial 0; returns the step it resumed from."""
    artifacts = Artifacts.at(location, scratch, "study")
    with artifacts.files_of(0, number, allowed=lambda: held) as place:
        saved = read_newest_checkpoint(place.directory)
        for step in steps:
            path = write_checkpoint(place.directory, step, {"step": step, "by": number})
            if damage and step == steps[-1]:
                content = bytearray(path.read_bytes())
                content[-5] ^= 1
                path.write_bytes(content)
            place.uploads.offer(path)
            assert place.uploads.flush(most_s=20.0 if held else 0.05) is held
    return None if saved is None else int(saved["step"])


def test_a_trial_goes_on_elsewhere_from_its_newest_checkpoint(location: str, tmp_path: Path) -> None:
    assert attempt(location, tmp_path / "one", 0, range(4)) is None
    assert attempt(location, tmp_path / "two", 3, range(4, 5)) == 3
    assert attempt(location, tmp_path / "three", 7, range(0)) == 4
    kept = [key.rpartition("/trial-0/")[2] for key in list(open_store(location).sizes("study/"))]
    assert kept == [
        "attempt-000000/checkpoint-000002.pt",
        "attempt-000000/checkpoint-000003.pt",
        "attempt-000003/checkpoint-000004.pt",
    ]


def test_a_damaged_newest_checkpoint_costs_one_epoch(
    location: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempt(location, tmp_path / "one", 0, range(4), damage=True)
    assert attempt(location, tmp_path / "two", 1, range(0)) == 2
    assert "the checkpoint is damaged; falling back on the one before" in caplog.text


def test_a_loser_overwrites_nothing_of_its_successor(location: str, tmp_path: Path) -> None:
    attempt(location, tmp_path / "one", 0, range(2))
    attempt(location, tmp_path / "two", 1, range(2, 4))
    store = open_store(location)
    before = list(store.sizes("study/"))
    attempt(location, tmp_path / "one", 0, range(5, 9), held=False)  # its lease is in doubt
    assert list(store.sizes("study/")) == before
    attempt(location, tmp_path / "one", 0, range(5, 9))  # and even if it wrote
    assert attempt(location, tmp_path / "three", 2, range(0)) == 3


def test_trials_that_have_ended_leave_nothing(location: str, tmp_path: Path) -> None:
    attempt(location, tmp_path / "one", 0, range(2))
    artifacts = Artifacts.at(location, tmp_path / "one", "study")
    assert artifacts.present() == {0}
    artifacts.remove([0, 5])
    assert artifacts.present() == frozenset()


def test_a_store_that_is_away_when_a_trial_begins_is_waited_for_and_named(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    artifacts = Artifacts.at("s3://fleet/x", tmp_path, "study")
    with (
        pytest.raises(ArtifactError, match="AWS_ENDPOINT_URL"),
        artifacts.files_of(0, 1, allowed=lambda: True, patience=Patience(most_s=0.0)),
    ):
        pass


def test_a_full_store_warns_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hms_tune.worker.checkpoint_store.uploads.AGAIN_S", 0.01)
    store: ObjectStore = DirectoryStore(tmp_path / "shared")
    full = True
    link = os.link

    def limited(source: Any, target: Any, **keywords: Any) -> None:
        if full and "checkpoint-000001" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(source, target, **keywords)

    def no_room(source: Any, target: Any, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", limited)
    monkeypatch.setattr("shutil.copyfileobj", no_room)
    with Uploader(store, "study/trial-0/attempt-000000/", allowed=lambda: True) as uploads:
        for step in range(2):
            uploads.offer(write_checkpoint(tmp_path / "scratch", step, {"step": step}))
            uploads.flush(most_s=0.5)
        assert list(store.sizes("study/")) == ["study/trial-0/attempt-000000/checkpoint-000000.pt"]
        assert caplog.text.count("No space left on device") == 1
        full = False
        assert uploads.flush(most_s=20.0)
    assert len(list(store.sizes("study/"))) == 2


def linked_trial(tmp_path: Path) -> tuple[Artifacts, Path]:
    """A shared folder in which somebody put a link where trial 0 was, and a file behind it."""
    shared = tmp_path / "shared"
    attempt(str(shared), tmp_path / "one", 0, range(2))
    elsewhere = tmp_path / "elsewhere" / "attempt-000000"
    shutil.move(shared / "study" / "trial-0", elsewhere.parent)
    (shared / "study" / "trial-0").symlink_to(elsewhere.parent, target_is_directory=True)
    return Artifacts.at(shared, tmp_path / "one", "study"), elsewhere


def test_what_lies_behind_a_link_in_the_shared_folder_is_not_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifacts, elsewhere = linked_trial(tmp_path)
    before = sorted(elsewhere.iterdir())
    artifacts.remove([0])
    assert "trial-0" in caplog.text
    artifacts.remove_all()
    assert sorted(elsewhere.iterdir()) == before != []


def test_what_lies_behind_a_link_in_the_shared_folder_is_not_written_or_read(tmp_path: Path) -> None:
    _, elsewhere = linked_trial(tmp_path)
    store = DirectoryStore(tmp_path / "shared")
    (name, *_) = sorted(elsewhere.iterdir())
    key = f"study/trial-0/attempt-000000/{name.name}"
    mine = tmp_path / "mine"
    mine.write_text("mine")
    with pytest.raises(ArtifactError):
        store.put(key, mine)
    with pytest.raises(ArtifactError):
        store.fetch(key, tmp_path / "fetched")
    assert not os.path.lexists(tmp_path / "fetched")


def test_a_pipe_or_a_link_in_place_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shared" / "study" / "trial-0" / "attempt-000000"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "checkpoint-000000.pt")
    (folder / "checkpoint-000001.pt").symlink_to("/etc/hostname")
    store = DirectoryStore(tmp_path / "shared")
    for name in ("checkpoint-000000.pt", "checkpoint-000001.pt"):
        with pytest.raises(ArtifactError):
            store.fetch(f"study/trial-0/attempt-000000/{name}", tmp_path / "fetched")
    assert list(store.sizes("study/")) == []


def test_only_checkpoints_are_deleted_with_a_study(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    attempt(str(shared), tmp_path / "one", 0, range(2))
    kept = shared / "study" / "notes.txt"
    kept.write_text("a person's")
    Artifacts.at(shared, tmp_path / "one", "study").remove_all()
    assert [path for path in shared.rglob("*") if path.is_file()] == [kept]


def test_checkpoints_are_closed_to_others_unless_the_group_is_asked_for(tmp_path: Path) -> None:
    alone, group = tmp_path / "alone", tmp_path / "group"
    group.mkdir()
    group.chmod(0o2770)
    for shared in (alone, group):
        attempt(str(shared), tmp_path / "one", 0, range(1))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (alone, *alone.rglob("*")) if path.is_dir()}
    assert modes == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in group.rglob("*") if path.is_dir()} == {0o2770}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Store:
    return prepare(competition_writer(tmp_path_factory.mktemp("data") / "hms", patients=6), jobs=1)


CONFIG = TrialConfig.model_validate(
    {
        "data": {"folds": 2, "holdout": 0.0},
        "input": {"eeg": {"name": "stft", "n_fft": 256}, "image": [32, 32], "channels": 1},
        "model": {"backbone": "test_resnet", "pretrained": False, "dropout": 0.2},
        "training": {
            "epochs": 3,
            "batch_size": 8,
            "optimizer": "adamw",
            "scheduler": {"name": "plateau", "patience": 1},
            "ema_decay": 0.9,
            "early_stopping": {"patience": 2},
        },
    }
)


def whole(events: Iterator[Any]) -> tuple[list[EpochEnded], CrossValidationEnded]:
    told = list(events)
    assert isinstance(told[-1], CrossValidationEnded)
    return [event for event in told if isinstance(event, EpochEnded)], told[-1]


def test_on_another_machine_a_trial_goes_on_from_s3_alone_as_if_nothing_had_happened(
    s3: str, prepared: Store, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    epochs, undisturbed = whole(CrossValidation(CONFIG, prepared, "cpu").run())
    location = "s3://fleet/machines"
    with Artifacts.at(location, tmp_path / "one", "study").files_of(0, 0, allowed=lambda: True) as place:
        for event in CrossValidation(CONFIG, prepared, "cpu", directory=place.directory).run():
            if isinstance(event, CheckpointWritten):
                place.uploads.offer(event.path)
                assert place.uploads.flush(most_s=20.0)
                if (event.fold, event.epoch) == (1, 0):
                    break
    assert not list((tmp_path / "one").rglob("*.pt"))
    with Artifacts.at(location, tmp_path / "two", "study").files_of(0, 1, allowed=lambda: True) as place:
        resumed, ended = whole(CrossValidation(CONFIG, prepared, "cpu", directory=place.directory).run())
    replayed = [event for event in resumed if event.replayed]
    assert [(event.fold, event.epoch) for event in replayed][-1] == (1, 0)
    for ours, theirs in zip(resumed, epochs, strict=True):
        for name in ("train_loss", "kl", "best_kl", "estimate", "learning_rate"):
            assert getattr(ours, name) == getattr(theirs, name)
    assert (ended.kl, ended.fold_kl) == (undisturbed.kl, undisturbed.fold_kl)
    assert (ended.out_of_fold.probabilities == undisturbed.out_of_fold.probabilities).all()


def test_a_trial_whose_disk_is_full_goes_on_from_memory(
    prepared: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(1)
    _, undisturbed = whole(CrossValidation(CONFIG, prepared, "cpu").run())
    written = cross_validation.write_checkpoint

    def full(*arguments: Any) -> Path:
        if arguments[1] < 2:
            return written(*arguments)
        monkeypatch.setattr(os, "fsync", no_space)
        return written(*arguments)

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cross_validation, "write_checkpoint", full)
    told = list(CrossValidation(CONFIG, prepared, "cpu", directory=tmp_path).run())
    assert told[-1].kl == undisturbed.kl
    failed = [event for event in told if isinstance(event, CheckpointFailed)]
    assert "No space left on device" in failed[0].reason
    assert (failed[0].fold, failed[0].epoch) == (0, 2)
    saved = read_newest_checkpoint(tmp_path)
    assert saved is not None  # the one before stays
    assert len(saved["story"]) == 3  # the fold's beginning and two epochs
    assert "the trial goes on without it" in caplog.text
