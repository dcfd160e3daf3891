"""A study's figures for the dashboard, as Plotly's figure JSON.

Written out by hand: Plotly's Python package is tens of megabytes, and the dashboard needs none of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hms_tune.service.records import StudyRecord, TrialRecord

MOST_POINTS = 1500
"""A figure with more points than this slows the page and shows no more."""

_COLOURS = {"complete": "#2f5d8a", "pruned": "#d9a441", "failed": "#c0392b"}
_INK = "#1d2430"


@dataclass(frozen=True, slots=True)
class Graph:
    """A figure of Plotly's: traces and layout, as the dashboard stores it."""

    name: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The JSON that Plotly reads."""
        return json.dumps({"data": self.data, "layout": self.layout}, separators=(",", ":"), allow_nan=False)


def study_graphs(study: StudyRecord, importances: dict[str, float]) -> list[Graph]:
    """Every figure the study has enough trials for."""
    graphs = [
        _fold_spread(study.ranked[:10]),
        _over_time(study),
        _cost(study),
        _importance(importances),
        _utilisation(study),
    ]
    return [graph for graph in graphs if graph.data]


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Complete trials than which none was both cheaper and better, by cost."""
    front: list[TrialRecord] = []
    for trial in sorted(trials, key=lambda each: (each.cost, each.value)):
        if trial.value is not None and (not front or trial.value < (front[-1].value or math.inf)):
            front.append(trial)
    return front


def _fold_spread(best: Sequence[TrialRecord]) -> Graph:
    """The ten best, each fold a dot, the mean a line."""
    shown = [trial for trial in best if trial.folds]
    data: list[dict[str, Any]] = []
    for trial in shown:
        scores = [fold.kl for fold in trial.folds if fold.kl is not None]
        labels = [f"fold {fold.fold + 1}" for fold in trial.folds if fold.kl is not None]
        dots = {"mode": "markers", "marker": {"size": 8, "color": "#7fa3c7"}, "text": labels}
        name = str(trial.number)
        data.append({"type": "scatter", "x": [name] * len(scores), "y": _rounded(scores), **dots})
    if shown:
        mean = {
            "mode": "markers",
            "marker": {"size": 16, "symbol": "line-ew", "line": {"width": 3, "color": _INK}},
        }
        values = [trial.value or 0.0 for trial in shown]
        names = [str(trial.number) for trial in shown]
        data.append({"type": "scatter", "x": names, "y": _rounded(values), "name": "mean", **mean})
    x = {"title": {"text": "trial, best first"}, "type": "category"}
    return _graph("fold-spread", "Fold spread of the ten best", data, x, "KL", legend=False)


def _over_time(study: StudyRecord) -> Graph:
    """When each trial ended and with what, and the best so far."""
    ended = [(trial, at) for trial in study.ranked if (at := _ended_at(trial)) is not None]
    ended.sort(key=lambda pair: pair[1])
    data: list[dict[str, Any]] = []
    if ended:
        shown = _thinned(ended)
        texts = [f"trial {trial.number}" for trial, _ in shown]
        y = _rounded([trial.value or 0.0 for trial, _ in shown])
        dots = {"mode": "markers", "marker": {"size": 6, "color": _COLOURS["complete"]}, "text": texts}
        data.append({"type": "scatter", "name": "trial", "x": [at for _, at in shown], "y": y, **dots})
        best_x, best_y, best = [], [], math.inf
        for trial, at in ended:
            if trial.value is not None and trial.value < best:
                best = trial.value
                best_x.append(at)
                best_y.append(best)
        best_x.append(ended[-1][1])
        best_y.append(best)
        line = {"mode": "lines", "line": {"shape": "hv", "color": _COLOURS["failed"], "width": 2}}
        data.append({"type": "scatter", "name": "best so far", "x": best_x, "y": _rounded(best_y), **line})
    return _graph("time", "KL over time", data, {"title": {"text": "ended (UTC)"}}, "KL")


def _cost(study: StudyRecord) -> Graph:
    """What each complete trial cost, and the front that none beats on both."""
    trials = [trial for trial in study.ranked if trial.attempts]
    data: list[dict[str, Any]] = []
    if trials:
        shown = _thinned(trials)
        texts = [f"trial {trial.number}" for trial in shown]
        dots = {"mode": "markers", "marker": {"size": 6, "color": _COLOURS["complete"]}, "text": texts}
        x, y = [trial.cost for trial in shown], [trial.value or 0.0 for trial in shown]
        data.append({"type": "scatter", "name": "trial", "x": _rounded(x), "y": _rounded(y), **dots})
        front = pareto_front(trials)
        x, y = [trial.cost for trial in front], [trial.value or 0.0 for trial in front]
        line = {"mode": "lines+markers", "line": {"shape": "hv", "color": _COLOURS["failed"]}}
        data.append({"type": "scatter", "name": "Pareto front", "x": _rounded(x), "y": _rounded(y), **line})
    unit = cost_unit(trials)
    return _graph("cost", "What a KL costs", data, {"title": {"text": f"{unit} of a trial"}}, "KL")


def _importance(importances: dict[str, float]) -> Graph:
    names = sorted(importances, key=lambda name: importances[name])
    values = _rounded([importances[name] for name in names])
    bars = {"type": "bar", "orientation": "h", "marker": {"color": _COLOURS["complete"]}}
    data = [{**bars, "x": values, "y": names}] if names else []
    x = {"title": {"text": "share of the KL's variance among complete trials"}}
    graph = _graph("importance", "What matters", data, x, "", legend=False)
    graph.layout["yaxis"]["automargin"] = True
    return graph


def _utilisation(study: StudyRecord) -> Graph:
    """One line for each slot, a bar for each attempt."""
    bars: dict[str, list[tuple[str, float, str, str]]] = {}
    for trial in study.trials:
        for attempt in trial.attempts:
            slot = f"{attempt.host}:{attempt.slot}"
            start = attempt.started_at.isoformat(timespec="seconds")
            colour = _COLOURS.get(attempt.outcome or "", "#8a93a3")
            bars.setdefault(slot, []).append((start, attempt.seconds * 1000, colour, f"trial {trial.number}"))
    data = []
    share = MOST_POINTS // max(1, len(bars))
    for slot, attempts in sorted(bars.items()):
        shown = attempts[-max(1, share) :]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": slot,
                "y": [slot] * len(shown),
                "base": [start for start, _, _, _ in shown],
                "x": [round(milliseconds) for _, milliseconds, _, _ in shown],
                "marker": {"color": [colour for _, _, colour, _ in shown]},
                "text": [text for _, _, _, text in shown],
                "textposition": "none",
            }
        )
    x = {"type": "date", "title": {"text": "blue: complete, yellow: pruned, red: failed; gaps: idle"}}
    graph = _graph("slots", "What the slots did", data, x, "", legend=False)
    graph.layout["barmode"] = "overlay"
    graph.layout["yaxis"]["automargin"] = True
    return graph


def cost_unit(trials: Sequence[TrialRecord]) -> str:
    """What :attr:`TrialRecord.cost` counts in these trials."""
    return "GPU-seconds" if any(trial.gpus for trial in trials) else "slot-seconds"


def _graph(
    name: str, title: str, data: list[dict[str, Any]], x: dict[str, Any], y: str, *, legend: bool = True
) -> Graph:
    layout = {
        "title": {"text": title},
        "xaxis": x,
        "yaxis": {"title": {"text": y}},
        "showlegend": legend,
        "margin": {"l": 70, "r": 20, "t": 50, "b": 50},
    }
    return Graph(name, data, layout)


def _ended_at(trial: TrialRecord) -> str | None:
    attempt = trial.last_attempt
    if attempt is None or attempt.ended_at is None:
        return None
    return attempt.ended_at.strftime("%Y-%m-%d %H:%M:%S")


def _thinned(items: list[Any]) -> list[Any]:
    """At most so many, evenly."""
    if len(items) <= MOST_POINTS:
        return items
    step = len(items) / MOST_POINTS
    return [items[int(place * step)] for place in range(MOST_POINTS)]


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
