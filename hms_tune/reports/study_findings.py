"""Sections of a study's report: score, data, winning values, mistakes, pruning, hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hms_tune.config.ranges import describe, parameters
from hms_tune.config.trial import DataConfig
from hms_tune.data.labels import HIGH_VOTES
from hms_tune.database.connect import Storage
from hms_tune.database.queries.confirmations import ConfirmationProgress
from hms_tune.database.queries.patience import GainPatience
from hms_tune.errors import UsageError
from hms_tune.export.confirmation.race import HEADINGS, ON_SCORES
from hms_tune.export.scores import Scores
from hms_tune.machine.byte_count import readable
from hms_tune.reports.figures.predictions import prediction_figures
from hms_tune.reports.page import text
from hms_tune.reports.page_parts import breakable, chart, table
from hms_tune.search.reports import rule_text
from hms_tune.studies.overview import StudyOverview
from hms_tune.studies.score import deciding_score, in_words
from hms_tune.studies.text import param_text, patience_text, score_text
from hms_tune.studies.trial_record import TrialRecord, trial_record
from hms_tune.training.events import OutOfFold
from hms_tune.training.optimism.correction import Corrected

_ON_IMPORTANCE = (
    "Importance is Optuna's PED-ANOVA: how far a setting tells the better complete trials from the others. "
    "It describes this search, not the world."
)
_ON_INTERVALS = "Intervals: 95 %, bootstrap over patients, whose rows are not independent."


@dataclass(frozen=True, slots=True)
class Material:
    """What a report is written from; ``predictions`` are the best trial's, ``corrected`` is its score.

    ``scores`` are those of an export, of the trial ``exported``; ``patience`` is how little the latest draws
    promised, and ``confirmation`` how far the leading trials have been trained again.
    """

    study: StudyOverview
    predictions: OutOfFold | None
    importances: Mapping[str, float]
    scores: Scores | None
    patience: GainPatience | None = None
    confirmation: ConfirmationProgress | None = None
    exported: TrialRecord | None = None
    corrected: Corrected | None = None


def winner_of(
    storage: Storage, study: StudyOverview, confirmation: ConfirmationProgress | None
) -> TrialRecord | None:
    """The trial that an export takes."""
    first = None if confirmation is None else confirmation.winner
    if first is None:
        return study.best
    try:
        confirmed = trial_record(storage, study.name, first.trial)
    except UsageError:  # it was deleted
        return study.best
    return study.best if confirmed.value is None else confirmed


def confirmation_section(material: Material) -> list[str]:
    """The leading trials before and after they were trained again."""
    progress = material.confirmation
    if progress is None:
        return []
    parts = [
        "<h2>Confirmation</h2>",
        f"<p>The leading trials are trained again with fresh seeds and folds, in the study "
        f"<code>{text(progress.study)}</code>: {progress.runs - progress.left} of {progress.runs} runs have "
        f"ended. {text(ON_SCORES)} The last column is the difference to the best over the same "
        "patients.</p>",
    ]
    if progress.ranking is not None:
        parts.append(table(list(HEADINGS), progress.ranking.rows(), numbers=(0, 2, 5)))
    return parts


def score_section(material: Material) -> list[str]:
    """The winner's score: on held-out patients where it was exported, else with a warning."""
    best, scores = material.study.best, material.scores
    parts = ["<h2>How good the winner is</h2>"]
    if best is None or best.value is None:
        return [*parts, "<p>No trial is complete yet.</p>"]
    rows = [["in the search: mean over folds", score_text(best.value), ""]]
    found = deciding_score(best, material.predictions)
    corrected = material.corrected
    if corrected is not None:
        rows.insert(0, [corrected.name, score_text(corrected.kl), _interval(corrected.interval)])
    if found is not None:
        name = f"{found.name} of all folds, {found.rows:,} rows"
        interval = found.interval if corrected is None else None
        rows.append([name, score_text(found.kl), _interval(interval)])
    if best.kl_high_vote is not None:
        rows.append([f"rows with ≥{HIGH_VOTES} votes", score_text(best.kl_high_vote), ""])
    if scores is not None and scores.held_out_kl is not None:
        name = f"held-out patients, {scores.held_out_rows:,} rows"
        rows.append([name, score_text(scores.held_out_kl), _interval(scores.held_out_interval)])
        if scores.held_out_prior_kl is not None:
            rows.append(["class shares alone, on these", score_text(scores.held_out_prior_kl), ""])
        lead = (
            f"<b>KL {scores.held_out_kl:.4f} on {scores.held_out_rows:,} rows of patients that the whole "
            f"search never saw</b>: {(material.exported or best).name}, retrained. That is the score to "
            "quote."
        )
    else:
        lead = (
            f"{_first_score(best, corrected)} "
            f"<code>hms-tune export-best {text(material.study.name)}</code> scores it on held-out "
            "patients; this report then says so."
        )
    listed = table(["score", "KL", "95 % interval"], rows, numbers=(1, 2))
    return [*parts, f"<p>{lead}</p>", listed, f'<p class="faint">{_ON_INTERVALS}</p>']


def data_section(material: Material) -> list[str]:
    """Which data, how it is split and judged."""
    study, predictions = material.study, material.predictions
    digests = sorted(study.digests)
    rows = [["data set", ", ".join(digest[:16] for digest in digests) or "unknown"]]
    if len(digests) > 1:
        rows.append(["beware", "trials ran on different data sets and cannot be compared"])
    if len({version.partition(".")[0] for version in study.torch}) > 1:
        rows.append(["beware", f"workers ran PyTorch {' and '.join(study.torch)}, whose scores may differ"])
    if predictions is not None:
        patients = len(set(predictions.patient_id.tolist()))
        high = int((predictions.total_votes >= HIGH_VOTES).sum())
        told = f"{len(predictions.row):,} rows of {patients:,} patients; {high:,} with ≥{HIGH_VOTES} votes"
        rows.append(["validated on", told])
    config = (study.best.config if study.best else None) or {}
    if "data" in config:
        data = DataConfig.model_validate(config["data"])
        all_rows = data.judged_on == "all_rows"
        rows += [
            ["folds", f"{data.trained_folds}, {data.fold_scheme}, no patient on both sides"],
            ["held out", f"{data.holdout:.0%} of the patients, from the whole search"],
            ["judged on", "all validation rows" if all_rows else f"rows with ≥{HIGH_VOTES} votes"],
        ]
    return ["<h2>The data</h2>", table(["", ""], rows, header=False)]


def space_section(material: Material) -> list[str]:
    """Each range with the best trial's value and its importance."""
    study = material.study
    best = study.best.params if study.best else {}
    importance = material.importances
    most = max(importance.values(), default=1.0) or 1.0
    rows = []
    for parameter in parameters(study.study_file.space):
        share = importance.get(parameter.name)
        bar = "" if share is None else _bar(share, share / most)
        values = breakable(describe(parameter.node).replace(" | ", ", "))
        won = f"<b>{breakable(param_text(best, parameter.name))}</b>"
        rows.append([breakable(parameter.name), values, won, bar])
    search = study.study_file.search
    how = f"Values are drawn by {search.sampler} (seed {search.seed}); {rule_text(study.study_file)}."
    title = study.best.name if study.best else "best"
    listed = table(["setting", "searched", title, "matters"], rows, escaped=True)
    notes = f'<p class="faint">{text(how)} {_ON_IMPORTANCE}{_not_all(study)}</p>'
    further = material.patience
    if further is not None and further.gain is not None and further.noise is not None:
        notes += f"<p>A further trial {text(patience_text(further))}.</p>"
    return ["<h2>What was searched, and what won</h2>", listed, notes]


def prediction_section(material: Material) -> list[str]:
    """Where the best trial is right and wrong."""
    predictions, best = material.predictions, material.study.best
    if predictions is None or best is None:
        return []
    found = deciding_score(best, predictions)
    drawn = prediction_figures(best, predictions)
    cards = [chart(each.title, each.about, each.figure) for each in drawn]
    told = f": {in_words(found, material.corrected)}." if found else "."
    about = f"Out-of-fold predictions of {best.name}{told}"
    grid = f'<div class="grid">{"".join(cards)}</div>'
    return ["<h2>Where it is right and wrong</h2>", f"<p>{text(about)}</p>", grid]


def _not_all(study: StudyOverview) -> str:
    every = study.weighed.one_in
    return "" if every == 1 else f" It is computed over one complete trial in {every}."


def pruning_section(study: StudyOverview) -> list[str]:
    """What was pruned, what that saved, and what failed."""
    spent = study.saving
    told = (
        f"{spent.trials} of {study.trials} trials were pruned. {spent.epochs_run:,} epochs were trained "
        f"and {spent.epochs_saved:,} spared, {spent.share:.0%} of all; at what each trial paid for its own "
        f"epochs, about {spent.cost_saved:,.0f} {study.unit}."
    )
    parts = ["<h2>What was given up, and what that saved</h2>", f"<p>{text(told)}</p>"]
    by_fold = sorted(study.pruned_in_fold.items())
    if by_fold:
        rows = [[f"in fold {fold}" if fold else "before a fold", f"{count}"] for fold, count in by_fold]
        parts.append(table(["pruned", "trials"], rows, numbers=(1,)))
    if study.failed_because:
        rows = [[reason, str(count)] for reason, count in study.failed_because.items()]
        parts.append(table(["failed", "trials"], rows, numbers=(1,), paths=(0,)))
    return parts


def hardware_section(study: StudyOverview) -> list[str]:
    """Where it ran and what that took."""
    places = sorted(study.places.values(), key=lambda place: -place.hours)
    rows = [
        [
            f"{place.host}: {place.device_name}",
            str(len(place.slots)),
            f"{place.trials:,}",
            f"{place.hours:,.2f}",
            readable(place.peak_memory) if place.peak_memory else "–",
        ]
        for place in places
    ]
    names = ["where", "slots", "trials", "slot-hours", "peak memory"]
    parts = ["<h2>Hardware and cost</h2>", table(names, rows, numbers=(1, 2, 3, 4), paths=(0,))]
    if study.span is not None:
        began, ended = (moment.strftime("%Y-%m-%d %H:%M") for moment in study.span)
        told = f"From {began} to {ended} UTC. A slot is one place where trials run one after another."
        parts.append(f'<p class="faint">{told}</p>')
    return parts


def _bar(share: float, width: float) -> str:
    drawn = f'<span class="bar"><i style="width:{100 * width:.0f}%"></i></span>'
    return f'<span class="share">{drawn} {share:.0%}</span>'


def _first_score(best: TrialRecord, corrected: Corrected | None) -> str:
    """The score that is read first."""
    name = best.name.capitalize()
    if corrected is None:
        return (
            f"<b>{name}, KL {score_text(best.value)}</b> on its own validation folds. That is optimistic: "
            "these patients chose it and its epochs."
        )
    return (
        f"<b>{name}, KL {text(str(corrected))}.</b> On its own validation folds, which chose it, the search "
        f"saw {score_text(best.value)}."
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f}"
