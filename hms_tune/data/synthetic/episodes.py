"""When a stretch of EEG shows what: episodes of one state each, and gaps in which nothing was recorded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import WINDOW_SECONDS
from hms_tune.data.synthetic.outline import Episode, Recording
from hms_tune.data.synthetic.raters import OTHER, SEIZURE

_EEG_GAP, _STRETCH_GAP = 0.03, 0.22  # chances of a gap; 0.12 % of EEG cells and 2.4 % of frames in the end


def episodes_of(recordings: list[Recording], duration: int, rng: np.random.Generator) -> tuple[Episode, ...]:
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


def gaps_of(
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
