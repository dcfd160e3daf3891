"""Studies, trials and findings, as text for a person and as JSON for a program."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hms_tune.config.ranges import value_text
from hms_tune.trial_state import AttemptState, label

if TYPE_CHECKING:
    from hms_tune.studies.status_types import StudySummary, TrialSummary


_SHOWN = (AttemptState.COMPLETE, AttemptState.PRUNED, AttemptState.FAILED, AttemptState.RUNNING)


def as_json(value: Any) -> str:
    """Dataclasses, times and paths as JSON; NaN and infinity, which JSON lacks, as null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, datetime | Path):
        return value.isoformat() if isinstance(value, datetime) else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def out() -> Console:
    """Standard output: as wide as the terminal; wide enough for every table where it is a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def study_table(summaries: Sequence[StudySummary]) -> Table:
    """Every study, a line each."""
    table = _table("study", "state", *_SHOWN, "best KL", "budget")
    for summary in summaries:
        best = "" if summary.best_value is None else f"{summary.best_value:.4f}"
        attempts = [str(summary.attempts[state]) for state in _SHOWN]
        budget = "" if summary.budget_trials is None else str(summary.budget_trials)
        table.add_row(summary.study, summary.state, *attempts, best, budget)
    return table


def trial_table(trials: Sequence[TrialSummary]) -> Table:
    """Attempts at trials, a line each."""
    table = _table("trial", "state", "KL", "parameters", "reason")
    for column in table.columns[:3]:
        column.no_wrap = True
    for each in trials:
        value = "" if each.value is None else f"{each.value:.4f}"
        name = label(each.trial, each.attempt)
        reason = each.reason if each.reason != each.state else None
        table.add_row(name, each.state, value, Text(short_params(each.params)), Text(reason or ""))
    return table


def counts(trials: Mapping[str, int]) -> str:
    """``12 complete, 3 pruned``; states without trials are left out."""
    return ", ".join(f"{number} {state}" for state, number in trials.items() if number) or "none yet"


def params_text(params: dict[str, Any]) -> str:
    """Parameters on one line."""
    return "  ".join(f"{name}={value_text(value)}" for name, value in params.items())


def short_params(params: dict[str, Any]) -> str:
    """Parameters on one line by the last part of their names, as long as that tells them apart."""
    last = Counter(name.rpartition(".")[2] for name in params)
    return "  ".join(f"{name}={value_text(value)}" for name, value in _shortened(params, last))


def _shortened(params: dict[str, Any], last: Counter[str]) -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        short = name.rpartition(".")[2]
        yield (short if last[short] == 1 and short != "name" else name), value


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    return table
