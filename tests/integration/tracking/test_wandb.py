"""Runs as Weights & Biases keeps them on disk, servers that do not answer, and one that does."""

from __future__ import annotations

import json
import logging
import os
import re
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
import wandb
from click.testing import CliRunner
from fake_study import run_study
from stories import EPOCHS, FOLDS, a_fold_start, a_story, a_trial, an_epoch, some_predictions, tell
from wandb.cli.cli import cli as wandb_cli
from wandb_records import Stored, read_run
from wandb_server import Server, wandb_server

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage
from hms_tune.studies.record_writer import Equipment
from hms_tune.studies.trial_note import trial_note
from hms_tune.studies.trial_record import study_record
from hms_tune.tracking.observers import trackers
from hms_tune.tracking.wandb import Labels, Mode, WandbObserver, ask_account, run_id
from hms_tune.tracking.wandb import run as session
from hms_tune.tracking.wandb.account import KEPT_AWAY
from hms_tune.tracking.wandb.layers import layers_of
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState

TESTS = Path(__file__).parents[2]


@contextmanager
def no_account(folder: Path) -> Iterator[None]:
    """Nothing of W&B's in the environment, nor in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.delenv("NETRC", raising=False)
        (folder / "account").mkdir()
        patch.setenv("HOME", str(folder / "account"))
        patch.setenv("WANDB_DATA_DIR", str(folder / "data"))
        # The first run loads torch and timm beside it, for longer than that where others are at work.
        patch.setattr("hms_tune.tracking.wandb.observer.CLOSE_SECONDS", 60.0)
        wandb.teardown(exit_code=0)  # it remembers the server's address, of whichever test used it before
        yield
        wandb.teardown(exit_code=0)


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path) -> Iterator[None]:
    with no_account(tmp_path):
        yield


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


def observed(
    directory: Path, labels: Labels | None = None, *, mode: Mode = "auto", **more: Any
) -> WandbObserver:
    return WandbObserver(labels or Labels("hms"), directory=directory, mode=mode, **more)


def runs_in(directory: Path, kind: str = "offline-run") -> list[Path]:
    return sorted(directory.glob(f"wandb/{kind}-*/run-*.wandb"))


def the_run(directory: Path) -> Stored:
    (path,) = runs_in(directory)
    return read_run(path)


def test_an_offline_run_holds_identity_configuration_curves_and_summary(
    trial: TrialInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["hms-tune", "--storage", "postgresql://u:canary-password@db/x"])
    monkeypatch.setattr(socket, "gethostname", lambda: "canary-host")
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
    assert (found.config["searched"], found.config["trial"]) == (["model.dropout"], 4)
    assert [key for key in paths(found.config) if "dropout" in key] == ["model.dropout"]

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
    assert found.run.host == ""
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"canary" in path.read_bytes()]


def paths(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """The keys of a configuration as W&B's panels show them."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from paths(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


FACTS = {"search": {"sampler": "random"}, "data_digest": "d1"}

ENDS = {
    "complete": (list(a_story()), AttemptState.COMPLETE, 1.05),
    "pruned": ([a_fold_start(0), an_epoch(0, 0), an_epoch(0, 1, kl=0.8)], AttemptState.PRUNED, 0.8),
    "resumed": (list(a_story(replayed=4)), AttemptState.COMPLETE, 1.05),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stored]:
    """A complete, a pruned and a resumed run, written offline and read back."""
    found, folder = {}, tmp_path_factory.mktemp("runs")
    with no_account(folder):
        for number, (kind, (story, state, value)) in enumerate(ENDS.items()):
            observer = observed(folder / kind, mode="offline", facts=FACTS, gpus=0.5)
            told = a_trial(20 + number, trial=4, params={"model.dropout": 0.25})
            observer.trial_started(told)
            for event in story:
                observer.event(told, event)
            observer.trial_ended(told, state, value, None if state is AttemptState.COMPLETE else "pruned")
            observer.close()
            found[kind] = the_run(folder / kind)
    return found


def keys_by_place(runs: dict[str, Stored]) -> dict[tuple[str, str], list[str]]:
    """Where each key stands (config, history, summary), and in which of the runs; ``k`` is any fold."""
    rows: dict[tuple[str, str], list[str]] = {}
    for kind, found in runs.items():
        places = {
            "config": paths({key: value for key, value in found.config.items() if key != "_wandb"}),
            "history": (key for row in found.history for key in row),
            "summary": iter(found.summary),
        }
        for place, keys in places.items():
            for key in keys:
                if not key.startswith("_"):
                    name = re.sub(r"(fold_kl/|best_epoch/|fold_)\d", r"\1k", key)
                    kinds = rows.setdefault((place, name), [])
                    if kind not in kinds:
                        kinds.append(kind)
    return rows


def test_a_complete_a_pruned_and_a_resumed_run_hold_what_panels_compare(runs: dict[str, Stored]) -> None:
    rows = keys_by_place(runs)
    table = [f"| {place} | `{key}` | {', '.join(kinds)} |" for (place, key), kinds in sorted(rows.items())]
    sys.stdout.write("\n".join(["", "| place | key | runs |", "|---|---|---|", *table, ""]))

    everywhere = [
        *(("summary", key) for key in ("kl", "state", "train_seconds", "attempt_seconds", "gpu_hours")),
        *(("history", key) for key in ("val/kl", "train/loss", "estimate", "fold_k/kl", "epoch")),
        *(("config", key) for key in ("data_digest", "search.sampler", "model.dropout", "searched")),
    ]
    assert {row: rows.get(row) for row in everywhere} == {row: list(ENDS) for row in everywhere}
    assert len({key for place, key in rows if place == "config" and "dropout" in key}) == 1
    assert {kind: (run.summary["kl"], run.summary["state"]) for kind, run in runs.items()} == {
        "complete": (1.05, "complete"),
        "pruned": (0.8, "pruned"),
        "resumed": (1.05, "complete"),
    }
    assert runs["resumed"].summary["train_seconds"] == runs["complete"].summary["train_seconds"] == 12.0
    document = (TESTS.parent / "docs" / "observing-terminal.md").read_text()
    told = set(re.findall(r"`([\w./-]+)`", document))
    sections = {key.partition(".")[0] for place, key in rows if place == "config"}
    missing = {key for place, key in rows if place != "config"} | sections - set(TrialConfig.model_fields)
    assert missing - told == set()


def test_every_run_has_what_the_documents_view_shows(runs: dict[str, Stored]) -> None:
    document = (TESTS.parent / "docs" / "observing-terminal.md").read_text()
    (view,) = re.findall(r"^By hand, in the project's workspace.*?\n\n", document, re.DOTALL | re.MULTILINE)
    shown = set(re.findall(r"`([\w./-]+)`", view)) - {AttemptState.PAUSED.value}
    assert shown >= {"val/kl", "train/loss", "kl", "state", "model.backbone", "training.learning_rate"}
    assert len(view.splitlines()) <= 10
    rows = keys_by_place(runs)
    in_all = {key for (_, key), kinds in rows.items() if kinds == list(ENDS)}
    assert shown - in_all == set()


def test_means_over_folds_are_told_once_for_each_epoch(trial: TrialInfo, tmp_path: Path) -> None:
    observer = observed(tmp_path)
    observer.trial_started(trial)
    for fold, epochs in enumerate((3, 2)):  # the second fold stopped early
        observer.event(trial, a_fold_start(fold))
        for epoch in range(epochs):
            kl = 1.0 - 0.1 * epoch + 0.5 * fold
            high = float("nan") if fold else kl
            observer.event(trial, an_epoch(fold, epoch, kl=kl, kl_high_vote=high, train_loss=2.0 * kl))
    observer.trial_ended(trial, AttemptState.PRUNED, 0.9, "pruned")
    observer.close()
    found = the_run(tmp_path)
    rows = [row for row in found.history if "val/kl" in row]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["val/kl"] for row in rows] == pytest.approx([1.25, 1.15, 0.8])
    assert [row["train/loss"] for row in rows] == pytest.approx([2.5, 2.3, 1.6])
    assert [row["val/kl_high_vote"] for row in rows] == pytest.approx([1.0, 0.9, 0.8])
    for name in ("val/kl", "train/loss", "val/kl_high_vote"):
        assert (found.metrics[name].step_metric, found.metrics[name].summary.min) == ("epoch", True)


@pytest.mark.parametrize("state", [AttemptState.REQUEUED, AttemptState.LOST, AttemptState.FAILED])
def test_a_run_whose_trial_has_no_result_there_stands_in_no_comparison(
    state: AttemptState, trial: TrialInfo, tmp_path: Path
) -> None:
    observer = observed(tmp_path)
    observer.trial_started(trial)
    observer.event(trial, an_epoch())
    observer.trial_ended(trial, state, 0.9, "the worker was asked to stop")
    observer.close()
    summary = the_run(tmp_path).summary
    assert ("kl" in summary, summary["state"]) == (False, state.value)


def test_lists_are_text_that_panels_draw() -> None:
    config = session.run_config(a_trial())
    assert config["input"]["image"] == json.dumps(list(a_trial().config.input.image))


def test_a_study_files_tags_and_notes_go_before_wandbs(
    trial: TrialInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_TAGS", "theirs,more")
    monkeypatch.setenv("WANDB_NOTES", "their notes")
    tell(observed(tmp_path / "file", Labels("hms", tags=("baseline",), notes="ours")), trial)
    tell(observed(tmp_path / "none"), trial)
    ours, theirs = the_run(tmp_path / "file").run, the_run(tmp_path / "none").run
    assert (list(ours.tags), ours.notes) == (["baseline"], "ours")
    assert (list(theirs.tags), theirs.notes) == (["theirs", "more"], "their notes")


def test_a_run_says_how_it_was_searched_with_what_and_on_which_data(trial: TrialInfo, tmp_path: Path) -> None:
    text = "study: effnet\nsearch: {sampler: random, pruner: median, seed: 3}\n"
    text += "tracking: {wandb: {mode: offline}}"
    equipment = Equipment("cpu", 0.0, "digest-1")
    (observer,) = trackers(StudyFile.parse(text, "test"), tmp_path, equipment=equipment)
    tell(observer, trial)
    config = the_run(tmp_path).config
    assert config["search"] == {"sampler": "random", "scheduler": "none", "pruner": "median", "seed": 3}
    assert set(config["versions"]) == {"hms-tune", "python", "torch", "timm", "optuna"}
    assert config["device"] == {"name": equipment.device_name, "place": "cpu", "gpus": 0.0}
    assert config["data_digest"] == "digest-1"


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


def test_nothing_is_written_when_off(trial: TrialInfo, tmp_path: Path) -> None:
    tell(observed(tmp_path / "home", mode="off"), trial)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


KILLED = """
import sys, time, types
from pathlib import Path
layers = types.ModuleType("layers")  # what is drawn of a network takes torch and timm seconds to load
layers.layers_of = lambda config: ()
sys.modules["hms_tune.tracking.wandb.layers"] = layers
from stories import a_fold_start, a_trial, an_epoch
from hms_tune.tracking.wandb import Labels, WandbObserver
observer, trial = WandbObserver(Labels("hms"), directory=Path(sys.argv[1]), mode="offline"), a_trial(4)
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
    monkeypatch.setattr(socket, "gethostname", lambda: "canary-host")
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
    assert not [body for body in server.bodies if re.search(rb'"host": *"[^"]', body)]


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
        assert f"[Weights & Biases run]({trial.run_url})" in trial_note(study_name, trial, None)
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


DEFAULT_HOST = wandb.Settings().base_url
KEY = "a" * 40


def wandb_command(*arguments: str) -> None:
    """Run a command of wandb's, as a person does before a search; nothing of it stays in this process."""
    wandb.teardown()
    done = CliRunner().invoke(wandb_cli, arguments)
    wandb.teardown()
    assert done.exit_code == 0, done.output


def by_login(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb_command("login", "--host", host, KEY)


def by_login_into_another_file(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(Path.home().parent / "keys"))
    wandb_command("login", "--host", host, KEY)
    assert not (Path.home() / ".netrc").exists()


def by_login_and_address(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", host)
    wandb_command("login", KEY)


def by_settings_in_another_folder(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(Path.home().parent / "configured"))
    wandb_command("login", "--host", host, KEY)
    assert (Path.home().parent / "configured/settings").is_file()


def by_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, host)


def by_identity_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", host)
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", str(Path.home() / "token"))


@pytest.mark.parametrize(
    "give",
    [
        by_login,
        by_login_into_another_file,
        by_login_and_address,
        by_settings_in_another_folder,
        by_key,
        by_identity_token,
    ],
)
def test_auto_goes_online_to_the_server_that_wandb_would_use(
    monkeypatch: pytest.MonkeyPatch, give: Callable[[str, pytest.MonkeyPatch], None]
) -> None:
    with wandb_server() as kept:
        give(kept.address, monkeypatch)
        found = ask_account()
        assert (found.mode, found.host, found.reason) == ("online", kept.address, None)


def test_auto_goes_online_after_a_login_to_the_default_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_account().reason == f"no credentials for {DEFAULT_HOST}"
    wandb.teardown()
    monkeypatch.setenv("WANDB_SILENT", "true")  # else it asks the server who it is, for a line to show
    wandb.login(key=KEY, verify=False)
    wandb.teardown()
    assert (ask_account().mode, ask_account().host) == ("online", DEFAULT_HOST)


def test_the_server_is_not_asked_whatever_wandb_may_print(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "false")
    with wandb_server() as kept:
        use(monkeypatch, kept.address)
        assert ask_account().mode == "online"
        assert (kept.operations, kept.bodies) == ([], [])


def test_a_login_to_one_server_is_none_to_another(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb_command("login", "--host", server.address, KEY)
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8443")
    found = ask_account()
    assert (found.mode, found.reason) == ("offline", "no credentials for https://wandb.example.org:8443")
    assert found.hint == "Run wandb login, or wandb sync later"


@pytest.mark.parametrize(("command", "mode"), [("offline", "offline"), ("disabled", "off")])
def test_auto_is_what_wandb_was_switched_to(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, mode: str
) -> None:
    monkeypatch.chdir(tmp_path)  # where these commands leave their settings
    wandb_command(command)
    assert ask_account().mode == mode


@pytest.mark.parametrize(
    ("variable", "mode"),
    [("online", "online"), ("offline", "offline"), ("dryrun", "offline"), ("disabled", "off")],
)
def test_auto_follows_wandbs_own_mode(
    server: Server, monkeypatch: pytest.MonkeyPatch, variable: str, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    assert ask_account().mode == mode


def test_a_key_that_wandb_refuses_is_told_and_the_run_goes_to_disk(
    trial: TrialInfo,
    tmp_path: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with caplog.at_level(logging.WARNING):
        tell(observed(tmp_path), trial)
        assert len(the_run(tmp_path).history) == FOLDS * EPOCHS
    (record,) = caplog.records
    assert "WANDB_API_KEY" in record.getMessage()
    assert record.getMessage().endswith("runs stay on disk")


def test_nothing_is_written_where_wandb_is_disabled(
    trial: TrialInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tell(observed(tmp_path / "home"), trial)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("written", ["login", "identity token", "nothing"])
@pytest.mark.slow
def test_doctor_says_where_runs_go(
    written: str, monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    if written == "login":
        wandb_command("login", "--host", server.address, KEY)
    elif written == "identity token":
        monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hms_tune",
            "doctor",
            "--json",
            "--storage",
            "postgresql://me@127.0.0.1:1/none",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    (row,) = (row for row in json.loads(done.stdout) if row["name"] == "wandb")
    if written == "nothing":
        assert row["state"] == "warn"
        assert row["detail"] == f"{wandb.__version__}, no credentials for {server.address}: runs stay on disk"
        assert row["hint"] == "Run wandb login, or wandb sync later"
    else:
        assert (row["state"], row["hint"]) == ("ok", None)
        assert row["detail"] == f"{wandb.__version__}, runs are sent to {server.address}"


LEFT_BEHIND = {
    "WANDB_SWEEP_ID": "sweep1",
    "WANDB_RUN_ID": "one-for-all",
    "WANDB_RESUME": "must",
    "WANDB_RESUME_FROM": "one-for-all?_step=3",
    "WANDB_FORK_FROM": "one-for-all?_step=3",
    "WANDB_LAUNCH": "true",
    "WANDB_CONFIG": '{"trial": 77}',
    "WANDB_REINIT": "return_previous",
    "WANDB_SERVICE": "3-1-unix-/nowhere",
    "WANDB_NAME": "left",
    "WANDB_RUN_GROUP": "left",
    "WANDB_JOB_TYPE": "left",
    "SM_TRAINING_ENV": "{}",
    "TRAINING_JOB_NAME": "left",
}
"""What a sweep's agent, a launch, a notebook or a SageMaker job leaves in the environment."""


@pytest.mark.parametrize("online", [False, True])
def test_each_attempt_has_its_own_run_whatever_is_left_in_the_environment(
    trial: TrialInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, online: bool
) -> None:
    (tmp_path / "sweep.yaml").write_text("trial: {value: 77}\n")
    left = LEFT_BEHIND | dict.fromkeys(
        ("WANDB_SWEEP_PARAM_PATH", "WANDB_CONFIG_PATHS"), str(tmp_path / "sweep.yaml")
    )
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    trials = [trial, replace(trial, attempt=10, trial=10), replace(trial, attempt=11, trial=11)]
    observer = observed(tmp_path, mode="online" if online else "offline")
    for each in trials:
        story = list(a_story())
        observer.trial_started(each)
        for event in story:
            observer.event(each, event)
        observer.trial_ended(each, AttemptState.COMPLETE, 1.05, None)
    observer.close()
    if online:
        assert sorted(server.runs) == sorted(map(run_id, trials))
        for each in trials:
            run = server.runs[run_id(each)]
            assert (run.group, run.job_type, run.config["trial"]["value"]) == ("effnet", "trial", each.trial)
            assert len(run.history) == FOLDS * EPOCHS
        return
    stored = {found.run.run_id: found for found in map(read_run, runs_in(tmp_path))}
    assert sorted(stored) == sorted(map(run_id, trials))
    for each in trials:
        found = stored[run_id(each)]
        assert (found.run.run_group, found.run.job_type, found.run.project) == ("effnet", "trial", "hms")
        assert (found.run.sweep_id, found.run.display_name[:6]) == ("", "effnet")
        assert (found.config["trial"], len(found.history)) == (each.trial, FOLDS * EPOCHS)


def test_every_setting_of_wandb_that_could_choose_a_run_is_ours() -> None:
    ours = {"run_id", "run_name", "run_group", "run_job_type"}  # what a run is opened with
    harmless = {"run_notes", "run_tags", "resumed"}
    choosing = {
        name
        for name in wandb.Settings.model_fields
        if name.startswith(("run_", "resume", "fork", "sweep", "launch", "reinit"))
    }
    kept_away = {name.removeprefix("WANDB_").lower() for name in KEPT_AWAY}
    assert choosing - ours - harmless - kept_away == set()


def test_runs_go_where_wandb_is_told_to_keep_them_and_to_its_project(
    trial: TrialInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "a-team")
    tell(observed(tmp_path / "home", Labels()), trial)
    found = the_run(tmp_path / "elsewhere")
    assert (found.run.project, found.run.entity) == ("theirs", "a-team")
    assert runs_in(tmp_path / "home") == []


def test_a_study_files_project_and_entity_go_before_wandbs(
    trial: TrialInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "a-team")
    tell(observed(tmp_path, Labels("ours", "us")), trial)
    found = the_run(tmp_path)
    assert (found.run.project, found.run.entity) == ("ours", "us")


def test_without_a_project_anywhere_runs_go_to_hms_tune(trial: TrialInfo, tmp_path: Path) -> None:
    tell(observed(tmp_path, Labels()), trial)
    assert the_run(tmp_path).run.project == "hms-tune"


def test_each_attempt_has_a_run_of_its_own_and_an_export_another(trial: TrialInfo) -> None:
    assert run_id(trial) == run_id(replace(trial, trial=9, slot="elsewhere"))
    assert run_id(trial) != run_id(replace(trial, attempt=12))
    assert run_id(trial) != run_id(replace(trial, job_type="export"))
