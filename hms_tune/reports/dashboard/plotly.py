"""A study's figures for the dashboard, as Plotly's figure JSON.

Written out by hand: Plotly's Python package is tens of megabytes, and the dashboard needs none of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hms_tune.reports.figures.style import ACCENT, FRONT, INK
from hms_tune.studies.cost import CostFront, cost_front
from hms_tune.studies.score import FoldSpread, fold_spread
from hms_tune.studies.trial_record import StudyRecord, TrialRecord

MOST_POINTS = 400
"""A figure with more points than this slows the page and shows little more."""

_MOMENT = "%Y-%m-%d %H:%M:%S"
_STRETCHES = 100
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


def study_graphs(study: StudyRecord) -> list[Graph]:
    """Every figure the study has enough trials for. Importances the dashboard draws itself."""
    spread = _fold_spread(fold_spread(study.ranked[:10]))
    graphs = [spread, _over_time(study), _cost(cost_front(study)), _utilisation(study)]
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


def _over_time(study: StudyRecord) -> Graph:
    """When each trial ended and with what, and the best so far."""
    ended = [(trial, at) for trial in study.ranked if (at := _ended_at(trial)) is not None]
    ended.sort(key=lambda pair: pair[1])
    data: list[dict[str, Any]] = []
    if ended:
        shown = _thinned(ended)
        data.append(_dots([trial for trial, _ in shown], [at for _, at in shown]))
        best_x, best_y, best = [], [], math.inf
        for trial, at in ended:
            if trial.value is not None and trial.value < best:
                best = trial.value
                best_x.append(at)
                best_y.append(best)
        best_x.append(ended[-1][1])
        best_y.append(best)
        line = {"mode": "lines", "line": {"shape": "hv", "color": FRONT, "width": 2}}
        data.append({"type": "scatter", "name": "best so far", "x": best_x, "y": _rounded(best_y), **line})
    return _graph("time", "KL over time", data, {"title": {"text": "ended (UTC)"}}, "KL")


def _cost(costs: CostFront) -> Graph:
    """What each complete trial cost, and the front that none beats on both."""
    data: list[dict[str, Any]] = []
    if costs.trials:
        shown = _thinned(costs.trials)
        data.append(_dots(shown, _rounded(trial.cost for trial in shown)))
        x, y = [trial.cost for trial in costs.front], [trial.value or 0.0 for trial in costs.front]
        line = {"mode": "lines+markers", "line": {"shape": "hv", "color": FRONT}}
        data.append({"type": "scatter", "name": "Pareto front", "x": _rounded(x), "y": _rounded(y), **line})
    axis: dict[str, Any] = {"title": {"text": f"{costs.unit} of a trial"}}
    if costs.log:
        axis |= {"type": "log", "dtick": "D1"}  # labels at 1, 2 and 5 of each decade
    return _graph("cost", "What a KL costs", data, axis, "KL")


def _utilisation(study: StudyRecord) -> Graph:
    """How many slots were at work, on average in each of a hundred stretches of the study's time."""
    attempts = [attempt for trial in study.trials for attempt in trial.attempts]
    data: list[dict[str, Any]] = []
    if attempts:
        first = min(attempt.started_at for attempt in attempts)
        starts = [(attempt.started_at - first).total_seconds() for attempt in attempts]
        ends = [start + attempt.seconds for start, attempt in zip(starts, attempts, strict=True)]
        width = max(*ends, 1.0) / _STRETCHES
        busy = [0.0] * _STRETCHES
        for start, end in zip(starts, ends, strict=True):
            for place in range(int(start / width), min(int(end / width), _STRETCHES - 1) + 1):
                busy[place] += max(0.0, min(end, (place + 1) * width) - max(start, place * width)) / width
        x = [(first + timedelta(seconds=place * width)).strftime(_MOMENT) for place in range(_STRETCHES)]
        line = {"mode": "lines", "fill": "tozeroy", "line": {"shape": "hv", "color": ACCENT, "width": 1}}
        data.append({"type": "scatter", "x": x, "y": _rounded(busy), **line})
    axis = {"title": {"text": "time (UTC)"}, "type": "date"}
    graph = _graph("slots", "Slots at work", data, axis, "slots", legend=False)
    if attempts and max(busy) <= _FEW:
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


def _dots(trials: Sequence[TrialRecord], x: Sequence[Any]) -> dict[str, Any]:
    """The KL of each trial as a dot."""
    texts = [trial.name for trial in trials]
    marker = {"mode": "markers", "marker": {"size": 6, "color": ACCENT}, "text": texts}
    y = _rounded(trial.value or 0.0 for trial in trials)
    return {"type": "scatter", "name": "trial", "x": x, "y": y, **marker}


def _ended_at(trial: TrialRecord) -> str | None:
    attempt = trial.last_attempt
    if attempt is None or attempt.ended_at is None:
        return None
    return attempt.ended_at.strftime(_MOMENT)


def _thinned(items: Sequence[Any]) -> Sequence[Any]:
    """At most so many, evenly."""
    if len(items) <= MOST_POINTS:
        return items
    step = len(items) / MOST_POINTS
    return [items[int(place * step)] for place in range(MOST_POINTS)]


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
