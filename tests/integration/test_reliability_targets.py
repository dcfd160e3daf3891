"""What a fleet promises about its budget and about what comes from outside: a test for each promise.

The promises on secrets and on the dashboard have theirs beside what they start: ``test_secrets_…`` in
``database/test_tls.py``, ``test_dashboard_exposed_…`` in ``reports/test_dashboard.py``.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import io
import json
import pickle
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from slots import a_slot
from sqlalchemy import text
from stories import an_ending

from hms_tune.cli import study as study_commands
from hms_tune.config.study_file import StudyFile, load_study_file
from hms_tune.config.trial import TrialConfig
from hms_tune.data.download.unzip import Limits, unpack
from hms_tune.data.schema import CLASSES
from hms_tune.database.connect import Storage
from hms_tune.database.queue.claim import Budget, register_study
from hms_tune.errors import (
    BundleError,
    CheckpointError,
    ConfigError,
    HmsTuneError,
    PretrainedError,
    StorageError,
)
from hms_tune.export.bundle import load_bundle
from hms_tune.models.pretrained import load_weights
from hms_tune.search.reports import Reporter
from hms_tune.studies.control import drain, set_state
from hms_tune.studies.status import status
from hms_tune.training.checkpoint import read_checkpoint, read_newest_checkpoint
from hms_tune.training.events import Event
from hms_tune.worker.open_study import Search

WORKERS, BUDGET = 64, 100


def _claims() -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "claims.py"
    spec = importlib.util.spec_from_file_location("claims", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


claims = _claims()


def test_two_workers_claim_at_once_and_one_gets_it(database_url: str, study_name: str) -> None:
    """The full size is ``python benchmarks/claims.py --claims 10000``."""
    report = claims.storm(database_url, study_name, claims=500, workers=WORKERS, trials=BUDGET)
    assert (report.claims, report.doubles) == (500, 0)
    assert WORKERS < report.trials <= BUDGET  # they did meet


def test_study_wide_budget_of_100_trials_is_run_exactly_by_64_workers(
    database_url: str, study_name: str, tmp_path: Path
) -> None:
    config = TrialConfig()
    gate = threading.Barrier(WORKERS)
    trained: list[int] = []

    def train(_config: TrialConfig, directory: Path) -> Iterator[Event]:
        trained.append(int(directory.name.removeprefix("attempt-")))
        yield an_ending(1.0)

    def suggest(trial: optuna.Trial) -> TrialConfig:
        trial.suggest_float("x", 0.0, 1.0)
        return config

    class Silent:
        def observe(self, _event: Event) -> bool:
            return False

    def reporter(_trial: optuna.Trial) -> Reporter:
        return Silent()  # type: ignore[return-value]

    with claims.opened(database_url, connections=2 * WORKERS) as storage:
        sampler = optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(study_name=study_name, storage=storage.optuna.shared, sampler=sampler)
        study_id = register_study(storage, study_name, Budget(trials=BUDGET))

        def work(number: int) -> int:
            search = Search(study, study_id, suggest, reporter)
            pace = {"lease_s": 600.0, "poll_s": 0.2, "look_s": 2.0}
            worker = a_slot(storage, search, train, tmp_path, worker=f"worker-{number}", **pace)
            gate.wait()
            return worker.run()

        with ThreadPoolExecutor(WORKERS) as pool:
            ended = list(pool.map(work, range(WORKERS)))
        standing = status(storage, study_name)
    assert sum(ended) == BUDGET
    assert Counter(trained) == dict.fromkeys(range(BUDGET), 1)
    assert (standing.trials["complete"], standing.attempts["complete"]) == (BUDGET, BUDGET)


class Payload:
    """Runs code when it is unpickled: it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (builtins.open, (str(self.mark), "w"))


class ScriptedPayload(Payload):
    def __reduce__(self) -> tuple[object, ...]:
        return (subprocess.call, (["touch", str(self.mark)],))


def malicious_files(mark: Path) -> dict[str, bytes]:
    """Files that a foreign hand may leave, each of which makes ``mark`` when its reader is careless."""

    def saved(content: object, *, zipped: bool) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        return buffer.getvalue()

    found = {f"pickle {protocol}": pickle.dumps(Payload(mark), protocol) for protocol in range(6)}
    for kind in (Payload, ScriptedPayload):
        for zipped in (True, False):
            name = f"{kind.__name__}, {'zip' if zipped else 'legacy'}"
            found[f"torch {name}"] = saved(kind(mark), zipped=zipped)
            found[f"state dict {name}"] = saved({"weight": torch.zeros(2), "x": kind(mark)}, zipped=zipped)
    array = io.BytesIO()
    np.save(array, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    found["numpy object array"] = array.getvalue()
    exported = io.BytesIO()
    with zipfile.ZipFile(exported, "w") as archive:  # as an exported program: a zip with pickles in it
        for entry in ("archive/data.pkl", "archive/constants.pkl", "archive/data/sample_inputs/model.pt"):
            archive.writestr(entry, pickle.dumps(Payload(mark)))
        archive.writestr("archive/version", "1")
    found["exported program"] = exported.getvalue()
    header = json.dumps({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}})
    found["safetensors that lies"] = len(header).to_bytes(8, "little") + header.encode() + bytes(4)
    found["safetensors, huge header"] = (2**62).to_bytes(8, "little") + b"{}"
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch finds them odd too
def test_foreign_checkpoint_or_model_file_is_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    network = torch.nn.Linear(2, 2)
    corpus = malicious_files(mark)
    for name, content in corpus.items():
        folder = tmp_path / hashlib.sha256(name.encode()).hexdigest()[:8]
        folder.mkdir()
        sealed = b"hms-tune checkpoint 1\n" + hashlib.sha256(content).digest() + content
        for number, checkpoint in enumerate((content, sealed)):
            path = folder / f"checkpoint-{number:06d}.pt"
            path.write_bytes(checkpoint)
            with pytest.raises(CheckpointError):
                read_checkpoint(path)
        assert read_newest_checkpoint(folder) is None
        for suffix in (".pt", ".pth", ".pt2", ".bin", ".pkl", ".safetensors"):
            path = folder / f"weights{suffix}"
            path.write_bytes(content)
            with pytest.raises(PretrainedError):
                load_weights(network, path)
        for weights in ("fold_0.safetensors", "full.safetensors", "full.pt", "full.pt2"):
            bundle = folder / weights.replace(".", "-")
            bundle.mkdir()
            (bundle / weights).write_bytes(content)
            configured = {
                "format": 1,
                "hms_tune": "0",
                "study": "x",
                "trial": 0,
                "classes": CLASSES,
                "config": {"model": {"backbone": "test_resnet", "pretrained": False}},
                "files": {weights: hashlib.sha256(content).hexdigest()},
            }
            (bundle / "config.json").write_text(json.dumps(configured))
            with pytest.raises(BundleError):
                load_bundle(bundle, device="cpu")
    assert len(corpus) >= 18
    assert not mark.exists()
    pickle.loads(corpus["pickle 2"]).close()  # the corpus is not harmless
    assert mark.exists()


NAMES = ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "A", "-a", "a b", "a\n", "a\0", "ä", "a" * 64]
NAMES += ["'; DROP TABLE trials; --", "$(touch x)", "%s", "{0}", "a.yaml/../../x"]
SCRIPTS = [
    '!!python/object/apply:os.system ["touch {mark}"]',
    "!!python/object/new:subprocess.call [[touch, {mark}]]",
    "!!python/name:os.system",
    "study: !!python/object/apply:os.system ['touch {mark}']",
    "study: x\ndata: {{root: !!python/object/apply:pathlib.Path [/etc]}}",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {mark}']",
    "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(ascii_lowercase)),
    "[" * 5000,
]


def test_study_name_yaml_zip_and_path_from_outside_escape_nowhere(
    storage: Storage, study_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "executed"
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    optuna.create_study(study_name=study_name, storage=storage.optuna)
    study_id = register_study(storage, study_name, Budget(trials=1))

    for name in NAMES:
        written = f"study: {json.dumps(name)}\n"
        with pytest.raises(ConfigError):
            StudyFile.parse(written, "test")
        with pytest.raises(HmsTuneError):
            load_study_file(name)
        if "\0" not in name:  # PostgreSQL has no such text
            with pytest.raises(HmsTuneError):
                status(storage, name)
            with pytest.raises(HmsTuneError):
                set_state(storage, name, "paused")
            with pytest.raises(HmsTuneError):
                drain(storage, study_name, name)
    for script in SCRIPTS:
        began = time.perf_counter()
        with pytest.raises(ConfigError):
            StudyFile.parse(script.format(mark=mark), "test")
        assert time.perf_counter() - began < 10.0

    entries = ["../evil", "train_eegs/../../evil", "/tmp/hms-tune-evil", "..\\evil", "C:\\evil", "link"]
    for number, entry in enumerate(entries):
        archive = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("train.csv", "eeg_id\n1\n")
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = entry
            kind = stat.S_IFLNK if entry == "link" else stat.S_IFREG
            info.external_attr, info.create_system = (kind | 0o644) << 16, 3
            opened.writestr(info, "/etc/passwd")
        with pytest.raises(HmsTuneError, match="not safe to unpack"):
            unpack(archive, inside / "competition")
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("train.csv", bytes(10**7))
    with pytest.raises(HmsTuneError, match="more than 1,000,000"):
        unpack(bomb, inside / "competition", limits=Limits(bytes=10**6))

    assert not mark.exists()
    assert list(inside.iterdir()) == []
    assert {path.suffix for path in tmp_path.iterdir()} == {".zip", ""}
    assert not Path("/tmp/hms-tune-evil").exists()
    with storage.engine.connect() as connection:
        known = connection.execute(
            text("SELECT name FROM hms_tune.studies WHERE study_id = :id"), {"id": study_id}
        )
        assert known.scalar_one() == study_name


def test_a_foreign_study_is_not_deleted_nor_what_its_name_points_at(
    database_url: str, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / "artifacts").mkdir()
    name = "../precious"
    optuna.create_study(study_name=name, storage=storage.optuna)
    monkeypatch.setenv("HMS_TUNE_ARTIFACTS", str(tmp_path / "artifacts"))
    with pytest.raises(StorageError, match=f'the study "{name}" was not made by hms-tune'):
        study_commands.delete(name, yes=True, storage=database_url)
    assert precious.exists()
    assert name in optuna.get_all_study_names(storage.optuna)
    optuna.delete_study(study_name=name, storage=storage.optuna)
