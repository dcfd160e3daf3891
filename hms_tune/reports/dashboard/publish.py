"""Write what the dashboard shows of a study: its note, its figures, pictures of each new best trial."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from optuna_dashboard import save_plotly_graph_object

from hms_tune.database.connect import Storage
from hms_tune.database.queries.confirmations import as_confirmation
from hms_tune.database.queries.records import mark_published, unpublished_predictions
from hms_tune.reports.dashboard.dashboard_private import stored_graph
from hms_tune.reports.dashboard.files import DashboardFiles, attach
from hms_tune.reports.dashboard.plotly import study_graphs
from hms_tune.reports.dashboard.study_note import write_study_note
from hms_tune.reports.figures.predictions import curves_figure, prediction_figures, worst_predicted
from hms_tune.reports.figures.style import png
from hms_tune.studies.lookup import load_study
from hms_tune.studies.overview import StudyOverview, study_overview
from hms_tune.studies.predictions import kept_out_of_fold
from hms_tune.studies.score import corrected_score, deciding_score, in_words
from hms_tune.studies.trial_note import trial_note
from hms_tune.studies.trial_record import TrialRecord, others_before, trial_record_at
from hms_tune.training.events import OutOfFold

_logger = logging.getLogger(__name__)


def publish_study(storage: Storage, name: str, artifacts: Path, *, data_root: Path | None = None) -> None:
    """Bring what the dashboard shows of a study up to date. Safe to repeat, and to cut off anywhere.

    Where it confirms another, that one's note says how the candidates stand.

    Parameters
    ----------
    artifacts : where the fleet keeps files
    data_root : competition folder, to draw the worst-predicted recordings from

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    """
    study = study_overview(storage, name)
    _publish_bests(storage, study, artifacts, data_root)
    _publish_graphs(storage, study)
    _publish_note(storage, study)
    with storage.transaction() as connection:
        confirms = as_confirmation(connection, study.study_id)
    if confirms is not None:
        _publish_note(storage, study_overview(storage, confirms.confirms))


def _publish_note(storage: Storage, study: StudyOverview) -> None:
    best = study.best
    predictions = kept_out_of_fold(storage, study.study_id, best.attempt) if best else None
    write_study_note(storage, study, predictions)


def _publish_graphs(storage: Storage, study: StudyOverview) -> None:
    loaded = load_study(storage, study.name)
    attributes = storage.optuna.get_study_system_attrs(study.study_id)
    for graph in study_graphs(study):
        if stored_graph(attributes, graph.name) != graph.to_json():
            save_plotly_graph_object(loaded, graph, graph_object_id=graph.name)


def _publish_bests(storage: Storage, study: StudyOverview, artifacts: Path, data_root: Path | None) -> None:
    """Pictures of each trial that was the best when it ended, once."""
    with storage.transaction() as connection:
        numbers = unpublished_predictions(connection, study.study_id)
    if not numbers:
        return
    store = DashboardFiles(artifacts)
    leader = study.best.attempt if study.best else None
    for number in sorted(numbers):
        predictions = kept_out_of_fold(storage, study.study_id, number)
        if predictions is None:
            continue
        try:
            trial = trial_record_at(storage, study.study_id, number, space=study.study_file.space)
        except KeyError:  # it was deleted
            continue
        root = data_root if trial.attempt == leader else None
        names = []
        if len(predictions.row):
            for name, content in _pictures(trial, predictions, root):
                attach(storage, store, study.study_id, trial.attempt, name, content)
                names.append(name)
        _finish_best(storage, study, trial, predictions, names)


def _pictures(trial: TrialRecord, predictions: OutOfFold, root: Path | None) -> Iterator[tuple[str, bytes]]:
    for drawn in prediction_figures(trial, predictions):
        yield f"{drawn.name}.png", png(drawn.figure)
    yield "curves.png", png(curves_figure(trial.folds))
    if root is not None:
        for place, worst in enumerate(worst_predicted(predictions, root), start=1):
            if worst.picture is not None:
                yield f"worst-{place}-eeg-{worst.eeg_id}.png", png(worst.picture, dpi=80)


def _finish_best(
    storage: Storage, study: StudyOverview, trial: TrialRecord, predictions: OutOfFold, names: list[str]
) -> None:
    """Name the pictures in the trial's note, and mark the trial as published."""
    note = trial_note(study.name, trial, others_before(storage, study.study_id, trial))
    found = deciding_score(trial, predictions)
    without = corrected_score(storage, study.study_id, trial, predictions)
    note += "\n\nBest of the study when it ended" + (f": {in_words(found, without)}." if found else ".")
    if names:
        note += " Further down: " + ", ".join(name.rpartition(".")[0] for name in names) + "."
    with storage.transaction() as connection:
        mark_published(connection, study.study_id, trial.attempt, note)
