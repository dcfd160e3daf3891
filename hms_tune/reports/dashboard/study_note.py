"""A study in Markdown, for its page in the dashboard."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from optuna_dashboard import get_note, save_note

from hms_tune.config.ranges import describe, parameters, value_text
from hms_tune.config.study_file import SUFFIXES, StudyFile
from hms_tune.database.connect import Storage
from hms_tune.database.queries.confirmations import ConfirmationProgress, confirmation_progress
from hms_tune.export.confirmation.race import ON_SCORES
from hms_tune.search.reports import rule_text
from hms_tune.studies.lookup import load_study
from hms_tune.studies.overview import StudyOverview
from hms_tune.studies.score import corrected_score, deciding_score, in_words
from hms_tune.studies.trial_record import TrialRecord
from hms_tune.training.events import OutOfFold
from hms_tune.training.optimism.correction import Corrected

_DIGEST = "hms_tune:note"
"""Study attribute: digest of the note that was written last. If it differs, a person edited the note."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A database as others reach it: ``address`` without a password, or ``home``, whose server it is."""

    address: str
    home: str | None = None

    @classmethod
    def by(cls, storage: Storage) -> Reached:
        """As this process reaches it."""
        host = storage.server().host
        folder = Path(host).resolve()  # a long path is reached through a link
        embedded = host.startswith("/") and folder.parts[-2:] == ("postgres", "data")
        return cls(storage.address.replace(":***@", "@"), str(folder.parents[1]) if embedded else None)


def study_note(
    study: StudyOverview,
    predictions: OutOfFold | None,
    database: Reached,
    confirmation: ConfirmationProgress | None = None,
    corrected: Corrected | None = None,
) -> str:
    """What is searched, on which data, what leads and what a confirmation says of it, how to help."""
    parts = [f"## {study.name}", _winner(study, predictions, corrected), _numbers(study)]
    parts += [
        "" if confirmation is None else _confirmation(study.name, confirmation),
        "### What is searched",
        _space(study.study_file, study.best),
        _data(study),
        "### Add a worker",
        _worker(study, database),
    ]
    wandb = study.study_file.tracking.wandb
    if wandb.mode != "off":
        where = "/".join(name for name in (wandb.entity, wandb.project) if name)
        named = f"project `{where}`, " if wandb.project else ""
        parts.append(f"Weights & Biases: {named}group `{study.name}`.")
    parts.append("*hms-tune keeps this note up to date until someone edits it.*")
    return "\n\n".join(part for part in parts if part)


def write_study_note(storage: Storage, study: StudyOverview, predictions: OutOfFold | None) -> bool:
    """Write the note if it has changed and nobody edited it; returns whether it was written."""
    loaded = load_study(storage, study.name)
    with storage.transaction() as connection:
        confirmation = confirmation_progress(connection, study.name)
    best = study.best
    corrected = None if best is None else corrected_score(storage, study.study_id, best, predictions)
    body = study_note(study, predictions, Reached.by(storage), confirmation, corrected)
    standing = get_note(loaded)
    if standing == body:
        return False
    if standing and storage.optuna.get_study_system_attrs(study.study_id).get(_DIGEST) != _digest(standing):
        return False  # a person's
    storage.optuna.set_study_system_attr(study.study_id, _DIGEST, _digest(body))
    save_note(loaded, body)
    return True


def _winner(study: StudyOverview, predictions: OutOfFold | None, corrected: Corrected | None) -> str:
    best = study.best
    if best is None or best.value is None:
        return "No trial is complete yet."
    found = deciding_score(best, predictions)
    text = f"**{best.name.capitalize()} leads with KL {best.value:.4f}**"
    if corrected is not None:
        text = f"**{best.name.capitalize()} leads with KL {corrected}**; the search saw {best.value:.4f}"
    elif found is not None:
        text += f", {in_words(found, None)}. A winner's own folds flatter it"
    if found is not None:
        text += (
            f"; the bundle that `hms-tune export-best {study.name}` writes has its score on patients that "
            "the search never saw"
        )
    return f"{text}. Its pictures are on page {best.attempt}."


def _confirmation(study: str, progress: ConfirmationProgress) -> str:
    """How the leading trials stand before and after they were trained again."""
    told = (
        "### Confirmation\n\nThe leading trials are trained again with fresh seeds and folds, in study "
        f"`{progress.study}`: {progress.runs - progress.left} of {progress.runs} runs have ended."
    )
    if progress.winner is not None:
        told += f" **Trial {progress.winner.trial} is the best**, which `hms-tune export-best {study}` takes."
    if progress.ranking is None:
        return told
    return f"{told} {ON_SCORES}\n\n{progress.ranking.markdown()}"


def _numbers(study: StudyOverview) -> str:
    counted = ", ".join(f"{number} {state}" for state, number in study.states.items())
    return f"{study.trials} trials: {counted}. {study.cost:,.0f} {study.unit} so far."


def _space(study_file: StudyFile, best: TrialRecord | None) -> str:
    """Each range, and the best trial's value."""
    ranges = {each.name: describe(each.node).replace(" | ", ", ") for each in parameters(study_file.space)}
    title = best.name if best else ""
    won = {name: value_text(value) for name, value in best.params.items()} if best else {}
    rows = [f"| `{name}` &nbsp; | {values} &nbsp; | {won.get(name, '')} |" for name, values in ranges.items()]
    search, budget = study_file.search, study_file.budget
    hours = "" if budget.hours is None else f", {budget.hours:g} h"
    how = f"Sampler {search.sampler}, {rule_text(study_file)}, budget {budget.trials} trials{hours}."
    return "\n".join([f"| parameter | range | {title} |", "|:---|:---|:---|", *rows]) + f"\n\n{how}"


def _data(study: StudyOverview) -> str:
    if not study.digests:
        return ""
    digests = [f"`{digest[:16]}`" for digest in sorted(study.digests)]
    text = ", ".join(digests)
    return f"Data set {text}." if len(digests) == 1 else f"**Trials ran on different data sets: {text}.**"


def _worker(study: StudyOverview, database: Reached) -> str:
    """How a worker joins: the study file as a command finds it, the database as it is reached from here."""
    file = study.study_file
    path = Path(file.source)
    found_by_name = path.stem == file.study and path.parent.name in ("", "studies", "study_files")
    named = file.source if path.suffix in SUFFIXES and not found_by_name else file.study
    join = f"hms-tune worker {shlex.quote(named)}"
    if database.home is not None:
        data = "" if file.data_root is not None else " --data COMPETITION_FOLDER"
        said = "Its database is the embedded server of one machine. There, in the folder of the first worker:"
        return f"{said}\n\n```\nHMS_TUNE_HOME={shlex.quote(database.home)} {join}{data}\n```"
    return (
        "On any machine that has the data and the study file:\n\n"
        f"```\nexport HMS_TUNE_STORAGE={shlex.quote(database.address)}\n{join} --data COMPETITION_FOLDER\n```"
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
