"""``hms-tune model``: what backbones are made of."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hms_tune.cli.options import JsonOption
from hms_tune.machine.terminal import Terminal

if TYPE_CHECKING:
    from hms_tune.models.layers import LayerGroup

app = typer.Typer(help="Backbones and their layers.", no_args_is_help=True)


@app.callback()
def model() -> None:
    """Backbones and their layers."""


@app.command()
def layers(
    backbone: Annotated[str, typer.Argument(help="Any timm model name.", metavar="BACKBONE")],
    as_json: JsonOption = False,
) -> None:
    """List the layer groups that frozen_layers and finetuned_layers count, from the input side."""
    from hms_tune.models.layers import layer_groups

    groups = layer_groups(backbone)
    if as_json:
        typer.echo(json.dumps({"backbone": backbone, "layers": _rows(groups)}, indent=2))
    else:
        Terminal().print(_table(backbone, groups))


def _rows(groups: list[LayerGroup]) -> list[dict[str, object]]:
    """One row for each group; ``frozen_layers`` is the setting that freezes it and all before it."""
    total = sum(group.parameters for group in groups)
    summed = itertools.accumulate(group.parameters for group in groups)
    return [
        {
            "frozen_layers": group.number + 1,
            "name": group.name,
            "parameters": group.parameters,
            "cumulative_share": round(so_far / total, 6),
        }
        for group, so_far in zip(groups, summed, strict=True)
    ]


def _table(backbone: str, groups: list[LayerGroup]) -> Table:
    total = sum(group.parameters for group in groups)
    table = Table(title=f"{backbone}: {len(groups)} layer groups, {total:,} parameters without the head")
    for name in ("frozen_layers", "parameters", "cumulative"):
        table.add_column(name, justify="right")
    table.add_column("layers", overflow="fold")
    for row in _rows(groups):
        table.add_row(
            str(row["frozen_layers"]),
            f"{row['parameters']:,}",
            f"{row['cumulative_share']:.1%}",
            str(row["name"]),
        )
    return table
