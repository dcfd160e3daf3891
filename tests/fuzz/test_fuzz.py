"""Whatever a stranger sends ends in one of our own errors, or is used: never in a traceback.

Each input is a sound file with a few changes, of bytes or of values.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import numpy as np
import optuna
import pytest
import torch
from bundles import sealed, write_bundle
from competition import write_competition
from fuzz_settings import INPUTS, SECONDS
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna_dashboard import save_note

from hms_tune.config.study_file import StudyFile
from hms_tune.data.download.unzip import Limits, unpack
from hms_tune.data.files.decoding import check_footer, read_signal
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.files.tables import read_table
from hms_tune.data.schema import CLASSES
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.embedded.server import start_embedded
from hms_tune.database.queries.archive import has_study
from hms_tune.errors import BundleError, CheckpointError, ConfigError, DownloadError, HmsTuneError
from hms_tune.export.bundle import read_bundle_config
from hms_tune.export.out_of_fold import out_of_fold_table, read_out_of_fold
from hms_tune.machine.saved_state import NotAStateError, read_state
from hms_tune.reports.dashboard.serve import dashboard_app
from hms_tune.studies.control import delete_study
from hms_tune.studies.trial_record import study_record
from hms_tune.training.checkpoint import read_checkpoint, write_checkpoint
from hms_tune.training.events import OutOfFold
from hms_tune.worker.checkpoint_store.archive import load_study, save_study
from hms_tune.worker.checkpoint_store.files import DirectoryStore
from hms_tune.worker.open_study import join_search

settings.load_profile("fuzz")

STUDY = """\
study: effnet
data: {root: data/hms, folds: 5, holdout: 0.1, min_votes: 1}
input: {eeg: {name: stft, n_fft: {choices: [256, 512]}}, kaggle: {choices: [null, kaggle]}, image: [128, 256]}
model: {backbone: efficientnet_b0, frozen_layers: {low: 0, high: 8}, dropout: {low: 0.0, high: 0.5}}
training:  # a comment
  learning_rate: {low: 5.0e-5, high: 3.0e-3, log: true}
  scheduler: {choices: [{name: cosine, warmup: 0.05}, {name: plateau, patience: {low: 1, high: 4}}]}
  epochs: 10
search: {sampler: tpe, pruner: median, seed: 0}
budget: {trials: 200, hours: 24}
tracking:
  notify:
    webhook: https://hooks.example.org/IN-THE-ADDRESS
    command: [curl, IN-THE-COMMAND]
"""

ODD = st.sampled_from(
    [
        *("", "null", "~", ".nan", "-.inf", "1e999", "9" * 400, "-1", "0x_", "!!python/object:os.system x"),
        *("*a", "&a", "<<", "{", "]", "'", '"', "\t", "\0", "\x1b[2J", "\u202e", "\ud7ff", "=1+1", "true"),
    ]
)
CHANGE = st.tuples(st.integers(0, 1 << 16), st.integers(0, 24), st.binary(max_size=24))
CHANGES = st.lists(CHANGE, min_size=1, max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def changed(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """The content with some bytes replaced, removed or added."""
    for where, removed, added in changes:
        at = where % (len(content) + 1)
        content = content[:at] + added + content[at + removed :]
    return content


@pytest.fixture(autouse=True)
def time_is_up() -> None:
    """With ``make fuzz`` a test passes when its time is up."""
    _until[0] = time.monotonic() + SECONDS


_until = [0.0]


def tried(name: str) -> None:
    """Count an input; after the time is up the rest passes unseen."""
    if SECONDS and time.monotonic() > _until[0]:
        pytest.skip("time is up")
    INPUTS[name] += 1


def folder(make: Callable[[Path], Any]) -> Any:
    """What ``make`` gives in a folder that stays as long as this process."""
    kept = tempfile.TemporaryDirectory()
    _folders.append(kept)
    return make(Path(kept.name))


_folders: list[tempfile.TemporaryDirectory[str]] = []


@pytest.fixture(scope="module")
def competition() -> Path:
    return folder(lambda place: write_competition(place / "hms", patients=2, recordings_per_patient=1))


@pytest.fixture(scope="module")
def bundle() -> Path:
    return folder(lambda place: write_bundle(place / "bundle", networks=1))


def check_study(text: str) -> None:
    tried("study files")
    try:
        file = StudyFile.parse(text, "a.yaml")
    except ConfigError:
        return
    stored = file.to_json()
    assert StudyFile.from_json(stored).space_hash == file.space_hash
    assert "# a comment" not in stored
    assert "IN-THE-COMMAND" not in stored


@given(CHANGES)
def test_a_study_file_with_changed_bytes(changes: list[tuple[int, int, bytes]]) -> None:
    check_study(changed(STUDY.encode(), changes).decode("utf-8", errors="replace"))


@given(st.integers(0, 60), ODD | JSON.map(json.dumps), st.integers(0, 60), ODD)
def test_a_study_file_with_changed_values(first: int, value: str, second: int, other: str) -> None:
    places = [match.span() for match in re.finditer(r"[A-Za-z0-9_./:-]+", STUDY)]
    text = STUDY
    for at, put in sorted({first % len(places): value, second % len(places): other}.items(), reverse=True):
        start, end = places[at]
        text = text[:start] + put + text[end:]
    check_study(text)


@given(CHANGES)
def test_a_table_with_changed_bytes(competition: Path, changes: list[tuple[int, int, bytes]]) -> None:
    tried("train.csv")
    with tempfile.TemporaryDirectory() as place:
        table = Path(place) / "train.csv"
        table.write_bytes(changed((competition / "train.csv").read_bytes(), changes))
        read_table(table, "train")


@given(st.integers(0, 1 << 10), ODD | st.text(max_size=12) | st.floats().map(str) | st.integers().map(str))
def test_a_table_with_a_changed_cell(competition: Path, where: int, value: str) -> None:
    tried("train.csv")
    lines = [line.split(",") for line in (competition / "train.csv").read_text().splitlines()]
    line = lines[where % len(lines)]
    line[where // len(lines) % len(line)] = value
    with tempfile.TemporaryDirectory() as place:
        table = Path(place) / "train.csv"
        table.write_text("\n".join(",".join(each) for each in lines), encoding="utf-8", errors="replace")
        read_table(table, "train")


@given(CHANGES, st.booleans())
def test_a_signal_file(competition: Path, changes: list[tuple[int, int, bytes]], footer: bool) -> None:
    tried("parquet")
    content = (competition / "train_eegs" / "1000.parquet").read_bytes()
    half = len(content) - 6000 if footer else 0
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "1000.parquet"
        path.write_bytes(content[:half] + changed(content[half:], changes))
        file = SignalFile("eeg", "train", 1000, path, (0.0, 10.0))
        check_footer(file)
        read_signal(file)


@given(st.lists(st.tuples(st.integers(0, 1 << 10), JSON), min_size=1, max_size=3), CHANGES | st.none())
def test_a_bundles_manifest(
    bundle: Path, values: list[tuple[int, Any]], changes: list[tuple[int, int, bytes]] | None
) -> None:
    tried("bundle manifests")
    config = json.loads((bundle / "config.json").read_text())
    for where, value in values:
        put(config, where, value)
    text = sealed(config).encode("utf-8", errors="replace")
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_bytes(changed(text, changes) if changes else text)
        with contextlib.suppress(BundleError):
            read_bundle_config(Path(place))


def put(tree: Any, where: int, value: Any) -> None:
    """Set one value of a tree of dictionaries and lists."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    key = keys[where % len(keys)]
    inner = tree[key]
    if isinstance(inner, dict | list) and inner and where & 512:
        put(inner, where // len(keys), value)
    else:
        tree[key] = value


NAMES = st.sampled_from(["train.csv", "../up", "/etc/x", "a/../../b", "train_eegs/1.parquet", "C:x", "a\\b"])


@given(
    st.lists(st.tuples(NAMES | st.text(min_size=1, max_size=12), st.integers(0, 0xFFFF)), max_size=4),
    CHANGES | st.none(),
)
def test_an_archive(members: list[tuple[str, int]], changes: list[tuple[int, int, bytes]] | None) -> None:
    tried("zip archives")
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        archive.writestr("train.csv", "eeg_id\n1\n")
        for name, mode in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name
            info.external_attr, info.create_system = mode << 16, 3
            with contextlib.suppress(UnicodeEncodeError):
                archive.writestr(info, "x" * (mode % 99))
    written = changed(content.getvalue(), changes) if changes else content.getvalue()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "a.zip").write_bytes(written)
        with contextlib.suppress(DownloadError):
            unpack(root / "a.zip", root / "files", limits=Limits(bytes=1 << 20))
        assert {path.name for path in root.iterdir()} <= {"a.zip", "files"}
        assert not any(path.is_symlink() for path in root.rglob("*"))


@given(CHANGES)
def test_a_checkpoint(changes: list[tuple[int, int, bytes]]) -> None:
    tried("checkpoints")
    with tempfile.TemporaryDirectory() as place:
        path = write_checkpoint(Path(place), 0, {"epoch": 3, "weights": torch.zeros(8), "story": ["a", 1.0]})
        content = path.read_bytes()
        start = content.index(b"PK")
        payload = changed(content[start:], changes)
        path.write_bytes(content[: start - 32] + hashlib.sha256(payload).digest() + payload)
        with contextlib.suppress(CheckpointError):
            read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@given(CHANGES)
def test_the_pickle_in_a_checkpoint(changes: list[tuple[int, int, bytes]]) -> None:
    tried("pickles of checkpoints")
    saved = io.BytesIO()
    torch.save({"epoch": 3, "weights": torch.zeros(2, 4), "story": [{"kl": 1.0}, (True, None)]}, saved)
    changed_pickle = io.BytesIO()
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(changed_pickle, "w") as written:
        for name in archive.namelist():
            content = archive.read(name)
            written.writestr(name, changed(content, changes) if name.endswith("data.pkl") else content)
    with contextlib.suppress(NotAStateError):
        read_state(changed_pickle.getvalue())


@given(CHANGES, st.booleans())
def test_the_predictions_in_a_bundle(changes: list[tuple[int, int, bytes]], footer: bool) -> None:
    tried("predictions of bundles")
    with tempfile.TemporaryDirectory() as place:
        path = (
            write_bundle(Path(place) / "bundle", networks=0, oof={"oof.parquet": PREDICTIONS}) / "oof.parquet"
        )
        content = path.read_bytes()
        half = len(content) // 2 if footer else 0
        path.write_bytes(content[:half] + changed(content[half:], changes))
        with contextlib.suppress(BundleError):
            read_out_of_fold(path.parent)


PREDICTIONS = out_of_fold_table(
    OutOfFold(
        row=np.arange(4),
        eeg_id=np.arange(4),
        patient_id=np.arange(4),
        fold=np.arange(4),
        probabilities=np.full((4, len(CLASSES)), 1 / len(CLASSES), np.float32),
        targets=np.full((4, len(CLASSES)), 1 / len(CLASSES), np.float32),
        total_votes=np.full(4, 10),
    )
)


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    opened = open_storage(folder(lambda place: start_embedded(place / "postgres")))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def saved(storage: Storage) -> dict[str, bytes]:
    """The entries of a study's file."""
    study = join_search(storage, StudyFile.parse(ARCHIVED, "a.yaml")).study
    for value in (0.5, 0.25):
        trial = study.ask()
        trial.suggest_float("training.learning_rate", 1e-4, 1e-2, log=True)
        trial.set_user_attr("trial", trial.number)
        trial.report(value, 1)
        study.tell(trial, value)
    study.ask({"model.dropout": optuna.distributions.CategoricalDistribution([0.1, 0.2])})
    save_note(study, "of the study")

    def written(place: Path) -> dict[str, bytes]:
        store = DirectoryStore(place / "store")
        (place / "c").write_bytes(b"content")
        store.put("archived/trial-0/attempt-000000/checkpoint-000001.pt", place / "c")
        save_study(storage, store, "archived", place / "study.zip")
        with zipfile.ZipFile(place / "study.zip") as read:
            return {name: read.read(name) for name in read.namelist()}

    content: dict[str, bytes] = folder(written)
    delete_study(storage, "archived")
    return content


ARCHIVED = """\
study: archived
training: {epochs: 4, learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
model: {backbone: test_resnet, pretrained: false}
"""


def check_loading(storage: Storage, entries: dict[str, bytes], changes: Any = None) -> None:
    """A study's file is refused and leaves nothing behind, or everybody can read the study."""
    with tempfile.TemporaryDirectory() as place:
        file, store = Path(place) / "study.zip", Path(place) / "store"
        with zipfile.ZipFile(file, "w") as written:
            for name, content in entries.items():
                written.writestr(name, content)
        if changes:
            file.write_bytes(changed(file.read_bytes(), changes))
        try:
            load_study(storage, DirectoryStore(store), file)
        except HmsTuneError:
            assert not [path for path in store.rglob("*") if path.is_file()]
            with storage.transaction() as connection:
                assert not has_study(connection, "archived")
            return
        try:
            record = study_record(storage, "archived")
            request: dict[str, Any] = {
                "PATH_INFO": f"/api/studies/{record.study_id}",
                "HTTP_HOST": "127.0.0.1",
            }
            setup_testing_defaults(request)
            answer: list[str] = []
            parts = dashboard_app(storage, store)(request, lambda status, *_: answer.append(status))
            json.loads(b"".join(parts), parse_constant=pytest.fail)
            assert answer[0].startswith("200")
        finally:
            delete_study(storage, "archived")


@given(CHANGES)
def test_a_studys_file_with_changed_bytes(
    storage: Storage, saved: dict[str, bytes], changes: list[tuple[int, int, bytes]]
) -> None:
    tried("files of studies")
    check_loading(storage, saved, changes)


ROWS = JSON | st.sampled_from(
    ["infinity", "NaN", "[" * 99, "{}", "[]", '"x"', "-1", 2**31, 2**63, 1e308, "a\0"]
)


@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 1 << 10), ROWS), min_size=1, max_size=3))
def test_a_studys_file_with_changed_rows(
    storage: Storage, saved: dict[str, bytes], values: list[tuple[int, int, Any]]
) -> None:
    tried("files of studies")
    entries = dict(saved)
    filled = [name for name, content in entries.items() if content and name.startswith("rows/")]
    for where, place, value in values:
        name = filled[where % len(filled)]
        lines = [json.loads(line) for line in entries[name].splitlines()]
        put(lines, (where // len(filled)) % len(lines) + len(lines) * place | 512, value)
        entries[name] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    check_loading(storage, entries)
