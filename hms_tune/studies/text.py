"""Values and scores as text, alike in the terminal, on pages and in notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hms_tune.config.ranges import value_text
from hms_tune.training.history import FoldRecord

if TYPE_CHECKING:
    from hms_tune.database.queries.patience import GainPatience


def param_text(params: Mapping[str, Any], name: str) -> str:
    """The value of a trial's parameter; a dash where the trial has no such parameter."""
    return value_text(params[name]) if name in params else "–"


def score_text(value: float | None, absent: str = "–") -> str:
    """A KL with four decimals."""
    return absent if value is None else f"{value:.4f}"


def estimate_text(value: float | None) -> str:
    """A KL known in part: ``≈ 1.0243``."""
    return "–" if value is None else f"≈ {value:.4f}"


def patience_text(patience: GainPatience) -> str:
    """What a further trial may be expected to gain, the noise, and how near the study's end is by that."""
    gain, noise = patience.gain or 0.0, patience.noise or 0.0
    text = f"may be expected to gain {gain:.4f}; noise over patients {noise:.4f}"
    if patience.most is not None:
        text += f"; less than it {patience.draws} times in a row, of {patience.most}"
    return text


def best_epoch_text(fold: FoldRecord, absent: str = "–") -> str:
    """``3 of 5``: the best epoch of those that were trained."""
    return absent if fold.best_epoch is None else f"{fold.best_epoch + 1} of {len(fold.epochs)}"
