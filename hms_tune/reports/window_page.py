"""``hms-tune data show``: one window as a picture or a page."""

from __future__ import annotations

from pathlib import Path

from hms_tune.reports.class_notes import WHERE_TO_LOOK
from hms_tune.reports.figures.example import load_example
from hms_tune.reports.figures.style import CLASS_COLOURS, png
from hms_tune.reports.figures.window import (
    View,
    heading,
    how_it_is_shown,
    labelled_figure,
    sheet,
    spectrogram_figure,
    whereabouts,
    whole_figure,
)
from hms_tune.reports.page import page, picture, text, vote_bars, write


def show(
    root: Path,
    eeg_id: int,
    *,
    offset: float | None = None,
    out: Path | None = None,
    html: Path | None = None,
) -> list[Path]:
    """Draw a window of a recording.

    Parameters
    ----------
    root : competition folder
    eeg_id : a recording of either half
    offset : start of the window, seconds; the middle labelled window when None
    out : where the picture goes (PNG)
    html : where the page goes

    Returns
    -------
    The files that were written

    Raises
    ------
    DataError
        If there is no such window, or a file cannot be written.
    """
    view = View.of(load_example(root, eeg_id, offset=offset))
    written = []
    if out is not None:
        write(out, png(sheet(view)))
        written.append(out)
    if html is not None:
        write(html, window_page(view).encode())
        written.append(html)
    return written


def window_page(view: View) -> str:
    """The page of one window."""
    example = view.example
    parts = [
        f'<h1>{text(heading(example))}</h1><p class="faint">{text(whereabouts(example))}; '
        f"{text(how_it_is_shown(view.microvolts))}</p>"
    ]
    if example.votes is not None and example.consensus is not None:
        note = where_to_look(example.consensus)
        votes = f"<h3>Votes of {example.votes.sum():.0f}</h3>{vote_bars(example.votes.tolist())}"
        parts.append(f'<div class="grid"><div class="card">{votes}</div><div class="card">{note}</div></div>')
    parts += [
        "<h2>The labelled 10 s</h2>",
        _card(png(labelled_figure(view)), "the labelled ten seconds of the montage"),
        "<h2>The whole window, 50 s</h2>",
        _card(png(whole_figure(view)), "fifty seconds of the montage"),
        "<h2>Spectrograms</h2>",
        _card(png(spectrogram_figure(view)), "spectrograms of the four regions"),
    ]
    others = [f"{offset:g}" for offset in example.labelled_offsets if offset != example.offset_seconds]
    if others:
        parts.append(f'<p class="faint">Other labelled windows start at {", ".join(others)} s.</p>')
    return page(heading(example), parts)


def where_to_look(name: str) -> str:
    """The note on a class, beside its colour."""
    return (
        f'<div class="look" style="--class:{CLASS_COLOURS[name]}"><h3>Where to look first</h3>'
        f"<p>{text(WHERE_TO_LOOK[name])}</p></div>"
    )


def _card(content: bytes, alt: str) -> str:
    return f'<div class="card">{picture(content, alt=alt)}</div>'
