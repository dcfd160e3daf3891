"""What a competition folder holds, in figures a person reads first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hms_tune.data.labels import HIGH_VOTES
from hms_tune.data.schema import CLASSES, EEG_COLUMNS, SFREQ, VOTE_COLUMNS


@dataclass(frozen=True, slots=True)
class Labelling:
    """How the train half was labelled.

    Parameters
    ----------
    consensus_shares : share of rows by expert consensus
    vote_shares : mean share of each row's votes, by class
    votes_per_eeg : how many EEGs had how many experts; the most votes any one window of an EEG received
    high_vote_eegs : EEGs with at least :data:`~hms_tune.data.labels.HIGH_VOTES`
    """

    consensus_shares: dict[str, float]
    vote_shares: dict[str, float]
    votes_per_eeg: dict[int, int]
    high_vote_eegs: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One half of a competition folder.

    Parameters
    ----------
    rows, eegs, spectrograms, patients : counts, by the table
    eeg_hours, longest_eeg_seconds : length of the EEGs that can be read
    nan_shares : share of NaN by channel; None where signals were not decoded
    labelling : None in the test half
    """

    rows: int
    eegs: int
    spectrograms: int
    patients: int
    eeg_hours: float
    longest_eeg_seconds: float
    nan_shares: dict[str, float] | None
    labelling: Labelling | None


def summarize(
    table: pd.DataFrame, samples: NDArray[np.int64], nan_shares: NDArray[np.float64] | None
) -> Summary:
    """Count what a validated table and its EEG files hold.

    Parameters
    ----------
    table : ``train.csv`` or ``test.csv``
    samples : int64 (n_eegs,), rows of each readable EEG file at 200 Hz
    nan_shares : float64 (20,), share of NaN of each channel over all decoded files, or None
    """
    total = int(samples.sum())
    return Summary(
        rows=len(table),
        eegs=table["eeg_id"].nunique(),
        spectrograms=table["spectrogram_id"].nunique(),
        patients=table["patient_id"].nunique(),
        eeg_hours=total / SFREQ / 3600,
        longest_eeg_seconds=float(samples.max(initial=0)) / SFREQ,
        nan_shares=None if nan_shares is None else dict(zip(EEG_COLUMNS, nan_shares.tolist(), strict=True)),
        labelling=_labelling(table) if VOTE_COLUMNS[0] in table else None,
    )


def _labelling(table: pd.DataFrame) -> Labelling:
    votes = table[list(VOTE_COLUMNS)].to_numpy(np.float64)
    total = votes.sum(axis=1)
    shares = (votes / total[:, None]).mean(axis=0)
    consensus = table["expert_consensus"].value_counts(normalize=True)
    experts = pd.Series(total).groupby(table["eeg_id"].to_numpy()).max().astype(int)
    numbers, counts = np.unique(experts.to_numpy(), return_counts=True)
    return Labelling(
        consensus_shares={name: float(consensus.get(name, 0.0)) for name in CLASSES},
        vote_shares=dict(zip(CLASSES, shares.tolist(), strict=True)),
        votes_per_eeg=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
        high_vote_eegs=int((experts >= HIGH_VOTES).sum()),
    )
