"""Who is recorded, when, and what the experts say: everything about a synthetic competition but the signal.

A patient has several **stretches** of continuous EEG. A stretch becomes one spectrogram file; its
**recordings** are cuts that become EEG files; a recording has labelled **windows**. What the brain does over
a stretch is a sequence of **episodes**, each with one latent mixture of patterns. Lengths, gaps and ids are
drawn without regard to the class, so that of all a model may see only the signal tells it. How many votes a
window got, and how densely an EEG was labelled, do depend on the class, as in the real table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.labels import Split
from hms_tune.data.schema import WINDOW_SECONDS
from hms_tune.data.synthetic.raters import (
    N_CLASSES,
    OTHER,
    SEIZURE,
    Campaign,
    RaterPool,
    draw_campaign,
    drifted,
)

# Streams of random numbers: a key's first number says what it is for, so that no two ever meet.
IDS, RATERS, PATIENT, PERSON, SIGNAL, SEGMENT = range(6)

_SAME_STATE = 0.92  # how often an EEG shows its patient's usual state
_CHANGES = 0.19  # of EEGs with several windows: about a tenth of all EEGs change their votes
_MEAN_CHANGES = 3.2  # of those that do
_EEGS_PER_PATIENT = (3.0, 1.46)  # median, and spread of the logarithm: median 3, mean 8.8
_SECONDS_BEYOND_WINDOW = (8.0, 1.62)  # likewise: median length 58 s, mean 80 s
_STRETCH_TAIL = 2.5  # P(a stretch holds k EEGs) falls as k to this power: mean 1.5, now and then dozens

# Chance that a window is labelled at each possible offset (every 2 s), by leading class: rows per EEG.
_LABEL_DENSITY = (0.18, 0.31, 0.78, 1.0, 0.85, 0.13)
_EEG_GAP, _STRETCH_GAP = 0.03, 0.22  # chances of a gap; 0.12 % of EEG cells and 2.4 % of frames in the end


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
    """How large a competition is.

    Attributes
    ----------
    patients, test_patients : people in each half; nobody is in both
    max_recordings : most EEGs of one patient
    max_seconds : longest EEG
    max_stretch_recordings : most EEGs of one spectrogram
    surroundings : what a spectrogram window covers
    """

    patients: int
    test_patients: int
    max_recordings: int = 12
    max_seconds: int = 180
    max_stretch_recordings: int = 40
    surroundings: Surroundings = Surroundings()


FULL_SIZE = {"max_recordings": 270, "max_seconds": 3422}
"""Bounds of an :class:`Extent` as the real competition has them."""


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one purpose, the same whoever draws them and when."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def make_plan(extent: Extent, seed: int) -> Plan:
    """Draw a competition.

    Parameters
    ----------
    extent : how large
    seed : of everything

    Returns
    -------
    Plan, its stretches in the order of patients
    """
    ids = _Identifiers(stream(seed, IDS))
    raters = RaterPool.draw(stream(seed, RATERS))
    stretches: list[Stretch] = []
    for patient in range(extent.patients + extent.test_patients):
        split: Split = "train" if patient < extent.patients else "test"
        rng = stream(seed, PATIENT, patient)
        stretches += _PatientPlan(extent, patient, split, raters, ids, rng).stretches()
    return Plan(seed, raters, tuple(stretches))


_ID_LIMITS = {"eeg": 2**32, "spectrogram": 2**31, "label": 2**32, "patient": 2**16}


class _Identifiers:
    """Distinct numbers that look like the competition's and mean nothing."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._taken: dict[str, set[int]] = {kind: set() for kind in _ID_LIMITS}

    def new(self, kind: str) -> int:
        """A number of this kind that was not given before."""
        taken = self._taken[kind]
        while (number := int(self._rng.integers(1, _ID_LIMITS[kind]))) in taken:
            pass
        taken.add(number)
        return number


class _PatientPlan:
    """One patient's stretches, drawn one after another."""

    def __init__(
        self,
        extent: Extent,
        patient: int,
        split: Split,
        raters: RaterPool,
        identifiers: _Identifiers,
        rng: np.random.Generator,
    ) -> None:
        self._extent, self._patient, self._split = extent, patient, split
        self._raters, self._identifiers, self._rng = raters, identifiers, rng
        self._patient_id = identifiers.new("patient")
        self._usual = _State.draw(rng, draw_campaign(rng))

    def stretches(self) -> list[Stretch]:
        """Stretches of this patient. A test patient's hold one 50 s recording each."""
        left = _skewed(*_EEGS_PER_PATIENT, self._rng)
        left = max(1, min(left, self._extent.max_recordings))
        if self._split == "test":
            left = min(left, 2)
        planned: list[Stretch] = []
        while left > 0:
            count = int(min(left, self._rng.zipf(_STRETCH_TAIL), self._extent.max_stretch_recordings))
            count = count if self._split == "train" else 1
            planned.append(self._stretch(count, len(planned)))
            left -= count
        return planned

    def _stretch(self, count: int, number: int) -> Stretch:
        around = self._extent.surroundings
        recordings: list[Recording] = []
        start = around.before
        for _ in range(count):
            recording = self._recording(start)
            recordings.append(recording)
            start += recording.length + 2 * int(self._rng.integers(2, 60))
        last = recordings[-1]
        duration = max(last.start + last.windows[-1].offset + around.after, last.start + last.length)
        duration += duration % 2
        return Stretch(
            spectrogram_id=self._identifiers.new("spectrogram"),
            patient_id=self._patient_id,
            patient=self._patient,
            number=number,
            split=self._split,
            duration=duration,
            surroundings=around,
            recordings=tuple(recordings),
            episodes=_episodes(recordings, duration, self._rng),
            gaps=_gaps(recordings, duration, self._rng),
        )

    def _recording(self, start: int) -> Recording:
        rng = self._rng
        length = WINDOW_SECONDS
        if self._split == "train":
            length += 2 * (_skewed(*_SECONDS_BEYOND_WINDOW, rng) // 2)
        length = min(length, self._extent.max_seconds - self._extent.max_seconds % 2)
        state = self._state()
        later = np.arange(2, length - WINDOW_SECONDS + 1, 2)
        labelled = rng.random(len(later)) < _LABEL_DENSITY[state.dominant]
        offsets = [0, *later[labelled].tolist()]
        return Recording(self._identifiers.new("eeg"), start, length, self._windows(offsets, state))

    def _windows(self, offsets: list[int], state: _State) -> tuple[Window, ...]:
        """Windows of one recording: the same panel and votes for all, unless the brain changes in between."""
        rng = self._rng
        changes: set[int] = set()
        if len(offsets) > 1 and rng.random() < _CHANGES:
            # where neighbouring windows overlap least
            widest = np.argsort(-np.diff(offsets), kind="stable") + 1
            changes = set(widest[: rng.geometric(1 / _MEAN_CHANGES)].tolist())
        n_votes = state.campaign.draw_vote_count(rng)
        windows: list[Window] = []
        for number, offset in enumerate(offsets):
            if number in changes:
                state = _State.draw(rng, state.campaign)
            if number == 0 or number in changes:
                votes = self._raters.votes(state.mixture, n_votes, rng)
            windows.append(Window(self._identifiers.new("label"), offset, votes, state.mixture))
        return tuple(windows)

    def _state(self) -> _State:
        """The state that a recording begins in: mostly the patient's usual one, never twice the same."""
        if self._rng.random() < _SAME_STATE:
            return _State(self._usual.campaign, drifted(self._usual.mixture, self._rng))
        return _State.draw(self._rng, draw_campaign(self._rng))


@dataclass(frozen=True, slots=True)
class _State:
    """What a brain does, and the campaign for which that was labelled."""

    campaign: Campaign
    mixture: NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, campaign: Campaign) -> _State:
        dominant = int(rng.choice(N_CLASSES, p=campaign.dominant / campaign.dominant.sum()))
        return cls(campaign, campaign.draw_mixture(dominant, rng))

    @property
    def dominant(self) -> int:
        return int(self.mixture.argmax())


def _skewed(median: float, spread: float, rng: np.random.Generator) -> int:
    return int(np.round(rng.lognormal(np.log(median), spread)))


def _episodes(recordings: list[Recording], duration: int, rng: np.random.Generator) -> tuple[Episode, ...]:
    """What the brain does over a stretch: each labelled state, reaching out to the next or until it ends."""
    states: list[tuple[float, float, NDArray[np.float64]]] = []
    for recording in recordings:
        for window in recording.windows:
            centre = recording.start + window.offset + WINDOW_SECONDS / 2
            if states and states[-1][2] is window.mixture:
                states[-1] = (states[-1][0], centre, window.mixture)
            else:
                states.append((centre, centre, window.mixture))
    episodes: list[Episode] = []
    for number, (first, last, mixture) in enumerate(states):
        floor = (states[number - 1][1] + first) / 2 if number else 0.0
        ceiling = (last + states[number + 1][0]) / 2 if number + 1 < len(states) else float(duration)
        start, stop = episode_around(first, last, mixture, rng)
        episodes.append(Episode(max(floor, start), min(ceiling, stop), mixture))
    return tuple(episodes)


def episode_around(
    first: float, last: float, mixture: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float]:
    """When a state began and ended that was seen from second ``first`` to ``last``.

    Seizures end within a minute; other patterns last for minutes.
    """
    if mixture[SEIZURE] >= max(0.3, mixture[:OTHER].max()):
        before, after = rng.uniform(8, 35), rng.uniform(10, 40)
    else:
        before, after = rng.lognormal(np.log(220), 1.0, 2) + 8
    return float(first - before), float(last + after)


def _gaps(
    recordings: list[Recording], duration: int, rng: np.random.Generator
) -> tuple[tuple[float, float], ...]:
    """Times without data: short ones within a recording, long ones outside all of them."""
    gaps = []
    for recording in recordings:
        if rng.random() < _EEG_GAP:
            start = recording.start + rng.uniform(0, recording.length - 5)
            gaps.append((start, start + rng.uniform(0.5, 5)))
    if rng.random() < _STRETCH_GAP:
        room_before, room_after = recordings[0].start, duration - recordings[-1].start - recordings[-1].length
        before = rng.random() < room_before / (room_before + room_after)
        low, high = (0, recordings[0].start) if before else (duration - room_after, duration)
        length = min(rng.exponential(75), high - low)
        start = rng.uniform(low, high - length)
        gaps.append((start, start + length))
    return tuple(gaps)
