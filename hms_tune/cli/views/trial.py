"""One trial whole, in a terminal of 80 columns or more."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hms_tune.cli.views.curves import Curve, draw_curves
from hms_tune.cli.views.tables import plain_table
from hms_tune.config.ranges import value_text
from hms_tune.machine.byte_count import readable
from hms_tune.machine.progress import duration
from hms_tune.studies.cost import cost_unit
from hms_tune.studies.text import best_epoch_text, param_text, score_text
from hms_tune.studies.trial_note import why_it_ended
from hms_tune.studies.trial_record import Ranking, TrialRecord
from hms_tune.trial_state import AttemptState

WIDTH = 80
_CURVE_ROWS = 9
_EPOCH_COLUMNS = 20


def trial_view(trial: TrialRecord, place: Ranking, *, width: int = WIDTH) -> RenderableType:
    """Why it ended, what it was, fold by fold, its curves, who had it.

    Parameters
    ----------
    trial : the trial
    place : where it stands in its study
    width : of the curves, in characters
    """
    parts: list[RenderableType] = [
        Text(f"{trial.name.capitalize()} of {place.study}", style="bold").append(_rank(place), style="dim"),
        Text(why_it_ended(trial, place.others), style=_STYLES.get(trial.state, "")),
        Text(""),
        _configuration(trial, place.best),
    ]
    if trial.folds:
        parts += [Text(""), _folds(trial), Text(""), *_curves(trial, width)]
    parts += [Text(""), _facts(trial)]
    if trial.attempts:
        parts += [Text(""), _attempts(trial)]
    if trial.traceback:
        parts += [Text(""), Text(trial.traceback.rstrip())]
    return Group(*parts)


_STYLES = {
    AttemptState.COMPLETE: "green",
    AttemptState.PRUNED: "yellow",
    AttemptState.FAILED: "red",
    AttemptState.INFEASIBLE: "yellow",
}


def _rank(place: Ranking) -> str:
    return "" if place.rank is None else f"  rank {place.rank} of {place.complete} complete"


def _configuration(trial: TrialRecord, best: TrialRecord | None) -> RenderableType:
    """What was searched, beside the best trial's; then all that was fixed."""
    beside = best if best is not None and best.attempt != trial.attempt else None
    table = plain_table("searched", "value", *([f"best (trial {beside.trial})"] if beside else []))
    names = list(trial.params)
    if beside:
        names += [name for name in beside.params if name not in trial.params]
    for name in names:
        own = param_text(trial.params, name)
        if beside is None:
            table.add_row(name, own)
            continue
        other = param_text(beside.params, name)
        table.add_row(name, Text(own, style="bold yellow" if own != other else ""), Text(other, style="dim"))
    fixed = {
        name: value
        for name, value in flat(trial.config or {}).items()
        if value is not None and not any(name == each or name.startswith(f"{each}.") for each in trial.params)
    }
    if not fixed:
        return table
    sections: dict[str, list[str]] = {}
    for name, value in fixed.items():
        section, _, own = name.partition(".")
        sections.setdefault(section, []).append(f"{own or section}={value_text(value)}")
    beneath = Table.grid(padding=(0, 2))
    for section, told in sections.items():
        beneath.add_row(Text(section, style="dim"), Text(", ".join(told), style="dim"))
    return Group(table, Text("\nfixed", style="bold"), beneath)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    names: dict[str, Any] = {}
    for key, value in tree.items():
        names |= flat(value, f"{prefix}.{key}" if prefix else key)
    return names


def _folds(trial: TrialRecord) -> Table:
    names = ("rows", "KL", "all rows", "≥10 votes", "best epoch", "images/s", "time")
    table = plain_table("fold", *names, numbers=names)
    for fold in trial.folds:
        seconds = sum(epoch.seconds for epoch in fold.epochs)
        images = sum(epoch.images for epoch in fold.epochs)
        table.add_row(
            str(fold.fold + 1),
            f"{fold.train_rows}+{fold.validation_rows}",
            score_text(fold.best_kl, "") + ("" if fold.kl is not None else " so far"),
            score_text(fold.kl_all_rows, ""),
            score_text(fold.kl_high_vote, ""),
            best_epoch_text(fold, "") + (" (early)" if fold.stopped_early else ""),
            f"{images / seconds:,.0f}" if seconds else "",
            duration(seconds),
        )
    return table


def _curves(trial: TrialRecord, width: int) -> list[Text]:
    validation, training = [], []
    for fold in trial.folds:
        epochs = [epoch.epoch + 1 for epoch in fold.epochs]
        name = f"fold {fold.fold + 1}"
        validation.append(Curve(name, epochs, [epoch.kl for epoch in fold.epochs]))
        training.append(Curve(name, epochs, [epoch.train_loss for epoch in fold.epochs]))
    # Two or three epochs drawn over a wide terminal would be long flat lines.
    longest = max(len(fold.epochs) for fold in trial.folds)
    width = min(width, 2 * WIDTH, max(WIDTH // 2, _EPOCH_COLUMNS * longest))
    return [
        draw_curves(validation, width=width, height=_CURVE_ROWS, title="validation KL by epoch"),
        Text(""),
        draw_curves(training, width=width, height=_CURVE_ROWS - 3, title="training loss"),
    ]


def _facts(trial: TrialRecord) -> Table:
    facts = Table.grid(padding=(0, 2))
    if trial.device:
        facts.add_row("device", Text(f"{trial.device}, {trial.device_name}"))
    facts.add_row("cost", f"{trial.cost:,.1f} {cost_unit(trial.gpus > 0.0)}, {trial.epochs_run} epochs")
    if trial.peak_memory:
        facts.add_row("peak memory", readable(trial.peak_memory))
    if trial.data_digest:
        facts.add_row("data", f"{trial.data_digest[:16]}, hms-tune {trial.version}")
    if trial.run_url:
        facts.add_row("W&B", Text(trial.run_url))
    return facts


def _attempts(trial: TrialRecord) -> Table:
    table = plain_table("attempt", "host", "slot", "began (UTC)", "time", "state")
    for attempt in trial.attempts:
        began = attempt.started_at.strftime("%Y-%m-%d %H:%M:%S")
        name = Text(str(attempt.attempt), style="bold" if attempt.attempt == trial.attempt else "")
        table.add_row(name, attempt.host, attempt.slot, began, duration(attempt.seconds), attempt.state)
    return table
