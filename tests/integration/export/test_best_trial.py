"""Which trial of a study is exported, and what observers are told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial

from hms_tune.config.study_file import StudyFile
from hms_tune.data.store.prepare import prepare
from hms_tune.database.connect import Storage
from hms_tune.errors import UnknownStudyError, UsageError
from hms_tune.export.export import Exported
from hms_tune.search.study import create_or_load
from hms_tune.search.suggest import distributions
from hms_tune.studies.export_best import Choice, another_training, best_trial, export_watched
from hms_tune.training.events import CrossValidationEnded, Event
from hms_tune.training.observer import TrialInfo
from hms_tune.trial_state import AttemptState

STUDY = """
study: {name}
data: {{folds: 2, holdout: 0.2}}
input: {{eeg: {{name: stft, n_fft: 256}}, image: [32, 64]}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.0, high: 0.5}}}}
training: {{epochs: 1, batch_size: 8}}
"""


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.trial: TrialInfo | None = None
        self.events: list[Event] = []
        self.end: tuple[AttemptState, float | None] | None = None
        self.closed = False

    def trial_started(self, trial: TrialInfo) -> None:
        self.trial = trial

    def event(self, trial: TrialInfo, event: Event) -> None:
        self.events.append(event)

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None:
        self.end = (state, value)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def study(storage: Storage, study_name: str) -> optuna.Study:
    study_file = StudyFile.parse(STUDY.format(name=study_name), "study.yaml")
    study = create_or_load(storage.optuna, study_file)
    for dropout, value, state in [
        (0.1, 0.9, TrialState.COMPLETE),
        (0.2, 0.7, TrialState.COMPLETE),
        (0.3, 0.5, TrialState.PRUNED),
        (0.4, 0.7, TrialState.COMPLETE),
    ]:
        study.add_trial(
            create_trial(
                params={"model.dropout": dropout},
                distributions=distributions(study_file.space),
                value=value,
                state=state,
                user_attrs={"trial": 1} if dropout == 0.4 else {},
            )
        )
    return study


def test_the_best_is_the_first_complete_trial_with_the_smallest_kl(
    storage: Storage, study: optuna.Study
) -> None:
    choice = best_trial(storage, study.study_name)
    assert (choice.winner.number, choice.winner.value, choice.attempt) == (1, 0.7, 1)
    assert choice.winner.config.model.dropout == 0.2
    assert choice.study_file.study == study.study_name


def test_a_trial_asked_for_is_taken_if_it_is_complete(storage: Storage, study: optuna.Study) -> None:
    choice = best_trial(storage, study.study_name, number=3)
    assert choice.winner.config.model.dropout == 0.4
    assert (choice.winner.number, choice.attempt) == (1, 3)
    with pytest.raises(UsageError, match="trial 2 did not complete"):
        best_trial(storage, study.study_name, number=2)
    with pytest.raises(UsageError, match="no trial 9"):
        best_trial(storage, study.study_name, number=9)


def test_a_trial_is_trained_once_more_with_other_values(storage: Storage, study: optuna.Study) -> None:
    choice = best_trial(storage, study.study_name, number=0)
    again = another_training(choice, {})
    assert (again.winner.config, again.winner.value) == (choice.winner.config, 0.9)
    other = another_training(choice, {"model.dropout": "0.35", "training.epochs": "2"})
    assert (other.winner.number, other.winner.value, other.job_type) == (0, None, "training")
    assert set(other.winner.config.differences(choice.winner.config)) <= {"model.dropout", "training.epochs"}
    assert (other.winner.config.model.dropout, other.winner.config.training.epochs) == (0.35, 2)


def test_a_best_trial_that_a_script_left_without_its_parameters_is_named(
    storage: Storage, study: optuna.Study
) -> None:
    study.add_trial(create_trial(value=0.1, state=TrialState.COMPLETE))
    with pytest.raises(UsageError, match=r"trial 4 cannot be trained again.*another search space") as told:
        best_trial(storage, study.study_name)
    assert "Choose another with --trial" in str(told.value)


def test_a_study_without_a_complete_trial_has_no_best(storage: Storage, study_name: str) -> None:
    with pytest.raises(UnknownStudyError):
        best_trial(storage, study_name)
    create_or_load(storage.optuna, StudyFile.parse(STUDY.format(name=study_name), "study.yaml"))
    with pytest.raises(UsageError, match="no trial is complete"):
        best_trial(storage, study_name)


def test_observers_hear_the_whole_export(
    storage: Storage,
    study: optuna.Study,
    competition_writer: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None
    )  # no graph: it takes longer than all else
    choice: Choice = best_trial(storage, study.study_name, number=3)
    store = prepare(competition_writer(tmp_path / "root", patients=6, spectrograms=False), jobs=1)
    recorder = Recorder()
    exported: Exported = export_watched(choice, store, tmp_path / "out", device="cpu", observers=[recorder])
    assert recorder.trial is not None
    assert (recorder.trial.attempt, recorder.trial.trial, recorder.trial.job_type) == (3, 1, "export")
    assert isinstance(recorder.events[-1], CrossValidationEnded)
    assert recorder.end == ("complete", exported.scores.kl)
    assert recorder.closed
