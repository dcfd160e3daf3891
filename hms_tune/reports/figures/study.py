"""Charts of a whole study for its report."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hms_tune.reports.figures.style import ACCENT, FAINT, GRID, INK, chart
from hms_tune.studies.overview import StudyOverview
from hms_tune.studies.score import FoldSpread

PRUNED = "#d9a441"
_MOST = 3.0
"""Values above this multiple of the median are drawn at the edge: one diverged trial hides no others."""

_MANY = 1000
"""More dots than these are drawn as a picture: each would be an element of the page."""


def history_figure(study: StudyOverview) -> Figure:
    """KL by trial number; pruned trials at their last estimate; the best so far as a line."""
    figure, axes = chart(5.4, 3.4)
    best = study.by_number.items
    complete, pruned = study.dots(best), [trial for trial in study.drawn.kept if trial.value is None]
    estimates = [study.scale.estimate(trial.reported or 0.0, trial.step or 0).value for trial in pruned]
    values = [trial.value or 0.0 for trial in complete]
    top = _MOST * sorted(values)[len(values) // 2] if values else max(estimates, default=1.0)
    axes.scatter(
        [trial.trial for trial in pruned],
        [min(each, top) for each in estimates],
        s=12,
        color=PRUNED,
        label="pruned, estimate",
        rasterized=len(pruned) > _MANY,
    )
    axes.scatter(
        [trial.trial for trial in complete],
        [min(each, top) for each in values],
        s=18,
        color=ACCENT,
        label="complete",
        rasterized=len(complete) > _MANY,
    )
    if best:
        lowest = [trial.value or 0.0 for trial in best]
        numbers = [*(trial.trial for trial in best), study.last_number]
        axes.step(numbers, [*lowest, lowest[-1]], where="post", color=INK, linewidth=1.2)
    if max([*values, *estimates], default=0.0) > top:
        axes.annotate(
            "higher ones at the edge",
            (1.0, 1.0),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            fontsize=8,
            color=FAINT,
        )
    axes.set_xlabel("trial; line: best so far", fontsize=9.5, color=INK)
    axes.set_ylabel("KL", fontsize=9.5, color=INK)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(0.0, 1.02), ncols=2)
    axes.margins(y=0.14)
    return figure


def fold_spread_figure(shown: Sequence[FoldSpread]) -> Figure:
    """The KL of each fold of some trials, and their means."""
    figure, axes = chart(5.4, 3.4)
    for place, trial in enumerate(shown):
        axes.plot([place] * len(trial.kl), trial.kl, color=GRID, linewidth=2.2, zorder=1)
        axes.scatter([place] * len(trial.kl), trial.kl, s=20, color=ACCENT, zorder=2)
        axes.plot([place - 0.28, place + 0.28], [trial.mean] * 2, color=INK, linewidth=2, zorder=3)
    axes.set_xticks(range(len(shown)), [str(trial.trial) for trial in shown])
    axes.set_xlabel("trial, best first; dots: folds, bar: mean", fontsize=9.5, color=INK)
    axes.set_ylabel("KL", fontsize=9.5, color=INK)
    return figure


def cost_figure(study: StudyOverview) -> Figure:
    """What complete trials cost, and those that none beats on both cost and KL."""
    figure, axes = chart(5.4, 3.4)
    front = study.by_cost.items
    shown = [trial for trial in study.dots(front) if trial.began_at is not None]
    values = [trial.value or 0.0 for trial in shown]
    axes.scatter([trial.cost for trial in shown], values, s=18, color=ACCENT, rasterized=len(shown) > _MANY)
    _, edge = study.costs or (0.0, 0.0)
    axes.step(
        [*(trial.cost for trial in front), edge],
        [*(trial.value or 0.0 for trial in front), *(trial.value or 0.0 for trial in front[-1:])],
        where="post",
        color=INK,
        linewidth=1.2,
    )
    if study.costs_lie_apart:
        axes.set_xscale("log")
        plain = FuncFormatter(lambda cost, _: f"{cost:,.0f}" if cost >= 1.0 else f"{cost:g}")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.12)
    for trial in front[-1:]:  # the best alone: names of those near it would lie on one another
        place = (trial.cost, trial.value or 0.0)
        name = trial.name
        axes.annotate(name, place, xytext=(4, -12), textcoords="offset points", fontsize=8.5)
    axes.set_xlabel(
        f"{study.unit} of a trial; line: none is both cheaper and better", fontsize=9.5, color=INK
    )
    axes.set_ylabel("KL", fontsize=9.5, color=INK)
    return figure
