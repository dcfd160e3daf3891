"""Facts about a machine or a file, found before a trial is claimed; and a study that is mended after one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_hub import point_to
from rich.console import Console
from slots import a_slot
from sqlalchemy import select
from stories import an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.store import Store
from hms_tune.database.connect import Storage
from hms_tune.database.queries.workers import Presence, add_worker
from hms_tune.database.tables import trials
from hms_tune.errors import ArtifactError, HmsTuneError, PretrainedError, SpaceChangedError
from hms_tune.machine.processes import this_process
from hms_tune.studies.enqueue import enqueue
from hms_tune.studies.status import status
from hms_tune.tracking.console import ConsoleObserver
from hms_tune.training.events import Event
from hms_tune.trial_state import TrialState
from hms_tune.worker.open_study import join_search
from hms_tune.worker.options import WorkerOptions
from hms_tune.worker.worker import Worker

STUDY = """
study: {name}
data: {{folds: 2, holdout: 0}}
training: {{epochs: 1, learning_rate: {{low: 1.0e-4, high: 1.0e-2, log: true}}}}
model: {{backbone: test_resnet, pretrained: true, dropout: {{low: 0.0, high: 0.5}}}}
search:
  sampler: random
  pruner: none
  start: [training.learning_rate=0.005, training.learning_rate=0.001]
budget: {{trials: 4}}
"""


def study_file(name: str, *changes: tuple[str, str]) -> StudyFile:
    text = STUDY.format(name=name)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return StudyFile.parse(text, "test.yaml")


MENDED = ("pretrained: true", "pretrained: false")


def without_weights(config: TrialConfig, directory: Path) -> Iterator[Event]:
    if config.model.pretrained is True:
        raise PretrainedError("the model hub could not be reached", hint="Set model.pretrained to false")
    yield an_epoch(0, kl=1.0)
    yield an_ending(1.0 + config.training.learning_rate)


def waiting(storage: Storage, study_id: int) -> list[dict[str, float]]:
    statement = (
        select(trials.c.given)
        .where(trials.c.study_id == study_id, trials.c.state == TrialState.WAITING)
        .order_by(trials.c.trial_id)
    )
    with storage.statements() as connection:
        return list(connection.execute(statement).scalars())


def counts(storage: Storage, name: str) -> dict[TrialState, int]:
    return {state: count for state, count in status(storage, name).trials.items() if count}


def worker(study: StudyFile, database_url: str, store: Store, folder: Path, *, artifacts: Path) -> Worker:
    options = WorkerOptions(
        study_file=study,
        storage=database_url,
        home=folder / "home",
        data_root=store.root.parent,
        artifacts=artifacts,
        device="cpu",
    )
    return Worker(options, ConsoleObserver(Console(stderr=True)))


@pytest.mark.parametrize("fact", ["hub", "artifacts", "home"])
def test_what_would_fail_every_trial_is_refused_before_anything_is_written(
    fact: str,
    storage: Storage,
    database_url: str,
    store: Store,
    study_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    point_to(f"http://127.0.0.1:{port}", tmp_path, monkeypatch)
    (tmp_path / "file").touch()
    artifacts = tmp_path / "file" / "artifacts" if fact == "artifacts" else tmp_path / "artifacts"
    folder = tmp_path / "file" if fact == "home" else tmp_path
    wrong: type[HmsTuneError] = PretrainedError if fact == "hub" else ArtifactError
    with pytest.raises(wrong) as refused:
        worker(study_file(study_name), database_url, store, folder, artifacts=artifacts).run()
    assert refused.value.hint
    assert refused.value.exit_code == 1
    with pytest.raises(KeyError):
        storage.optuna.get_study_id_from_name(study_name)


def test_a_hub_that_goes_away_costs_no_trial_and_the_mend_goes_on_with_it(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    for _ in range(4):  # as often as a worker is started again
        search = join_search(storage, study_file(study_name))
        with pytest.raises(PretrainedError):
            a_slot(storage, search, without_weights, tmp_path / "store").run()
    assert counts(storage, study_name) == {"waiting": 2}
    search = join_search(storage, study_file(study_name, MENDED))
    assert a_slot(storage, search, without_weights, tmp_path / "store").run() == 4
    assert counts(storage, study_name) == {"complete": 4}
    with pytest.raises(SpaceChangedError, match=r"model\.pretrained was false and is true"):
        join_search(storage, study_file(study_name))


def test_what_was_enqueued_stays_where_the_mended_search_has_it(storage: Storage, study_name: str) -> None:
    study_id = join_search(storage, study_file(study_name)).study_id
    enqueue(storage, study_name, {"model.dropout": "0.5"})
    enqueue(storage, study_name, {"model.dropout": "0.25"})
    lower = ("low: 0.0, high: 0.5", "low: 0.0, high: 0.3")
    other_start = ("[training.learning_rate=0.005,", "[training.learning_rate=0.002,")
    join_search(storage, study_file(study_name, lower, other_start))
    assert waiting(storage, study_id) == [
        {"training.learning_rate": 0.005},
        {"training.learning_rate": 0.001},
        {"model.dropout": 0.25},
        {"training.learning_rate": 0.002},
    ]


def test_a_search_is_not_changed_under_a_worker(storage: Storage, study_name: str) -> None:
    study_id = join_search(storage, study_file(study_name)).study_id
    add_worker(storage, Presence(study_name, study_id, "1", ("cpu",)), this_process())
    with pytest.raises(SpaceChangedError, match="while no worker is at it"):
        join_search(storage, study_file(study_name, MENDED))
