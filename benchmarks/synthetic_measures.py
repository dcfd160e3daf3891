"""What ``benchmarks/synthetic.py`` measures: on a table of votes, and on a window of EEG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt, welch

from hms_tune.data.schema import CLASSES, VOTE_COLUMNS
from hms_tune.data.synthetic.spectrogram import bipolar_matrix
from hms_tune.training.scores import kl_divergence

Values = NDArray[np.float64]

_LEFT, _RIGHT = [*range(4), *range(8, 12)], [*range(4, 8), *range(12, 16)]


@dataclass(frozen=True)
class Votes:
    """Votes of a ``train.csv``: of each EEG's first window, and of all its windows together."""

    first: Values
    all_windows: Values
    patients: NDArray[np.int64]
    table: pd.DataFrame

    @classmethod
    def of(cls, table: pd.DataFrame) -> Votes:
        """Votes of a table in the layout of ``train.csv``."""
        groups = table.groupby("eeg_id", sort=True)
        votes = groups[list(VOTE_COLUMNS)]
        patients = groups["patient_id"].first().to_numpy()
        return cls(votes.first().to_numpy(np.float64), votes.sum().to_numpy(np.float64), patients, table)

    @property
    def total(self) -> Values:
        """Votes of each EEG's first window."""
        return self.first.sum(axis=1)

    @property
    def many(self) -> Values:
        """First windows of ten votes or more."""
        return self.first[self.total >= 10]

    @property
    def vectors(self) -> pd.Series:
        """Distinct vote vectors of each EEG."""
        return self.table.drop_duplicates(["eeg_id", *VOTE_COLUMNS]).groupby("eeg_id").size()


def shares_of(votes: Values) -> Values:
    """Votes as shares, rows summing to 1."""
    return votes / votes.sum(axis=1, keepdims=True)


def joint_agreement(votes: Values) -> Values:
    """P(one rater's class, another's) of the same window, float64 (6, 6)."""
    total = votes.sum(axis=1)
    pairs = votes[:, :, None] * votes[:, None, :]
    pairs[:, range(6), range(6)] -= votes
    return np.asarray((pairs / (total * (total - 1))[:, None, None]).mean(axis=0))


def kappa(joint: Values) -> float:
    """Cohen's κ of a joint distribution of two raters."""
    chance = float(joint.sum(axis=0) @ joint.sum(axis=1))
    return (float(np.trace(joint)) - chance) / (1 - chance)


def kinds(votes: Values) -> tuple[float, float, float]:
    """Shares of idealized windows (> 80 % one class), proto and edge ones.

    The two leading classes of a proto or an edge window have 35–65 % of the votes each and at least 85 %
    together; one of them is "other" in a proto window, neither is in an edge window.
    """
    shares = shares_of(votes)
    leading = np.argsort(-shares, axis=1)[:, :2]
    one, two = np.take_along_axis(shares, leading, axis=1).T
    split = (two >= 0.35) & (one <= 0.65) & (one + two >= 0.85)
    other = (leading == CLASSES.index("Other")).any(axis=1)
    return float((one > 0.8).mean()), float((split & other).mean()), float((split & ~other).mean())


def kl_of_constant(votes: Values, constant: Values | None = None) -> float:
    """KL of predicting the same for every row: the mean over the rows, unless another ``constant`` (6,)."""
    targets = shares_of(votes)
    predicted = targets.mean(axis=0) if constant is None else constant
    return kl_divergence(targets, np.tile(predicted, (len(targets), 1)))


def kl_of_other_eegs(votes: Votes) -> float:
    """KL of predicting each EEG from its patient's other EEGs, and a tenth of an EEG of prior."""
    targets = shares_of(votes.all_windows)
    _, patient = np.unique(votes.patients, return_inverse=True)
    totals = np.zeros((patient.max() + 1, 6))
    np.add.at(totals, patient, targets)
    predicted = totals[patient] - targets + 0.1 * targets.mean(axis=0)
    return kl_divergence(targets, shares_of(predicted))


@dataclass(frozen=True)
class Window:
    """What is measured on one window of EEG.

    Attributes
    ----------
    name : its class
    peak_to_peak : µV, 1st to 99th percentile over the central 10 s, median over 16 bipolar channels
    delta_share : of the power of 0.5–20 Hz, what lies below 4 Hz, median spectrum
    asymmetry : left over right amplitude, log2, without its sign
    rate : Hz at which it repeats itself
    """

    name: str
    peak_to_peak: float
    delta_share: float
    asymmetry: float
    rate: float


def measure(eeg: NDArray[np.float32], name: str) -> Window:
    """Measure a window of class ``name``, float32 (20 or 19, 10000), µV, NaN where missing."""
    scalp = eeg[:19].astype(np.float64)
    centred = np.nan_to_num(scalp - np.nanmean(scalp, axis=1, keepdims=True))
    filtered = sosfiltfilt(butter(3, [0.5, 20], "bandpass", fs=200, output="sos"), centred, axis=1)
    bipolar = bipolar_matrix() @ filtered
    low, high = np.percentile(bipolar[:, 4000:6000], (1, 99), axis=1)
    frequencies, power = welch(bipolar, fs=200, nperseg=800)
    band = (frequencies >= 0.5) & (frequencies <= 20)
    spectrum = np.median(power[:, band], axis=0)
    total = power[:, band].sum(axis=1)
    return Window(
        name,
        peak_to_peak=float(np.median(high - low)),
        delta_share=float(spectrum[frequencies[band] < 4].sum() / spectrum.sum()),
        asymmetry=float(abs(np.log2(np.median(total[_LEFT]) / np.median(total[_RIGHT]))) / 2),
        rate=repetition_rate(bipolar[:, 2000:8000], sharp=name in ("LPD", "GPD")),
    )


def repetition_rate(bipolar: Values, *, sharp: bool) -> float:
    """Hz at which the larger channels repeat themselves: the first high peak of their autocorrelation.

    Discharges of any shape repeat as peaks of line length, slow waves as themselves.
    """
    chosen = bipolar[np.argsort(-bipolar.std(axis=1))[:6]]
    if sharp:
        steps = np.abs(np.diff(chosen, axis=1))
        chosen = np.apply_along_axis(np.convolve, 1, steps, np.hanning(40) / 20, "same")
    chosen = chosen - chosen.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(chosen, 16384, axis=1)) ** 2
    repeats = np.fft.irfft((spectrum / spectrum.sum(axis=1, keepdims=True)).mean(axis=0))
    lags = np.arange(66, 480)  # 3.0 to 0.4 Hz
    peaks = lags[(repeats[lags] > repeats[lags - 1]) & (repeats[lags] >= repeats[lags + 1])]
    if not len(peaks):
        return float("nan")
    return float(200 / peaks[np.argmax(repeats[peaks] > 0.75 * repeats[peaks].max())])
