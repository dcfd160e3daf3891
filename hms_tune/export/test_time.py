"""Changes of the signals that no label depends on: predictions of several of them are averaged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from hms_tune.config.augmentation import TestTime
from hms_tune.config.input import InputConfig
from hms_tune.data.schema import SFREQ, WINDOW_SAMPLES
from hms_tune.errors import UsageError
from hms_tune.signals.augmentation import swap_hemispheres, swap_regions

Signals = tuple[Tensor | None, Tensor | None]
"""EEG and spectrogram, each None where it is not read."""

SignalChange = Callable[[Tensor | None, Tensor | None], Signals]

SHIFT_SECONDS = 1.0
"""How far ``shift`` moves the EEG's window to each side, s; the 10-minute spectrogram stays."""


def unchanged(eeg: Tensor | None, spectrogram: Tensor | None) -> Signals:
    """The signals as they are."""
    return eeg, spectrogram


def swapped(eeg: Tensor | None, spectrogram: Tensor | None) -> Signals:
    """Left for right, in the EEG and in the regions of the spectrogram."""
    return (
        None if eeg is None else swap_hemispheres(eeg, _all(eeg)),
        None if spectrogram is None else swap_regions(spectrogram, _all(spectrogram)),
    )


def shifted(seconds: float) -> SignalChange:
    """The central window, so many seconds later (negative: earlier)."""
    samples = round(2 * abs(seconds) * SFREQ)

    def change(eeg: Tensor | None, spectrogram: Tensor | None) -> Signals:
        if eeg is None:
            return eeg, spectrogram
        return (eeg[..., samples:] if seconds > 0 else eeg[..., : eeg.shape[-1] - samples]), spectrogram

    return change


def can_shift(inputs: Sequence[InputConfig]) -> bool:
    """Whether some model reads EEG, and each that does has room on both sides of its window."""
    windows = [each.window_seconds for each in inputs if each.needs_eeg]
    return bool(windows) and max(windows) + 2 * SHIFT_SECONDS <= WINDOW_SAMPLES / SFREQ


def measurable(config: InputConfig) -> tuple[tuple[TestTime, ...], ...]:
    """What an input can be averaged over: each change, and both together."""
    return (("swap",), ("shift",), ("shift", "swap")) if can_shift([config]) else (("swap",),)


def changes(asked: Collection[TestTime], inputs: Sequence[InputConfig]) -> list[SignalChange]:
    """The changes whose predictions are averaged: with both, a shift of each side, and each swapped.

    Raises
    ------
    UsageError
        If a window cannot be shifted, since a model reads all 50 s.
    """
    if "shift" in asked and not can_shift(inputs):
        raise UsageError(
            "the window cannot be shifted: a model reads all of it, or no EEG",
            hint="Leave shift out of --test-time",
        )
    moved: list[SignalChange] = [unchanged]
    if "shift" in asked:
        moved += [shifted(SHIFT_SECONDS), shifted(-SHIFT_SECONDS)]
    if "swap" not in asked:
        return moved
    return [*moved, *(_then_swapped(each) for each in moved)]


def _all(batch: Tensor) -> Tensor:
    return torch.ones(len(batch), dtype=torch.bool)


def _then_swapped(change: SignalChange) -> SignalChange:
    return lambda eeg, spectrogram: swapped(*change(eeg, spectrogram))
