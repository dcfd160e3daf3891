"""Runs as Weights & Biases keeps them on disk, servers that do not answer, and one that does."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_study import run_study
from stories import EPOCHS, FOLDS, a_fold_start, a_story, a_trial, an_epoch, some_predictions, tell
from wandb_records import Stored, read_run
from wandb_server import Server, wandb_server

from hms_tune.database.connect import Storage
from hms_tune.studies.trial_note import trial_note
from hms_tune.studies.trial_record import study_record
from hms_tune.tracking.wandb import WandbObserver, resolve_mode, run_id
from hms_tune.tracking.wandb import run as session
from hms_tune.tracking.wandb.layers import layers_of
from hms_tune.training.observer import TrialInfo
from hms_tune.training.scores import reliability
from hms_tune.trial_state import AttemptState

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    yield
    import wandb

    wandb.teardown(exit_code=0)  # it remembers the server's address


@pytest.fixture
def trial() -> TrialInfo:
    return a_trial(9, trial=4, params={"model.dropout": 0.25})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with wandb_server() as kept:
        use(monkeypatch, kept.address)
        yield kept


def use(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)


def observed(directory: Path, **changes: Any) -> WandbObserver:
    return WandbObserver(**({"project": "hms", "directory": directory, "mode": "auto"} | changes))


def runs_in(directory: Path, kind: str = "offline-run") -> list[Path]:
    return sorted(directory.glob(f"wandb/{kind}-*/run-*.wandb"))


def the_run(directory: Path) -> Stored:
    (path,) = runs_in(directory)
    return read_run(path)


def test_an_offline_run_holds_identity_configuration_curves_and_summary(
    trial: TrialInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hms-tune", "--storage", "postgresql://u:canary-password@db/x"])
    tell(observed(tmp_path), trial)
    found = the_run(tmp_path)
    assert (found.run.run_id, found.run.run_group, found.run.job_type, found.run.project) == (
        f"effnet-9-{trial.config.hash[:8]}",
        "effnet",
        "trial",
        "hms",
    )
    assert found.run.display_name == "effnet 4 (attempt 9)"
    assert found.config["model"]["backbone"] == "efficientnet_b0"
    assert (found.config["params"], found.config["trial"]) == ({"model.dropout": 0.25}, 4)

    assert len(found.history) == FOLDS * EPOCHS  # nothing per batch
    second_fold = [row["fold_1/kl"] for row in found.history if "fold_1/kl" in row]
    assert second_fold == pytest.approx([1.5, 1.4, 1.3])
    assert [row["epoch"] for row in found.history] == [1, 2, 3, 1, 2, 3]
    assert [row["epochs_trained"] for row in found.history] == [1, 2, 3, 4, 5, 6]

    axes = {"fold_0/kl": "epoch", "fold_1/kl_high_vote": "epoch", "estimate": "epochs_trained"}
    for name, axis in axes.items():
        assert found.metrics[name].step_metric == axis
        assert found.metrics[name].summary.min
    assert found.metrics["fold_1/*"].step_metric == "epoch"

    assert (found.summary["kl"], found.summary["fold_kl/1"], found.summary["best_epoch/0"]) == (1.05, 1.3, 3)
    assert (found.summary["state"], found.exit_code) == ("complete", 0)
    assert found.summary["parameters"] == sum(layer.size for layer in layers_of(trial.config))
    assert found.summary["graph_0"]["_type"] == "graph-file"
    assert found.system >= 1
    assert "oof/table" not in found.summary
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"canary" in path.read_bytes()]


def test_the_network_is_drawn_without_touching_its_random_numbers(trial: TrialInfo) -> None:
    import torch

    before = torch.get_rng_state()
    layers = layers_of(trial.config)
    assert torch.equal(before, torch.get_rng_state())
    assert layers[0].name == "backbone.conv_stem"
    assert (layers[0].parameters, layers[0].output) == ((("weight", (32, 1, 3, 3)),), (1, 32, 64, 128))
    assert layers[-1].output == (1, 6)
    start = time.perf_counter()
    other = trial.config.model_copy(update={"model": trial.config.model.model_copy(update={"dropout": 0.3})})
    assert layers_of(other) is layers
    assert time.perf_counter() - start < 0.05


@pytest.mark.parametrize(("best", "kept"), [(None, True), (1.05, True), (1.04, False)])
def test_a_new_best_keeps_its_out_of_fold_predictions(
    trial: TrialInfo, tmp_path: Path, best: float | None, kept: bool
) -> None:
    predictions = some_predictions(40)
    tell(observed(tmp_path, best=lambda: best), trial, predictions=predictions)
    found = the_run(tmp_path)
    assert len(found.history) == FOLDS * EPOCHS + kept
    if not kept:
        return
    shown = found.history[-1]
    assert (shown["oof/table/nrows"], shown["oof/table/ncols"]) == (40, 17)
    for chart in ("confusion", "reliability", "kl_by_class"):
        assert f"oof/{chart}_table/nrows" in shown
    (path,) = tmp_path.glob("wandb/offline-run-*/files/media/table/oof/table_*.json")
    table = json.loads(path.read_text())
    assert table["columns"][:5] == ["eeg_id", "patient_id", "fold", "votes", "kl"]
    kl = [row[4] for row in table["data"]]
    assert kl == sorted(kl, reverse=True)
    assert {row[0] for row in table["data"]} == set(range(1000, 1040))


def test_reliability_weighs_every_prediction_once() -> None:
    predictions = some_predictions(50)
    bins = reliability(predictions)
    assert bins.count.sum() == 300
    assert (bins.predicted * bins.count).sum() == pytest.approx(predictions.probabilities.sum())
    assert (bins.voted * bins.count).sum() == pytest.approx(predictions.targets.sum())
    assert all(0.0 <= value <= 1.0 for value in [*bins.predicted, *bins.voted])


def test_nothing_is_written_when_off(trial: TrialInfo, tmp_path: Path) -> None:
    tell(observed(tmp_path / "home", mode="off"), trial)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time, types
from pathlib import Path
layers = types.ModuleType("layers")  # what is drawn of a network takes torch and timm seconds to load
layers.layers_of = lambda config: ()
sys.modules["hms_tune.tracking.wandb.layers"] = layers
from stories import a_fold_start, a_trial, an_epoch
from hms_tune.tracking.wandb import WandbObserver
observer, trial = WandbObserver(project="hms", directory=Path(sys.argv[1]), mode="offline"), a_trial(4)
observer.trial_started(trial)
observer.event(trial, a_fold_start(epochs=400))
for epoch in range(300):  # wandb writes whole blocks of 32 KiB
    observer.event(trial, an_epoch(0, epoch, epochs=400))
observer._later(lambda: print("told", flush=True))
time.sleep(60)
"""


def test_what_a_killed_attempt_told_is_kept_and_the_next_attempt_tells_the_whole_story(
    trial: TrialInfo, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "first")], stdout=subprocess.PIPE, env=environment
    ) as attempt:
        assert attempt.stdout is not None
        assert attempt.stdout.readline() == b"told\n"
        on_disk = _eventually(lambda: len(the_run(tmp_path / "first").history) > 0)
        os.kill(attempt.pid, signal.SIGKILL)
    assert on_disk
    first = the_run(tmp_path / "first")
    assert first.run.run_id.startswith("effnet-4-")
    assert (first.config["attempt"], first.config["trial"]) == (4, 4)
    told = [row["epochs_trained"] for row in first.history]
    assert told == list(range(1, len(told) + 1))
    assert (first.exit_code, "state" in first.summary) == (None, False)

    observer = observed(tmp_path / "second")
    tell_replayed(observer, trial)
    second = the_run(tmp_path / "second")
    assert second.run.run_id != first.run.run_id
    assert (second.config["attempt"], second.config["trial"]) == (9, 4)
    assert second.config["config_hash"] == first.config["config_hash"]
    assert [row["epochs_trained"] for row in second.history] == [1, 2, 3, 4, 5, 6]


def tell_replayed(observer: WandbObserver, trial: TrialInfo) -> None:
    """An attempt that goes on: the first four epochs were trained before."""
    tell(observer, trial, replayed=4)


def _eventually(condition: Callable[[], bool], *, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def refused() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """A port whose queue of connections is full: further ones get no answer at all."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for each in waiting:
            each.close()


@contextmanager
def failing() -> Iterator[str]:
    with wandb_server() as kept:
        kept.failing = True
        yield kept.address


@pytest.mark.parametrize(
    ("away", "patience"), [(black_hole, None), (refused, 2.0), (silent, 2.0), (failing, 2.0)]
)
def test_tracking_service_down_costs_a_trial_nothing_and_the_run_goes_to_disk(
    away: Callable[[], Any],
    patience: float | None,
    trial: TrialInfo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if patience is not None:
        monkeypatch.setattr(session, "SERVER_TIMEOUT_SECONDS", patience)
    layers_of(trial.config)  # imported, as in a slot
    with away() as address, caplog.at_level(logging.WARNING):
        use(monkeypatch, address)
        observer = observed(tmp_path)
        start = time.monotonic()
        observer.trial_started(trial)
        for event in a_story():
            observer.event(trial, event)
        observer.trial_ended(trial, AttemptState.COMPLETE, 1.05, None)
        assert time.monotonic() - start < 0.5
        assert _eventually(lambda: bool(runs_in(tmp_path)))
        seconds = time.monotonic() - start
        print(f"{away.__name__}: offline after {seconds:.1f} s")  # noqa: T201
        assert seconds < 20.0 if patience is None else seconds < patience + 6.0
        second = time.monotonic()
        tell(observer, replace(trial, attempt=10, trial=10))
        assert time.monotonic() - second < 3.0  # the server is not asked again so soon
    assert len([each for each in caplog.records if "wandb sync" in each.getMessage()]) == 1
    assert [len(read_run(run).history) for run in runs_in(tmp_path)] == [6, 6]


def test_a_failing_observer_never_reaches_the_trial(
    trial: TrialInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    occupied = tmp_path / "home"
    occupied.write_text("a file where a folder should be")
    observer = observed(occupied, mode="offline")
    with caplog.at_level(logging.WARNING):
        tell(observer, trial)
        tell(observer, trial)
    assert len(caplog.records) == 1


def test_an_online_run_arrives_whole(
    trial: TrialInfo, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hms-tune", "--storage", "postgresql://u:canary-password@db/x"])
    observer = observed(tmp_path, best=lambda: None)
    tell(observer, trial, predictions=some_predictions(20))
    run = server.runs[run_id(trial)]
    assert (run.group, run.job_type, run.display_name) == ("effnet", "trial", "effnet 4 (attempt 9)")
    assert (run.complete, run.exit_code) == (True, 0)
    assert run.config["model"]["value"]["backbone"] == "efficientnet_b0"
    assert [row["epochs_trained"] for row in run.history if "epochs_trained" in row] == [1, 2, 3, 4, 5, 6]
    assert run.summary["fold_1/kl"] == {"min": pytest.approx(1.3)}
    assert run.summary["state"] == "complete"
    assert run.history[-1]["oof/table"]["nrows"] == 20
    assert any("oof/table" in name for name in server.uploads)
    assert server.unknown == []
    assert not [body for body in server.bodies if b"canary" in body]


class Opened:
    """Holds a trial up until its run is open: these trials take no time, and runs open beside them."""

    def __init__(self, observer: WandbObserver) -> None:
        self.trial_ended = self.close = lambda *_: None
        self.event = lambda trial, _: None
        self.trial_started = lambda trial: _eventually(lambda: observer.url_of(trial) is not None)


def test_each_trials_record_and_note_lead_to_its_run_even_after_that_was_closed(
    storage: Storage, study_name: str, server: Server, tmp_path: Path
) -> None:
    observer = observed(tmp_path / "home")
    run_study(storage, study_name, tmp_path / "artifacts", trials=3, observers=[observer, Opened(observer)])
    trials = study_record(storage, study_name).trials
    for trial in trials:
        (run,) = (name for name in server.runs if name.startswith(f"{study_name}-{trial.attempt}-"))
        assert trial.run_url == f"{server.address}/team/hms/runs/{run}"
        assert f"[Weights & Biases run]({trial.run_url})" in trial_note(trial, trials)
    assert len({trial.run_url for trial in trials}) == 3


def test_a_run_on_disk_has_no_address(trial: TrialInfo, tmp_path: Path) -> None:
    observer = observed(tmp_path)
    tell(observer, trial)
    assert observer.url_of(trial) is None


def test_an_export_that_was_interrupted_goes_on_in_its_run_and_its_bundle_is_an_artifact(
    trial: TrialInfo, tmp_path: Path, server: Server
) -> None:
    export = replace(trial, job_type="export")
    first = observed(tmp_path)
    first.trial_started(export)
    first.event(export, a_fold_start())
    for epoch in range(2):
        first.event(export, an_epoch(0, epoch))
    first.close()
    assert len(server.runs[run_id(export)].history) == 2

    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "metrics.json").write_text('{"kl": 1.05}')
    (bundle / "fold_0.safetensors").write_bytes(b"weights")
    second = observed(tmp_path)
    second.trial_started(export)
    for event in a_story(replayed=2):
        second.event(export, event)
    second.bundle_written(export, bundle)
    second.trial_ended(export, AttemptState.COMPLETE, 1.05, None)
    second.close()

    (run,) = server.runs.values()
    assert (run.name, run.job_type) == (f"effnet-export-9-{trial.config.hash[:8]}", "export")
    assert [row["epochs_trained"] for row in run.history] == [1, 2, 3, 4, 5, 6]
    assert run.summary["state"] == "complete"
    (artifact,) = (each for each in server.artifacts if each["artifactTypeName"] == "model")
    assert (artifact["artifactCollectionName"], artifact["runName"]) == ("effnet-bundle", run.name)
    assert {alias["alias"] for alias in artifact["aliases"]} == {"latest", "best", "trial-4"}
    metadata = json.loads(artifact["metadata"])
    assert (metadata["trial_run"], metadata["metrics"]) == (run_id(trial), {"kl": 1.05})
    assert artifact["committed"]
    assert server.uploads["artifact/fold_0.safetensors"] == b"weights"


def sync(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--yes", "--include-online", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_that_was_kept_on_disk_is_completed_by_wandb_sync(
    trial: TrialInfo, tmp_path: Path, server: Server
) -> None:
    tell(observed(tmp_path, mode="offline", best=lambda: None), trial, predictions=some_predictions(20))
    assert server.runs == {}
    sync(runs_in(tmp_path)[0].parent)
    run = server.runs[run_id(trial)]
    assert (run.group, run.job_type, run.complete) == ("effnet", "trial", True)
    assert [row["epochs_trained"] for row in run.history if "epochs_trained" in row] == [1, 2, 3, 4, 5, 6]
    assert run.summary["state"] == "complete"
    assert any("oof/table" in name for name in server.uploads)


def test_tracking_service_down_in_the_middle_is_completed_by_wandb_sync_later(
    trial: TrialInfo, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SERVER_TIMEOUT_SECONDS", 3.0)
    observer = observed(tmp_path)
    observer.trial_started(trial)
    story = list(a_story())
    for event in story[:3]:
        observer.event(trial, event)
    assert _eventually(lambda: run_id(trial) in server.runs)
    server.failing = True
    for event in story[3:]:
        observer.event(trial, event)
    observer.trial_ended(trial, AttemptState.COMPLETE, 1.05, None)
    start = time.monotonic()
    observer.close()
    assert time.monotonic() - start < 12.0
    assert not server.runs[run_id(trial)].complete
    server.failing = False
    (path,) = runs_in(tmp_path, "run")
    assert len(read_run(path).history) == 6
    sync(path.parent)
    run = server.runs[run_id(trial)]
    assert [row["epochs_trained"] for row in run.history] == [1, 2, 3, 4, 5, 6]
    assert run.summary["state"] == "complete"


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


def test_each_attempt_has_a_run_of_its_own_and_an_export_another(trial: TrialInfo) -> None:
    assert run_id(trial) == run_id(replace(trial, trial=9, slot="elsewhere"))
    assert run_id(trial) != run_id(replace(trial, attempt=12))
    assert run_id(trial) != run_id(replace(trial, job_type="export"))
