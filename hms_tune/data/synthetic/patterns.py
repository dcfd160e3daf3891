"""The five patterns, as sources with waveforms and fields.

Rates, forms and amplitudes follow the ACNS critical-care EEG terminology (2021): periodic discharges are
sharp or triphasic waves that recur, rhythmic delta is sinusoid-like, a seizure evolves in rate, field and
amplitude. Lateralized patterns live on one hemisphere with a faint reflection on the other; generalized ones
have an anterior–posterior gradient and lag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import SFREQ
from hms_tune.data.synthetic.head import Head, direction, mirrored
from hms_tune.data.synthetic.raters import GPD, GRDA, LPD, LRDA, OTHER, SEIZURE
from hms_tune.data.synthetic.spectrogram import bipolar_matrix

Sources = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Fields (19, n_sources) and courses (n_sources, n_times), before scaling."""

# Median peak-to-peak of the bipolar channels at full strength, µV, and its spread (log); of lateralized
# patterns on the affected side alone. The background comes on top.
_AMPLITUDE = {
    SEIZURE: (230.0, 0.40), LPD: (78.0, 0.30), GPD: (82.0, 0.45), LRDA: (49.0, 0.26), GRDA: (54.0, 0.32),
}  # fmt: skip
_RATE = {
    LPD: (1.0, 0.38, 0.5, 2.0),
    GPD: (1.2, 0.40, 0.5, 2.3),
    LRDA: (1.4, 0.34, 0.6, 2.3),
    GRDA: (1.35, 0.30, 0.75, 2.3),
}
_PEAK_TO_PEAK_SECONDS = 2
_FASTEST_PERIODIC = 2.7


@dataclass(frozen=True, slots=True)
class PatternTraits:
    """How one person's version of one pattern looks.

    Attributes
    ----------
    amplitude : µV, median bipolar peak-to-peak at full strength
    rate : Hz; of a seizure, at its middle
    side : −1 left, +1 right
    azimuth, inclination : place of the focus on the right hemisphere, degrees (see :func:`~.head.direction`)
    width : spread of the focus, degrees of arc
    sharpness : 0 blunt … 1 spiky
    triphasic : whether discharges are triphasic
    anterior : gradient of generalized fields, + frontal maximum, − occipital
    lag : seconds from front to back
    reflection : gain of the mirrored focus
    """

    amplitude: float
    rate: float
    side: int
    azimuth: float
    inclination: float
    width: float
    sharpness: float
    triphasic: bool
    anterior: float
    lag: float
    reflection: float

    @classmethod
    def draw(cls, pattern: int, gain: float, rng: np.random.Generator) -> PatternTraits:
        """One person's version; ``gain`` is how much of the cortex's activity reaches the scalp."""
        amplitude, spread = _AMPLITUDE[pattern]
        middle, rate_spread, low, high = _RATE.get(pattern, (3.4, 0.15, 2.6, 4.5))
        return cls(
            amplitude=float(amplitude * gain * rng.lognormal(0, spread)),
            rate=float(np.clip(rng.lognormal(np.log(middle), rate_spread), low, high)),
            side=int(rng.choice((-1, 1))),
            azimuth=float(rng.uniform(35, 125)),
            inclination=float(rng.uniform(45, 68)),
            width=float(rng.uniform(16, 26)),
            sharpness=float(rng.beta(2, 2)),
            triphasic=bool(pattern == GPD and rng.random() < 0.5),
            anterior=float(rng.choice((1, 1, 1, -1)) * rng.uniform(0.5, 1)),
            lag=float(rng.uniform(0.01, 0.09)),
            reflection=float(rng.uniform(0.1, 0.3) * (2.2 if pattern == LRDA else 1)),
        )

    def varied(self, rng: np.random.Generator) -> PatternTraits:
        """The same person's pattern in another recording."""
        gain = rng.lognormal(0, 0.15, 3)
        return PatternTraits(
            self.amplitude * gain[0], self.rate * gain[1], self.side, self.azimuth + float(rng.normal(0, 6)),
            self.inclination + float(rng.normal(0, 4)), self.width * gain[2], self.sharpness, self.triphasic,
            self.anterior, self.lag, self.reflection,
        )  # fmt: skip


def strengths(mixture: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strongly each class shows, float64 (6,), 0–1: from a tenth of the mixture on, fully from 0.6."""
    shown = np.clip((mixture - 0.1) / 0.5, 0, 1)
    shown[OTHER] = 0
    return shown


def render_pattern(
    pattern: int,
    traits: PatternTraits,
    mixture: NDArray[np.float64],
    head: Head,
    n_times: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """One pattern over an episode, float32 (19, n_times), µV.

    The stronger its share of the mixture, the larger and the better formed it is. A share of seizure makes
    other patterns faster, a share of periodic discharges sharpens rhythmic delta: such windows lie at the
    edge between two patterns.
    """
    strength = float(strengths(mixture)[pattern])
    if strength == 0:
        return np.zeros((len(head.electrodes), n_times), dtype=np.float32)
    if pattern == SEIZURE:
        fields, courses = _seizure(traits, head, n_times, rng)
    else:
        rate = traits.rate + (_FASTEST_PERIODIC - traits.rate) * _leaning(mixture, pattern, SEIZURE)
        if pattern in (LPD, GPD):
            course = _discharges(traits, min(rate, _FASTEST_PERIODIC), strength, n_times, rng)
        else:
            sharp = _leaning(mixture, pattern, LPD) + _leaning(mixture, pattern, GPD)
            course = _rhythmic_delta(rate, min(sharp, 1.0), strength, n_times, rng)
        course = course * _waxing(n_times, 0.15 + 0.3 * (1 - strength), rng)
        spread = _lateralized if pattern in (LPD, LRDA) else _generalized
        fields, courses = spread(traits, head, course, rng)
    eeg = fields @ courses
    scale = traits.amplitude * strength**0.8 / _peak_to_peak(eeg, pattern, traits.side)
    if pattern != SEIZURE:
        scale = scale * _fade(n_times)
    return np.asarray(eeg * scale, dtype=np.float32)


def _leaning(mixture: NDArray[np.float64], pattern: int, towards: int) -> float:
    """0–1: the share of ``towards`` in the two patterns' common part, from a sixth on."""
    share = mixture[towards] / (mixture[towards] + mixture[pattern])
    return float(np.clip((share - 1 / 6) * 2, 0, 1))


def _discharges(
    traits: PatternTraits, rate: float, strength: float, n_times: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A train of sharp or triphasic waves; poorly formed trains are irregular and miss beats."""
    jitter = 0.08 + 0.22 * (1 - strength)
    count = int(n_times / SFREQ * rate * 1.3) + 10
    times = np.cumsum(rng.lognormal(-(jitter**2) / 2, jitter, count)) / rate - rng.uniform(0, 1 / rate)
    sizes = rng.lognormal(0, 0.2 + 0.2 * (1 - strength), count) * (rng.random(count) > 0.25 * (1 - strength))
    index = np.round(times * SFREQ).astype(int)
    kept = (index >= 0) & (index < n_times)
    train = np.zeros(n_times)
    np.add.at(train, index[kept], sizes[kept])
    shape = _discharge_shape(traits, rate)
    return np.convolve(train, shape, mode="full")[:n_times]


def _discharge_shape(traits: PatternTraits, rate: float) -> NDArray[np.float64]:
    """One discharge: a sharp wave of 70–200 ms and its slow after-wave, or three phases of growing length."""
    duration = 0.2 - 0.13 * traits.sharpness
    t = np.arange(int(min(1.2, 1.0 / rate) * SFREQ)) / SFREQ - 1.6 * duration

    def wave(at: float, width: float, size: float) -> NDArray[np.float64]:
        return np.asarray(size * np.exp(-0.5 * ((t - at) / (width / 3)) ** 2))

    if traits.triphasic:
        return (
            wave(-duration, duration, -0.45)
            + wave(0, 1.3 * duration, 1)
            + wave(2 * duration, 3 * duration, -0.55)
        )
    return (
        wave(-0.6 * duration, 0.6 * duration, 0.3)
        + wave(0, duration, -1)
        + wave(1.8 * duration, 3.5 * duration, 0.5)
    )


def _rhythmic_delta(
    rate: float, sharp: float, strength: float, n_times: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Sinusoid-like delta of slowly wandering rate; towards periodic discharges its rising limb steepens."""
    frequency = rate * np.exp(_wander(n_times, 0.8, 0.12 + 0.2 * (1 - strength), rng))
    phase = 2 * np.pi * (np.cumsum(frequency) / SFREQ + rng.random())
    steepness = rng.uniform(0.05, 0.25) + 0.4 * sharp
    return np.asarray(
        np.cos(phase) + steepness * np.cos(2 * phase - 1.2) + 0.5 * steepness**2 * np.cos(3 * phase)
    )


def _seizure(traits: PatternTraits, head: Head, n_times: int, rng: np.random.Generator) -> Sources:
    """Rhythmic sharp activity that changes in rate, grows, and spreads from a focus to both hemispheres."""
    position = np.linspace(0, 1, n_times)
    rates = (traits.rate * rng.uniform(1.3, 1.8), traits.rate, max(traits.rate * rng.uniform(0.45, 0.7), 1.4))
    if rng.random() < 0.2:  # some accelerate first
        rates = (rates[2], rates[0], rates[1])
    frequency = np.interp(position, (0, 0.45, 1), rates) * np.exp(_wander(n_times, 0.6, 0.1, rng))
    phase = 2 * np.pi * np.cumsum(frequency) / SFREQ
    peak = 1.5 + 6 * traits.sharpness
    course = np.exp(peak * (np.cos(phase) - 1)) - np.exp(-0.7 * peak) + 0.55 * np.cos(phase - 1.6)
    course *= np.interp(position, (0, 0.02, 0.35, 0.6, 0.97, 1), (0, 0.3, 0.8, 1, 0.9, 0)) * _waxing(
        n_times, 0.12, rng
    )
    spread_at = rng.choice((0.02, 0.1, 0.2, 0.3))
    spread = np.interp(position, (spread_at, spread_at + 0.15), (0.15, 1))
    focal_fields, focal = _lateralized(traits, head, course * (1 - 0.75 * spread), rng)
    wide_fields, wide = _generalized(traits, head, course * spread, rng)
    return np.hstack([focal_fields, wide_fields]), np.vstack([focal, wide])


def _lateralized(
    traits: PatternTraits, head: Head, course: NDArray[np.float64], rng: np.random.Generator
) -> Sources:
    """A focus, its hemisphere in weaker and later form, and a faint reflection on the other side."""
    focus = direction(traits.side * traits.azimuth, traits.inclination)
    hemisphere = direction(traits.side * 80, 50)
    fields = (
        head.patch(focus, traits.width),
        0.45 * head.patch(hemisphere, 32),
        traits.reflection * head.patch(mirrored(focus), traits.width),
    )
    lag = traits.lag / 3
    courses = [_delayed(course, place * lag) * _cycle_by_cycle(course, rng) for place in range(3)]
    return np.stack(fields, axis=1), np.stack(courses)


def _generalized(
    traits: PatternTraits, head: Head, course: NDArray[np.float64], rng: np.random.Generator
) -> Sources:
    """Both hemispheres at once, strongest at one end and later towards the other."""
    middle = 0.35 + 0.3 * (1 - abs(traits.anterior))
    gains = np.array([1.0, middle, middle**2])
    azimuths = np.array([38.0, 90.0, 145.0])
    if traits.anterior < 0:
        azimuths = azimuths[::-1]
    fields, courses = [], []
    for place, (gain, azimuth) in enumerate(zip(gains, azimuths, strict=True)):
        right = head.patch(direction(azimuth, 52), 28)
        left = head.patch(direction(-azimuth, 52), 28)
        balance = 0.08 * traits.side
        fields.append(gain * ((1 + balance) * right + (1 - balance) * left))
        courses.append(_delayed(course, traits.lag * place / 2) * _cycle_by_cycle(course, rng))
    return np.stack(fields, axis=1), np.stack(courses)


def _delayed(course: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    shift = round(seconds * SFREQ)
    return course if shift == 0 else np.concatenate([np.zeros(shift), course[:-shift]])


def _wander(n_times: int, seconds: float, spread: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth random walk around 0 that forgets itself after ``seconds``."""
    knots = int(n_times / (seconds * SFREQ)) + 3
    at = np.arange(n_times) / (seconds * SFREQ)
    return np.interp(at, np.arange(knots), rng.normal(0, spread, knots))


def _waxing(n_times: int, spread: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(np.exp(_wander(n_times, 4.0, spread, rng) + _wander(n_times, 0.7, 0.15, rng)))


def _cycle_by_cycle(course: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """No two waves are alike: a source's own gain, by which the field of a pattern shifts all the time."""
    return np.asarray(np.exp(_wander(len(course), 0.6, 0.3, rng)))


def _fade(n_times: int) -> NDArray[np.float64]:
    """Two seconds of onset and of end."""
    ramp = min(2 * SFREQ, n_times // 2)
    position = np.minimum(np.arange(n_times), np.arange(n_times)[::-1]) / max(ramp, 1)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * np.minimum(position, 1)))


def _peak_to_peak(eeg: NDArray[np.float64], pattern: int, side: int) -> float:
    """Median over the affected bipolar channels and windows of 2 s (of a seizure: over its larger half)."""
    pairs = bipolar_matrix()
    if pattern in (LPD, LRDA):
        pairs = pairs[[*range(4), *range(8, 12)]] if side < 0 else pairs[[*range(4, 8), *range(12, 16)]]
    length = min(_PEAK_TO_PEAK_SECONDS * SFREQ, eeg.shape[1])
    windows = eeg.shape[1] // length
    step = max(1, windows // 30)
    cut = eeg[:, : windows * length].reshape(len(eeg), windows, length)[:, ::step, ::2]
    swing = np.ptp(np.einsum("pe,ewt->pwt", pairs, cut, optimize=True), axis=2)
    level = np.percentile(np.median(swing, axis=0), 75 if pattern == SEIZURE else 50)
    return max(float(level), 1e-9)
