"""Values, scores and sizes as text, alike in the terminal, on pages and in notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hms_tune.training.history import FoldRecord


def value_text(value: Any) -> str:
    """A parameter's value, floats with four significant digits."""
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def param_text(params: Mapping[str, Any], name: str) -> str:
    """The value of a trial's parameter; a dash where the trial has no such parameter."""
    return value_text(params[name]) if name in params else "–"


def score_text(value: float | None, absent: str = "–") -> str:
    """A KL with four decimals."""
    return absent if value is None else f"{value:.4f}"


def best_epoch_text(fold: FoldRecord, absent: str = "–") -> str:
    """``3 of 5``: the best epoch of those that were trained."""
    return absent if fold.best_epoch is None else f"{fold.best_epoch + 1} of {len(fold.epochs)}"


def gib_text(nbytes: int) -> str:
    """``3.1 GiB``."""
    return f"{nbytes / 2**30:.1f} GiB"
