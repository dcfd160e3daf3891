"""What a synthetic competition consists of, on paper: stretches, recordings, windows, episodes.

Also how large it may be, and the streams of random numbers that everything in it is drawn from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import Split
from hms_tune.data.synthetic.raters import RaterPool

# Streams of random numbers: a key's first number says what it is for, so that no two ever meet.
IDS, RATERS, PATIENT, PERSON, SIGNAL, SEGMENT = range(6)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Seconds of a spectrogram window before and after the start of the EEG window in its middle."""

    before: int = 275
    after: int = 325


@dataclass(frozen=True, slots=True)
class Window:
    """A labelled window; ``offset`` is its start in the recording, seconds."""

    label_id: int
    offset: int
    votes: NDArray[np.int64]
    mixture: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recording:
    """An EEG file: a cut of its stretch from ``start``, ``length`` seconds long."""

    eeg_id: int
    start: int
    length: int
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Episode:
    """A time in a stretch, in seconds, over which the latent mixture stays the same."""

    start: float
    stop: float
    mixture: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Continuous EEG of one patient.

    Attributes
    ----------
    spectrogram_id, patient_id : int
    patient, number : place of the patient, and of the stretch within the patient; they seed the signal
    split : which half of the competition it belongs to
    duration : seconds, even
    surroundings : of each window, what its spectrogram window covers
    recordings : in time order
    episodes : in time order, not overlapping; between them there is background alone
    gaps : (start, stop) in seconds: nothing was recorded
    """

    spectrogram_id: int
    patient_id: int
    patient: int
    number: int
    split: Split
    duration: int
    surroundings: Surroundings
    recordings: tuple[Recording, ...]
    episodes: tuple[Episode, ...]
    gaps: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole competition on paper."""

    seed: int
    raters: RaterPool
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """How large a competition is, but for its patients.

    Attributes
    ----------
    test_patients : people in the test half; nobody is in both halves
    max_recordings : most EEGs of one patient
    max_seconds : longest EEG
    max_stretch_recordings : most EEGs of one spectrogram
    surroundings : what a spectrogram window covers
    """

    test_patients: int = 6
    max_recordings: int = 12
    max_seconds: int = 180
    max_stretch_recordings: int = 40
    surroundings: Surroundings = Surroundings()


SMALL = Extent()
"""A few EEGs of each patient."""

FULL_SIZE = Extent(max_recordings=270, max_seconds=3422)
"""As large as the real competition."""


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one purpose, the same whoever draws them and when."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
