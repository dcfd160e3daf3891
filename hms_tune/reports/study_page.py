"""``hms-tune study report``: a study on one page, to hand to a colleague or keep beside a paper."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hms_tune.config.ranges import parameters
from hms_tune.database.connect import Storage
from hms_tune.database.queries.confirmations import confirmation_progress
from hms_tune.database.queries.patience import patience_used
from hms_tune.errors import BundleError
from hms_tune.export.place import BUNDLES, bundle_path
from hms_tune.export.scores import METRICS, read_scores
from hms_tune.reports.figures.predictions import curves_figure
from hms_tune.reports.figures.study import cost_figure, fold_spread_figure, history_figure
from hms_tune.reports.page import facts, page, text
from hms_tune.reports.page_parts import chart, listing, table
from hms_tune.reports.study_findings import (
    Material,
    confirmation_section,
    data_section,
    hardware_section,
    prediction_section,
    pruning_section,
    score_section,
    space_section,
    winner_of,
)
from hms_tune.studies.importance import importances
from hms_tune.studies.overview import StudyOverview, study_overview
from hms_tune.studies.predictions import kept_out_of_fold
from hms_tune.studies.score import corrected_score, fold_spread
from hms_tune.studies.text import score_text
from hms_tune.studies.trial_record import TrialRecord
from hms_tune.trial_state import AttemptState
from hms_tune.version import __version__


def gather(storage: Storage, name: str, *, bundle: Path | None = None) -> Material:
    """Read a study for its report.

    Parameters
    ----------
    bundle : what ``export-best`` wrote; where it writes by default when None

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    BundleError
        If the bundle that was named has no scores, or is of another trial.
    """
    study = study_overview(storage, name)
    best = study.best
    predictions = kept_out_of_fold(storage, study.study_id, best.attempt) if best else None
    if predictions is not None and not len(predictions.row):
        predictions = None
    with storage.transaction() as connection:
        confirmation = confirmation_progress(connection, name)
    winner = winner_of(storage, study, confirmation)
    shown = bundle
    if shown is None and winner is not None:
        usual = bundle_path(name, winner.trial)
        shown = usual if (usual / METRICS).is_file() else None
    scores = None if shown is None else read_scores(shown)
    exported = None
    if scores is not None:
        ours = (trial for trial in (winner, best) if trial is not None)
        exported = next((trial for trial in ours if trial.value == scores.search_kl), None)
    if scores is not None and exported is None:
        raise BundleError(
            f"is not of the best trial of {name}", where=shown, hint="Export the best trial: export-best"
        )
    with storage.transaction() as connection:
        patience = patience_used(connection, study.study_id, study.study_file.budget.patience)
    corrected = None if best is None else corrected_score(storage, study.study_id, best, predictions)
    mattered = importances(storage, name, study.weighed.kept)
    return Material(study, predictions, mattered, scores, patience, confirmation, exported, corrected)


def report_page(material: Material) -> str:
    """The page."""
    study = material.study
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = f"Report of a hyperparameter search. hms-tune {__version__}, {written}."
    parts = [
        f'<h1>{text(study.name)}</h1><p class="faint">{about}</p>',
        *_question(material),
        *score_section(material),
        *confirmation_section(material),
        *data_section(material),
        *space_section(material),
        *_course(material),
        *prediction_section(material),
        *pruning_section(study),
        *hardware_section(study),
        *_reproduction(material),
    ]
    return page(f"{study.name}: study report", parts)


def _question(material: Material) -> list[str]:
    study = material.study
    searched = len({parameter.name for parameter in parameters(study.study_file.space)})
    best = study.best
    figures = {
        "trials": f"{study.trials:,}",
        "complete": f"{study.states[AttemptState.COMPLETE]:,}",
        "pruned": f"{study.states[AttemptState.PRUNED]:,}",
        "failed": f"{study.states[AttemptState.FAILED]:,}",
        study.unit: f"{study.cost:,.0f}",
        "best KL": score_text(best.value if best else None),
        "corrected": score_text(material.corrected.kl if material.corrected else None),
    }
    question = (
        f"Which values of {searched} settings of data, input, model and training predict the votes of EEG "
        "experts best, on patients that the model has not seen? The measure is the Kullback–Leibler "
        "divergence (KL) of the prediction from the share of votes, in nats: 0 is perfect, lower is better. "
        "A trial is one choice of values; its KL is the mean over patient-grouped folds."
    )
    return ["<h2>The question</h2>", f"<p>{text(question)}</p>", facts(figures)]


def _course(material: Material) -> list[str]:
    study = material.study
    cards = [chart("The course of the search", f"KL by trial{_not_all(study)}", history_figure(study))]
    spread = fold_spread(study.leaders)
    if spread:
        cards.append(chart("Fold spread", "of the ten best", fold_spread_figure(spread)))
    if study.by_cost.items:
        cards.append(chart("Cost", f"complete trials{_not_all(study)}", cost_figure(study)))
    if study.best is not None and study.best.folds:
        about = f"of {study.best.name}, by fold"
        cards.append(chart("Learning curves", about, curves_figure(study.best.folds)))
    return ["<h2>How it went</h2>", f'<div class="grid">{"".join(cards)}</div>']


def _not_all(study: StudyOverview) -> str:
    """What must be said of a figure that does not show each trial."""
    every = study.drawn.one_in
    return "" if every == 1 else f"; one trial in {every} is drawn, and each that the line goes through"


def _reproduction(material: Material) -> list[str]:
    study = material.study
    commands = [
        f"hms-tune worker {study.name}.yaml --data COMPETITION_FOLDER",
        f"hms-tune export-best {study.name}",
        f"hms-tune predict {BUNDLES / study.name} COMPETITION_FOLDER",
    ]
    rows = [
        ["hms-tune", ", ".join(sorted(study.versions)) or "unknown"],
        ["search space", study.study_file.space_hash],
    ]
    return [
        "<h2>How to reproduce it</h2>",
        f"<p>The study file below, saved as <code>{text(study.name)}.yaml</code>, is the whole search.</p>",
        table(["", ""], rows, header=False),
        listing("\n".join(commands)),
        "<h3>Study file</h3>",
        listing(study.study_file.text.strip()),
        *_winner_listing(study.best),
    ]


def _winner_listing(best: TrialRecord | None) -> Sequence[str]:
    if best is None:
        return ()
    values = "\n".join(f"{name} = {value}" for name, value in best.params.items())
    return (f"<h3>{best.name.capitalize()}</h3>", listing(values))
