"""Signals in the form of the store: float16, and how near that stays to the file.

EEG is stored in µV around a centre of its own for each recording and channel, since referential EEG carries
offsets of several mV that would cost it its precision. A centred sample ``v`` comes back within

    |stored − v| ≤ 2⁻¹¹ |v| + 2⁻²⁴ µV,

0.1 µV at 200 µV; beyond ± 65,504 µV it is stored as that. Spectrogram power is stored as its natural
logarithm, within 0.004 (0.4 % of the power) for powers from :data:`POWER_FLOOR` up to e¹⁶ µV²/Hz.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import SFREQ

POWER_FLOOR = 1e-6
"""Spectrogram power below this, µV²/Hz, is stored as this; recipes clip at e⁻⁴ or above."""

FLOAT16_MAX = float(np.finfo(np.float16).max)
"""Centred EEG beyond ± this many µV is stored as this."""

RELATIVE_ERROR = 2.0**-11
"""Bound on the rounding of a value, as a share of it."""

ABSOLUTE_ERROR = 2.0**-24
"""Bound on the rounding of values next to zero, where float16 has fewer digits."""


Channels = Sequence[NDArray[np.float32]] | NDArray[np.float32]
"""Channels of equal length, in one array or each in its own."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What a file holds, in the form of the store.

    Parameters
    ----------
    values : float16 (n_rows, n_columns), C order; EEG in µV around ``centre``, or natural logarithm of
        spectrogram power in µV²/Hz; NaN where the file has NaN
    centre : float32 (n_columns,), taken off each EEG channel, µV; empty for a spectrogram
    clipped : number of EEG samples beyond the float16 range
    """

    values: NDArray[np.float16]
    centre: NDArray[np.float32]
    clipped: int

    @property
    def buffer(self) -> memoryview:
        """The bytes of ``values``."""
        return self.values.data.cast("B")


@np.errstate(invalid="ignore")  # there is a NaN that makes every operation on it invalid
def encode_eeg(channels: Channels, means: NDArray[np.float32] | None = None) -> Signal:
    """Centre the channels and round them to float16.

    Parameters
    ----------
    channels : float32 (n_chans, n_times), or n_chans arrays of n_times; µV, at least one second, not
        infinite; NaN is kept
    means : their :func:`second_means`, where they are known already
    """
    n_chans, n_times = len(channels), len(channels[0])
    centre = centres(channels, second_means(channels) if means is None else means)
    rows = np.empty((n_times, n_chans), dtype=np.float16)
    clipped = 0
    for place in _pieces(n_times, n_chans):
        centred = scratch("piece", n_chans, len(rows[place]))
        for channel, offset, out in zip(channels, centre, centred, strict=True):
            np.subtract(channel[place], offset, out=out)
        clipped += _clip(centred)
        rows[place] = round_to_half(centred).T
    return Signal(rows, centre, clipped)


@np.errstate(invalid="ignore")
def encode_power(values: NDArray[np.float32]) -> Signal:
    """Round the natural logarithm of spectrogram power to float16; NaN stays NaN.

    Parameters
    ----------
    values : float32 (n_columns, n_frames), µV²/Hz, neither infinite nor negative; NaN is kept
    """
    n_columns, n_frames = values.shape
    rows = np.empty((n_frames, n_columns), dtype=np.float16)
    for place in _pieces(n_frames, n_columns):
        piece = values[:, place]
        logarithm = np.maximum(piece, np.float32(POWER_FLOOR), out=scratch("piece", *piece.shape))
        np.log(logarithm, out=logarithm)
        if np.isnan(logarithm.max()):
            _unify_nan(logarithm)
        rows[place] = round_to_half(logarithm).T
    return Signal(rows, np.empty(0, np.float32), 0)


def second_means(channels: Channels) -> NDArray[np.float32]:
    """Mean of each channel over each second; not finite wherever a sample of that second is not.

    Parameters
    ----------
    channels : float32 (n_chans, n_times), or n_chans arrays of n_times, which is at least one second

    Returns
    -------
    float32 (n_chans, ceil(n_times / 200)); the last second overlaps the one before if it is not whole
    """
    n_times = len(channels[0])
    n_whole, rest = divmod(n_times, SFREQ)
    ones = np.ones(SFREQ, dtype=np.float32)  # a product with these is several times as fast as a sum
    sums = np.empty((len(channels), n_whole + (rest > 0)), dtype=np.float32)
    for channel, out in zip(channels, sums, strict=True):
        np.matmul(channel[: n_whole * SFREQ].reshape(n_whole, SFREQ), ones, out=out[:n_whole])
        if rest:
            out[n_whole] = channel[-SFREQ:] @ ones
    sums /= np.float32(SFREQ)
    return sums


def centres(channels: Channels, means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where each channel lies: the median over seconds of its mean over each second.

    Like the median of all samples it does not follow artefacts that fill less than half of a recording, at a
    small part of the cost. Seconds with NaN do not count; where every second has NaN, the median of the
    finite samples counts, and 0 where there are none.

    Parameters
    ----------
    channels : float32 (n_chans, n_times), or n_chans arrays of n_times; µV, not infinite
    means : float32 (n_chans, n_seconds), of :func:`second_means`

    Returns
    -------
    float32 (n_chans,), µV
    """
    whole = np.isfinite(means)
    if whole.all():
        ordered, n_seconds = np.sort(means, axis=1), means.shape[1]
        middle: NDArray[np.float32] = ordered[:, (n_seconds - 1) // 2] + ordered[:, n_seconds // 2]
        return middle / np.float32(2)
    return np.array(
        [
            _median(row[there] if there.any() else channel)
            for channel, row, there in zip(channels, means, whole, strict=True)
        ],
        dtype=np.float32,
    )


def _median(samples: NDArray[np.float32]) -> float:
    finite = samples[~np.isnan(samples)]
    return float(np.median(finite)) if finite.size else 0.0


def round_to_half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to nearest float16.

    NumPy's own conversion goes value by value in software. Here a product with a power of two moves the
    exponents to where float16 has them; then half of the last place kept is added and what lies below is cut
    off (halves go away from zero).

    Parameters
    ----------
    values : float32, last axis contiguous, within the float16 range or NumPy's own NaN; overwritten

    Returns
    -------
    float16 of the same shape, a view of the memory of ``values``
    """
    values *= np.float32(2.0**-112)  # 2⁻¹⁴ … 2¹⁵ now have exponents 1 … 30, as in float16
    bits = values.view(np.uint32)
    bits += np.uint32(1 << 12)
    sign = np.bitwise_and(bits, np.uint32(1 << 31), out=scratch("sign", *values.shape).view(np.uint32))
    bits <<= np.uint32(3)  # drops the sign and three zeros, and the upper half of each is the magnitude
    bits |= sign
    return values.view(np.float16)[..., _UPPER_HALF]


_UPPER_HALF = slice(sys.byteorder == "little", None, 2)

_PIECE = 2**17
"""Values encoded at a time: 512 KiB of float32. More leave the cache between steps, fewer cost more calls."""


def _pieces(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Which rows to encode at a time."""
    step = max(1, _PIECE // n_columns)
    for first in range(0, n_rows, step):
        yield slice(first, first + step)


def _clip(values: NDArray[np.float32]) -> int:
    """Bring values into the float16 range; returns how many were outside."""
    low, high = values.min(), values.max()  # NaN where there is any
    if low >= -FLOAT16_MAX and high <= FLOAT16_MAX:
        return 0
    _unify_nan(values)
    outside = int(np.count_nonzero(np.abs(values) > FLOAT16_MAX))
    np.clip(values, -FLOAT16_MAX, FLOAT16_MAX, out=values)
    return outside


def _unify_nan(values: NDArray[np.float32]) -> None:
    """Make every NaN NumPy's own; there are others, and rounding would carry their bits into the sign."""
    values[np.isnan(values)] = np.nan


_thread = threading.local()


def scratch(use: str, *shape: int) -> NDArray[np.float32]:
    """A float32 array for one use, with whatever is left in it, until this thread asks for it again.

    Taking fresh memory costs more than what is written into it.
    """
    kept: dict[str, NDArray[np.float32]] = _thread.__dict__
    size = int(np.prod(shape))
    if use not in kept or kept[use].size < size:
        kept[use] = np.empty(size, dtype=np.float32)
    return kept[use][:size].reshape(shape)
