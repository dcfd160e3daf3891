"""The score that people read first is corrected for the choice of epochs and of the trial."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna_dashboard import get_note
from rich.console import Console
from slots import a_slot
from stories import a_fold_end, a_fold_start, an_ending, an_epoch, some_predictions

from hms_tune.cli.views.status import status_view
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage
from hms_tune.reports.dashboard.publish import publish_study
from hms_tune.reports.study_page import gather, report_page
from hms_tune.studies.export_best import best_trial
from hms_tune.studies.record_writer import Equipment, TrialRecorder
from hms_tune.studies.score import stored_corrected, write_corrected
from hms_tune.studies.status import status
from hms_tune.studies.trial_record import study_record
from hms_tune.training.events import EpochScores, Event, OutOfFold
from hms_tune.training.optimism.correction import Corrected, corrected
from hms_tune.worker.checkpoint_store.best_score import BestScore
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.checkpoint_store.predictions import KeptPredictions
from hms_tune.worker.open_study import join_search

FILE = """
study: {name}
data: {{folds: 2, holdout: 0.0}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.0, high: 0.5}}}}
training: {{epochs: 3}}
search: {{sampler: random, pruner: none, seed: 1}}
budget: {{trials: 4}}
tracking: {{wandb: {{mode: off}}}}
"""
PATIENTS = 30


def epochs_of(config: TrialConfig) -> EpochScores:
    """Three epochs that differ by chance, as the trials do."""
    seed = round(1e6 * config.model.dropout)
    return EpochScores(
        fold=np.arange(PATIENTS) % 2,
        patient_id=np.arange(PATIENTS),
        rows=np.full(PATIENTS, 2),
        kl=np.random.default_rng(seed).gamma(4.0, 0.25, (3, PATIENTS)).astype(np.float32),
    )


def train(config: TrialConfig, _directory: Path) -> Iterator[Event]:
    epochs = epochs_of(config)
    best = [epochs.kl[:, epochs.fold == fold].mean(axis=1).min() for fold in range(2)]
    for fold in range(2):
        yield a_fold_start(fold)
        yield an_epoch(fold, kl=float(best[fold]))
        yield a_fold_end(fold, kl=float(best[fold]))
    predictions = replace(some_predictions(2 * PATIENTS), epochs=epochs)
    yield an_ending(float(np.mean(best)), predictions=predictions)


def run_search(storage: Storage, name: str, folder: Path, *, tells: bool = True) -> StudyFile:
    """A worker of one slot, as :mod:`hms_tune.worker.slot_process` puts it together."""
    file = StudyFile.parse(FILE.format(name=name), "test")
    search = join_search(storage, file)
    kept = KeptPredictions(open_store(folder), name)

    def keep(trial: object, predictions: OutOfFold) -> None:
        kept.keep(trial.trial, predictions)  # type: ignore[attr-defined]

    completed = BestScore(storage, search.study_id, kept).update if tells else lambda: None
    records = TrialRecorder(
        storage, search.study_id, Equipment("cpu", 0.0, "digest"), keep=keep, completed=completed
    )
    a_slot(storage, search, train, folder, observers=[records]).run()
    records.close()
    return file


def test_report_status_note_and_export_state_the_best_score_without_what_its_choice_flatters(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    run_search(storage, study_name, tmp_path / "store")
    study = study_record(storage, study_name)
    configs = [TrialConfig.model_validate(trial.config) for trial in study.ranked]
    expected = corrected([[epochs_of(config)] for config in configs])
    assert expected is not None
    assert study.best is not None
    assert study.best.value is not None
    assert expected.candidates == 4
    assert study.best.value < expected.kl - 0.05
    stored = stored_corrected(storage, study.study_id, study.best.trial)
    assert stored == expected
    assert best_trial(storage, study_name).winner.corrected == expected

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(status_view(status(storage, study_name)))
    assert str(expected) in console.export_text()
    page = report_page(gather(storage, study_name))
    assert f"<b>Trial {study.best.trial}, KL {expected}.</b>" in page
    assert "corrected for the choice of epochs and of the best of 4" in page
    publish_study(storage, study_name, tmp_path / "pages")
    note = str(get_note(optuna.load_study(study_name=study_name, storage=storage.optuna.shared)))
    assert f"leads with KL {expected}**; the search saw {study.best.value:.4f};" in note


def test_without_the_other_trials_the_score_is_corrected_for_the_epochs_alone(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    run_search(storage, study_name, tmp_path / "store", tells=False)
    study = study_record(storage, study_name)
    assert study.best is not None
    expected = corrected([[epochs_of(TrialConfig.model_validate(study.best.config))]])
    found = gather(storage, study_name).corrected
    assert found == expected
    assert status(storage, study_name).corrected is None


def test_what_was_stored_of_another_trial_or_in_another_form_is_not_shown(
    storage: Storage, study_name: str
) -> None:
    study_id = join_search(storage, StudyFile.parse(FILE.format(name=study_name), "test")).study_id
    found = Corrected(1.0, (0.8, 1.3), 30, 4)
    write_corrected(storage, study_id, 3, found)
    assert stored_corrected(storage, study_id, 3) == found
    assert stored_corrected(storage, study_id, 2) is None
    for other in ('{"trial": 3}', "text", "3", '{"trial": 3, "kl": "much", "interval": null}'):
        storage.optuna.set_study_system_attr(study_id, "hms_tune:corrected", other)
        assert stored_corrected(storage, study_id, 3) is None


def test_a_store_that_does_not_answer_is_said_and_costs_no_record(
    storage: Storage, study_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store" / study_name).mkdir(parents=True)
    (tmp_path / "store" / study_name / "out-of-fold").write_text("in the way")
    run_search(storage, study_name, tmp_path / "store")
    study = study_record(storage, study_name)
    assert len(study.ranked) == 4
    assert all(trial.folds for trial in study.ranked)
    assert "are not kept for blends" in caplog.text
    assert study.best is not None
    assert stored_corrected(storage, study.study_id, study.best.trial) is None
