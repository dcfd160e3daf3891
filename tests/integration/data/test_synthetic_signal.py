"""Only the signal tells the class: a model of it beats the prior on unseen patients, and no other does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt, welch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from hms_tune.data.synthetic.outline import Extent, Plan, Surroundings
from hms_tune.data.synthetic.plan import make_plan
from hms_tune.data.synthetic.spectrogram import bipolar_matrix
from hms_tune.data.synthetic.stretch import recording_samples, render

SEED = 11
PATIENTS = 40
BANDS = ((0.5, 1), (1, 1.5), (1.5, 2.2), (2.2, 3.2), (3.2, 5), (5, 8), (8, 12), (12, 20))


@dataclass(frozen=True)
class Rows:
    """One row per EEG: what the signal tells, what everything else tells, targets and patients."""

    signal: NDArray[np.float64]
    metadata: NDArray[np.float64]
    targets: NDArray[np.float64]
    patients: NDArray[np.int64]


@pytest.fixture(scope="module")
def plan() -> Plan:
    # stretches no longer than the EEG they hold: the ten minutes around it are not looked at here
    return make_plan(PATIENTS, Extent(1, 2, 50, surroundings=Surroundings(2, 52)), SEED)


@pytest.fixture(scope="module")
def with_patterns(plan: Plan) -> Rows:
    return rows_of(plan, signal=1.0)


@pytest.fixture(scope="module")
def without_patterns(plan: Plan) -> Rows:
    return rows_of(plan, signal=0.0)


def rows_of(plan: Plan, signal: float) -> Rows:
    signals, metadata, targets, patients = [], [], [], []
    with threadpool_limits(1):
        for stretch in plan.stretches:
            rendered = render(stretch, seed=SEED, signal=signal)
            for place, recording in enumerate(stretch.recordings):
                samples = recording_samples(rendered, stretch, recording.start, recording.length)
                window = recording.windows[0]
                signals.append(signal_features(samples))
                metadata.append(
                    [
                        *(recording.eeg_id, stretch.spectrogram_id, window.label_id, stretch.patient_id),
                        *(recording.length, stretch.duration, place, len(stretch.recordings)),
                        *offset_features(samples),
                    ]
                )
                targets.append(window.votes / window.votes.sum())
                patients.append(stretch.patient)
    return Rows(np.array(signals), np.array(metadata), np.array(targets), np.array(patients))


def offset_features(samples: NDArray[np.float32]) -> tuple[float, float, float]:
    """Mean and spread of the electrodes' DC offsets, and the share of missing cells."""
    offset = np.nanmedian(samples[::20, :19], axis=0)
    return float(offset.mean()), float(np.log(offset.std())), float(np.isnan(samples).mean())


def signal_features(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Band powers of the four chains, their asymmetry and gradient, peak-to-peak, spikiness and rhythm."""
    centred = np.nan_to_num(samples[:, :19] - np.nanmean(samples[:, :19], axis=0)).T
    filtered = sosfiltfilt(butter(3, [0.5, 40], "bandpass", fs=200, output="sos"), centred)
    bipolar = bipolar_matrix() @ filtered
    frequencies, power = welch(bipolar, fs=200, nperseg=800)
    chains = np.median(power.reshape(4, 4, -1), axis=1)
    in_bands = [chains[:, (frequencies >= low) & (frequencies < high)].mean(axis=1) for low, high in BANDS]
    bands = np.log(np.stack(in_bands, axis=1) + 1e-6)
    left, right = (bands[0] + bands[2]) / 2, (bands[1] + bands[3]) / 2
    swing = np.log(np.median(np.ptp(bipolar.reshape(16, -1, 400), axis=2), axis=0) + 1)
    spikiness = np.log(np.mean(bipolar**4, axis=1) / np.mean(bipolar**2, axis=1) ** 2).mean()
    steepness = np.convolve((np.diff(bipolar, axis=1) ** 2).mean(axis=0), np.ones(16) / 16, "same")
    spectrum = np.abs(np.fft.rfft(np.sqrt(steepness) - np.sqrt(steepness).mean(), 20_000)) ** 2
    repeats = np.fft.irfft(spectrum)[70:450] / np.fft.irfft(spectrum)[0]
    rhythm = [repeats.max(), (70 + repeats.argmax()) / 200]
    gradient = (bands[0] - bands[2] + bands[1] - bands[3]) / 2
    return np.concatenate(
        [(left + right) / 2, np.abs(left - right), gradient, [swing.mean(), swing.std(), spikiness, *rhythm]]
    )


def divergence(targets: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    ratio = np.log(np.maximum(targets, 1e-12)) - np.log(np.maximum(predicted, 1e-15))
    return float(np.where(targets > 0, targets * ratio, 0).sum(axis=1).mean())


def cross_validated(features: NDArray[np.float64], rows: Rows) -> tuple[float, float]:
    """KL of a logistic regression, and of the class prior, on patients neither has seen."""
    predicted, prior = np.zeros_like(rows.targets), np.zeros_like(rows.targets)
    for train, test in GroupKFold(5).split(features, groups=rows.patients):
        weights = rows.targets[train].ravel()
        examples = np.repeat(features[train], 6, axis=0)[weights > 0]
        classes = np.tile(np.arange(6), len(train))[weights > 0]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=500))
        model.fit(examples, classes, logisticregression__sample_weight=weights[weights > 0])
        predicted[test] = model.predict_proba(features[test])
        prior[test] = rows.targets[train].mean(axis=0)
    return divergence(rows.targets, predicted), divergence(rows.targets, prior)


def test_signal_beats_the_prior_on_unseen_patients(with_patterns: Rows) -> None:
    model, prior = cross_validated(with_patterns.signal, with_patterns)
    assert model < prior - 0.25


def test_without_patterns_signal_does_not_beat_the_prior(without_patterns: Rows) -> None:
    model, prior = cross_validated(without_patterns.signal, without_patterns)
    assert model > prior - 0.01


def test_metadata_does_not_beat_the_prior(with_patterns: Rows) -> None:
    model, prior = cross_validated(with_patterns.metadata, with_patterns)
    assert model > prior - 0.01


def test_without_patterns_everything_else_stays_as_it_was(plan: Plan) -> None:
    stretch = plan.stretches[0]
    assert any(episode.mixture[:5].max() > 0.3 for episode in stretch.episodes)
    full, half, none = (render(stretch, seed=SEED, signal=signal).eeg for signal in (1.0, 0.5, 0.0))
    np.testing.assert_allclose(full - none, 2 * (half - none), atol=0.01)
    assert np.array_equal(full[19], none[19])  # the heart beats on
    assert np.abs(full[:19] - none[:19]).max() > 10
