"""The trials of a study: a line each, in as many columns as fit, and all of them as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from hms_tune.cli.views.tables import plain_table, shortened
from hms_tune.config.ranges import value_text
from hms_tune.config.yaml_lines import nearest
from hms_tune.errors import UsageError
from hms_tune.machine.progress import duration
from hms_tune.studies.standing import Estimate
from hms_tune.studies.status_types import TrialSummary
from hms_tune.studies.text import estimate_text, score_text
from hms_tune.trial_state import AttemptState, label

_FIRST = ("trial", "state", "KL", "time")
_GAP = 2
"""Spaces after each column."""

_MOST_REASONS = 10
"""Reasons under the table; the most frequent come first."""


_PARTS = "≈ KL m/n: trained up to fold m of n, on the scale of complete trials; ?: not comparable yet"

PAGE = 100
"""Attempts on a page: more scroll by unread, and take seconds to lay out."""


class Sortable(Protocol):
    """What a list of attempts is sorted by."""

    @property
    def trial(self) -> int:
        """Number of the trial."""

    @property
    def state(self) -> AttemptState:
        """State of the attempt."""

    @property
    def value(self) -> float | None:
        """Its KL."""

    @property
    def seconds(self) -> float | None:
        """Its time."""

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that it may be sorted by."""


S = TypeVar("S", bound=Sortable)


def trial_view(
    trials: Sequence[TrialSummary], *, width: int, page: int = 1, of: int | None = None
) -> RenderableType:
    """A page of attempts at trials, a line each, in their order.

    Parameters that differ and that most trials have get a column, as long as there is room. What trials ended
    for stands under the table, once.

    Parameters
    ----------
    width : characters of a line
    page : from 1
    of : how many attempts there are on all pages; None: these
    """
    reasons = _numbered(trials)
    why = ("why",) if reasons else ()
    rows = [[*_first_cells(each), *([_mark(each, reasons)] if reasons else [])] for each in trials]
    taken = sum(_widest(column) + _GAP for column in zip((*_FIRST, *why), *rows, strict=True))
    columns = _parameter_columns(trials)
    fitting = list(_fitting(columns, width - taken))
    names = [*_FIRST, *why, *(column.short for column in fitting)]
    numbers = ("KL", "time", *(column.short for column in fitting if column.is_number))
    table = plain_table(*names, numbers=numbers, no_wrap=names)
    for place, row in enumerate(rows):
        table.add_row(*map(Text, row), *(Text(column.cells[place]) for column in fitting))
    parts: list[RenderableType] = [table]
    if any(each.estimate is not None and each.estimate.folds for each in trials):
        parts.append(Text(_PARTS, style="dim"))
    left_out = len(columns) - len(fitting)
    if left_out:
        rest = "1 more parameter" if left_out == 1 else f"{left_out} more parameters"
        parts.append(Text(f"{rest}: --csv lists all, --trial N shows a trial whole", style="dim"))
    if reasons:
        parts += [Text(), *_reason_lines(trials, reasons)]
    pages = -(-(len(trials) if of is None else of) // PAGE)
    if pages > 1:
        parts.append(Text(f"page {page} of {pages}, of {of:,} attempts: --page N shows another", style="dim"))
    return Group(*parts)


def sort_column(by: str, params: Sequence[str]) -> str:
    """The column that ``--sort`` names: the number, state, KL, time, or a parameter, in full or in short.

    Raises
    ------
    UsageError
        If no trial has such a parameter.
    """
    name = by.removeprefix("-")
    known = {each.lower(): each for each in _FIRST} | {each: each for each in params}
    known |= {short: each for each, short in _short_names(params).items()}
    column = known.get(name) or known.get(name.lower())
    if column is None:
        raise UsageError(
            f'nothing to sort by is called "{name}"; {nearest(name, list(known))}', where="--sort"
        )
    return column


def sorted_trials(trials: Sequence[S], column: str, *, largest_first: bool = False) -> list[S]:
    """Trials by what :func:`sort_column` found.

    Trials without a value come last either way, and before them those of which a part of the KL is known.
    """
    valued = [(value, each) for each in trials if (value := _sort_value(each, column)) is not None]
    valued.sort(key=lambda pair: pair[0], reverse=largest_first)
    ordered = [each for _, each in valued]
    if column == "KL":  # a part of a score stands behind the whole ones
        ordered.sort(key=lambda each: each.state is not AttemptState.COMPLETE)
    return ordered + [each for each in trials if _sort_value(each, column) is None]


def trials_csv(trials: Iterable[TrialSummary], params: Sequence[str]) -> Iterator[str]:
    """Attempts with all of ``params`` as lines of CSV, the first a header; what one lacks is left empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")

    def line(cells: Sequence[Any]) -> str:
        text.seek(0)
        text.truncate()
        writer.writerow(cells)
        return text.getvalue()

    yield line(["trial", "attempt", "state", "kl", "estimate", "fold", "seconds", "reason", *params])
    for each in trials:
        values = (each.params.get(name) for name in params)
        part = (None, None) if each.estimate is None else (each.estimate.value, each.estimate.fold)
        first = (each.trial, each.attempt, each.state.value, each.value, *part, each.seconds, each.reason)
        yield line([*first, *(json.dumps(v) if isinstance(v, list) else v for v in values)])


@dataclass(frozen=True, slots=True)
class _Column:
    """A parameter's name, and what each trial has of it."""

    short: str
    cells: list[str]
    is_number: bool

    @property
    def width(self) -> int:
        return _widest([self.short, *self.cells]) + _GAP


def _first_cells(trial: TrialSummary) -> list[str]:
    part = trial.estimate
    value = score_text(trial.value, "") if part is None else _part_text(part)
    time = "" if trial.seconds is None else duration(trial.seconds)
    return [label(trial.trial, trial.attempt), trial.state.value, value, time]


def _part_text(part: Estimate) -> str:
    doubt = "" if part.is_comparable else "?"
    return f"{estimate_text(part.value)}{doubt}" + (f" {part.fold}/{part.folds}" if part.folds else "")


def _parameter_columns(trials: Sequence[TrialSummary]) -> list[_Column]:
    """First what most trials have and what differs between them."""
    number_of = Counter(name for each in trials for name in each.params)
    differing = {name: _differs(trials, name) for name in number_of}
    names = sorted(number_of, key=lambda name: (not differing[name], -number_of[name]))
    short = _short_names(list(number_of))
    return [
        _Column(
            short[name],
            [_cell(each.params, name) for each in trials],
            all(_is_number(each.params.get(name, 0)) for each in trials),
        )
        for name in names
    ]


def _fitting(columns: Sequence[_Column], width: int) -> Iterator[_Column]:
    """The columns that have room, one after another; a wide one is passed over."""
    for column in columns:
        if column.width <= width:
            width -= column.width
            yield column


def _differs(trials: Sequence[TrialSummary], name: str) -> bool:
    return len({value_text(each.params[name]) for each in trials if name in each.params}) > 1


def _short_names(names: Sequence[str]) -> dict[str, str]:
    return {name: short for name, (short, _) in zip(names, shortened(dict.fromkeys(names)), strict=True)}


def _cell(params: Mapping[str, Any], name: str) -> str:
    if name not in params:
        return ""
    value = params[name]
    return f"{value:.3g}" if isinstance(value, float) else value_text(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _widest(cells: Sequence[str]) -> int:
    return max(Text(cell).cell_len for cell in cells)


def _sort_value(trial: Sortable, column: str) -> Any:
    own = {"trial": trial.trial, "state": trial.state.value, "KL": trial.value, "time": trial.seconds}
    value = own[column] if column in own else trial.params.get(column)
    # Labels of choices may be of several kinds, which have no order between them.
    return (
        value
        if column in own or value is None
        else (not _is_number(value), value if _is_number(value) else str(value))
    )


def _told(trial: TrialSummary) -> str | None:
    """What a trial ended for, unless its state says it."""
    return trial.reason if trial.reason != trial.state else None


def _numbered(trials: Sequence[TrialSummary]) -> dict[str, int]:
    counted = Counter(reason for each in trials if (reason := _told(each)))
    return {reason: place for place, (reason, _) in enumerate(counted.most_common(), 1)}


def _mark(trial: TrialSummary, reasons: Mapping[str, int]) -> str:
    reason = _told(trial)
    return f"[{reasons[reason]}]" if reason else ""


def _reason_lines(trials: Sequence[TrialSummary], reasons: Mapping[str, int]) -> Iterator[Text]:
    counted = Counter(_told(each) for each in trials)
    for reason, number in list(reasons.items())[:_MOST_REASONS]:
        times = f" ({counted[reason]} times)" if counted[reason] > 1 else ""
        yield Text(f"[{number}] {reason}{times}")
    if len(reasons) > _MOST_REASONS:
        yield Text(f"and {len(reasons) - _MOST_REASONS} more reasons; --trial N tells a trial's", style="dim")
