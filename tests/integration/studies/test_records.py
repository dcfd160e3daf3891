"""What is kept and shown of a study, from its records to its report, against a real PostgreSQL."""

from __future__ import annotations

import gzip
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from fake_study import run_study
from optuna_dashboard import get_note, save_note
from rich.console import Console
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError

from hms_tune.cli.views.trial import trial_view
from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.locks import dismiss_publisher, elect_publisher
from hms_tune.database.optuna_storage import PatientStorage
from hms_tune.database.tables import attempts, duties, out_of_fold, seconds_from_now
from hms_tune.reports.dashboard import page_trials
from hms_tune.reports.dashboard.access import Gatekeeper
from hms_tune.reports.dashboard.publish import publish_study
from hms_tune.reports.dashboard.publisher import Publisher, PublisherPlan
from hms_tune.reports.dashboard.serve import dashboard_app
from hms_tune.reports.dashboard.study_note import Reached, study_note
from hms_tune.reports.study_page import gather, report_page
from hms_tune.studies.overview import StudyOverview, study_overview
from hms_tune.studies.predictions import kept_out_of_fold
from hms_tune.studies.record_writer import Equipment, TrialRecorder
from hms_tune.studies.trial_record import StudyRecord, ranking_of, study_record, trial_record
from hms_tune.training.events import Event, FoldEnded
from hms_tune.training.observer import TrialInfo
from hms_tune.worker.open_study import join_search

NAME = "looked-at"
EPOCHS = 3
"""Of each of the two folds; see tests/fake_study.py."""


@pytest.fixture
def study(storage: Storage, artifacts: Path) -> StudyRecord:
    return study_record(storage, NAME)


@pytest.fixture
def overview(storage: Storage, artifacts: Path) -> StudyOverview:
    return study_overview(storage, NAME)


def asked(storage: Storage, artifacts: Path, path: str, application: Gatekeeper | None = None) -> Any:
    """What the dashboard answers."""
    application = application or dashboard_app(storage, artifacts)
    status: list[str] = []
    environment: dict[str, Any] = {"PATH_INFO": path, "HTTP_HOST": "127.0.0.1"}
    setup_testing_defaults(environment)
    parts = application(environment, lambda code, headers, *rest: status.append(code))
    body = b"".join(parts)
    assert status[0].startswith("200"), (status, body)
    return json.loads(body)


def test_each_trial_has_its_folds_its_place_and_its_cost(study: StudyRecord) -> None:
    assert len(study.trials) == 14
    best = study.best
    assert best is not None
    assert [len(fold.epochs) for fold in best.folds] == [EPOCHS, EPOCHS]
    assert best.folds[1].kl == pytest.approx(best.folds[0].kl + 0.02, abs=1e-5)
    assert (best.device, best.gpus, best.data_digest) == ("cpu", 0.0, "0123456789abcdef" * 4)
    assert [(each.attempt, each.state) for each in best.attempts] == [(best.attempt, "complete")]
    assert best.cost == best.attempts[0].seconds > 0.0
    assert best.config is not None
    assert best.config["training"]["learning_rate"] == best.params["training.learning_rate"]


def test_a_failed_trials_traceback_is_kept_apart_from_what_pages_carry(
    storage: Storage, study: StudyRecord
) -> None:
    failed = study.ended("failed")[0]
    assert "DataError" in (failed.traceback or "")
    attributes = optuna.load_study(study_name=NAME, storage=storage.optuna).trials[failed.attempt].user_attrs
    assert attributes["reason"].startswith("train_eegs/1.parquet: a file is missing")
    assert not {"traceback", "config"} & set(attributes)


def test_predictions_are_kept_of_those_that_were_the_best_when_they_ended(
    storage: Storage, study: StudyRecord
) -> None:
    with storage.engine.connect() as connection:
        kept = connection.execute(
            select(out_of_fold.c.number).where(out_of_fold.c.study_id == study.study_id)
        ).scalars()
        numbers = sorted(kept)
    best, values = float("inf"), []
    for trial in study.trials:
        if trial.value is not None and trial.value < best:
            best = trial.value
            values.append(trial.attempt)
    assert numbers == values
    predictions = kept_out_of_fold(storage, study.study_id, numbers[-1])
    assert predictions is not None
    assert predictions.probabilities.shape == (40, 6)


def test_a_record_that_an_outage_cut_off_is_written_when_it_is_over(
    storage: Storage, study_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, outages = TrialRecorder._store, iter(range(3))

    def cut_off(self: TrialRecorder, number: int, values: dict[str, Any], *, close: bool = False) -> None:
        if next(outages, None) is not None:
            raise OperationalError("SELECT 1", {}, Exception("the server went away"))
        store(self, number, values, close=close)

    monkeypatch.setattr(TrialRecorder, "_store", cut_off)
    monkeypatch.setattr("hms_tune.studies.record_writer.AGAIN_S", 0.01)
    run_study(storage, study_name, tmp_path, trials=3)
    assert all(trial.folds or trial.state == "failed" for trial in study_record(storage, study_name).trials)


def test_a_recorder_that_fails_is_said_once_and_harms_no_trial(
    storage: Storage,
    study_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(self: TrialRecorder, number: int, values: dict[str, Any], **how: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(TrialRecorder, "_store", broken)
    run_study(storage, study_name, tmp_path, trials=3)
    record = study_record(storage, study_name)
    assert len(record.ended("complete", "pruned", "failed")) == 3
    warnings = [each for each in caplog.messages if "Records of trials cannot be kept" in each]
    assert len(warnings) == 1


def test_every_trial_has_a_note_in_the_dashboard(
    storage: Storage, study: StudyRecord, artifacts: Path
) -> None:
    page = asked(storage, artifacts, f"/api/studies/{study.study_id}")
    notes = {trial["number"]: trial["note"]["body"] for trial in page["trials"]}
    best, pruned, failed = study.best, study.ended("pruned")[0], study.ended("failed")[0]
    assert best is not None
    assert f"Complete: KL {best.value:.4f}" in notes[best.attempt]
    assert "| 2 |" in notes[best.attempt]
    assert "Best of the study when it ended" in notes[best.attempt]
    assert "Pruned in fold 1 after epoch 2 of 3" in notes[pruned.attempt]
    assert "Failed: train_eegs/1.parquet: a file is missing" in notes[failed.attempt]
    assert page["best_trials"][0]["note"]["body"] == notes[best.attempt]
    (files,) = [trial["artifacts"] for trial in page["trials"] if trial["number"] == best.attempt]
    assert {each["filename"] for each in files} == {
        "confusion.png",
        "reliability.png",
        "kl-by-class.png",
        "kl-by-votes.png",
        "curves.png",
    }
    assert {each["id"] for each in page["plotly_graph_objects"]} == {"fold-spread", "time", "cost", "slots"}


def test_a_page_of_many_trials_is_told_what_the_newest_and_the_best_reported(
    storage: Storage, study: StudyRecord, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/studies/{study.study_id}"
    whole = asked(storage, artifacts, path)
    monkeypatch.setattr(page_trials, "NEWEST", 3)
    monkeypatch.setattr(page_trials, "BEST", 2)
    page = asked(storage, artifacts, path)
    reported = [trial.pop("intermediate_values") for trial in page["trials"]]
    kept = {trial.attempt for trial in study.ranked[:2]} | set(range(len(reported) - 3, len(reported)))
    for trial, values in zip(whole["trials"], reported, strict=True):
        assert values == (trial.pop("intermediate_values") if trial["number"] in kept else [])
        assert values or trial["state"] == "Fail" or trial["number"] not in kept
    assert [trial | {"intermediate_values": []} for trial in whole["trials"]] == [
        trial | {"intermediate_values": []} for trial in page["trials"]
    ]
    assert page["best_trials"] == whole["best_trials"]


def test_trials_that_are_read_for_no_page_tell_all_that_they_reported(
    storage: Storage, study: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a writable dashboard copies them, to rename a study."""
    monkeypatch.setattr(page_trials, "NEWEST", 1)
    monkeypatch.setattr(page_trials, "BEST", 1)
    trials = page_trials.PageTrials(storage)
    with trials.for_a_page():
        shown = trials.get_all_trials(study.study_id, deepcopy=False)
    assert sum(bool(trial.intermediate_values) for trial in shown) <= 2
    whole = trials.get_all_trials(study.study_id)
    assert whole == storage.optuna.get_all_trials(study.study_id)
    assert [trial.params for trial in shown] == [trial.params for trial in whole]
    assert sum(bool(trial.intermediate_values) for trial in whole) > 2


def test_a_browser_that_takes_compressed_answers_is_told_the_same(
    storage: Storage, study: StudyRecord, artifacts: Path
) -> None:
    path = f"/api/studies/{study.study_id}"
    whole = asked(storage, artifacts, path)
    environment: dict[str, Any] = {
        "PATH_INFO": path,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_ACCEPT_ENCODING": "gzip",
    }
    setup_testing_defaults(environment)
    headers: dict[str, str] = {}
    parts = dashboard_app(storage, artifacts)(environment, lambda _, told, *rest: headers.update(told))
    body = b"".join(parts)
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Content-Length"] == str(len(body))
    assert json.loads(gzip.decompress(body)) == whole


def test_an_ended_trial_is_read_from_the_database_once(
    storage: Storage, study: StudyRecord, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna_dashboard._storage.timedelta", lambda seconds: timedelta(0))  # its own cache
    read: list[int] = []
    get = PatientStorage._get_trials

    def counted(self: PatientStorage, *arguments: Any, **keywords: Any) -> Any:
        found = get(self, *arguments, **keywords)
        read.append(len(found))
        return found

    monkeypatch.setattr(PatientStorage, "_get_trials", counted)
    application = dashboard_app(storage, artifacts)
    for _ in range(3):
        assert len(asked(storage, artifacts, f"/api/studies/{study.study_id}", application)["trials"]) == 14
    assert read == [14, 0, 0]


class Thief:
    """Lets the first lease run out in the middle of its trial, which another slot then completes."""

    def __init__(self, storage: Storage, take: Callable[[], None]) -> None:
        self._storage, self._take = storage, take
        self.trial_started = self.trial_ended = lambda *_: None
        self.close = lambda: None

    def event(self, trial: TrialInfo, event: Event) -> None:
        if trial.attempt == 0 and isinstance(event, FoldEnded) and event.fold == 0:
            with self._storage.engine.begin() as connection:
                late = (
                    update(attempts)
                    .where(attempts.c.ended_at.is_(None))
                    .values(expires_at=seconds_from_now(-1))
                )
                connection.execute(late)
            self._take()


def test_an_attempt_that_was_lost_says_where_its_trial_went_on(
    storage: Storage, database_url: str, study_name: str, tmp_path: Path
) -> None:
    other = open_storage(database_url)
    thief = Thief(storage, lambda: run_study(other, study_name, tmp_path / "other", trials=1))
    run_study(storage, study_name, tmp_path / "artifacts", trials=1, observers=[thief])
    other.close()
    study_id = storage.optuna.get_study_id_from_name(study_name)
    page = asked(storage, tmp_path, f"/api/studies/{study_id}")
    notes = [trial["note"]["body"] for trial in page["trials"]]
    assert "Lease lost; the trial goes on in attempt 1." in notes[0]
    assert "attempts 0, 1" in notes[1]


def test_text_that_looks_like_a_note_is_left_alone(
    storage: Storage, study: StudyRecord, artifacts: Path
) -> None:
    tricky = '"note": {"version": 0, "body": ""}, "number": 1, '
    storage.optuna.set_study_user_attr(study.study_id, "said", tricky)
    page = asked(storage, artifacts, f"/api/studies/{study.study_id}")
    assert tricky in [each["value"] for each in page["user_attrs"]]


def test_the_studys_note_says_what_is_searched_and_what_leads(storage: Storage, study: StudyRecord) -> None:
    note = get_note(optuna.load_study(study_name=NAME, storage=storage.optuna))
    best = study.best
    assert best is not None
    assert f"Trial {best.attempt} leads with KL {best.value:.4f}" in note
    assert "over 10 patients" in note
    assert "| `training.learning_rate` &nbsp; | 0.0001 to 1, log &nbsp; |" in note
    assert "hms-tune worker studies/a.yaml" in note
    assert f"HMS_TUNE_HOME={home_of(storage)} " in note
    assert f"the bundle that `hms-tune export-best {NAME}` writes has its score" in note
    assert "…" not in note
    assert "0123456789abcdef" in note


def home_of(storage: Storage) -> Path:
    """Of the embedded server."""
    return Path(storage.server().host).resolve().parents[1]


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("demo/demo.yaml", "demo/demo.yaml"),
        ("studies/{study}.yaml", "{study}"),
        ("{study}.yaml", "{study}"),
        ("/opt/lib/hms_tune/study_files/{study}.yaml", "{study}"),
        ("a copy.yaml", "'a copy.yaml'"),
    ],
)
def test_the_studys_note_names_file_and_database_as_a_command_finds_them(
    overview: StudyOverview, source: str, named: str
) -> None:
    file = replace(overview.study_file, source=source.format(study=overview.study_file.study))
    there = Reached("postgresql://hms_tune@db.example.org/hms_tune")
    note = study_note(replace(overview, study_file=file), None, there)
    assert "export HMS_TUNE_STORAGE=postgresql://hms_tune@db.example.org/hms_tune\n" in note
    assert f"\nhms-tune worker {named.format(study=file.study)} --data COMPETITION_FOLDER\n" in note


def test_a_note_that_a_person_edited_stays(storage: Storage, study_name: str, tmp_path: Path) -> None:
    run_study(storage, study_name, tmp_path, trials=3)
    publish_study(storage, study_name, tmp_path)
    study = optuna.load_study(study_name=study_name, storage=storage.optuna)
    save_note(study, "Mine.")
    publish_study(storage, study_name, tmp_path)
    assert get_note(study) == "Mine."


def test_publishing_again_changes_nothing(storage: Storage, study: StudyRecord, artifacts: Path) -> None:
    before = storage.optuna.get_study_system_attrs(study.study_id)
    publish_study(storage, NAME, artifacts)
    assert storage.optuna.get_study_system_attrs(study.study_id) == before


def test_one_publisher_is_elected_and_another_takes_over(storage: Storage, study: StudyRecord) -> None:
    with storage.statements() as connection:
        elect = partial(elect_publisher, connection, study.study_id)
        assert [elect("one"), elect("two"), elect("one")] == [True, False, True]
        dismiss_publisher(connection, study.study_id, "one")
        assert [elect("two"), elect("one")] == [True, False]
        late = update(duties).values(until=func.now()).where(duties.c.study_id == study.study_id)
        connection.execute(late)  # two is gone, and said nothing
        assert [elect("one"), elect("two")] == [True, False]
        dismiss_publisher(connection, study.study_id, "one")


def test_a_publisher_publishes_once_more_when_it_is_told_to_finish(
    storage: Storage, database_url: str, study_name: str, tmp_path: Path
) -> None:
    run_study(storage, study_name, tmp_path, trials=3)
    told = iter([True])
    Publisher(PublisherPlan(study_name, database_url, tmp_path, tmp_path)).run(lambda seconds: next(told))
    assert "leads with KL" in get_note(optuna.load_study(study_name=study_name, storage=storage.optuna))


def test_a_publisher_whose_folder_is_a_link_says_so_once_and_writes_nothing_there(
    storage: Storage, database_url: str, study_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_study(storage, study_name, tmp_path / "run", trials=3)
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    shared.mkdir()
    elsewhere.mkdir()
    (shared / "dashboard").symlink_to(elsewhere)
    told = iter([None, None, True])
    Publisher(PublisherPlan(study_name, database_url, shared, tmp_path)).run(lambda seconds: next(told))
    assert list(elsewhere.iterdir()) == []
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"The dashboard's notes and figures wait: {shared}/dashboard: cannot be written")


def test_the_pareto_front_is_what_none_beats_on_cost_and_kl(storage: Storage, study: StudyRecord) -> None:
    front = study_overview(storage, NAME).by_cost.items
    assert study.best is not None
    assert front[-1].trial == study.best.trial
    for trial in study.ranked:
        beaten = any(each.cost <= trial.cost and (each.value or 0) < (trial.value or 0) for each in front)
        assert beaten != (trial.trial in [each.trial for each in front])


def test_pruning_saved_the_epochs_that_were_not_trained(storage: Storage, study: StudyRecord) -> None:
    found = study_overview(storage, NAME).saving
    pruned = study.ended("pruned")
    assert found.trials == len(pruned) > 0
    assert found.epochs_saved == sum(2 * EPOCHS - trial.epochs_run for trial in pruned)
    assert found.cost_saved == pytest.approx(0.25 * found.epochs_saved)


def test_the_report_needs_nothing_beside_it_and_warns_of_a_flattered_score(
    storage: Storage, study: StudyRecord
) -> None:
    page = report_page(gather(storage, NAME))
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    best = study.best
    assert best is not None
    assert f"Trial {best.attempt}, KL {best.value:.4f}" in page
    assert "That is optimistic" in page
    assert "trials were pruned" in page
    assert "a file is missing" in page
    assert "0123456789abcdef" in page
    assert "training.<wbr>learning_<wbr>rate" in page


@pytest.fixture
def shown(storage: Storage, study: StudyRecord) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    pruned = study.ended("pruned")[0]
    trial = trial_record(storage, NAME, pruned.attempt)
    console.print(trial_view(trial, ranking_of(storage, NAME, trial)))
    return console.export_text()


def test_a_trial_is_shown_whole_in_eighty_columns(shown: str, study: StudyRecord) -> None:
    assert study.best is not None
    assert f"best (trial {study.best.attempt})" in shown
    assert "Pruned in fold 1 after epoch 2 of 3" in shown
    assert "validation KL by epoch  ━ fold 1" in shown
    assert "backbone=test_resnet" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_a_running_trials_configuration_is_known_before_it_told_anything(
    storage: Storage, study_name: str
) -> None:
    file = "study: {name}\nmodel: {backbone: test_resnet, pretrained: false, dropout: {low: 0.0, high: 0.5}}"
    search = join_search(storage, StudyFile.parse(file.replace("{name}", study_name), "test"))
    trial = search.study.ask()
    search.suggest(trial)
    record = trial_record(storage, study_name, trial.number)
    assert (record.state, record.folds) == ("running", ())
    assert record.config is not None
    assert record.config["model"]["dropout"] == trial.params["model.dropout"]


def test_a_study_in_which_nothing_has_ended_is_shown_and_reported_all_the_same(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = "study: {name}\nmodel: {backbone: test_resnet, pretrained: false, dropout: {low: 0.0, high: 0.5}}"
    join_search(storage, StudyFile.parse(file.replace("{name}", study_name), "test"))
    publish_study(storage, study_name, tmp_path)
    note = get_note(optuna.load_study(study_name=study_name, storage=storage.optuna))
    assert "No trial is complete yet." in note
    assert "No trial is complete yet." in report_page(gather(storage, study_name))


def test_peak_memory_and_the_processors_name_are_told() -> None:
    place = Equipment("cpu", 0.0, "digest")
    assert place.peak_memory() > 10 * 2**20
    assert place.device_name
