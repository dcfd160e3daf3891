"""What is not brain: the heart, eyes, muscles, mains, electrodes. None of it knows the class of a window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hms_tune.data.schema import SFREQ
from hms_tune.data.synthetic.head import ELECTRODES, Head, direction

_MUSCLE = {
    "Fp1": 0.6,
    "Fp2": 0.6,
    "F7": 1.0,
    "F8": 1.0,
    "T3": 1.0,
    "T4": 1.0,
    "T5": 0.5,
    "T6": 0.5,
    "F3": 0.25,
    "F4": 0.25,
}
_SATURATION = 6000.0  # µV, where the EKG amplifier clips


@dataclass(frozen=True, slots=True)
class Artefacts:
    """What of a person's artefacts stays the same.

    Attributes
    ----------
    muscle : µV of scalp muscle activity while it lasts
    muscle_share : share of time with muscle activity
    blinks : per second
    heart_rate : beats per second
    """

    muscle: float
    muscle_share: float
    blinks: float
    heart_rate: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Artefacts:
        """Most patients in intensive care are calm; some are awake."""
        awake = rng.random() < 0.4
        return cls(
            muscle=float(rng.lognormal(np.log(5), 0.8)),
            muscle_share=float(rng.beta(1, 1.5) if awake else rng.beta(1, 5)),
            blinks=float(rng.uniform(0.05, 0.4) if awake else 0.01),
            heart_rate=float(rng.uniform(0.9, 1.9)),
        )


def add_artefacts(
    eeg: NDArray[np.float32], artefacts: Artefacts, head: Head, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add artefacts to ``eeg`` (19, n_times), µV, in place; return the EKG channel, float32 (n_times,)."""
    n_times = eeg.shape[1]
    heart = _heart(artefacts.heart_rate, n_times, rng)
    eeg += rng.exponential(0.002, (len(eeg), 1)).astype(np.float32) * heart
    _add_muscle(eeg, artefacts, rng)
    _add_blinks(eeg, artefacts.blinks, head, rng)
    _add_mains(eeg, rng)
    _add_pops(eeg, rng)
    _add_bad_electrodes(eeg, rng)
    eeg += rng.normal(0, rng.lognormal(np.log(25), 0.7), (len(eeg), 1)).astype(
        np.float32
    )  # electrode offsets
    return _ekg_channel(heart, rng)


def _add_muscle(eeg: NDArray[np.float32], artefacts: Artefacts, rng: np.random.Generator) -> None:
    """Bursts of noise above 15 Hz, largest over the temples, each electrode on its own."""
    n_times = eeg.shape[1]
    knots = n_times // SFREQ + 2
    on = np.convolve(rng.normal(size=knots + 8), np.ones(9) / 3, mode="valid")
    level = np.quantile(on, 1 - np.clip(artefacts.muscle_share, 0.0, 0.98))
    bursts = np.interp(np.arange(n_times) / SFREQ, np.arange(knots), (on > level) * 1.0 + 0.02).astype(
        np.float32
    )
    chosen = [ELECTRODES.index(name) for name in _MUSCLE]
    noise = rng.standard_normal((len(chosen), n_times), dtype=np.float32)
    noise[:, 1:] -= noise[:, :-1].copy()  # a first difference: power rises towards high frequencies
    noise[:, 1:-1] += 0.5 * (noise[:, :-2] + noise[:, 2:])
    weights = np.array([*_MUSCLE.values()]) * rng.lognormal(np.log(artefacts.muscle), 0.5, len(chosen))
    eeg[chosen] += weights[:, None].astype(np.float32) * bursts * noise


def _add_blinks(eeg: NDArray[np.float32], per_second: float, head: Head, rng: np.random.Generator) -> None:
    """Deflections of 300 ms and their slow return, fading with the square of the distance to the eyes."""
    n_times = eeg.shape[1]
    eyes = 1.15 * direction(0, 95)
    field = 1 / np.linalg.norm(head.electrodes - eyes, axis=1) ** 2
    field = (field / field.max()).astype(np.float32)
    train = np.zeros(n_times, dtype=np.float32)
    times = rng.integers(0, n_times, rng.poisson(per_second * n_times / SFREQ))
    train[times] = rng.lognormal(np.log(rng.uniform(60, 200)), 0.35, len(times))
    t = np.arange(int(1.6 * SFREQ)) / SFREQ
    width, overshoot = rng.uniform(0.06, 0.11), rng.uniform(0.1, 0.45)
    shape = np.exp(-0.5 * ((t - 0.3) / width) ** 2) - overshoot * np.exp(-0.5 * ((t - 0.75) / 0.2) ** 2)
    eeg += field[:, None] * np.convolve(train, shape.astype(np.float32))[:n_times]


def _add_mains(eeg: NDArray[np.float32], rng: np.random.Generator) -> None:
    """60 Hz hum, different in each electrode; faint in most recordings, gross in a few."""
    t = np.arange(eeg.shape[1]) / SFREQ
    level = rng.lognormal(np.log(0.4), 0.8) if rng.random() < 0.94 else rng.lognormal(np.log(25), 0.6)
    frequency = 60 + rng.normal(0, 0.02)
    sizes = level * rng.lognormal(0, 0.8, (len(eeg), 1))
    phase = 2 * np.pi * frequency * t + rng.uniform(0, 2 * np.pi)
    eeg += sizes.astype(np.float32) * np.sin(phase).astype(np.float32)
    eeg += rng.normal(0, 0.4, (len(eeg), 1)).astype(np.float32) * rng.standard_normal(
        eeg.shape, dtype=np.float32
    )


def _add_pops(eeg: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Sudden steps of one electrode that decay within a second or two."""
    n_times = eeg.shape[1]
    for _ in range(rng.poisson(n_times / SFREQ / 120)):
        start = int(rng.integers(0, n_times))
        decay = np.exp(-np.arange(min(n_times - start, 6 * SFREQ)) / (rng.uniform(0.2, 1.2) * SFREQ))
        size = rng.choice((-1, 1)) * rng.lognormal(np.log(120), 0.7)
        eeg[rng.integers(len(eeg)), start : start + len(decay)] += (size * decay).astype(np.float32)


def _add_bad_electrodes(eeg: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Electrodes that are flat, drift at millivolts, or carry noise."""
    n_times = eeg.shape[1]
    for electrode in np.flatnonzero(rng.random(len(eeg)) < 0.007):
        kind = rng.choice(3)
        if kind == 0:
            eeg[electrode] = 0.3 * rng.standard_normal(n_times, dtype=np.float32)
            continue
        spectrum = scipy.fft.rfftfreq(n_times, 1 / SFREQ)
        amplitude = (spectrum + 0.05) ** -1.0 if kind == 1 else (spectrum + 2) ** -0.5
        noise = rng.standard_normal((2, len(spectrum))) * amplitude
        course = scipy.fft.irfft(noise[0] + 1j * noise[1], n=n_times)
        level = rng.lognormal(np.log(1500), 0.6) if kind == 1 else rng.lognormal(np.log(60), 0.6)
        eeg[electrode] += (level * course / course.std()).astype(np.float32)


def _heart(beats_per_second: float, n_times: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """An electrocardiogram of P, QRS and T waves with breathing and beat-to-beat variability, µV."""
    count = int(n_times / SFREQ * beats_per_second * 1.4) + 10
    breathing = 0.04 * np.sin(2 * np.pi * 0.25 * np.arange(count) / beats_per_second)
    intervals = (1 + breathing + rng.normal(0, 0.015, count)) / beats_per_second
    index = np.round(np.cumsum(intervals) * SFREQ).astype(int)
    train = np.zeros(n_times, dtype=np.float32)
    train[index[index < n_times]] = rng.lognormal(np.log(500), 0.5)
    t = np.arange(int(0.5 * SFREQ)) / SFREQ
    waves = (
        (0.06, 0.02, 0.12),
        (0.13, 0.008, -0.15),
        (0.15, 0.01, 1.0),
        (0.17, 0.009, -0.25),
        (0.36, 0.04, 0.25),
    )
    shape = sum(size * np.exp(-0.5 * ((t - at) / width) ** 2) for at, width, size in waves)
    return np.asarray(np.convolve(train, np.asarray(shape, dtype=np.float32))[:n_times])


def _ekg_channel(heart: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The EKG electrode: the heart with wander and noise, in some recordings saturated or not connected."""
    n_times = len(heart)
    noise = rng.normal(0, 4, n_times) + rng.normal(0, 60)
    wander = 40 * np.sin(2 * np.pi * 0.25 * np.arange(n_times) / SFREQ + rng.uniform(0, 6))
    kind = rng.random()
    if kind < 0.03:
        return np.asarray(noise, dtype=np.float32)
    if kind < 0.08:
        return np.asarray(np.clip(40 * heart + wander + noise, -_SATURATION, _SATURATION), dtype=np.float32)
    return np.asarray(rng.choice((-1, 1, 1)) * heart + wander + noise, dtype=np.float32)
