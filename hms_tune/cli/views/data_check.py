"""The report of ``hms-tune data check``, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hms_tune.cli.views.tables import plain_table
from hms_tune.data.check.folder import Report
from hms_tune.data.check.summary import Labelling, Summary
from hms_tune.data.files.defects import Defect
from hms_tune.data.labels import HIGH_VOTES
from hms_tune.data.schema import CLASSES, Split

MOST_OF_A_KIND = 20
"""So many defects of one kind are written out; ``--json`` has all of them."""

_BAR = 40
_STYLES = {"error": "red", "warning": "yellow"}


def report_view(report: Report) -> RenderableType:
    """What the folder holds, then every defect, errors first, then the count."""
    parts: list[RenderableType] = []
    if report.summary:
        parts += [_counts(report.summary), Text("")]
    train = report.summary.get("train")
    if train is not None and train.labelling is not None:
        parts += [_classes(train.labelling), Text(""), _votes(train.labelling), Text("")]
    parts += list(_defect_lines(report.defects))
    return Group(*parts, _verdict(report))


def _counts(summary: dict[Split, Summary]) -> Table:
    headings = ("rows", "EEGs", "patients", "spectrograms", "hours of EEG", "longest EEG, s", "NaN, %")
    table = plain_table("", *headings, numbers=headings)
    for split, half in summary.items():
        numbers = (half.rows, half.eegs, half.patients, half.spectrograms)
        nan = "" if half.nan_shares is None else f"{_mean(half.nan_shares):.2f}"
        hours, longest = f"{half.eeg_hours:,.1f}", f"{half.longest_eeg_seconds:,.0f}"
        table.add_row(split, *(f"{number:,}" for number in numbers), hours, longest, nan)
    return table


def _mean(shares: dict[str, float]) -> float:
    return 100 * sum(shares.values()) / len(shares)


def _classes(labelling: Labelling) -> Table:
    shares = ("rows, %", "votes, %")
    table = plain_table("class", *shares, numbers=shares)
    for name in CLASSES:
        rows, votes = labelling.consensus_shares[name], labelling.vote_shares[name]
        table.add_row(name, f"{100 * rows:.1f}", f"{100 * votes:.1f}")
    return table


def _votes(labelling: Labelling) -> Table:
    """A bar for each number of experts."""
    most, eegs = max(labelling.votes_per_eeg.values()), sum(labelling.votes_per_eeg.values())
    counted = ("experts", "EEGs")
    many = f"{labelling.high_vote_eegs:,} of {eegs:,} EEGs have {HIGH_VOTES} or more"
    table = plain_table(*counted, many, numbers=counted)
    for number, count in labelling.votes_per_eeg.items():
        table.add_row(str(number), f"{count:,}", "█" * max(1, round(_BAR * count / most)))
    return table


def _defect_lines(defects: list[Defect]) -> Iterator[Text]:
    """One line for each defect, kind by kind; the errors stand first, each kind in the order of the files."""
    ordered = sorted(defects, key=lambda defect: (defect.severity, defect.kind))
    for kind, group in groupby(ordered, key=lambda defect: defect.kind):
        found = list(group)
        style = _STYLES[found[0].severity]
        for defect in found[:MOST_OF_A_KIND]:
            yield Text.assemble((f"{defect.severity} {kind}  ", style), str(defect))
        if (more := len(found) - MOST_OF_A_KIND) > 0:
            yield Text(f"… and {more} more of the kind {kind}; --json lists all", style=style)


def _verdict(report: Report) -> Text:
    if not report.defects:
        return Text(f"{report.root}: no defects" + (" in tables and footers" if report.quick else ""))
    return Text(f"{_number(report.errors, 'error')}, {_number(report.warnings, 'warning')}")


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
