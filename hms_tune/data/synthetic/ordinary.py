"""What experts call "other": slow or suppressed background, movement, muscle, electrodes, stray sharp waves.

An episode of class Other has several of these, so that a window without a pattern is not a window without
events; a window that is half Other has them at half strength. Those that are not brain also come by
themselves, whatever the brain does, so that an artefact alone says little about the class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from hms_tune.data.schema import SFREQ
from hms_tune.data.synthetic.head import Head, direction
from hms_tune.data.synthetic.waveforms import Discharge, cycle_phase, runs

Field = NDArray[np.float64]
_MOST = 3  # events of one episode
_SECONDS_BETWEEN_ARTEFACTS = 50


def render_other(
    background: NDArray[np.float32], share: float, head: Head, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Events of an episode, float32 (19, n_times), µV, to be added to its ``background`` (19, n_times)."""
    n_times = background.shape[1]
    strength = float(np.clip((share - 0.15) / 0.6, 0, 1))
    eeg = np.zeros((len(head.electrodes), n_times), dtype=np.float32)
    if strength == 0:
        return eeg
    chosen = rng.choice(len(_EVENTS), int(rng.integers(1, _MOST + 1)), replace=False, p=_WEIGHTS)
    level = rng.lognormal(0.1, 0.45)
    for number in chosen:
        eeg += np.float32(strength * level) * _EVENTS[number](head, n_times, rng).astype(np.float32)
    if rng.random() < 0.3:
        eeg -= np.float32(strength * rng.uniform(0.3, 0.8)) * background  # suppressed
    return eeg


def add_stray_artefacts(eeg: NDArray[np.float32], head: Head, rng: np.random.Generator) -> None:
    """Add to ``eeg`` (19, n_times), µV, in place, what comes for 5–60 s at any time in any state."""
    n_times = eeg.shape[1]
    for _ in range(rng.poisson(n_times / SFREQ / _SECONDS_BETWEEN_ARTEFACTS)):
        length = min(int(rng.uniform(5, 60) * SFREQ), n_times)
        start = int(rng.integers(0, n_times - length + 1))
        event = _ARTEFACTS[int(rng.integers(len(_ARTEFACTS)))]
        part = rng.lognormal(-0.4, 0.5) * event(head, length, rng)
        eeg[:, start : start + length] += part.astype(np.float32)


def ictal_muscle(strength: float, head: Head, n_times: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Muscle that comes with most seizures, float32 (19, n_times), µV."""
    level = strength * (rng.uniform(0.2, 1.5) if rng.random() < 0.75 else 0.0)
    return np.asarray(level * _muscle(head, n_times, rng), dtype=np.float32)


def _random_place(rng: np.random.Generator) -> Field:
    return direction(rng.uniform(-180, 180), rng.uniform(10, 75))


def _electrodes(head: Head, rng: np.random.Generator) -> Field:
    """Gains of an electrode artefact: one or two electrodes alone."""
    gains = np.zeros(len(head.electrodes))
    gains[rng.choice(len(gains), int(rng.integers(1, 3)), replace=False)] = rng.choice((-1, 1))
    return gains


def _polymorphic_delta(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """Arrhythmic slow waves of 0.5–3 Hz in a few places."""
    eeg = np.zeros((len(head.electrodes), n_times))
    count = int(rng.integers(1, 6))
    for _ in range(count):
        kernel = np.hanning(int(rng.uniform(0.2, 0.6) * SFREQ))
        noise = oaconvolve(rng.normal(size=n_times + len(kernel) - 1), kernel, mode="valid")
        noise *= rng.uniform(8, 25) / np.sqrt((kernel**2).sum())
        eeg += head.patch(_random_place(rng), rng.uniform(15, 35))[:, None] * noise
    return eeg


def _awake(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """An alpha rhythm at the back that comes and goes, and faster blinking."""
    back = head.patch(direction(180, 65), 30)
    phase = cycle_phase(rng.uniform(7.5, 11), 0.06, n_times, rng)
    alpha = np.sin(2 * np.pi * phase) * runs(n_times, rng.uniform(0.4, 0.9), rng) * rng.uniform(10, 30)
    return back[:, None] * alpha + _blinks(head, n_times, rng)


def _blinks(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """Eyes that blink every few seconds."""
    eyes = 1 / np.linalg.norm(head.electrodes - 1.15 * direction(0, 95), axis=1) ** 2
    t = np.arange(int(0.5 * SFREQ)) / SFREQ
    train = (rng.random(n_times) < rng.uniform(0.1, 0.6) / SFREQ) * rng.uniform(40, 160, n_times)
    blinks = oaconvolve(train, np.exp(-0.5 * ((t - 0.2) / 0.08) ** 2))[:n_times]
    return np.asarray((eyes / eyes.max())[:, None] * blinks)


def _movement(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """Large slow swings, each over electrodes of its own."""
    eeg = np.zeros((len(head.electrodes), n_times))
    for _ in range(1 + rng.poisson(n_times / SFREQ * rng.uniform(0.03, 0.25))):
        length = int(rng.uniform(0.4, 2.5) * SFREQ)
        start = int(rng.integers(-length // 2, n_times))
        swing = np.cumsum(rng.normal(size=length)) * np.hanning(length)
        swing *= rng.lognormal(np.log(120), 0.6) / max(np.ptp(swing), 1e-9)
        gains = head.patch(_random_place(rng), 25) * rng.lognormal(0, 0.6, len(eeg))
        low, high = max(start, 0), min(start + length, n_times)
        eeg[:, low:high] += gains[:, None] * swing[low - start : high - start]
    return eeg


def _muscle(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """Muscle over the temples or the forehead, continuous, in runs, or chewing once or twice a second."""
    kind = rng.choice(3)
    if kind == 0:
        envelope = np.ones(n_times)
    elif kind == 1:
        envelope = runs(n_times, rng.uniform(0.2, 0.7), rng)
    else:
        phase = cycle_phase(rng.uniform(0.8, 1.8), 0.15, n_times, rng)
        envelope = np.maximum(np.cos(2 * np.pi * phase), 0) ** 2 * runs(n_times, rng.uniform(0.3, 0.8), rng)
    azimuth = rng.choice((25.0, 80.0, 100.0))
    sides = np.array([rng.uniform(0.1, 1), rng.uniform(0.1, 1)])
    gains = sum(
        side * np.exp(-0.5 * ((1 - head.electrodes @ direction(sign * azimuth, 80)) / 0.3) ** 2)
        for side, sign in zip(sides, (-1, 1), strict=True)
    )
    noise = np.diff(rng.normal(size=(len(head.electrodes), n_times + 1)), axis=1)
    return np.asarray(rng.lognormal(np.log(18), 0.6) * np.asarray(gains)[:, None] * noise * envelope)


def _electrode_pops(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """One bad electrode that jumps again and again."""
    train = (rng.random(n_times) < rng.uniform(0.1, 1.2) / SFREQ) * rng.normal(
        0, rng.lognormal(np.log(90), 0.5), n_times
    )
    decay = np.exp(-np.arange(2 * SFREQ) / (rng.uniform(0.05, 0.6) * SFREQ))
    return np.asarray(_electrodes(head, rng)[:, None] * oaconvolve(train, decay)[:n_times])


def _pulse(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """An electrode over an artery: a blunt wave with every heartbeat, regular as no discharge is."""
    phase = cycle_phase(rng.uniform(0.9, 1.9), 0.03, n_times, rng)
    wave = np.exp(rng.uniform(1, 4) * (np.cos(2 * np.pi * phase) - 1))
    return np.asarray(_electrodes(head, rng)[:, None] * (rng.uniform(15, 70) * (wave - wave.mean())))


def _stray_sharp_waves(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """Sporadic sharp waves: the form of a discharge without its period."""
    train = (rng.random(n_times) < rng.uniform(0.03, 0.2) / SFREQ) * rng.uniform(30, 110, n_times)
    sharp, slow = Discharge.draw(0.1, rng).shapes(1.0, rng)
    course = oaconvolve(train, sharp + slow)[:n_times]
    return np.asarray(head.patch(_random_place(rng), rng.uniform(14, 35))[:, None] * course)


def _theta(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """Waxing theta over the middle of the head."""
    phase = cycle_phase(rng.uniform(4, 7), 0.12, n_times, rng)
    gate = runs(n_times, rng.uniform(0.3, 0.8), rng)
    field = head.patch(direction(rng.uniform(-60, 60), rng.uniform(0, 45)), 32)
    return np.asarray(field[:, None] * (rng.uniform(8, 25) * gate * np.sin(2 * np.pi * phase)))


def _mains(head: Head, n_times: int, rng: np.random.Generator) -> Field:
    """Gross hum, different in every electrode."""
    t = np.arange(n_times) / SFREQ
    gains = rng.lognormal(np.log(20), 0.9, len(head.electrodes))
    return np.asarray(gains[:, None] * np.sin(2 * np.pi * 60 * t + rng.uniform(0, 6)))


_EVENTS: tuple[Callable[[Head, int, np.random.Generator], Field], ...] = (
    _polymorphic_delta, _awake, _movement, _muscle, _electrode_pops, _pulse, _stray_sharp_waves, _theta,
    _mains,
)  # fmt: skip
_WEIGHTS = np.array([0.20, 0.13, 0.16, 0.19, 0.08, 0.06, 0.07, 0.06, 0.05])
_ARTEFACTS = (_movement, _muscle, _muscle, _blinks, _electrode_pops, _pulse, _mains)
