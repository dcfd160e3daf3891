"""Studies, trials and findings, as text for a person and as JSON for a program."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hms_tune.tracking.console import duration

if TYPE_CHECKING:
    from hms_tune.service.doctor import Check
    from hms_tune.service.summaries import StudyStatus, StudySummary, TrialSummary


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


def status_view(status: StudyStatus) -> RenderableType:
    """A study at one moment."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("study", Text(f"{status.study} ({status.state})"))
    facts.add_row("budget", budget_text(status))
    facts.add_row("trials", counts(status.trials))
    if status.best is None:
        facts.add_row("best", "none yet")
    else:
        high = status.best.kl_high_vote
        facts.add_row(
            "best",
            f"KL {status.best.value:.4f}, trial {status.best.number}"
            + (f", high-vote {high:.4f}" if high else ""),
        )
        facts.add_row("", Text(params_text(status.best.params), style="dim"))
    if status.per_hour is not None:
        left = "" if status.left_s is None else f", {duration(status.left_s)} left at that speed"
        facts.add_row("speed", f"{status.per_hour:.1f} trials/h{left}")
    for number, params in enumerate(status.enqueued):
        facts.add_row("enqueued" if number == 0 else "", Text(params_text(params)))
    parts: list[RenderableType] = [facts]
    if status.running:
        parts.append(running_table(status))
    if status.workers:
        parts.append(worker_table(status))
    return Group(*parts)


def budget_text(status: StudyStatus) -> str:
    """What is used of each part of the budget: ``12 of 100 trials, 1.5 of 24 h, 0.75 GPU-hours``."""
    taken = sum(status.units.values())
    parts = [
        (f"{taken}", status.budget_trials, "trials"),
        (f"{status.hours or 0.0:.1f}", status.budget_hours, "h"),
        (f"{status.gpu_hours:.2f}", status.budget_gpu_hours, "GPU-hours"),
    ]
    shown = [f"{used} of {limit:g} {unit}" for used, limit, unit in parts if limit is not None]
    if status.budget_gpu_hours is None and status.gpu_hours > 0:
        shown.append(f"{status.gpu_hours:.2f} GPU-hours used")
    return ", ".join(shown) or "no limit"


def running_table(status: StudyStatus) -> Table:
    """The trials that slots are at."""
    table = _table("running", "slot", "host", "since", "lease left")
    for trial in status.running:
        name = "starting" if trial.number is None else f"trial {trial.number}"
        if trial.number is not None and trial.lineage != trial.number:
            name += f" (goes on from {trial.lineage})"
        if trial.wanted == "stop":
            name += ", stopping"
        left = f"{max(0.0, trial.expires_in_s):.0f} s"
        table.add_row(name, trial.slot, trial.host, trial.started_at.strftime("%Y-%m-%d %H:%M:%S UTC"), left)
    return table


def worker_table(status: StudyStatus) -> Table:
    """The workers that have not stopped."""
    table = _table("worker", "host", "pid", "slots", "devices", "version", "seen")
    for worker in status.workers:
        seen = f"{worker.seen_s_ago:.0f} s ago" + (" (silent)" if worker.state == "silent" else "")
        seen += {"work": "", "finish": ", finishing to leave", "leave": ", leaving"}[worker.wanted]
        cells = (
            worker.worker_id,
            worker.host,
            str(worker.pid),
            str(worker.slots),
            worker.devices,
            worker.version,
        )
        table.add_row(*cells, seen)
    return table


def study_table(summaries: Sequence[StudySummary]) -> Table:
    """Every study, a line each."""
    table = _table("study", "state", "complete", "pruned", "failed", "running", "best KL", "budget")
    for summary in summaries:
        best = "" if summary.best_value is None else f"{summary.best_value:.4f}"
        trials = [str(summary.trials[state]) for state in ("complete", "pruned", "failed", "running")]
        budget = "" if summary.budget_trials is None else str(summary.budget_trials)
        table.add_row(summary.study, summary.state, *trials, best, budget)
    return table


def trial_table(trials: Sequence[TrialSummary]) -> Table:
    """Trials, a line each."""
    table = _table("trial", "state", "KL", "parameters", "reason")
    for trial in trials:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        name = str(trial.number)
        if trial.lineage is not None and trial.lineage != trial.number:
            name += f" (from {trial.lineage})"
        table.add_row(name, trial.state, value, Text(params_text(trial.params)), Text(trial.reason or ""))
    return table


def trial_view(trial: TrialSummary) -> RenderableType:
    """All that is known of one trial."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("trial", f"{trial.number} ({trial.state})")
    if trial.lineage is not None and trial.lineage != trial.number:
        facts.add_row("goes on from", f"trial {trial.lineage}")
    if trial.value is not None:
        facts.add_row("KL", f"{trial.value:.6f}")
    if trial.reason:
        facts.add_row("reason", Text(trial.reason))
    for name, value in trial.params.items():
        facts.add_row(name, Text(_value(value)))
    for name in ("kl_high_vote", "kl_all_rows", "fold_kl", "best_epochs", "seconds", "worker", "config_hash"):
        if trial.attributes.get(name) is not None:
            facts.add_row(name, Text(_value(trial.attributes[name])))
    if trial.reported:
        facts.add_row(
            "reported", ", ".join(f"{step}: {value:.4f}" for step, value in sorted(trial.reported.items()))
        )
    traceback = trial.attributes.get("traceback")
    return Group(facts, Text(f"\n{traceback}")) if traceback else facts


def check_table(checks: Sequence[Check]) -> Table:
    """The findings of ``doctor``."""
    styles = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = _table("", "what", "finding", "what to do")
    for check in checks:
        state = Text(check.state, style=styles[check.state])
        table.add_row(state, check.name, Text(check.detail), Text(check.mend or ""))
    return table


def counts(trials: dict[str, int]) -> str:
    """``12 complete, 3 pruned``; states without trials are left out."""
    return ", ".join(f"{number} {state}" for state, number in trials.items() if number) or "none yet"


def params_text(params: dict[str, Any]) -> str:
    """Parameters on one line."""
    return "  ".join(f"{name}={_value(value)}" for name, value in params.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_value(child) for child in value)
    return str(value)


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    return table
