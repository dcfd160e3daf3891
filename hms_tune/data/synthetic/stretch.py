"""A stretch of EEG: background, patterns and artefacts, summed at the electrodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import FRAME_SECONDS, SFREQ
from hms_tune.data.synthetic.artefacts import Artefacts, add_artefacts
from hms_tune.data.synthetic.background import Background, render_background
from hms_tune.data.synthetic.head import head
from hms_tune.data.synthetic.ordinary import add_stray_artefacts, ictal_muscle, render_other
from hms_tune.data.synthetic.outline import PERSON, SIGNAL, Stretch, stream
from hms_tune.data.synthetic.patterns import PatternTraits, render_pattern, strengths
from hms_tune.data.synthetic.raters import OTHER, SEIZURE
from hms_tune.data.synthetic.spectrogram import WINDOW_SECONDS, chain_spectrogram

# Seconds made on either side and dropped again: the first frame's window begins a second early, and the
# band-pass needs room to settle.
_MARGIN = 4


@dataclass(frozen=True, slots=True)
class Person:
    """What stays the same over all of a patient's recordings."""

    background: Background
    artefacts: Artefacts
    patterns: tuple[PatternTraits, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        """A person; a thick skull dims background and patterns alike."""
        background = Background.draw(rng)
        gain = float(np.clip((background.amplitude / 7.0) ** 0.5, 0.75, 1.5))
        patterns = tuple(PatternTraits.draw(pattern, gain, rng) for pattern in range(OTHER))
        return cls(background, Artefacts.draw(rng), patterns)


@dataclass(frozen=True, slots=True)
class RenderedStretch:
    """The signal of a stretch, margins included.

    Attributes
    ----------
    eeg : float32 (20, n_times), µV, channels in file order; no gaps yet
    margin : seconds before the stretch begins
    """

    eeg: NDArray[np.float32]
    margin: int


def render(stretch: Stretch, *, seed: int, signal: float) -> RenderedStretch:
    """Make the EEG of a stretch.

    Parameters
    ----------
    stretch : what to make
    seed : of the competition
    signal : amplitude of the patterns; 0 leaves background and artefacts exactly as they are, alone
    """
    person = Person.draw(stream(seed, PERSON, stretch.patient))
    n_times = (stretch.duration + 2 * _MARGIN) * SFREQ
    background_rng, pattern_rng, artefact_rng = (
        stream(seed, SIGNAL, stretch.patient, stretch.number, part) for part in range(3)
    )
    eeg = render_background(person.background.varied(background_rng), head(), n_times, background_rng)
    if signal > 0:
        _add_patterns(eeg, stretch, person, signal, pattern_rng)
    add_stray_artefacts(eeg, head(), artefact_rng)
    ekg = add_artefacts(eeg, person.artefacts, head(), artefact_rng)
    return RenderedStretch(np.concatenate([eeg, ekg[None]]), _MARGIN)


def _add_patterns(
    eeg: NDArray[np.float32], stretch: Stretch, person: Person, signal: float, rng: np.random.Generator
) -> None:
    traits = [pattern.varied(rng) for pattern in person.patterns]
    for episode in stretch.episodes:
        start, stop = (round((second + _MARGIN) * SFREQ) for second in (episode.start, episode.stop))
        background = eeg[:, start:stop]
        added = render_other(background, float(episode.mixture[OTHER]), head(), rng)
        for pattern in np.flatnonzero(shown := strengths(episode.mixture)):
            own = traits[pattern]
            added += render_pattern(int(pattern), own, episode.mixture, head(), stop - start, rng)
            added -= np.float32(shown[pattern] * own.suppression) * background
        if shown[SEIZURE] > 0:
            added += ictal_muscle(float(shown[SEIZURE]), head(), stop - start, rng)
        eeg[:, start:stop] += np.float32(signal) * added


def recording_samples(
    rendered: RenderedStretch, stretch: Stretch, start: int, length: int
) -> NDArray[np.float32]:
    """A cut of the stretch with its gaps, float32 (n_times, 20), µV; ``start`` and ``length`` in seconds."""
    first = (rendered.margin + start) * SFREQ
    samples = rendered.eeg[:, first : first + length * SFREQ].T.copy()
    for gap_start, gap_stop in stretch.gaps:
        low, high = (round((second - start) * SFREQ) for second in (gap_start, gap_stop))
        if high > 0:
            samples[max(low, 0) : high] = np.nan
    return samples


def spectrogram_frames(rendered: RenderedStretch, stretch: Stretch) -> NDArray[np.float32]:
    """The stretch's spectrogram, float32 (n_frames, 400), µV²/Hz; frames that touch a gap are NaN."""
    n_frames = stretch.duration // FRAME_SECONDS
    first_centre = rendered.margin * SFREQ + FRAME_SECONDS * SFREQ // 2
    frames = chain_spectrogram(rendered.eeg[:-1], n_frames, first_centre)
    centres = FRAME_SECONDS * np.arange(n_frames) + FRAME_SECONDS / 2
    for start, stop in stretch.gaps:
        touched = (centres > start - WINDOW_SECONDS / 2) & (centres < stop + WINDOW_SECONDS / 2)
        frames[touched] = np.nan
    return frames
