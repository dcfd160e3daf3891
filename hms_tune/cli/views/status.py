"""A study at one moment, in 80 columns or as many as there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hms_tune.cli.views.tables import params_text, plain_table, short_params
from hms_tune.export.confirmation.race import HEADINGS, ON_SCORES
from hms_tune.machine.progress import duration
from hms_tune.studies.text import estimate_text, patience_text, score_text
from hms_tune.trial_state import REQUEUED_OR_LOST, TrialState, label

if TYPE_CHECKING:
    from hms_tune.database.queries.confirmations import ConfirmationProgress
    from hms_tune.database.queries.workers import RunningTrial
    from hms_tune.studies.status_types import BestTrial, StudyStatus, WorkerStatus

_STATE_STYLES = {"running": "green", "paused": "yellow", "stopped": "red", "finished": "cyan"}
_LEAVING = {"work": "", "finish": "finishing", "leave": "leaving"}
_GIB = 2**30


def status_view(status: StudyStatus) -> RenderableType:
    """Budget and end, trials by state with reasons, speed, the five best, running trials, workers."""
    from hms_tune.studies.status_types import FOREIGN

    parts: list[RenderableType] = [_heading(status), Padding(_facts(status), (0, 0, 0, 2), expand=False)]
    if status.leaders:
        parts += [Text(), best_table(status.leaders, "best KL" if status.state != FOREIGN else "best")]
    if status.confirmation is not None:
        parts += [Text(), confirmation_view(status.confirmation)]
    if status.running:
        parts += [Text(), running_table(status)]
    if status.workers:
        parts += [Text(), worker_table(status.workers)]
    return Group(*parts)


def budget_text(status: StudyStatus) -> str:
    """What is used of each part of the budget: ``12 of 100 trials, 1.5 of 24 h, 0.75 GPU-hours``."""
    taken = sum(number for state, number in status.trials.items() if state.uses_budget)
    parts = [
        (f"{taken}", status.budget_trials, "trials"),
        (f"{status.hours:.1f}", status.budget_hours, "h"),
        (f"{status.gpu_hours:.2f}", status.budget_gpu_hours, "GPU-hours"),
    ]
    shown = [f"{used} of {limit:g} {unit}" for used, limit, unit in parts if limit is not None]
    if status.budget_gpu_hours is None and status.gpu_hours > 0:
        shown.append(f"{status.gpu_hours:.2f} GPU-hours used")
    return ", ".join(shown) or "no limit"


def _heading(status: StudyStatus) -> Text:
    line = Text(status.study, style="bold")
    line.append(f"  {status.state}", style=_STATE_STYLES.get(status.state, ""))
    return line


def _facts(status: StudyStatus) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("budget", budget_text(status))
    if status.left_s:
        when = "" if status.ends_at is None else f", at {status.ends_at.strftime('%Y-%m-%d %H:%M UTC')}"
        facts.add_row("end", f"in {duration(status.left_s)}{when or ' of work'}")
    elif status.left_s is not None:
        facts.add_row("end", "reached")
    elif status.hours is not None and status.budget_trials is not None:
        facts.add_row("end", f"nobody can tell before a trial has ended{_latest(status)}")
    if status.patience.gain is not None and status.patience.noise is not None:
        facts.add_row("a further trial", patience_text(status.patience))
    facts.add_row("trials", _trials(status))
    if status.corrected is not None:
        facts.add_row("best KL", str(status.corrected))
    for reason, number in status.failed_because.items():
        facts.add_row("", Text(f"{number}× failed: {reason}", style="red"))
    speed = [
        f"{status.per_hour:,.1f} trials/h" if status.per_hour is not None else "",
        f"{status.images_per_second:,.0f} images/s" if status.images_per_second else "",
    ]
    if any(speed):
        facts.add_row("speed", " · ".join(filter(None, speed)))
    for number, params in enumerate(status.enqueued):
        facts.add_row("enqueued" if number == 0 else "", Text(params_text(params)))
    return facts


def _latest(status: StudyStatus) -> str:
    """When the hours of the budget are over, where it has some."""
    if status.budget_hours is None or status.hours is None:
        return ""
    return f"; in {duration(3600.0 * max(0.0, status.budget_hours - status.hours))} at the latest"


def _trials(status: StudyStatus) -> Text:
    parts = []
    for state, number in status.trials.items():
        told = f"{number} {state}"
        if state is TrialState.PRUNED and status.pruned_in_fold:
            folds = ", ".join(f"{count} in fold {fold}" for fold, count in status.pruned_in_fold.items())
            told += f" ({folds})"
        if number:
            parts.append(told)
    moved = [f"{status.attempts[state]} {state}" for state in REQUEUED_OR_LOST if status.attempts[state]]
    if moved:
        parts.append(f"attempts {', '.join(moved)}")
    return Text(" · ".join(parts) or "none yet")


def best_table(leaders: Sequence[BestTrial], heading: str = "best KL") -> Table:
    """The best trials; parameters in full for the first, as far as they fit for the others."""
    high_vote = any(trial.kl_high_vote is not None for trial in leaders)
    numbers = ("trial", "high-vote") if high_vote else ("trial",)
    table = plain_table(heading, *numbers, numbers=numbers, no_wrap=(heading, *numbers))
    table.add_column("parameters", overflow="fold", ratio=1)
    for place, trial in enumerate(leaders):
        params = Text(short_params(trial.params), style="dim", overflow="ellipsis", no_wrap=place > 0)
        high = score_text(trial.kl_high_vote)
        style = "green" if place == 0 else ""
        cells = [
            Text(f"{trial.value:.4f}", style=style),
            Text(label(trial.trial, trial.attempt)),
        ]
        table.add_row(*cells, *([high] if high_vote else []), params)
    return table


def confirmation_view(progress: ConfirmationProgress) -> RenderableType:
    """How far the leading trials have been trained again, and how they stand."""
    done = f"confirmation: {progress.runs - progress.left} of {progress.runs} runs, in study {progress.study}"
    if progress.ranking is None:
        return Text(done)
    table = plain_table(*HEADINGS, numbers=("place", "in the search", "runs"))
    for row in progress.ranking.rows():
        table.add_row(*row)
    return Group(Text(done), table, Text(ON_SCORES, style="dim"))


def running_table(status: StudyStatus) -> Table:
    """The trials that slots are at."""
    numbers = ("KL so far", "since", "lease left")
    names = ("running", *numbers, "slot")
    table = plain_table(*names, numbers=numbers, no_wrap=names)
    table.add_column("host", overflow="ellipsis", no_wrap=True)
    for trial in status.running:
        cell = Text("starting" if trial.trial is None else f"trial {trial.trial}")
        if trial.fold is not None:
            cell.append(f"\nfold {trial.fold + 1} alone", style="dim")
        if trial.attempt not in (None, trial.trial):
            cell.append(f"\nattempt {trial.attempt}", style="dim")
        if trial.requested == "stop":
            cell.append("\nstopping", style="yellow")
        estimate = _estimate(trial, status)
        left = f"{max(0.0, trial.expires_in_s):.0f} s"
        since = trial.started_at.strftime("%m-%d %H:%M")
        table.add_row(cell, estimate, since, left, trial.slot, _short_host(trial.host))
    return table


def _estimate(trial: RunningTrial, status: StudyStatus) -> str:
    """What a running trial has come to, on the scale of complete ones as far as that is known."""
    if trial.estimate is None or trial.step is None or not status.epochs:
        return estimate_text(trial.estimate)
    fold = (trial.step - 1) // status.epochs + 1
    estimate = status.standing.comparable(trial.estimate, fold)
    remark = status.standing.remark(estimate, fold, status.folds)
    return estimate_text(estimate) + (f"\n{remark}" if remark else "")


def worker_table(workers: Sequence[WorkerStatus]) -> Table:
    """The workers that have not stopped, with what they take of their machines."""
    numbers = ("CPU", "memory", "GPU", "seen")
    names = ("worker", "devices", "CPU", "memory", "GPU", "trials", "seen")
    table = plain_table(*names, numbers=numbers, no_wrap=("worker", "devices", *numbers))
    table.columns[0].overflow = "ellipsis"
    for worker in workers:
        seen = Text(f"{duration(worker.seen_s_ago)} ago", style="red" if worker.state == "silent" else "")
        state = "silent" if worker.state == "silent" else _LEAVING[worker.requested]
        table.add_row(
            Text(f"{_short_host(worker.host)}\n").append(worker.worker_id, style="dim"),
            _devices(worker.devices),
            *_usage(worker),
            ", ".join(map(str, worker.trials)) or "–",
            seen.append(f"\n{state}") if state else seen,
        )
    return table


def _usage(worker: WorkerStatus) -> tuple[str, str, str]:
    """Processor, memory and GPUs, for example ``45 %``, ``3.1/31 GiB``, ``92 % 40/80 GiB``."""
    usage = worker.usage
    if usage is None:
        return "–", "–", "–"
    cpu = "–" if usage.busy_cores is None else f"{100.0 * usage.busy_cores / usage.cores:.0f} %"
    gpus = [f"{100 * gpu.busy:.0f} % {_bytes(gpu.memory, gpu.memory_total)}" for gpu in usage.gpus.values()]
    return cpu, _bytes(usage.memory, usage.memory_total), "\n".join(gpus) or "–"


def _bytes(used: int | None, total: int | None) -> str:
    if used is None:
        return "–"
    return _gib(used) + ("" if total is None else f"/{_gib(total)}") + " GiB"


def _gib(amount: int) -> str:
    return f"{amount / _GIB:.0f}" if amount >= 10 * _GIB else f"{amount / _GIB:.1f}"


def _devices(devices: str) -> str:
    """A line for each device, beside what its GPU does: ``cuda:0 ×2`` where two slots share it."""
    counted = Counter(devices.split(","))
    return "\n".join(name if number == 1 else f"{name} ×{number}" for name, number in counted.items())


def _short_host(host: str) -> str:
    return host.partition(".")[0]
