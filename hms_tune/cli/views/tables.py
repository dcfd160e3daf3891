"""Studies, trials and findings, as text for a person and as JSON for a program."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table

from hms_tune.config.ranges import value_text
from hms_tune.machine.terminal import Terminal
from hms_tune.studies.text import score_text
from hms_tune.trial_state import TrialState

if TYPE_CHECKING:
    from hms_tune.studies.status_types import StudySummary


_SHOWN = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.FAILED,
    TrialState.PAUSED,
    TrialState.RUNNING,
)


def as_json(value: Any) -> str:
    """Dataclasses, times and paths as JSON; NaN and infinity, which JSON lacks, as null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def as_json_lines(values: Iterable[Any]) -> Iterator[str]:
    """A list as :func:`as_json` has it, one item after another, and a line break."""
    before = "["
    for value in values:
        yield before + ("\n" + as_json(value)).replace("\n", "\n  ")
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(child) for child in value]
    if isinstance(value, datetime | Path):
        return value.isoformat() if isinstance(value, datetime) else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def out() -> Console:
    """Standard output: as wide as the terminal; wide enough for every table where it is a file or a pipe."""
    console = Terminal(highlight=False)
    return console if console.is_terminal else Terminal(highlight=False, width=200)


def study_table(summaries: Sequence[StudySummary]) -> Table:
    """Every study, a line each."""
    table = plain_table("study", "state", *_SHOWN, "best", "budget")
    for summary in summaries:
        best = score_text(summary.best_value, "")
        counts = {state.value: number for state, number in summary.trials.items()}
        trials = [str(counts[state]) for state in _SHOWN]
        budget = "" if summary.budget_trials is None else str(summary.budget_trials)
        table.add_row(summary.study, summary.state, *trials, best, budget)
    return table


def counts(trials: Mapping[str, int]) -> str:
    """``12 complete, 3 pruned``; states without trials are left out."""
    return ", ".join(f"{number} {state}" for state, number in trials.items() if number) or "none yet"


def params_text(params: dict[str, Any]) -> str:
    """Parameters on one line."""
    return "  ".join(f"{name}={value_text(value)}" for name, value in params.items())


def short_params(params: dict[str, Any]) -> str:
    """Parameters on one line by the last part of their names, as long as that tells them apart."""
    return "  ".join(f"{name}={value_text(value)}" for name, value in shortened(params))


def shortened(params: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Parameters by the last part of their names, where that tells them apart."""
    last = Counter(name.rpartition(".")[2] for name in params)
    for name, value in params.items():
        short = name.rpartition(".")[2]
        yield (short if last[short] == 1 and short != "name" else name), value


def plain_table(*columns: str, numbers: Collection[str] = (), no_wrap: Collection[str] = ()) -> Table:
    """A table without lines; text that is too long for its column goes on in the next line.

    Parameters
    ----------
    numbers : which columns stand at the right
    no_wrap : which columns stay on one line
    """
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        justify: Literal["left", "right"] = "right" if name in numbers else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name in no_wrap)
    return table
