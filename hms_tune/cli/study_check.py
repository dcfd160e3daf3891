"""``hms-tune study check``: what a study file searches, and what is wrong with it."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from hms_tune.cli.options import opened
from hms_tune.cli.views.tables import params_text
from hms_tune.config.ranges import Parameter, describe, to_plain
from hms_tune.config.study_file import StudyFile, load_study_file
from hms_tune.data.files.competition import Competition
from hms_tune.data.store.store import Store, is_prepared, prepare_command
from hms_tune.machine.terminal import Terminal
from hms_tune.search.parent import Parent, read_parent
from hms_tune.search.reports import rule_text
from hms_tune.search.study import trial_limit
from hms_tune.search.suggest import describe_label

if TYPE_CHECKING:
    from hms_tune.search.study_check import StudyCheck
    from hms_tune.training.memory.plan import MemoryPlan

PAGE_WIDTH = 120
"""Columns of the table where there is no terminal to ask."""

_LONGEST_NAME = 56
"""Characters of a name that stays on a line; labels that hold all that a branch says make longer ones."""


def check(
    file: str,
    json: bool = False,
    *,
    data: Path | None = None,
    device: str = "auto",
    storage: str | None = None,
) -> None:
    """Check a study file and show what it searches.

    Weights that this machine cannot fetch are a warning: another may train.

    Parameters
    ----------
    file : the study's name, or the path of a study file
    json : print JSON
    data : a competition folder, to check folds on, and once it is prepared to plan the memory of a trial with
        the smallest batch
    device : where trials would run
    storage : the database that has the study's parent, if it names one

    Raises
    ------
    ConfigError, UnknownStudyError
        If the file cannot be used, or its parent has nothing to teach.
    DataError, MemoryPlanError
        If the data cannot serve it, or no batch size fits on the device.
    """
    study_file = load_study_file(file)
    # Imported with timm only now: what is wrong with the file itself is said at once.
    from hms_tune.search.study_check import check_study, find_weights

    result = check_study(study_file)
    weights = find_weights(study_file)
    parent = None
    if study_file.search.parent is not None:
        with opened(storage, to="read") as database:
            parent = read_parent(database.optuna, study_file)
    plan = None if data is None else _plan(study_file, data, device)
    if json:
        as_json = _as_json(study_file, result)
        as_json["weights"] = [
            {"backbone": each.backbone, "place": each.place, "error": each.error and str(each.error)}
            for each in weights
        ]
        if parent is not None:
            as_json["parent"] = {"study": parent.study, "trials": len(parent.known), "winner": parent.winner}
        if data is not None:
            as_json["memory"] = None if plan is None else asdict(plan)
        typer.echo(json_format.dumps(as_json, indent=2))
        return
    _print(study_file, result)
    for each in weights:
        typer.echo(f"{'warning' if each.error else 'note'}: {each}")
    for hint in dict.fromkeys(each.error.hint for each in weights if each.error):
        typer.echo(f"hint: {hint}")
    if parent is not None:
        typer.echo(_parent_text(parent))
    if plan is not None:
        typer.echo(str(plan))
    elif data is not None:
        typer.echo(f"warning: the memory of a trial is not planned: {data} is not prepared")
        typer.echo(f"hint: {prepare_command(data)}")


def _parent_text(parent: Parent) -> str:
    told = f"parent {parent.study}: {len(parent.known)} of its {parent.trials} trials lie in this space"
    if parent.winner is None:
        return f"{told}, none of them complete"
    return f"{told}; its winner among them is tried first: {params_text(parent.winner)}"


def _plan(study_file: StudyFile, data: Path, device: str) -> MemoryPlan | None:
    """Check the data, and plan on it; None: the folder is not prepared, so that its signals are not known."""
    from hms_tune.machine.device import resolve_device
    from hms_tune.search.data_check import check_data, check_folds
    from hms_tune.search.memory_check import check_memory
    from hms_tune.training.workspace import Workspace

    if not is_prepared(data):
        train = Competition.open(data, splits=("train",)).table("train")
        for _ in check_folds(study_file, train, data):
            pass
        return None
    store = Store.open(data)
    check_data(study_file, store)
    return check_memory(study_file, Workspace(store, resolve_device(device)).plan)


def _as_json(study_file: StudyFile, result: StudyCheck) -> dict[str, object]:
    return {
        "study": study_file.study,
        "file": study_file.source,
        "space_hash": study_file.space_hash,
        "sampler": study_file.search.sampler,
        "scheduler": study_file.search.scheduler.name,
        "pruner": study_file.search.pruner.name,
        "start": list(result.start),
        "trials": trial_limit(study_file),
        "folds": study_file.max_folds,
        "epochs": study_file.max_epochs,
        "cells": result.cells,
        "parameters": [
            {
                "name": parameter.name,
                "range": to_plain(parameter.node),
                "condition": dict(parameter.condition),
            }
            for parameter in result.parameters
        ],
        "notes": list(result.notes),
    }


def _print(study_file: StudyFile, result: StudyCheck) -> None:
    console = Terminal()
    if not console.is_terminal:
        console = Terminal(width=PAGE_WIDTH)
    table = Table(title=f"{study_file.study}: what is searched", title_justify="left")
    long = any(len(parameter.name) > _LONGEST_NAME for parameter in result.parameters)
    table.add_column("Parameter", no_wrap=not long, overflow="fold")
    table.add_column("Range", overflow="fold")
    table.add_column("Only where", overflow="fold")
    for parameter in result.parameters:
        table.add_row(*(escape(text) for text in _row(parameter)))
    console.print(table)
    conditional = sum(1 for parameter in result.parameters if parameter.condition)
    cells = "continuous" if result.cells is None else f"{result.cells:,} configurations"
    facts = [
        f"{len(result.parameters)} parameters, {conditional} of them conditional; {cells}",
        f"sampler {study_file.search.sampler}, {rule_text(study_file)}, at most "
        f"{trial_limit(study_file)} trials of {study_file.max_folds} folds × {study_file.max_epochs} epochs",
        *(f"tried first: {params_text(params)}" for params in result.start),
        *(f"note: {note}" for note in result.notes),
    ]
    for fact in facts:
        console.print(fact, markup=False, highlight=False)


def _row(parameter: Parameter) -> tuple[str, str, str]:
    condition = ""
    if parameter.condition:
        name, label = parameter.condition[-1]
        condition = f"{name.rpartition('.')[2]} = {describe_label(label)}"
    return parameter.name, describe(parameter.node), condition
