"""Studies of other programs in the same database: listed as such, judged by their own aim, left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.errors import StorageError
from hms_tune.reports.dashboard.publish import publish_study
from hms_tune.reports.study_page import gather
from hms_tune.search.optuna_private import study_id_of
from hms_tune.studies.control import delete_study, drain, set_state, stop_trial
from hms_tune.studies.enqueue import enqueue
from hms_tune.studies.export_best import best_trial
from hms_tune.studies.status import list_studies, status
from hms_tune.studies.totals import best_of_study
from hms_tune.studies.trial_record import study_record, trial_record
from hms_tune.worker.open_study import open_search
from studies import ONE_TRIAL, show_trials


def stock(storage: Storage, name: str, *directions: str) -> optuna.Study:
    """A study that a script made with Optuna alone: three trials, the second has the largest values."""
    made = optuna.create_study(study_name=name, storage=storage.optuna, directions=list(directions))
    for value in (0.7, 0.9, 0.8):
        made.tell(made.ask(), [value] * len(directions))
    return made


def test_a_study_to_be_maximized_shows_its_largest_value_as_best(storage: Storage, study_name: str) -> None:
    stock(storage, study_name, "maximize")
    current = status(storage, study_name)
    assert [(best.trial, best.value) for best in current.leaders] == [(1, 0.9), (2, 0.8), (0, 0.7)]
    assert current.best == current.leaders[0]
    (listed,) = [each for each in list_studies(storage) if each.study == study_name]
    assert listed.best_value == 0.9
    assert best_of_study(storage, study_name)() == 0.9


@pytest.mark.parametrize("directions", [("minimize",), ("maximize",), ("minimize", "maximize")])
def test_a_study_of_another_program_is_listed_as_such(
    storage: Storage, study_name: str, directions: tuple[str, ...]
) -> None:
    stock(storage, study_name, *directions)
    open_search(storage, StudyFile.parse(ONE_TRIAL.format(name=f"{study_name}-ours"), "test"))
    listed = {each.study: each for each in list_studies(storage)}
    foreign, ours = listed[study_name], listed[f"{study_name}-ours"]
    assert (foreign.state, foreign.trials["complete"]) == ("not made by hms-tune", 3)
    assert foreign.best_value == {("minimize",): 0.7, ("maximize",): 0.9}.get(directions)
    assert (ours.state, ours.budget_trials) == ("idle", 1)
    current = status(storage, study_name)
    assert (current.state, current.trials["complete"]) == ("not made by hms-tune", 3)
    assert len(current.leaders) == (3 if len(directions) == 1 else 0)


@pytest.mark.parametrize(
    "ask",
    [
        show_trials,
        study_record,
        lambda storage, name: trial_record(storage, name, 0),
        gather,
        best_trial,
        lambda storage, name: publish_study(storage, name, Path("unused")),
        lambda storage, name: set_state(storage, name, "paused"),
        lambda storage, name: stop_trial(storage, name, 0),
        lambda storage, name: drain(storage, name, "everybody"),
        lambda storage, name: enqueue(storage, name, {"x": "1"}),
        delete_study,
        lambda storage, name: open_search(storage, StudyFile.parse(ONE_TRIAL.format(name=name), "test")),
    ],
)
@pytest.mark.parametrize("directions", [("maximize",), ("minimize", "maximize")])
def test_what_changes_a_study_or_reads_its_file_refuses_one_of_another_program(
    storage: Storage,
    study_name: str,
    directions: tuple[str, ...],
    ask: Callable[[Storage, str], object],
) -> None:
    made = stock(storage, study_name, *directions)
    before = (made.trials, storage.optuna.get_study_system_attrs(study_id_of(made)))
    with pytest.raises(StorageError, match=r"was not made by hms-tune|that hms-tune did not make"):
        ask(storage, study_name)
    after = optuna.load_study(study_name=study_name, storage=storage.optuna)
    assert (after.trials, storage.optuna.get_study_system_attrs(study_id_of(after))) == before
    assert after.user_attrs == {}


def test_an_empty_study_of_several_objectives_is_not_taken_for_ours(
    storage: Storage, study_name: str
) -> None:
    optuna.create_study(study_name=study_name, storage=storage.optuna, directions=["minimize", "minimize"])
    with pytest.raises(StorageError, match="that hms-tune did not make"):
        open_search(storage, StudyFile.parse(ONE_TRIAL.format(name=study_name), "test"))
