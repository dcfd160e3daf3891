"""HTML pages of one file, without scripts or anything to fetch, for a desk and a phone."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from hms_tune.data.schema import CLASSES
from hms_tune.errors import DataError
from hms_tune.reports.figures.style import CLASS_COLOURS

_STYLE = """
:root { color-scheme: light; --ink: #1d2430; --faint: #5d6675; --line: #dfe3ea; --ground: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 44px 0 10px; } h3 { font-size: 1rem; margin: 0 0 2px; }
p { margin: 6px 0 12px; max-width: 74ch; } .faint { color: var(--faint); font-size: .92rem; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.figures { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); }
.figures b { display: block; font-size: 1.4rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.grid svg { width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; }
.wide img { display: block; width: 100%; min-width: 860px; height: auto; }
figure { margin: 0 0 16px; } figcaption { margin-bottom: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.path { overflow-wrap: anywhere; }
.bars { display: grid; grid-template-columns: auto 1fr auto; gap: 3px 10px; align-items: center;
  max-width: 460px; }
.bars i { display: block; height: 14px; border-radius: 2px; }
.bars span:nth-child(3n) { text-align: right; font-variant-numeric: tabular-nums; }
.look { border-left: 4px solid var(--class); padding-left: 14px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .84rem; line-height: 1.45;
  margin: 8px 0 14px; font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
.bar { display: inline-block; width: 72px; height: 10px; background: var(--line); border-radius: 2px; }
.bar i { display: block; height: 10px; border-radius: 2px; background: #2f5d8a; }
.share { white-space: nowrap; }
@page { margin: 15mm 13mm; }
@media print { body { background: #fff; font-size: 10.5pt; } main { max-width: none; padding: 0; }
  h2 { margin: 22px 0 8px; } h2, h3 { break-after: avoid; } .card, tr { break-inside: avoid; }
  pre.card { break-inside: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .bar { width: 40px; } .grid { grid-template-columns: 1fr 1fr; gap: 10px; } }
@media (max-width: 560px) { main { padding: 18px 12px 40px; } h1 { font-size: 1.35rem; }
  .card { padding: 10px; } table { font-size: .84rem; } th, td { padding-right: 8px; }
  th.n { white-space: normal; } td:not(.n) { overflow-wrap: anywhere; }
  td:first-child:not(.path) { overflow-wrap: break-word; }
  .bar { display: none; } td b { overflow-wrap: normal; } }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def write(path: Path, content: bytes) -> None:
    """Write a page or a picture, making its folder.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise DataError(what, where=path, hint="Name a writable place.") from error


def text(value: object) -> str:
    """Text with its markup characters escaped."""
    return html.escape(str(value))


def picture(content: bytes, *, alt: str) -> str:
    """A wide picture; on a narrow screen it scrolls sideways instead of shrinking."""
    encoded = base64.b64encode(content).decode("ascii")
    return f'<div class="wide"><img src="data:image/png;base64,{encoded}" alt="{text(alt)}"></div>'


def vote_bars(votes: Sequence[float]) -> str:
    """Votes by class."""
    most = max(*votes, 1)
    rows = "".join(
        f'<span>{name}</span><i style="width:{100 * count / most:.1f}%;background:{CLASS_COLOURS[name]}"></i>'
        f"<span>{count:.3g}</span>"
        for name, count in zip(CLASSES, votes, strict=True)
    )
    return f'<div class="bars">{rows}</div>'


def facts(values: Mapping[str, str]) -> str:
    """Numbers with their names below."""
    cells = "".join(
        f'<div class="card"><b>{text(value)}</b>{text(name)}</div>' for name, value in values.items()
    )
    return f'<div class="figures">{cells}</div>'
