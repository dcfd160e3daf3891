"""The background of an EEG: 1/f activity and the rhythms from delta to beta, changing with state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from hms_tune.data.schema import SFREQ
from hms_tune.data.synthetic.head import Head, direction
from hms_tune.data.synthetic.spectrogram import bipolar_matrix

_STATE_SECONDS = 20
_LEFT, _RIGHT = slice(0, 8), slice(11, 19)  # electrodes; those of the midline lie between


@dataclass(frozen=True, slots=True)
class Background:
    """What of a person's background stays the same from recording to recording.

    Attributes
    ----------
    amplitude : root mean square of the median bipolar channel, µV
    slope : exponent of the power spectrum above 1 Hz, power ∝ 1 / f^slope
    delta, theta, alpha, beta : amplitude of each rhythm, relative to the broadband part
    alpha_hz, theta_hz : centre frequencies, Hz
    asymmetry : amplitude of the left over the right hemisphere, log2
    """

    amplitude: float
    slope: float
    delta: float
    theta: float
    alpha: float
    beta: float
    alpha_hz: float
    theta_hz: float
    asymmetry: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Background:
        """One person's background: mostly slow, as in intensive care."""
        return cls(
            amplitude=float(np.clip(rng.lognormal(np.log(6.8), 0.42), 2.2, 20)),
            slope=float(rng.uniform(1.2, 2.3)),
            delta=float(rng.lognormal(np.log(0.6), 0.5)),
            theta=float(rng.lognormal(np.log(0.3), 0.6)),
            alpha=float(rng.lognormal(np.log(0.13), 0.9)),
            beta=float(rng.lognormal(np.log(0.06), 0.7)),
            alpha_hz=float(rng.uniform(7.5, 10.5)),
            theta_hz=float(rng.uniform(4.5, 7.0)),
            asymmetry=float(rng.normal(0, 0.18)),
        )

    def varied(self, rng: np.random.Generator) -> Background:
        """The same person on another day."""
        gain = rng.lognormal(0, 0.2, 5)
        return Background(
            self.amplitude * gain[0], self.slope + float(rng.normal(0, 0.08)), self.delta * gain[1],
            self.theta * gain[2], self.alpha * gain[3], self.beta * gain[4],
            self.alpha_hz + float(rng.normal(0, 0.2)), self.theta_hz + float(rng.normal(0, 0.2)),
            self.asymmetry + float(rng.normal(0, 0.08)),
        )  # fmt: skip


def render_background(
    background: Background, head: Head, n_times: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Background EEG, float32 (19, n_times), µV, against a distant reference.

    Sources are cortical patches with spectra of their own, made in the frequency domain; a slowly drifting
    state (arousal) trades fast rhythms for slow ones.
    """
    length = scipy.fft.next_fast_len(n_times, real=True)
    frequencies = scipy.fft.rfftfreq(length, 1 / SFREQ)
    fields, spectra, arousal_gain = _sources(background, head, frequencies, rng)
    shape = (len(spectra), 2 * len(frequencies))
    coefficients = rng.standard_normal(shape, dtype=np.float32).view(np.complex64) * spectra
    courses = scipy.fft.irfft(coefficients, n=length, axis=1)[:, :n_times]
    courses *= _state(arousal_gain, n_times, rng)
    eeg = fields.astype(np.float32) @ courses
    eeg[_LEFT] *= np.float32(2 ** (background.asymmetry / 2))
    eeg[_RIGHT] *= np.float32(2 ** (-background.asymmetry / 2))
    sample = bipolar_matrix() @ eeg[:, :: SFREQ // 20]
    eeg *= np.float32(background.amplitude / np.median(sample.std(axis=1)))
    return np.asarray(eeg)


def _sources(
    background: Background, head: Head, frequencies: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]:
    """Fields (19, n_sources), amplitude spectra (n_sources, n_frequencies), and what arousal does to each."""
    broadband = (frequencies**2 + 0.8**2) ** (-background.slope / 4)
    broadband[0] = 0

    def rhythm(centre: float, width: float) -> NDArray[np.float64]:
        return np.asarray(np.exp(-0.5 * ((frequencies - centre) / width) ** 2))

    kinds: tuple[tuple[int, NDArray[np.float64], float, tuple[float, float], float, float], ...] = (
        # sources, spectrum, amplitude, region (middle azimuth, half width), width of a patch, arousal
        (14, broadband, 1.0, (0, 180), 14, -0.1),
        (3, rhythm(1.3, 0.7), background.delta, (0, 180), 24, -0.5),
        (3, rhythm(background.theta_hz, 1.4), background.theta, (0, 180), 20, -0.2),
        (3, rhythm(background.alpha_hz, 0.8), background.alpha, (180, 60), 18, 0.8),
        (3, rhythm(18, 6), background.beta, (0, 90), 16, 0.3),
    )
    fields, spectra, arousal = [], [], []
    for count, spectrum, amplitude, (middle, half_width), patch_width, gain in kinds:
        power = np.sqrt(np.mean(spectrum**2))
        for _ in range(count):
            place = direction(middle + rng.uniform(-half_width, half_width), rng.uniform(5, 85))
            fields.append(head.patch(place, patch_width) * amplitude / np.sqrt(count))
            spectra.append(spectrum / power)
            arousal.append(gain)
    return np.stack(fields, axis=1), np.stack(spectra).astype(np.float32), np.array(arousal)


def _state(arousal_gain: NDArray[np.float64], n_times: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Slow gains (n_sources, n_times): the shared arousal, and each source's own waxing and waning."""
    knots = int(np.ceil(n_times / (_STATE_SECONDS * SFREQ))) + 2
    arousal = np.cumsum(rng.normal(0, 0.35, knots))
    arousal = np.clip(arousal - arousal.mean(), -1.2, 1.2)
    own = rng.normal(0, 0.22, (len(arousal_gain), knots))
    gains = np.exp(arousal_gain[:, None] * arousal + own).astype(np.float32)[:, :, None]
    share = np.arange(_STATE_SECONDS * SFREQ, dtype=np.float32) / (_STATE_SECONDS * SFREQ)
    ramps = gains[:, :-1] + (gains[:, 1:] - gains[:, :-1]) * share
    return np.asarray(ramps.reshape(len(gains), -1)[:, :n_times])
