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

from hms_tune.data.schema import WINDOW_SECONDS, Split
from hms_tune.data.synthetic.episodes import episodes_of, gaps_of
from hms_tune.data.synthetic.outline import (
    IDS,
    PATIENT,
    RATERS,
    Extent,
    Plan,
    Recording,
    Stretch,
    Window,
    stream,
)
from hms_tune.data.synthetic.raters import N_CLASSES, Campaign, RaterPool, draw_campaign, drifted

_SAME_STATE = 0.92  # how often an EEG shows its patient's usual state
_CHANGES = 0.23  # of EEGs with several windows: about a tenth of all EEGs change their votes
_MEAN_CHANGES = 3.2  # of those that do
_LABELLED_SECONDS = 10  # in the middle of a window, which is what experts judge
_EEGS_PER_PATIENT = (3.0, 1.46)  # median, and spread of the logarithm: median 3, mean 8.8
_SECONDS_BEYOND_WINDOW = (8.0, 1.62)  # likewise: median length 58 s, mean 80 s
_STRETCH_TAIL = 2.5  # P(a stretch holds k EEGs) falls as k to this power: mean 1.5, now and then dozens

# Chance that a window is labelled at each possible offset (every 2 s), by leading class: rows per EEG.
_LABEL_DENSITY = (0.18, 0.31, 0.78, 1.0, 0.85, 0.13)


def make_plan(patients: int, extent: Extent, seed: int) -> Plan:
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
    for patient in range(patients + extent.test_patients):
        split: Split = "train" if patient < patients else "test"
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
            episodes=episodes_of(recordings, duration, self._rng),
            gaps=gaps_of(recordings, duration, self._rng),
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
        """Windows of one recording: the same panel and votes for all, unless the brain changes in between.

        Another state needs time: where the seconds that experts judge would overlap those of the state before
        it, the brain only drifts, and the panel votes again.
        """
        rng = self._rng
        changes: set[int] = set()
        if len(offsets) > 1 and rng.random() < _CHANGES:
            # where neighbouring windows overlap least
            widest = np.argsort(-np.diff(offsets), kind="stable") + 1
            changes = set(widest[: rng.geometric(1 / _MEAN_CHANGES)].tolist())
        n_votes = state.campaign.draw_vote_count(rng)
        windows: list[Window] = []
        since = 0
        for number, offset in enumerate(offsets):
            if number in changes and offset - since >= _LABELLED_SECONDS:
                state, since = _State.draw(rng, state.campaign), offset
            elif number in changes:
                state = _State(state.campaign, drifted(state.mixture, rng))
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
