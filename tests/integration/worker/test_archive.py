"""A study that goes from one server to another in a file, in the middle of its search."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from optuna_dashboard import get_note, save_note
from slots import StopAfter, a_slot
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.embedded.server import start_embedded
from hms_tune.database.queries import archive as queries
from hms_tune.database.queries.archive import TABLES, has_study, insert_rows
from hms_tune.database.tables import metadata
from hms_tune.errors import ArtifactError, StorageError, UsageError
from hms_tune.reports.dashboard.serve import dashboard_app
from hms_tune.search.optuna_private import models, study_id_of
from hms_tune.studies.control import delete_study
from hms_tune.studies.lookup import load_study as load
from hms_tune.studies.score import stored_corrected, write_corrected
from hms_tune.studies.status import status
from hms_tune.studies.trial_record import study_record
from hms_tune.training.checkpoint import read_newest_checkpoint, write_checkpoint
from hms_tune.training.events import CheckpointWritten, Event
from hms_tune.training.observer import TrialInfo
from hms_tune.training.optimism.correction import Corrected
from hms_tune.worker.checkpoint_store.archive import load_study, save_study
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.open_study import join_search

STUDY = """
study: {name}
data: {{folds: 2}}
training: {{epochs: 4, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.0, high: 0.5}}}}
search: {{sampler: {sampler}, scheduler: {{name: promotion, reduction_factor: 2, rungs: [0.125, 0.5]}}}}
budget: {{trials: {trials}}}
"""


def study_file(name: str, sampler: str = "random", *, trials: int = 30) -> StudyFile:
    return StudyFile.parse(STUDY.format(name=name, sampler=sampler, trials=trials), "test")


class Training:
    """Eight epochs that go on where they stopped; the smallest learning rate is the best."""

    def __init__(self) -> None:
        self.trained: Counter[float] = Counter()

    def __call__(self, config: TrialConfig, directory: Path) -> Iterator[Event]:
        saved = read_newest_checkpoint(directory)
        done = -1 if saved is None else int(saved["step"])
        kl = 1.0 + 10 * config.training.learning_rate
        for fold in range(2):
            yield a_fold_start(fold, replayed=4 * fold <= done)
            for number in range(4):
                step = 4 * fold + number
                self.trained[config.training.learning_rate] += step > done
                yield an_epoch(fold, number, kl=kl + 0.1 * (3 - number), replayed=step <= done)
                if step > done:
                    path = write_checkpoint(directory, step, {"step": step})
                    yield CheckpointWritten(path=path, fold=fold, epoch=number)
            yield a_fold_end(fold, kl=kl, replayed=4 * fold + 3 < done)
        yield an_ending(kl)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A second server, with studies of its own, so that ids differ."""
    opened = open_storage(start_embedded(tmp_path_factory.mktemp("elsewhere") / "postgres"))
    for number in range(3):
        join_search(opened, study_file(f"other-{number}"))
    file = study_file("other-last", trials=3)
    a_slot(opened, join_search(opened, file), Training(), tmp_path_factory.mktemp("other")).run()
    yield opened
    opened.close()


def run(
    storage: Storage, file: StudyFile, folder: Path, training: Training, after: StopAfter | None = None
) -> None:
    given = {} if after is None else {"stop": after.stop, "observers": [after]}
    a_slot(storage, join_search(storage, file), training, folder, **given).run()


def outcome(storage: Storage, name: str) -> list[tuple[object, ...]]:
    """What became of each trial: its values, state, score and estimates, and how many epochs it ran."""
    return [
        (trial.trial, trial.params, trial.state, trial.value, trial.reported, trial.epochs_run)
        for trial in study_record(storage, name).trials
    ]


@pytest.mark.parametrize(
    ("sampler", "stays"),
    # The model of learning curves is fitted anew by each worker: the search that stays is stopped there, too.
    [("random", None), ("learning_curves", 20)],
)
@pytest.mark.slow
def test_a_search_that_goes_to_another_server_in_its_middle_ends_with_the_same_trials(
    storage: Storage, elsewhere: Storage, study_name: str, tmp_path: Path, sampler: str, stays: int | None
) -> None:
    uncut = Training()
    staying = study_file(f"{study_name}-uncut", sampler)
    if stays is not None:
        run(storage, staying, tmp_path / "uncut", uncut, StopAfter(stays))
    run(storage, staying, tmp_path / "uncut", uncut)

    cut = Training()
    moving = study_file(study_name, sampler)
    run(storage, moving, tmp_path / "here", cut, StopAfter(20))
    file = tmp_path / "study.zip"
    kept = tmp_path / "here" / study_name / "out-of-fold" / "trial-0.npz"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"predictions of a complete trial")
    saved = save_study(storage, open_store(tmp_path / "here"), study_name, file)
    before = status(storage, study_name)
    assert 0 < before.trials["paused"] <= saved.checkpoints
    delete_study(storage, study_name)

    loaded = load_study(elsewhere, open_store(tmp_path / "there"), file)
    assert loaded == saved
    moved = tmp_path / "there" / study_name / "out-of-fold" / "trial-0.npz"
    assert moved.read_bytes() == b"predictions of a complete trial"
    after = status(elsewhere, study_name)
    assert (after.trials, after.attempts, after.hours) == (before.trials, before.attempts, before.hours)
    run(elsewhere, moving, tmp_path / "there", cut)

    expected = outcome(storage, f"{study_name}-uncut")
    assert len(expected) == 30
    assert outcome(elsewhere, study_name) == expected
    assert cut.trained == uncut.trained  # no epoch was trained twice
    assert status(elsewhere, study_name).state == "finished"
    print(  # noqa: T201
        f"{saved.trials} of 30 trials, {saved.attempts} attempts and {saved.checkpoints} checkpoints in "
        f"{file.stat().st_size} bytes; ended as the uncut search"
    )


def test_a_trial_that_was_running_goes_on_from_its_checkpoint(
    storage: Storage, elsewhere: Storage, study_name: str, tmp_path: Path
) -> None:
    file = tmp_path / "study.zip"
    artifacts = tmp_path / "here"

    class SaveInTheMiddle(StopAfter):
        def event(self, trial: TrialInfo, event: Event) -> None:
            if isinstance(event, CheckpointWritten) and not file.exists() and any(artifacts.rglob("*.pt")):
                save_study(storage, open_store(artifacts), study_name, file)
                self.stop.request()

    training = Training()
    at = SaveInTheMiddle(1_000)
    run(storage, study_file(study_name, trials=6), artifacts, training, at)
    load_study(elsewhere, open_store(tmp_path / "there"), file)
    assert status(elsewhere, study_name).trials["running"] == 1
    run(elsewhere, study_file(study_name, trials=6), tmp_path / "there", training)
    ended = status(elsewhere, study_name)
    assert (ended.state, ended.attempts["lost"], ended.trials["failed"]) == ("finished", 1, 0)


def test_every_table_of_a_study_goes_along_and_every_number_in_it_is_made_anew() -> None:
    stays = {"version_info", "trial_heartbeats"}  # of a database; of a storage that we do not use
    stays |= {f"hms_tune.{name}" for name in ("workers", "worker_minutes", "outbox", "duties")}
    numbers = {"study_id", "trial_id", "optuna_trial_id", "last_optuna_trial_id"}
    tables = {
        table.fullname: table for table in (*metadata.sorted_tables, *models.BaseModel.metadata.sorted_tables)
    }
    carried = {each.table: each for each in TABLES}
    assert set(tables) - set(carried) == stays
    for name, each in carried.items():
        columns = set(tables[name].columns.keys())
        assert columns & numbers <= set(each.refers) | {each.own}, name
        assert set(each.refers) | ({each.own} if each.own else set()) <= columns, name


def test_what_does_not_fit_is_refused_and_changes_nothing(
    storage: Storage, elsewhere: Storage, study_name: str, tmp_path: Path
) -> None:
    run(storage, study_file(study_name), tmp_path / "here", Training(), StopAfter(2))
    here = open_store(tmp_path / "here")
    file = tmp_path / "study.zip"
    save_study(storage, here, study_name, file)
    with pytest.raises(UsageError, match="the database has a study"):
        load_study(storage, here, file)
    (tmp_path / "no.zip").write_bytes(file.read_bytes()[:500])
    for wrong in (tmp_path / "no.zip", tmp_path / "absent.zip"):
        with pytest.raises(UsageError, match="study save"):
            load_study(elsewhere, here, wrong)

    def changed(**head: object) -> Path:
        other = tmp_path / "changed.zip"
        with zipfile.ZipFile(file) as read, zipfile.ZipFile(other, "w") as write:
            for name in read.namelist():
                content = read.read(name)
                if name == "study.json":
                    content = json.dumps(json.loads(content) | head).encode()
                write.writestr(name, content)
        return other

    with pytest.raises(StorageError, match="of revision 9, those of the database"):
        load_study(elsewhere, here, changed(revision="9"))
    with pytest.raises(UsageError, match="no study that this version knows"):
        load_study(elsewhere, here, changed(study="../out"))
    loaded = load_study(elsewhere, open_store(tmp_path / "there"), changed())
    assert loaded.checkpoints == len(list((tmp_path / "there").rglob("*.pt")))


Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Sent:
    """A study that is in no database any more, as its file has it."""

    name: str
    entries: dict[str, bytes]

    def rows(self) -> Rows:
        return {
            name.removeprefix("rows/").removesuffix(".jsonl"): [
                json.loads(line) for line in text.splitlines()
            ]
            for name, text in self.entries.items()
            if name.startswith("rows/")
        }

    def write(self, file: Path, rows: Rows | None = None, **entries: bytes | None) -> Path:
        """The file with other rows, or other entries."""
        texts = {
            f"rows/{name}.jsonl": "".join(json.dumps(row) + "\n" for row in each).encode()
            for name, each in (rows or {}).items()
        }
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in (self.entries | texts | entries).items():
                if content is not None:
                    packed = zipfile.ZIP_DEFLATED if name.startswith("rows/") else zipfile.ZIP_STORED
                    archive.writestr(name, content, packed)
        return file


CORRECTED = Corrected(1.0, (0.8, 1.3), 30, 4)


@pytest.fixture(scope="module")
def sent(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    name, folder = f"sent-{os.getpid()}", tmp_path_factory.mktemp("sent")
    run(storage, study_file(name), folder / "here", Training(), StopAfter(6))
    study = load(storage, name)
    study.set_user_attr("mine", {"a": [1, None]})
    save_note(study, "of the study")
    save_note(study.ask(), "of a trial")
    write_corrected(storage, study_id_of(study), 0, CORRECTED)
    save_study(storage, open_store(folder / "here"), name, folder / "study.zip")
    delete_study(storage, name)
    with zipfile.ZipFile(folder / "study.zip") as read:
        return Sent(name, {each: read.read(each) for each in read.namelist()})


def test_a_pipe_gets_the_study_and_a_link_stays_one(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    join_search(storage, study_file(study_name))
    store = open_store(tmp_path / "here")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "study.zip"
    link.symlink_to("elsewhere/kept.zip")
    save_study(storage, store, study_name, link)
    assert link.is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["kept.zip"]

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    save_study(storage, store, study_name, pipe)
    content = os.read(reading, 1 << 16)
    os.close(reading)
    assert pipe.is_fifo()
    for file in (link, io.BytesIO(content)):
        with zipfile.ZipFile(file) as saved:
            assert json.loads(saved.read("study.json"))["study"] == study_name


def refused(storage: Storage, store: Path, sent: Sent, file: Path, said: str) -> None:
    """Loading fails with a sentence, and leaves nothing behind."""
    with pytest.raises(UsageError, match=said) as told:
        load_study(storage, open_store(store), file)
    assert (told.value.where, told.value.hint) == (
        str(file),
        f"Write it with hms-tune study save STUDY {file}",
    )
    with storage.transaction() as connection:
        assert not has_study(connection, sent.name)
    assert not [path for path in store.rglob("*") if path.is_file()]


def of(rows: Rows, table: str, key: str) -> dict[str, Any]:
    return next(row for row in rows[table] if row["key"] == key)


def told(rows: Rows, **columns: object) -> None:
    """Adds what the first attempt told."""
    record = {"study_id": rows["optuna_studies"][0]["study_id"], "number": 0, "gpus": 0}
    rows["attempt_records"].append(record | {"written_at": "2026-01-01T00:00:00Z"} | columns)


def confirming(rows: Rows, ranking: object) -> None:
    """Adds how the candidates of another study stand."""
    told = {"study_id": rows["optuna_studies"][0]["study_id"], "confirms": "another", "candidates": []}
    rows["confirmations"].append(told | {"ranking": ranking})


DEEP = "[" * 200 + "]" * 200
HOSTILE: dict[str, tuple[Callable[[Rows], object], str]] = {
    "no JSON": (lambda rows: rows["optuna_user_attributes"][0].update(value_json="{"), "optuna_user_attr"),
    "nested": (
        lambda rows: rows["optuna_user_attributes"][0].update(value_json=DEEP),
        "nested deeper than 50",
    ),
    "nested far": (
        lambda rows: rows["optuna_user_attributes"][0].update(value_json="[" * 9999),
        "optuna_user_attributes.jsonl",
    ),
    "no key": (
        lambda rows: rows["optuna_user_attributes"][0].update(key=None),
        "user_attributes: .*key is empty",
    ),
    "nobody's": (lambda rows: rows["optuna_values"][0].update(trial_id=None), "trial_id is empty"),
    "no name": (lambda rows: rows["optuna_params"][0].pop("param_name"), "param_name is empty"),
    "two studies": (lambda rows: rows["optuna_studies"].append(dict(rows["optuna_studies"][0])), "twice"),
    "no study": (lambda rows: rows["optuna_studies"].clear(), "optuna_directions: KeyError"),
    "two of ours": (lambda rows: rows["studies"].append(dict(rows["studies"][0])), "studies: .*duplicate"),
    "attribute of a study": (
        lambda rows: of(rows, "optuna_study_system_attributes", "dashboard:note_ver").update(
            value_json='"x"'
        ),
        "dashboard:note_ver is of another kind",
    ),
    "part of a note": (
        lambda rows: of(rows, "optuna_study_system_attributes", "dashboard:note_str:0").update(
            key="dashboard:note_str:7"
        ),
        "a part of a note is missing",
    ),
    "names of metrics": (
        lambda rows: of(rows, "optuna_study_system_attributes", "study:metric_names").update(value_json="5"),
        "study:metric_names is of another kind",
    ),
    "values given": (
        lambda rows: rows["optuna_system_attributes"].append(
            {"trial_system_attribute_id": 10**6, "trial_id": rows["optuna_trials"][0]["trial_id"]}
            | {"key": "fixed_params", "value_json": "[1]"}
        ),
        "fixed_params is of another kind",
    ),
    "constraints": (
        lambda rows: rows["optuna_system_attributes"].append(
            {"trial_system_attribute_id": 10**6, "trial_id": rows["optuna_trials"][0]["trial_id"]}
            | {"key": "constraints", "value_json": "[NaN]"}
        ),
        "constraints is of another kind",
    ),
    "distribution": (
        lambda rows: rows["optuna_params"][0].update(distribution_json="{}"),
        "read again: KeyError",
    ),
    "parameter": (lambda rows: rows["optuna_params"][0].update(param_value=9e9), "isn't contained"),
    "parameter of no number": (
        lambda rows: rows["optuna_params"][0].update(param_value="NaN"),
        "param_value",
    ),
    "state": (lambda rows: rows["optuna_trials"][0].update(state="EVIL"), "optuna_trials: .*enum"),
    "no state": (lambda rows: rows["optuna_trials"][0].pop("state"), "state is empty"),
    "time": (lambda rows: rows["optuna_trials"][0].update(datetime_start="infinity"), "datetime_start"),
    "time of ours": (
        lambda rows: rows["attempts"][0].update(claimed_at="0044-03-15 BC"),
        "attempts.claimed_at",
    ),
    "number": (lambda rows: rows["optuna_trials"][0].update(number=77), "not numbered in their order"),
    "direction": (lambda rows: rows["optuna_directions"][0].update(direction="MAXIMIZE"), "minimized"),
    "trial that is not there": (
        lambda rows: rows["attempts"][0].update(trial_id=10**9),
        "attempts: KeyError",
    ),
    "study file": (
        lambda rows: of(rows, "optuna_study_user_attributes", "hms_tune:study_file").update(key="other"),
        "the study file is missing",
    ),
    "study file of another": (
        lambda rows: of(rows, "optuna_study_user_attributes", "hms_tune:study_file").update(
            value_json=json.dumps(study_file("other").to_json())
        ),
        "its parts are of different studies",
    ),
    "value": (lambda rows: rows["optuna_values"][0].update(value="Infinity"), "optuna_values.value"),
    "record": (lambda rows: told(rows, folds=[{"a": 1}]), "cannot be read again"),
    "curve": (lambda rows: told(rows, folds=[{"curves": {"epoch": 1}}]), "cannot be read again|array"),
    "NUL": (lambda rows: told(rows, reason="a\0b"), "attempt_records: .*Unicode"),
    "surrogate": (lambda rows: told(rows, reason="\ud800"), "attempt_records: .*json"),
    "id as text": (lambda rows: rows["optuna_trials"][0].update(trial_id="1"), "optuna_trials: "),
    "id as list": (lambda rows: rows["optuna_values"][0].update(trial_id=[1]), "optuna_values: TypeError"),
    "ranking": (lambda rows: confirming(rows, [{"trial": 1, "odd": 2}]), "read again: TypeError"),
    "score in a ranking": (
        lambda rows: confirming(rows, [{"trial": 1, "place_before": 1, "search_kl": "a"}]),
        "read again: ValueError",
    ),
    "predictions": (
        lambda rows: rows["out_of_fold"].append(
            {"study_id": rows["optuna_studies"][0]["study_id"], "number": 0, "content": "\\x00"}
            | {"published_at": None, "written_at": "2026-01-01T00:00:00Z"}
        ),
        "read again: BadZipFile",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_rows_that_somebody_could_not_read_are_refused(
    storage: Storage, sent: Sent, tmp_path: Path, name: str
) -> None:
    spoil, said = HOSTILE[name]
    rows = sent.rows()
    spoil(rows)
    refused(storage, tmp_path / "store", sent, sent.write(tmp_path / "study.zip", rows), said)


def no_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def long_directory(path: Path) -> None:
    """Claims a directory of 70 MB in a file of as many bytes."""
    content = path.read_bytes()
    end = bytearray(content[content.rindex(b"PK\5\6") :])
    end[12:16] = (70 << 20).to_bytes(4, "little")
    with path.open("wb") as file:
        file.truncate(70 << 20)
        file.seek(70 << 20)
        file.write(end)


def flagged(at: int, value: int) -> Callable[[Path], None]:
    """Changes two bytes of each entry, where it begins and in the directory."""

    def write(path: Path) -> None:
        content = bytearray(path.read_bytes())
        for begin, offset in ((b"PK\3\4", at), (b"PK\1\2", at + 2)):
            for found in re.finditer(re.escape(begin), bytes(content)):
                content[found.start() + offset : found.start() + offset + 2] = value.to_bytes(2, "little")
        path.write_bytes(content)

    return write


def added(name: str, content: bytes, packed: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr(name, content, packed)

    return write


def damaged(name: bytes) -> Callable[[Path], None]:
    """Flips a bit of an entry's content."""

    def write(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[content.index(name) + len(name) + 9] ^= 1
        path.write_bytes(content)

    return write


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_file, "it is no regular file"),
        (pipe, "it is no regular file"),
        (long_directory, "its directory is too long"),
        (lambda path: path.write_bytes(b""), "File is not a zip file"),
        (flagged(6, 1), "is encrypted"),
        (flagged(8, 14), "is compressed"),
        (flagged(8, 97), "is compressed"),
        (added("study.json", b"{}"), "an entry stands there twice"),
        (added("artifacts/../../out.pt", b"x"), "has no place in it"),
        (added("artifacts/trial-9/attempt-9/checkpoint-9.pt", b"x" * 99, zipfile.ZIP_DEFLATED), "compressed"),
        (damaged(b"rows/optuna_trials.jsonl"), "optuna_trials.jsonl: "),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(
    storage: Storage, sent: Sent, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    file = sent.write(tmp_path / "study.zip")
    spoil(file)
    refused(storage, tmp_path / "store", sent, file, said)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"study.json": b"[]"}, "no whole study"),
        ({"study.json": b"[" * 9999}, "recursion"),
        ({"study.json": b'{"format": 1, "study": 5}'}, "no whole study"),
        ({"study.json": b" " * (1 << 17)}, "study.json is too long"),
        ({"study.json": None}, "study.json"),
        ({"rows/attempts.jsonl": None}, "attempts.jsonl"),
        ({"rows/attempts.jsonl": b"5\n"}, "a row is no JSON object"),
        ({"rows/attempts.jsonl": b"\xff\n"}, "attempts.jsonl"),
        ({"rows/attempts.jsonl": b"{}\n"}, "attempts: KeyError"),
        ({"rows/attempts.jsonl": b" " * (1 << 24)}, "unpacks to 16,777,216 bytes"),
    ],
)
def test_an_entry_that_is_none_of_ours_is_refused(
    storage: Storage, sent: Sent, tmp_path: Path, entries: dict[str, bytes | None], said: str
) -> None:
    refused(storage, tmp_path / "store", sent, sent.write(tmp_path / "study.zip", **entries), said)


def a_checkpoint(sent: Sent) -> str:
    return next(name for name in sent.entries if name.endswith(".pt"))


def test_what_was_stored_of_a_study_that_is_not_loaded_is_removed_again(
    storage: Storage, sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sent.write(
        tmp_path / "study.zip", **{"artifacts/trial-9999/attempt-1/checkpoint-1.pt": b"CONTENT" * 9}
    )
    damaged(b"artifacts/trial-9999/attempt-1/checkpoint-1.pt")(file)  # its last
    with pytest.raises(UsageError, match=r"checkpoint-1\.pt: Bad CRC-32"):
        load_study(storage, open_store(tmp_path / "store"), file)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]

    sound, seen = sent.write(tmp_path / "study.zip"), []

    def away(*arguments: Any) -> object:
        seen.append(list((tmp_path / "store").rglob("*.pt")))
        if len(seen) == 2:
            raise StorageError("the database is away")
        return insert_rows(*arguments)

    monkeypatch.setattr(queries, "insert_rows", away)
    with pytest.raises(StorageError, match="is away"):
        load_study(storage, open_store(tmp_path / "store"), sound)
    assert [len(each) > 0 for each in seen] == [False, True]
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_a_checkpoint_that_is_there_is_neither_replaced_nor_removed(
    storage: Storage, sent: Sent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "store" / sent.name / a_checkpoint(sent).removeprefix("artifacts/")
    there.parent.mkdir(parents=True)
    there.write_bytes(b"another's")
    file = sent.write(tmp_path / "study.zip")
    with pytest.raises(ArtifactError, match="there already with another content"):
        load_study(storage, open_store(tmp_path / "store"), file)
    assert [path.read_bytes() for path in (tmp_path / "store").rglob("*.pt")] == [b"another's"]
    there.unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ArtifactError, match="there is room for 10"):
        load_study(storage, open_store(tmp_path / "store"), file)


def test_a_loaded_study_has_its_notes_and_no_file_that_stayed_elsewhere(
    storage: Storage, sent: Sent, tmp_path: Path
) -> None:
    rows = sent.rows()
    study_id, trial_id = rows["optuna_studies"][0]["study_id"], rows["optuna_trials"][0]["trial_id"]
    file = '{"artifact_id": "a", "filename": "f.png", "mimetype": "image/png", "encoding": null}'
    for number, key in enumerate(
        (f"dashboard:artifacts:{trial_id}:a", "artifacts:a", "preference:values1", "dashboard:plot_data:x:7")
    ):
        rows["optuna_study_system_attributes"].append(
            {"study_system_attribute_id": 10**6 + number, "study_id": study_id}
            | {"key": key, "value_json": json.dumps(file)}
        )
    rows["optuna_system_attributes"].append(
        {"trial_system_attribute_id": 10**6, "trial_id": trial_id, "key": "artifacts:a"}
        | {"value_json": json.dumps(file)}
    )
    load_study(storage, open_store(tmp_path / "store"), sent.write(tmp_path / "study.zip", rows))
    try:
        study = load(storage, sent.name)
        assert study.user_attrs["mine"] == {"a": [1, None]}
        last = study.trials[-1]
        notes = {"note_ver", "note_str:0"}
        assert set(storage.optuna.get_study_system_attrs(study._study_id)) == {
            "study:metric_names",
            "hms_tune:corrected",
            *(f"dashboard:{note}" for note in notes),
            *(f"dashboard:{last._trial_id}:{note}" for note in notes),
        }
        assert get_note(study) == "of the study"
        assert stored_corrected(storage, study_id_of(study), 0) == CORRECTED
        assert not any(key.startswith("artifacts:") for each in study.trials for key in each.system_attrs)
        request: dict[str, Any] = {"PATH_INFO": f"/api/studies/{study._study_id}", "HTTP_HOST": "127.0.0.1"}
        setup_testing_defaults(request)
        answer = dashboard_app(storage, tmp_path)(request, lambda *_: None)  # type: ignore[arg-type,return-value]
        shown = json.loads(b"".join(answer))
        assert shown["trials"][-1]["note"]["body"] == "of a trial"
        assert shown["artifacts"] == []
        assert not any(each["artifacts"] for each in shown["trials"])
    finally:
        delete_study(storage, sent.name)
