"""A study that goes from one server to another in a file, in the middle of its search."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from slots import StopAfter, a_slot
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.embedded.server import start_embedded
from hms_tune.database.queries.archive import TABLES
from hms_tune.database.tables import metadata
from hms_tune.errors import StorageError, UsageError
from hms_tune.search.optuna_private import models
from hms_tune.studies.control import delete_study
from hms_tune.studies.status import status
from hms_tune.studies.trial_record import study_record
from hms_tune.training.checkpoint import read_newest_checkpoint, write_checkpoint
from hms_tune.training.events import CheckpointWritten, Event
from hms_tune.training.observer import TrialInfo
from hms_tune.worker.checkpoint_store.archive import load_study, save_study
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.open_study import join_search

STUDY = """
study: {name}
data: {{folds: 2}}
training: {{epochs: 4, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.0, high: 0.5}}}}
search: {{sampler: {sampler}, scheduler: {{name: promotion, reduction_factor: 2, rungs: [0.125, 0.5]}}}}
budget: {{trials: 30}}
"""


def study_file(name: str, sampler: str = "random") -> StudyFile:
    return StudyFile.parse(STUDY.format(name=name, sampler=sampler), "test")


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
    a_slot(
        opened, join_search(opened, study_file("other-0")), Training(), tmp_path_factory.mktemp("other")
    ).run()
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
    run(storage, study_file(study_name), artifacts, training, at)
    load_study(elsewhere, open_store(tmp_path / "there"), file)
    assert status(elsewhere, study_name).trials["running"] == 1
    run(elsewhere, study_file(study_name), tmp_path / "there", training)
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
