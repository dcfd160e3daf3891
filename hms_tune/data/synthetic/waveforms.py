"""Waveforms over time: cycles that are never quite alike, discharges, rhythmic delta, seizures.

Rates, forms and their variability follow the ACNS critical-care EEG terminology (2021): the period of a
periodic or rhythmic pattern varies by less than half from cycle to cycle, a discharge is a sharp wave of
70–200 ms, polyphasic or triphasic, rhythmic delta may carry sharp or fast activity, a seizure is faster than
2.5 Hz or evolves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from hms_tune.data.schema import SFREQ

Wave = NDArray[np.float64]
"""A course over time, float64 (n_times,), of about unit size."""

_VARIANTS = 6  # forms that one train of discharges takes turns with


@dataclass(frozen=True, slots=True)
class Discharge:
    """One person's discharge: Gaussian bumps, each (seconds from its middle, standard deviation, size).

    Attributes
    ----------
    sharp : the bumps that make it a discharge
    slow : the wave that follows
    fast : size of fast activity (12–25 Hz) riding on it
    """

    sharp: tuple[tuple[float, float, float], ...]
    slow: tuple[tuple[float, float, float], ...]
    fast: float

    @classmethod
    def draw(cls, triphasic: float, rng: np.random.Generator) -> Discharge:
        """Sharp, polyphasic, triphasic (with probability ``triphasic``) or blunt."""
        slow = (
            (rng.uniform(0.2, 0.4), rng.uniform(0.08, 0.17), rng.choice((-1, 1)) * rng.uniform(0.1, 0.9)),
        )
        fast = float(rng.uniform(0.1, 0.5)) if rng.random() < 0.25 else 0.0
        if rng.random() < triphasic:
            width = rng.uniform(0.025, 0.055)
            sharp = (
                (-3 * width, width, -rng.uniform(0.2, 0.6)),
                (0.0, 1.3 * width, 1.0),
                (4 * width, 2.4 * width, -rng.uniform(0.3, 0.8)),
            )
            return cls(sharp, (), fast)
        kind = rng.choice(3, p=(0.5, 0.35, 0.15))
        if kind == 1:  # polyphasic
            width = rng.uniform(0.016, 0.036)
            count = int(rng.integers(3, 6))
            sizes = -((-1.0) ** np.arange(count)) * rng.uniform(0.4, 1, count)
            places = (np.arange(count) - count // 2) * 2.4 * width
            return cls(
                tuple((float(at), width, float(size)) for at, size in zip(places, sizes, strict=True)),
                slow,
                fast,
            )
        width = rng.uniform(0.026, 0.065) if kind == 0 else rng.uniform(0.065, 0.1)
        before = (-1.8 * width, 0.6 * width, rng.uniform(0, 0.5))
        return cls((before, (0.0, width, -1.0)), slow, fast)  # sharp waves are negative at the scalp

    def shapes(self, period: float, rng: np.random.Generator) -> tuple[Wave, Wave]:
        """One variant of the discharge, its sharp part and the slow wave, centred; at most a period long."""
        squeeze = min(1.0, 1.1 * period)
        t = np.arange(-int(0.5 * SFREQ), int(0.9 * SFREQ)) / SFREQ

        def bumps(parts: tuple[tuple[float, float, float], ...]) -> Wave:
            wave = np.zeros(len(t))
            for at, width, size in parts:
                middle = (at + rng.normal(0, 0.008)) * squeeze
                spread = width * squeeze * rng.lognormal(0, 0.15)
                wave += size * rng.lognormal(0, 0.22) * np.exp(-0.5 * ((t - middle) / spread) ** 2)
            return wave

        sharp, slow = bumps(self.sharp), bumps(self.slow)
        if self.fast:
            carrier = np.sin(2 * np.pi * rng.uniform(12, 25) * t + rng.uniform(0, 2 * np.pi))
            sharp = sharp + self.fast * carrier * np.exp(-0.5 * ((t - 0.05) / 0.12) ** 2)
        return sharp, slow


def wander(n_times: int, seconds: float, spread: float, rng: np.random.Generator) -> Wave:
    """A smooth random course around 0 that forgets itself after ``seconds``."""
    knots = int(n_times / (seconds * SFREQ)) + 3
    at = np.arange(n_times) / (seconds * SFREQ)
    return np.interp(at, np.arange(knots), rng.normal(0, spread, knots))


def cycle_phase(rate: float | Wave, jitter: float, n_times: int, rng: np.random.Generator) -> Wave:
    """Phase in cycles, float64 (n_times,): whole numbers are where a cycle begins.

    Parameters
    ----------
    rate : Hz, constant or over time
    jitter : spread of the cycles' lengths, log
    n_times : samples
    """
    nominal = np.cumsum(np.broadcast_to(rate, n_times)) / SFREQ + rng.random()
    count = int(1.3 * nominal[-1]) + 20
    ends = np.cumsum(rng.lognormal(-(jitter**2) / 2, jitter, count))
    return np.interp(nominal, np.concatenate([[0.0], ends]), np.arange(count + 1))


def per_cycle(phase: Wave, spread: float, rng: np.random.Generator) -> Wave:
    """A gain that changes from cycle to cycle, around 1."""
    middles = np.arange(int(phase[-1]) + 2) + 0.5
    return np.interp(phase, middles, rng.lognormal(0, spread, len(middles)))


def runs(n_times: int, share: float, rng: np.random.Generator) -> Wave:
    """0–1: runs of 4–15 s that together fill about ``share`` of the time."""
    gate = np.zeros(n_times)
    at = -rng.uniform(0, 8)
    while at < n_times / SFREQ:
        length = rng.uniform(4, 15)
        gate[max(0, int(at * SFREQ)) : max(0, int((at + length) * SFREQ))] = 1
        at += length / max(share, 0.1) * rng.uniform(0.9, 1.1)
    ramp = np.hanning(SFREQ)
    return np.asarray(oaconvolve(gate, ramp / ramp.sum(), mode="same"))


def discharge_train(
    discharge: Discharge, rate: float | Wave, strength: float, n_times: int, rng: np.random.Generator
) -> tuple[Wave, Wave]:
    """A train of discharges, sharp parts and slow waves; poorly formed trains are irregular, with gaps."""
    phase = cycle_phase(rate, rng.uniform(0.05, 0.15) + 0.22 * (1 - strength), n_times, rng)
    index = np.flatnonzero(np.diff(np.floor(phase)) > 0)
    sizes = rng.lognormal(0, 0.18 + 0.2 * (1 - strength), len(index))
    sizes *= rng.random(len(index)) > 0.25 * (1 - strength)
    variant = rng.integers(_VARIANTS, size=len(index))
    sharp, slow = np.zeros(n_times), np.zeros(n_times)
    for number in range(_VARIANTS):
        train = np.zeros(n_times)
        train[index[variant == number]] = sizes[variant == number]
        sharp_shape, slow_shape = discharge.shapes(1 / float(np.mean(rate)), rng)
        sharp += _placed(train, sharp_shape)
        slow += _placed(train, slow_shape)
    return sharp, slow


def _placed(train: Wave, shape: Wave) -> Wave:
    """``shape``, whose middle is half a second in, at every impulse of ``train``."""
    before = int(0.5 * SFREQ)
    return np.asarray(oaconvolve(train, shape)[before : before + len(train)])


def texture(n_times: int, rng: np.random.Generator) -> Wave:
    """Irregular activity of about 2–12 Hz that rides on every pattern, of unit standard deviation."""
    short, long = np.hanning(int(0.08 * SFREQ)), np.hanning(int(0.5 * SFREQ))
    kernel = -long / long.sum()
    middle = (len(long) - len(short)) // 2
    kernel[middle : middle + len(short)] += short / short.sum()
    noise = oaconvolve(rng.normal(size=n_times + len(kernel) - 1), kernel, mode="valid")
    return np.asarray(noise / np.sqrt((kernel**2).sum()))


def rhythmic_delta(
    rate: float, sharp: float, strength: float, n_times: int, rng: np.random.Generator
) -> tuple[Wave, Wave]:
    """Rhythmic delta, its sharp crests and its waves; ``sharp`` 0–1 steepens limbs and sharpens crests."""
    loose = 1 - strength
    wandering = rate * np.exp(wander(n_times, 2.0, 0.06 + 0.1 * loose, rng))
    phase = cycle_phase(wandering, rng.uniform(0.06, 0.16) + 0.2 * loose, n_times, rng)
    steepness = (rng.uniform(0.05, 0.3) + 0.35 * sharp) * np.exp(wander(n_times, 0.8, 0.4, rng))
    lean = rng.uniform(0, 2 * np.pi)
    angle = 2 * np.pi * phase
    wave = np.cos(angle) + steepness * np.cos(2 * angle - lean) + 0.4 * steepness**2 * np.cos(3 * angle)
    wave *= per_cycle(phase, 0.22 + 0.2 * loose, rng)
    wave += (0.25 + 0.5 * loose) * _slow_noise(n_times, rng)
    if rng.random() < 0.35 + 0.4 * loose:
        wave *= 0.25 + 0.75 * runs(n_times, rng.uniform(0.55, 0.9), rng)
    crests = np.zeros(n_times)
    if sharp > 0.1:
        form = Discharge(((-0.05, 0.018, -0.4), (0.0, 0.025, 1.0)), (), 0.0)
        train = np.zeros(n_times)
        starts = np.flatnonzero(np.diff(np.floor(phase)) > 0)
        train[starts] = sharp * rng.lognormal(0, 0.4, len(starts))
        crests = _placed(train, form.shapes(1.0, rng)[0])
    return crests, wave


def _slow_noise(n_times: int, rng: np.random.Generator) -> Wave:
    """Arrhythmic slow activity, smooth over about 0.3 s, of unit standard deviation."""
    kernel = np.hanning(int(0.35 * SFREQ))
    noise = oaconvolve(rng.normal(size=n_times + len(kernel) - 1), kernel, mode="valid")
    return np.asarray(noise / np.sqrt((kernel**2).sum()))


def seizure(rate: float, sharpness: float, n_times: int, rng: np.random.Generator) -> Wave:
    """Rhythmic sharp activity of one of three kinds: evolving, spike-and-wave, or fast turning clonic."""
    position = np.linspace(0, 1, n_times)
    kind = rng.choice(3, p=(0.65, 0.2, 0.15))
    if kind == 1:
        frequency = np.full(n_times, float(np.clip(rate, 2.6, 4.0))) * (1.08 - 0.16 * position)
        steady = rng.uniform(0.5, 0.9)
        growth = np.interp(position, (0, 0.03, 0.95, 1), (0, 1, steady, 0))
    elif kind == 2:
        frequency = np.interp(position, (0, 0.35, 0.6, 1), (rng.uniform(7, 12), 5, 3.2, rng.uniform(1.2, 2)))
        growth = np.interp(position, (0, 0.3, 0.6, 0.97, 1), (0.1, 0.5, 1, 0.9, 0))
    else:
        rates = [rate * rng.uniform(1.2, 1.7), rate, max(rate * rng.uniform(0.4, 0.7), 1.2)]
        if rng.random() < 0.25:  # some accelerate first
            rates = [rates[2], rates[0], rates[1]]
        frequency = np.interp(position, (0, rng.uniform(0.3, 0.6), 1), rates)
        growth = np.interp(position, (0, 0.02, 0.35, 0.6, 0.97, 1), (0, 0.3, 0.8, 1, 0.9, 0))
    phase = cycle_phase(frequency * np.exp(wander(n_times, 1.0, 0.07, rng)), 0.08, n_times, rng)
    angle = 2 * np.pi * phase
    peak = 0.7 + 5 * sharpness
    spikes = np.exp(peak * (np.cos(angle) - 1)) * per_cycle(phase, 0.45, rng)
    wave = rng.uniform(0.5, 1.2) * np.cos(angle - rng.uniform(1, 2.2)) * per_cycle(phase, 0.25, rng)
    return np.asarray((spikes - spikes.mean() + wave) * growth)
