"""``hms-tune data report``: a competition folder on one page."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from hms_tune.data.files.competition import Competition
from hms_tune.data.files.defects import Defect
from hms_tune.data.schema import CLASSES
from hms_tune.reports.class_notes import FIRST_LOOKS, KINDS
from hms_tune.reports.figures import folder as figures
from hms_tune.reports.figures.example import load_rows
from hms_tune.reports.figures.style import png
from hms_tune.reports.figures.window import View, heading, labelled_figure, whereabouts
from hms_tune.reports.folder_survey import Choice, Survey, survey
from hms_tune.reports.page import facts, page, picture, text, vote_bars, write
from hms_tune.reports.page_parts import chart
from hms_tune.reports.window_page import where_to_look

_SHOWN_PLACES = 3
"""Files named for each kind of finding."""


def write_report(
    root: Path,
    out: Path,
    *,
    quick: bool = False,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Look a folder through and write its report.

    Parameters
    ----------
    root : competition folder
    out : the page, one HTML file that needs nothing beside it
    quick : do not decode every signal
    jobs, progress : as of :func:`hms_tune.data.check.folder.check_folder`

    Raises
    ------
    DataError
        If the folder has an error, or the page cannot be written.
    """
    found = survey(Path(root), quick=quick, jobs=jobs, progress=progress)
    write(out, report_page(Path(root), found).encode())


def report_page(root: Path, found: Survey) -> str:
    """The page."""
    parts = [
        f"<h1>{text(Path(root).resolve().name)}</h1>",
        '<p class="faint">What this competition folder holds, what its classes look like, and what is odd '
        "about it.</p>",
        *_summary(found),
        *_distributions(found),
        *_examples(root, found),
        *_quality(found),
        "<h2>Where to look first</h2><ul>",
        *(f"<li><p>{text(look.format(root=shlex.quote(str(root))))}</p></li>" for look in FIRST_LOOKS),
        "</ul>",
    ]
    return page(f"{Path(root).resolve().name}: data report", parts)


def _summary(found: Survey) -> list[str]:
    parts = []
    for split, summary in found.report.summary.items():
        counts = {
            "rows": f"{summary.rows:,}",
            "EEGs": f"{summary.eegs:,}",
            "patients": f"{summary.patients:,}",
            "hours of EEG": f"{summary.eeg_hours:,.1f}",
            "spectrograms": f"{summary.spectrograms:,}",
        }
        if summary.labelling is not None:
            counts["EEGs with ≥10 votes"] = f"{summary.labelling.high_vote_eegs:,}"
        parts.append(f"<h2>{split.capitalize()}</h2>{facts(counts)}")
    return parts


def _distributions(found: Survey) -> list[str]:
    cards = []
    train = found.report.summary.get("train")
    if train is not None and train.labelling is not None:
        cards.append(
            chart(
                "Classes",
                "rows by consensus; pale: mean share of votes",
                figures.class_shares(train.labelling),
            )
        )
        cards.append(chart("Experts", "votes per row", figures.votes_per_row(found.raters)))
    if found.kinds is not None:
        about = f"windows with at least {found.enough_votes} experts"
        cards.append(chart("Agreement", about, figures.kinds_of_agreement(found.kinds)))
    cards.append(chart("Lengths", "of the recordings", figures.recording_lengths(found.seconds)))
    cards.append(chart("Patients", "recordings of each", figures.eegs_per_patient(found.eegs_per_patient)))
    return ["<h2>How it is spread</h2>", f'<div class="grid">{"".join(cards)}</div>']


def _examples(root: Path, found: Survey) -> list[str]:
    competition = Competition.open(root)
    if not found.kinds:
        shown = [_example(competition, choice) for choice in found.choices]
        return ["<h2>Recordings</h2>", *shown]
    parts = [
        "<h2>What the classes look like</h2>",
        "<p>The labelled 10 s, for each class and each way in which experts agree, from windows with at "
        f"least {found.enough_votes} of them; where a class has none, from one with fewer.</p><ul>",
        *(f"<li><b>{kind}</b>: {text(meaning)}</li>" for kind, meaning in KINDS.items()),
        "</ul>",
    ]
    for name in CLASSES:
        chosen = [choice for choice in found.choices if choice.name == name]
        parts.append(f"<h2>{name}</h2>{where_to_look(name)}")
        if not chosen:
            parts.append('<p class="faint">No window shows it clearly.</p>')
        parts += [_example(competition, choice) for choice in chosen]
    return parts


def _example(competition: Competition, choice: Choice) -> str:
    table = competition.table(choice.split)
    rows = table[table["eeg_id"] == choice.eeg_id]
    view = View.of(load_rows(competition, choice.split, rows, offset=choice.offset))
    example = view.example
    kind = f"{choice.kind}: " if choice.kind else ""
    votes = "" if example.votes is None else vote_bars(example.votes.tolist())
    return (
        f'<figure class="card"><figcaption><h3>{text(kind + heading(example))}</h3>'
        f'<div class="faint">{text(whereabouts(example))}; {view.microvolts} µV between two lines</div>'
        f"{votes}</figcaption>{picture(png(labelled_figure(view), dpi=80), alt=heading(example))}</figure>"
    )


def _quality(found: Survey) -> list[str]:
    parts = ["<h2>Quality</h2>"]
    by_kind: dict[str, list[Defect]] = defaultdict(list)
    for defect in found.report.defects:
        by_kind[defect.kind.value].append(defect)
    if by_kind:
        rows = "".join(
            f'<tr><td class="n">{len(defects):,}</td><td>{text(kind.replace("_", " "))}<br>'
            f'<span class="faint">{text(defects[0].hint)}</span></td>'
            f'<td class="path">{"<br>".join(map(_place, defects[:_SHOWN_PLACES]))}</td></tr>'
            for kind, defects in sorted(by_kind.items(), key=lambda item: -len(item[1]))
        )
        parts.append(
            '<div class="card wide"><table><tr><th class="n">times</th><th>finding</th>'
            f"<th>for example</th></tr>{rows}</table></div>"
        )
    elif not found.report.quick:
        parts.append("<p>No flat channels, none at millivolts, no windows without signal.</p>")
    if found.report.quick:
        parts.append('<p class="faint">Signals were not decoded (--quick).</p>')
    cards = [
        chart(f"NaN in {split}", "by channel", figures.nan_shares(summary.nan_shares))
        for split, summary in found.report.summary.items()
        if summary.nan_shares is not None and any(summary.nan_shares.values())
    ]
    if not cards and not found.report.quick:
        parts.append("<p>No sample is NaN.</p>")
    return [*parts, f'<div class="grid">{"".join(cards)}</div>']


def _place(defect: Defect) -> str:
    name = Path(defect.file)
    where = f"{name.parent.name}/{name.name}" + (f", {defect.column}" if defect.column else "")
    return f"{text(where)}: {text(defect.what)}"
