"""A trained network's weights as a safetensors file."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def fold_weights_path(directory: Path, fold: int) -> Path:
    """Where the weights of a fold lie."""
    return directory / f"fold_{fold}.safetensors"


def full_weights_path(directory: Path) -> Path:
    """Where the weights of a network trained on all rows lie."""
    return directory / "full.safetensors"


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights atomically."""
    partial = path.with_suffix(".partial")
    save_file(weights, partial)
    partial.replace(path)
