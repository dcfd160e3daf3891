"""Draw the packages of hms_tune from their imports: ``python docs/house.py`` writes docs/images/house.svg.

Rows are the layers of the import contract in pyproject.toml; a package uses only what stands below it. Which
packages it uses is read from its imports.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "house.svg"

WIDTH, MARGIN, GAP, LINE, PADDING = 1080, 16, 12, 15, 10
"""Sizes in pixels."""

_EVERYWHERE = {"errors", "version"}
"""Used by all; not worth naming in each."""


@dataclass(frozen=True, slots=True)
class Room:
    """A package or top-level module: what it says of itself, its modules, folders, and what it imports."""

    name: str
    summary: str
    modules: int
    folders: tuple[str, ...]
    uses: tuple[str, ...]


def layers() -> list[list[str]]:
    """Names of the packages, layer by layer from the top, as the import contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (each for each in contracts if each.get("containers") == ["hms_tune"])
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def rooms() -> Iterator[list[Room]]:
    """The packages, layer by layer."""
    graph = grimp.build_graph("hms_tune")
    for layer in layers():
        yield [_room(graph, name) for name in layer]


def _room(graph: grimp.ImportGraph, name: str) -> Room:
    package = ROOT / "hms_tune" / name
    source = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    summary = (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n")[0]
    inside = {f"hms_tune.{name}"} | graph.find_descendants(f"hms_tune.{name}")
    used = {
        imported.split(".")[1]
        for module in inside
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.count(".") and imported not in inside
    }
    files = [path for path in package.rglob("*.py") if path.name != "__init__.py"] if package.is_dir() else []
    folders = sorted(path.parent.name for path in package.glob("*/__init__.py")) if package.is_dir() else []
    order = [each for layer in layers() for each in layer if each not in _EVERYWHERE]
    return Room(name, summary, len(files), tuple(folders), tuple(sorted(used - _EVERYWHERE, key=order.index)))


def draw() -> str:
    """The picture, as SVG text."""
    parts: list[str] = []
    top = MARGIN
    for layer in rooms():
        width = (WIDTH - 2 * MARGIN - GAP * (len(layer) - 1)) / len(layer)
        texts = [_lines(room, width) for room in layer]
        height = 2 * PADDING + LINE * max(map(len, texts))
        for number, lines in enumerate(texts):
            left = MARGIN + number * (width + GAP)
            parts.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{height}" rx="6" class="room"/>'
            )
            for row, (style, text) in enumerate(lines):
                y = top + PADDING + LINE * (row + 1) - 4
                parts.append(f'<text x="{left + PADDING:.0f}" y="{y}" class="{style}">{escape(text)}</text>')
        top += height + GAP
    style = (
        "text{font:12px sans-serif;fill:#333}.name{font-weight:bold;font-size:13px;fill:#111}"
        ".small{font-size:11px;fill:#777}.room{fill:#fafafa;stroke:#999}"
    )
    height = top - GAP + MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">'
    background = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([head, f"<style>{style}</style>", background, *parts, "</svg>"]) + "\n"


def _lines(room: Room, width: float) -> list[tuple[str, str]]:
    """What stands in a room's box, each line with its style."""
    characters = int((width - 2 * PADDING) / 6.5)
    of_folders = f", in {', '.join(f'{each}/' for each in room.folders)}" if room.folders else ""
    counted = f"{room.modules} modules{of_folders}" if room.modules else "one module"
    below = f"uses {', '.join(room.uses)}" if room.uses else "uses nothing"
    return [
        ("name", room.name),
        *(("text", line) for line in textwrap.wrap(room.summary.replace("`", ""), characters)),
        *(("small", line) for line in textwrap.wrap(counted, characters)),
        *(("small", line) for line in textwrap.wrap(below, characters)),
    ]


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
