"""What was exported or blended, on the terminal or as JSON, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from hms_tune.export.blend_weights import Blending
    from hms_tune.export.export import Exported


def say_exported(done: Exported, link: Path | None, as_json: bool) -> None:
    """Print a bundle that was just written, and its scores."""
    if not as_json:
        typer.echo(describe(done, link))
        return
    written = {"path": str(done.path), "link": None if link is None else str(link)}
    report = done.scores.as_json() | written | {"full": done.full}
    report["onnx"] = None if done.onnx is None else asdict(done.onnx)
    typer.echo(json.dumps(report, indent=2))


def describe(exported: Exported, link: Path | None) -> str:
    """The bundle, the link that leads to it, and its scores in a few lines."""
    scores = exported.scores
    lines = [
        str(exported.path),
        *([] if link is None else [f"{link} -> {exported.path.name}"]),
        f"KL {scores.kl:.4f} over {len(scores.fold_kl)} folds (prior {scores.prior_kl:.4f}"
        + (f", in the search {scores.search_kl:.4f})" if scores.search_kl is not None else ")"),
    ]
    if scores.kl_high_vote is not None:
        lines.append(
            f"KL {scores.kl_high_vote:.4f} on the {scores.high_vote_rows} rows with 10 or more votes"
        )
    if scores.held_out_kl is not None and scores.held_out_prior_kl is not None:
        lines.append(
            f"KL {scores.held_out_kl:.4f} on {scores.held_out_rows} rows of held-out patients "
            f"(prior {scores.held_out_prior_kl:.4f})"
        )
    return "\n".join(lines)


def say_blend(out: Path, found: Blending, as_json: bool) -> None:
    """Print a blend that was just written: its members with their weights, and its score."""
    from hms_tune.export.blend import read_blend_config

    members = read_blend_config(out).members
    if as_json:
        listed = [member.model_dump(mode="json") for member in members]
        typer.echo(json.dumps({"path": str(out), "members": listed} | asdict(found), indent=2))
        return
    lines = [str(out)]
    lines += [f"{member.weight:6.1%}  {member.study}, trial {member.trial}" for member in members]
    typer.echo("\n".join([*lines, str(found)]))


def say_left_out(study: str, trials: Mapping[int, str]) -> None:
    """Say on standard error which good trials are left out, and why."""
    numbers: dict[str, list[str]] = {}
    for number, why in trials.items():
        numbers.setdefault(why, []).append(str(number))
    for why, each in numbers.items():
        named = f"trial {each[0]} is" if len(each) == 1 else f"trials {', '.join(each)} are"
        typer.echo(f"{study}: {named} left out: {why}", err=True)
