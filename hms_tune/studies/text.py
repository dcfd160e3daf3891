"""Values and scores as text, alike in the terminal, on pages and in notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hms_tune.config.ranges import value_text
from hms_tune.training.history import FoldRecord


def param_text(params: Mapping[str, Any], name: str) -> str:
    """The value of a trial's parameter; a dash where the trial has no such parameter."""
    return value_text(params[name]) if name in params else "–"


def score_text(value: float | None, absent: str = "–") -> str:
    """A KL with four decimals."""
    return absent if value is None else f"{value:.4f}"


def best_epoch_text(fold: FoldRecord, absent: str = "–") -> str:
    """``3 of 5``: the best epoch of those that were trained."""
    return absent if fold.best_epoch is None else f"{fold.best_epoch + 1} of {len(fold.epochs)}"
