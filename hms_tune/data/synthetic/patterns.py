"""The five patterns, as sources with waveforms and fields.

Waveforms come from :mod:`~hms_tune.data.synthetic.waveforms`. Lateralized patterns live on one hemisphere
with a faint reflection on the other; generalized ones have an anterior–posterior gradient and lag, without
which bipolar differences would cancel them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import SFREQ
from hms_tune.data.synthetic.head import Head, direction, mirrored
from hms_tune.data.synthetic.raters import GPD, GRDA, LPD, LRDA, OTHER, SEIZURE
from hms_tune.data.synthetic.spectrogram import bipolar_matrix
from hms_tune.data.synthetic.waveforms import (
    Discharge,
    Wave,
    discharge_train,
    rhythmic_delta,
    seizure,
    texture,
    wander,
)

Sources = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Fields (19, n_sources) and courses (n_sources, n_times), before scaling."""

# Median peak-to-peak of the bipolar channels at full strength, µV, and its spread (log); of lateralized
# patterns on the affected side alone. The background comes on top.
_AMPLITUDE = {
    SEIZURE: (300.0, 0.45), LPD: (70.0, 0.30), GPD: (80.0, 0.50), LRDA: (49.0, 0.26), GRDA: (50.0, 0.36),
}  # fmt: skip
# Hz at the quantiles below: the 5th, 50th and 95th percentile of each pattern, and a little beyond.
_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_RATE = {
    SEIZURE: (2.3, 2.5, 3.0, 4.0, 5.5),
    LPD: (0.4, 0.5, 1.0, 2.0, 2.3),
    GPD: (0.4, 0.45, 1.2, 2.2, 2.5),
    LRDA: (0.5, 0.6, 1.4, 2.25, 2.5),
    GRDA: (0.6, 0.75, 1.3, 2.25, 2.5),
}
_TRIPHASIC = {GPD: 0.4, LPD: 0.08}
# How often a pattern comes on a background that is dimmed while it lasts.
_SUPPRESSES = {SEIZURE: 0.0, LPD: 0.25, GPD: 0.55, LRDA: 0.1, GRDA: 0.15}
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
    azimuth, inclination : place of the focus on the right hemisphere, degrees (see
        :func:`~hms_tune.data.synthetic.head.direction`)
    width : spread of the focus, degrees of arc
    sharpness : of a seizure, 0 blunt … 1 spiky
    discharge : form of its periodic discharges
    suppression : share of the background that goes while the pattern lasts
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
    discharge: Discharge
    suppression: float
    anterior: float
    lag: float
    reflection: float

    @classmethod
    def draw(cls, pattern: int, gain: float, rng: np.random.Generator) -> PatternTraits:
        """One person's version; ``gain`` is how much of the cortex's activity reaches the scalp."""
        amplitude, spread = _AMPLITUDE[pattern]
        return cls(
            amplitude=float(amplitude * gain * rng.lognormal(0, spread)),
            rate=float(np.interp(rng.random(), _QUANTILES, _RATE[pattern])),
            side=int(rng.choice((-1, 1))),
            azimuth=float(rng.uniform(30, 150)),
            inclination=float(rng.uniform(42, 72)),
            width=float(rng.uniform(16, 26)),
            sharpness=float(rng.beta(2, 2)),
            discharge=Discharge.draw(_TRIPHASIC.get(pattern, 0.0), rng),
            suppression=float(rng.uniform(0, 0.85) if rng.random() < _SUPPRESSES[pattern] else 0.0),
            anterior=float(rng.choice((1, 1, 1, -1)) * rng.uniform(0.5, 1)),
            lag=float(rng.uniform(0.01, 0.09)),
            reflection=float(rng.uniform(0.1, 0.3) * (2.2 if pattern == LRDA else 1)),
        )

    def varied(self, rng: np.random.Generator) -> PatternTraits:
        """The same person's pattern in another recording."""
        gain = rng.lognormal(0, 0.12, 3)
        return replace(
            self,
            amplitude=self.amplitude * gain[0],
            rate=self.rate * gain[1],
            azimuth=self.azimuth + float(rng.normal(0, 6)),
            inclination=self.inclination + float(rng.normal(0, 4)),
            width=self.width * gain[2],
        )


def strengths(mixture: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strongly each class shows, float64 (6,), 0–1: from a tenth of the mixture on, fully from 0.85."""
    shown = np.clip((mixture - 0.1) / 0.75, 0, 1)
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
    other patterns faster and lets them evolve, a share of periodic discharges sharpens rhythmic delta: such
    windows lie at the edge between two patterns.
    """
    strength = float(strengths(mixture)[pattern])
    if strength == 0:
        return np.zeros((len(head.electrodes), n_times), dtype=np.float32)
    if pattern == SEIZURE:
        fields, courses = _seizure_sources(traits, head, n_times, rng)
    else:
        sharp, slow = _courses(pattern, traits, mixture, n_times, rng)
        waxing = _waxing(n_times, 0.12 + 0.3 * (1 - strength), rng)
        spread = _lateralized if pattern in (LPD, LRDA) else _generalized
        fields, courses = spread(traits, head, sharp * waxing, slow * waxing, rng)
    eeg = fields @ courses
    scale = traits.amplitude * strength**0.7 / _peak_to_peak(eeg, pattern, traits.side)
    if pattern != SEIZURE:
        scale = scale * _fade(n_times, rng.uniform(2, 20))
    return np.asarray(eeg * scale, dtype=np.float32)


def _courses(
    pattern: int, traits: PatternTraits, mixture: NDArray[np.float64], n_times: int, rng: np.random.Generator
) -> tuple[Wave, Wave]:
    """The sharp and the slow part of a periodic or rhythmic pattern."""
    strength = float(strengths(mixture)[pattern])
    ictal = _leaning(mixture, pattern, SEIZURE)
    rate = min(traits.rate + (_FASTEST_PERIODIC - traits.rate) * ictal, _FASTEST_PERIODIC)
    if pattern in (LPD, GPD):
        evolving = rate * np.exp(0.3 * ictal * np.sin(np.arange(n_times) / (6 * SFREQ)))
        return discharge_train(traits.discharge, evolving, strength, n_times, rng)
    sharp = _leaning(mixture, pattern, LPD) + _leaning(mixture, pattern, GPD)
    return rhythmic_delta(rate, min(sharp, 1.0), strength, n_times, rng)


def _leaning(mixture: NDArray[np.float64], pattern: int, towards: int) -> float:
    """0–1: the share of ``towards`` in the two patterns' common part, from a sixth on."""
    share = mixture[towards] / (mixture[towards] + mixture[pattern])
    return float(np.clip((share - 1 / 6) * 2, 0, 1))


def _seizure_sources(traits: PatternTraits, head: Head, n_times: int, rng: np.random.Generator) -> Sources:
    """A seizure that spreads from its focus to both hemispheres, begins there, or never leaves its side."""
    course = seizure(traits.rate, traits.sharpness, n_times, rng) * _waxing(n_times, 0.12, rng)
    reach = rng.choice((1.0, 1.0, 1.0, 0.35))
    spread_at = rng.choice((0.0, 0.0, 0.1, 0.2, 0.3))
    position = np.linspace(0, 1, n_times)
    spread = np.interp(position, (spread_at, spread_at + 0.15), (1.0 if spread_at == 0 else 0.15, reach))
    nothing = np.zeros(n_times)
    focal_fields, focal = _lateralized(traits, head, course * (1 - 0.75 * spread), nothing, rng)
    wide_fields, wide = _generalized(traits, head, course * spread, nothing, rng)
    return np.hstack([focal_fields, wide_fields]), np.vstack([focal, wide])


def _lateralized(
    traits: PatternTraits, head: Head, sharp: Wave, slow: Wave, rng: np.random.Generator
) -> Sources:
    """A focus, its hemisphere in slower and later form, and a faint reflection on the other side."""
    focus = direction(traits.side * traits.azimuth, traits.inclination)
    hemisphere = direction(traits.side * 80, 50)
    fields = (
        head.patch(focus, traits.width),
        0.45 * head.patch(hemisphere, 32),
        traits.reflection * head.patch(mirrored(focus), traits.width),
    )
    courses = (sharp + 0.7 * slow, 0.7 * sharp + slow, sharp + slow)
    return np.stack(fields, axis=1), _apart(courses, traits.lag / 3, rng)


def _generalized(
    traits: PatternTraits, head: Head, sharp: Wave, slow: Wave, rng: np.random.Generator
) -> Sources:
    """Both hemispheres at once, strongest at one end and later towards the other."""
    middle = 0.35 + 0.3 * (1 - abs(traits.anterior))
    gains = np.array([1.0, middle, middle**2])
    azimuths = np.array([38.0, 90.0, 145.0])
    if traits.anterior < 0:
        azimuths = azimuths[::-1]
    fields = []
    for gain, azimuth in zip(gains, azimuths, strict=True):
        right = head.patch(direction(azimuth, 52), 28)
        left = head.patch(direction(-azimuth, 52), 28)
        balance = 0.08 * traits.side
        fields.append(gain * ((1 + balance) * right + (1 - balance) * left))
    courses = (sharp + 0.8 * slow, 0.8 * sharp + slow, 0.7 * sharp + slow)
    return np.stack(fields, axis=1), _apart(courses, traits.lag / 2, rng)


def _apart(courses: tuple[Wave, ...], lag: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Each source a little later than the one before, with gains and a texture of its own."""
    rough = rng.uniform(0.08, 0.4)
    apart = []
    for place, course in enumerate(courses):
        own = _delayed(course, place * lag) * np.exp(wander(len(course), 0.6, 0.25, rng))
        apart.append(own + rough * own.std() * texture(len(own), rng))
    return np.stack(apart)


def _delayed(course: Wave, seconds: float) -> Wave:
    shift = round(seconds * SFREQ)
    return course if shift == 0 else np.concatenate([np.zeros(shift), course[:-shift]])


def _waxing(n_times: int, spread: float, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(np.exp(wander(n_times, 4.0, spread, rng) + wander(n_times, 0.7, 0.15, rng)))


def _fade(n_times: int, seconds: float) -> NDArray[np.float64]:
    """A gradual onset, and an end likewise."""
    ramp = min(int(seconds * SFREQ), n_times // 2)
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
