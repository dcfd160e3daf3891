"""Labelled 50 s segments straight into memory: no files, no ten minutes around them.

For questions that need many examples and no competition: how well a model trained on synthetic EEG alone
reads real EEG, what a class looks like, whether amplitudes are right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hms_tune.data.files.threads import unordered
from hms_tune.data.schema import EEG_COLUMNS, SFREQ, WINDOW_SECONDS
from hms_tune.data.synthetic.episodes import episode_around
from hms_tune.data.synthetic.outline import SEGMENT, Episode, Stretch, Surroundings, stream
from hms_tune.data.synthetic.raters import CAMPAIGNS, N_CLASSES, Campaign, RaterPool
from hms_tune.data.synthetic.stretch import render
from hms_tune.machine.cores import available_cores


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments of as many patients.

    Attributes
    ----------
    eeg : float32 (n, 20, 10000), µV, channels in file order
    mixture : float64 (n, 6), what the brain shows
    truth : float64 (n, 6), what an infinite panel of raters would say
    votes : int64 (n, 6), what the panel that saw it said
    """

    eeg: NDArray[np.float32]
    mixture: NDArray[np.float64]
    truth: NDArray[np.float64]
    votes: NDArray[np.int64]


def make_segments(n: int, *, seed: int, jobs: int | None = None) -> Segments:
    """Make ``n`` segments, each of another patient; the classes take turns in leading the mixture.

    Parameters
    ----------
    n : how many
    seed : the same seed gives the same segments, whatever ``jobs`` is
    jobs : segments made side by side; all available cores when None
    """
    raters = RaterPool.draw(stream(seed, SEGMENT))
    eeg = np.empty((n, len(EEG_COLUMNS), WINDOW_SECONDS * SFREQ), dtype=np.float32)
    mixtures = np.empty((n, N_CLASSES))
    votes = np.empty((n, N_CLASSES), dtype=np.int64)

    def make(number: int) -> None:
        rng = stream(seed, SEGMENT, number)
        campaign, stretch = _draw(number, rng)
        mixtures[number] = mixture = stretch.episodes[0].mixture
        votes[number] = raters.votes(mixture, campaign.draw_vote_count(rng), rng)
        rendered = render(stretch, seed=seed, signal=1.0)
        start = rendered.margin * SFREQ
        eeg[number] = rendered.eeg[:, start : start + WINDOW_SECONDS * SFREQ]

    with threadpool_limits(1):
        for _ in unordered(make, range(n), jobs=jobs or available_cores()):
            pass
    truth = np.array([raters.expected(mixture) for mixture in mixtures])
    return Segments(eeg, mixtures, truth, votes)


def _draw(number: int, rng: np.random.Generator) -> tuple[Campaign, Stretch]:
    """One window with the episode that experts saw in its middle, and why it was labelled."""
    dominant = number % N_CLASSES
    shares = np.array([campaign.share * campaign.dominant[dominant] for campaign in CAMPAIGNS])
    campaign = CAMPAIGNS[int(rng.choice(len(CAMPAIGNS), p=shares / shares.sum()))]
    mixture = campaign.draw_mixture(dominant, rng)
    start, stop = episode_around(WINDOW_SECONDS / 2, WINDOW_SECONDS / 2, mixture, rng)
    episode = Episode(max(0.0, start), min(float(WINDOW_SECONDS), stop), mixture)
    around = Surroundings(0, 0)
    return campaign, Stretch(0, number, number, 0, "train", WINDOW_SECONDS, around, (), (episode,), ())
