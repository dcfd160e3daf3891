"""Runs as Weights & Biases keeps them on disk, and a server that does not answer."""

from __future__ import annotations

import json
import logging
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hms_tune.config.trial import TrialConfig
from hms_tune.tracking import wandb as tracking
from hms_tune.tracking.observer import TrialInfo
from hms_tune.tracking.wandb import WandbObserver, resolve_mode, run_id
from hms_tune.training.events import (
    CrossValidationEnded,
    EpochEnded,
    Event,
    FoldEnded,
    FoldStarted,
    OutOfFold,
)

FOLDS, EPOCHS = 2, 3
BLOCK_BYTES = 32_768
HEADER_BYTES = 7


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def trial() -> TrialInfo:
    return TrialInfo(
        study="effnet", number=9, lineage=4, config=TrialConfig(), params={"model.dropout": 0.25}, slot="cpu"
    )


def story() -> Iterator[Event]:
    for fold in range(FOLDS):
        yield FoldStarted(fold=fold, folds=FOLDS, epochs=EPOCHS, train_rows=80, validation_rows=20)
        for epoch in range(EPOCHS):
            kl = 1.0 - 0.1 * epoch + 0.5 * fold
            yield EpochEnded(
                fold=fold,
                folds=FOLDS,
                epoch=epoch,
                epochs=EPOCHS,
                stage=0,
                train_loss=2.0 - epoch,
                kl=kl,
                kl_all_rows=kl,
                kl_high_vote=kl - 0.1,
                best_kl=kl,
                estimate=kl,
                learning_rate=1e-3,
                images=100,
                seconds=0.5,
            )
        yield FoldEnded(
            fold=fold,
            folds=FOLDS,
            kl=0.8 + 0.5 * fold,
            kl_all_rows=0.8 + 0.5 * fold,
            kl_high_vote=0.7,
            best_epoch=2,
            epochs_run=EPOCHS,
            stopped_early=False,
        )
    ids, floats = np.zeros(0, np.int64), np.zeros((0, 6), np.float32)
    out_of_fold = OutOfFold(
        row=ids,
        eeg_id=ids,
        patient_id=ids,
        fold=ids,
        probabilities=floats,
        targets=floats,
        total_votes=ids,
    )
    yield CrossValidationEnded(
        kl=1.05,
        kl_all_rows=1.04,
        kl_high_vote=0.7,
        fold_kl=(0.8, 1.3),
        best_epochs=(2, 2),
        out_of_fold=out_of_fold,
    )


def told(observer: WandbObserver, trial: TrialInfo) -> None:
    observer.trial_started(trial)
    for event in story():
        observer.event(trial, event)
    observer.trial_ended(trial, "complete", 1.05, None)
    observer.close()


def records(path: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file: LevelDB's log format after seven bytes of W&B's own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER_BYTES, b""
    while position + HEADER_BYTES <= len(data):
        if BLOCK_BYTES - position % BLOCK_BYTES < HEADER_BYTES:
            position += BLOCK_BYTES - position % BLOCK_BYTES
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER_BYTES])
        position += HEADER_BYTES
        parts += data[position : position + length]
        position += length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def the_run(directory: Path) -> Path:
    runs = list(directory.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 1
    return runs[0]


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_an_offline_run_holds_identity_configuration_curves_and_summary(
    trial: TrialInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hms-tune", "--storage", "postgresql://u:canary-password@db/x"])
    told(WandbObserver(project="hms", directory=tmp_path, mode="auto"), trial)
    found = list(records(the_run(tmp_path)))

    run = next(each.run for each in found if each.HasField("run"))
    assert (run.run_id, run.run_group, run.job_type, run.project) == (
        f"effnet-4-{trial.config.hash[:8]}",
        "effnet",
        "trial",
        "hms",
    )
    config = values(run.config.update)
    assert config["model"]["backbone"] == "efficientnet_b0"
    assert config["params"] == {"model.dropout": 0.25}

    history = [values(each.history.item) for each in found if each.HasField("history")]
    assert len(history) == FOLDS * EPOCHS  # nothing per batch
    assert [row["fold_1/kl"] for row in history if "fold_1/kl" in row] == pytest.approx([1.5, 1.4, 1.3])
    assert [row["epoch"] for row in history] == [1, 2, 3, 1, 2, 3]
    assert [row["epochs_trained"] for row in history] == [1, 2, 3, 4, 5, 6]

    axes = {
        each.metric.name or each.metric.glob_name: each.metric for each in found if each.HasField("metric")
    }
    assert axes["fold_0/kl"].step_metric == "epoch"
    assert axes["estimate"].step_metric == "epochs_trained"

    summary: dict[str, Any] = {}
    for each in found:
        if each.HasField("summary"):
            summary |= values(each.summary.update)
    assert summary["kl"] == 1.05
    assert summary["fold_kl/1"] == 1.3
    assert summary["outcome"] == "complete"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


def test_nothing_is_written_when_off(trial: TrialInfo, tmp_path: Path) -> None:
    told(WandbObserver(project="hms", directory=tmp_path / "home", mode="off"), trial)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_costs_seconds_and_the_run_is_kept(
    trial: TrialInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "SERVER_TIMEOUT_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        observer = WandbObserver(project="hms", directory=tmp_path, mode="auto")
        start = time.monotonic()
        with caplog.at_level(logging.WARNING):
            told(observer, trial)
        assert time.monotonic() - start < 20
        first_trial = time.monotonic()
        told(observer, replace(trial, number=10, lineage=10))
        assert time.monotonic() - first_trial < 2  # the server is not asked again so soon
    assert len([each for each in caplog.records if "wandb sync" in each.message]) == 1
    runs = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert [len([r for r in records(run) if r.HasField("history")]) for run in runs] == [6, 6]


def test_a_failing_observer_never_reaches_the_trial(
    trial: TrialInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    occupied = tmp_path / "home"
    occupied.write_text("a file where a folder should be")
    observer = WandbObserver(project="hms", directory=occupied, mode="offline")
    with caplog.at_level(logging.WARNING):
        told(observer, trial)
        told(observer, trial)
    assert len(caplog.records) == 1


def test_auto_is_online_only_with_a_key_for_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_mode("auto") == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    (tmp_path / "netrc").chmod(0o600)
    assert resolve_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert resolve_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "off"
    assert resolve_mode("offline") == "offline"


def test_attempts_of_a_lineage_share_a_run_and_exports_do_not(trial: TrialInfo) -> None:
    assert run_id(trial) == run_id(replace(trial, number=12))
    assert run_id(trial) != run_id(replace(trial, lineage=5))
    assert run_id(trial) != run_id(replace(trial, job_type="export"))
