"""A study's figures for the dashboard, as Plotly's figure JSON.

Written out by hand: Plotly's Python package is tens of megabytes, and the dashboard needs none of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hms_tune.database.queries.outcomes import Outcome
from hms_tune.reports.figures.style import ACCENT, FRONT, INK
from hms_tune.studies.overview import StudyOverview
from hms_tune.studies.score import FoldSpread, fold_spread
from hms_tune.trial_state import AttemptState

MOST_POINTS = 400
"""A figure with more points than this slows the page and shows little more."""

_MOMENT = "%Y-%m-%d %H:%M:%S"
_FEW = 8
"""Slots up to which each has its own line on the axis; there is no half a slot."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A figure of Plotly's: traces and layout, as the dashboard stores it."""

    name: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The JSON that Plotly reads."""
        return json.dumps({"data": self.data, "layout": self.layout}, separators=(",", ":"), allow_nan=False)


def study_graphs(study: StudyOverview) -> list[Graph]:
    """Every figure the study has enough trials for. Importances the dashboard draws itself."""
    graphs = [_fold_spread(fold_spread(study.leaders)), _over_time(study), _cost(study), _utilisation(study)]
    return [graph for graph in graphs if graph.data]


def _fold_spread(best: Sequence[FoldSpread]) -> Graph:
    """The ten best, each fold a dot, the mean a line."""
    data: list[dict[str, Any]] = []
    if best:
        dots = {"mode": "markers", "marker": {"size": 8, "color": "#7fa3c7"}}
        texts = [f"fold {fold}" for trial in best for fold in trial.folds]
        x, y = [str(trial.trial) for trial in best for _ in trial.folds], [kl for t in best for kl in t.kl]
        data.append({"type": "scatter", "x": x, "y": _rounded(y), "text": texts, **dots})
        mean = {"size": 16, "symbol": "line-ew", "line": {"width": 3, "color": INK}}
        x, y = [str(trial.trial) for trial in best], [trial.mean for trial in best]
        data.append({"type": "scatter", "x": x, "y": _rounded(y), "mode": "markers", "marker": mean})
    axis = {"title": {"text": "trial, best first; dots: folds, bar: mean"}, "type": "category"}
    return _graph("fold-spread", "Fold spread of the ten best", data, axis, "KL", legend=False)


def _over_time(study: StudyOverview) -> Graph:
    """When each trial ended and with what, and the best so far."""
    best, last = study.by_end.items, study.last_end
    data: list[dict[str, Any]] = []
    if best and last is not None:
        data.append(_dots(study, best, _ended_at))
        x, y = [_ended_at(trial) for trial in best], [trial.value or 0.0 for trial in best]
        line = {"mode": "lines", "line": {"shape": "hv", "color": FRONT, "width": 2}}
        x, y = [*x, last.strftime(_MOMENT)], _rounded([*y, y[-1]])
        data.append({"type": "scatter", "name": "best so far", "x": x, "y": y, **line})
    return _graph("time", "KL over time", data, {"title": {"text": "ended (UTC)"}}, "KL")


def _cost(study: StudyOverview) -> Graph:
    """What each complete trial cost, and the front that none beats on both."""
    front = study.by_cost.items
    data: list[dict[str, Any]] = []
    if front:
        data.append(_dots(study, front, _cost_of))
        x, y = [_cost_of(trial) for trial in front], _rounded(trial.value or 0.0 for trial in front)
        line = {"mode": "lines+markers", "line": {"shape": "hv", "color": FRONT}}
        data.append({"type": "scatter", "name": "Pareto front", "x": x, "y": y, **line})
    axis: dict[str, Any] = {"title": {"text": f"{study.unit} of a trial"}}
    if study.costs_lie_apart:
        axis |= {"type": "log", "dtick": "D1"}  # labels at 1, 2 and 5 of each decade
    return _graph("cost", "What a KL costs", data, axis, "KL")


def _utilisation(study: StudyOverview) -> Graph:
    """How many slots were at work, on average in each of a hundred stretches of the study's time."""
    found = study.slots
    data: list[dict[str, Any]] = []
    if found is not None:
        moments = (
            found.began_at + timedelta(seconds=place * found.stretch_s) for place in range(len(found.busy))
        )
        x = [moment.strftime(_MOMENT) for moment in moments]
        line = {"mode": "lines", "fill": "tozeroy", "line": {"shape": "hv", "color": ACCENT, "width": 1}}
        data.append({"type": "scatter", "x": x, "y": _rounded(found.busy), **line})
    axis = {"title": {"text": "time (UTC)"}, "type": "date"}
    graph = _graph("slots", "Slots at work", data, axis, "slots", legend=False)
    if found is not None and max(found.busy) <= _FEW:
        graph.layout["yaxis"]["dtick"] = 1
    return graph


def _graph(
    name: str, title: str, data: list[dict[str, Any]], x: dict[str, Any], y: str, *, legend: bool = True
) -> Graph:
    layout = {
        "title": {"text": title},
        "xaxis": x,
        "yaxis": {"title": {"text": y}},
        "showlegend": legend,
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        "margin": {"l": 70, "r": 20, "t": 50, "b": 50},
    }
    return Graph(name, data, layout)


def _dots(
    study: StudyOverview, line: Sequence[Outcome], x_of: Callable[[Outcome], float | str | None]
) -> dict[str, Any]:
    """The KL of trials as dots: of too many, some at even distances. All on this line are among them."""
    shown = [trial for trial in study.dots(line, most=MOST_POINTS) if x_of(trial) is not None]
    complete = study.states[AttemptState.COMPLETE]
    name = "trial" if len(shown) == complete else f"{len(shown):,} of {complete:,} trials"
    texts = [trial.name for trial in shown]
    marker = {"mode": "markers", "marker": {"size": 6, "color": ACCENT}, "text": texts}
    x, y = [x_of(trial) for trial in shown], _rounded(trial.value or 0.0 for trial in shown)
    return {"type": "scatter", "name": name, "x": x, "y": y, **marker}


def _ended_at(trial: Outcome) -> str | None:
    return None if trial.over_at is None else trial.over_at.strftime(_MOMENT)


def _cost_of(trial: Outcome) -> float | None:
    return None if trial.began_at is None else _short(trial.cost)


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _rounded(values: Iterable[float]) -> list[float]:
    return [_short(value) for value in values]
