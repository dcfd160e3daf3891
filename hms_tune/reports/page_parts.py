"""Charts, tables and listings of a page."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from matplotlib.figure import Figure

from hms_tune.reports.figures.style import svg
from hms_tune.reports.page import text


def chart(title: str, about: str, figure: Figure) -> str:
    """A figure with its heading, on a card."""
    heading = f'<h3>{text(title)}</h3><div class="faint">{text(about)}</div>'
    return f'<div class="card">{heading}{svg(figure)}</div>'


def table(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[int] = (),
    paths: Collection[int] = (),
    header: bool = True,
    escaped: bool = False,
) -> str:
    """A table on a card.

    Parameters
    ----------
    numbers, paths : which columns are numbers, and which may break anywhere
    escaped : cells are markup already
    """

    def cell(kind: str, place: int, content: str) -> str:
        style = ' class="n"' if place in numbers else ' class="path"' if place in paths else ""
        return f"<{kind}{style}>{content}</{kind}>"

    lines = []
    if header:
        lines.append("".join(cell("th", place, text(name)) for place, name in enumerate(names)))
    for row in rows:
        cells = row if escaped else [text(value) for value in row]
        lines.append("".join(cell("td", place, content) for place, content in enumerate(cells)))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="card"><table>{body}</table></div>'


def breakable(name: str) -> str:
    """A name that may break after an underscore, and after a dot that a letter follows."""
    return re.sub(r"(_|\.(?=[a-z]))", r"\1<wbr>", text(name))


def listing(content: str) -> str:
    """Text as it is, on a card; long lines wrap."""
    return f'<pre class="card">{text(content)}</pre>'
