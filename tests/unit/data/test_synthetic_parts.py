"""The parts of the synthetic competition: head, raters, plan, patterns, spectrogram."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt, welch
from scipy.signal.windows import dpss

from hms_tune.data.schema import SPECTROGRAM_COLUMNS, WINDOW_SECONDS
from hms_tune.data.synthetic.head import ELECTRODES, direction, head, mirrored
from hms_tune.data.synthetic.ordinary import render_other
from hms_tune.data.synthetic.outline import Extent, Plan
from hms_tune.data.synthetic.patterns import PatternTraits, render_pattern
from hms_tune.data.synthetic.plan import make_plan
from hms_tune.data.synthetic.raters import (
    GPD,
    GRDA,
    LPD,
    LRDA,
    MANY,
    N_CLASSES,
    OTHER,
    SEIZURE,
    RaterPool,
)
from hms_tune.data.synthetic.spectrogram import bipolar_matrix, chain_spectrogram
from hms_tune.data.synthetic.waveforms import cycle_phase

LEFT_PAIRS, RIGHT_PAIRS = [*range(4), *range(8, 12)], [*range(4, 8), *range(12, 16)]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(400, Extent(test_patients=10), seed=5)


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    rendered.cache_clear()


@cache
def rendered(pattern: int, number: int, share: float = 0.95, seconds: int = 60) -> NDArray[np.float64]:
    """Bipolar channels (16, n_times) of one person's pattern alone, µV."""
    rng = np.random.default_rng([pattern, number])
    mixture = np.full(N_CLASSES, (1 - share) / 5)
    mixture[pattern] = share
    eeg = render_pattern(pattern, PatternTraits.draw(pattern, 1.0, rng), mixture, head(), seconds * 200, rng)
    return np.asarray(bipolar_matrix() @ eeg)


def peak_to_peak(bipolar: NDArray[np.float64]) -> float:
    return float(np.median(np.ptp(bipolar.reshape(16, -1, 400), axis=2)))


def asymmetry(bipolar: NDArray[np.float64]) -> float:
    """Left over right amplitude, log2."""
    return float(np.log2(bipolar[LEFT_PAIRS].std() / bipolar[RIGHT_PAIRS].std()))


# ---------------------------------------------------------------------------------------------- head


def test_a_source_is_strongest_under_its_own_electrode_and_blurred_into_its_neighbours() -> None:
    field = dict(zip(ELECTRODES, head().patch(head().electrodes[ELECTRODES.index("T3")], 10), strict=True))
    assert max(field, key=lambda name: field[name]) == "T3"
    assert 0.2 < field["C3"] < 0.7
    assert abs(field["T4"]) < 0.2


def test_a_mirrored_source_has_the_mirrored_field() -> None:
    place = direction(-70, 55)
    one = dict(zip(ELECTRODES, head().patch(place, 20), strict=True))
    other = dict(zip(ELECTRODES, head().patch(mirrored(place), 20), strict=True))
    for left, right in (("Fp1", "Fp2"), ("F7", "F8"), ("C3", "C4"), ("T5", "T6")):
        assert one[left] == pytest.approx(other[right], abs=0.03)


# -------------------------------------------------------------------------------------------- raters


def test_many_votes_approach_the_expected_probabilities() -> None:
    rng = np.random.default_rng(0)
    pool, mixture = RaterPool.draw(rng), MANY.draw_mixture(LPD, rng)
    votes = sum(pool.votes(mixture, 28, rng) for _ in range(400))
    assert np.abs(votes / votes.sum() - pool.expected(mixture)).max() < 0.02


def test_raters_agree_about_as_often_as_the_experts_did(plan: Plan) -> None:
    votes = np.array([record.windows[0].votes for s in plan.stretches for record in s.recordings])
    many = votes[votes.sum(axis=1) >= 10]
    pairs = many.T @ many - np.diag(many.sum(axis=0))
    assert np.trace(pairs) / pairs.sum() == pytest.approx(0.55, abs=0.05)
    sure = [LPD, GPD, OTHER]  # experts who saw other patterns were as often joined by none
    assert np.argmax(pairs, axis=1)[sure].tolist() == sure


# ---------------------------------------------------------------------------------------------- plan


def test_vote_counts_have_two_peaks_and_few_votes_went_mostly_to_seizures(plan: Plan) -> None:
    windows = [record.windows[0] for stretch in plan.stretches for record in stretch.recordings]
    totals = np.array([window.votes.sum() for window in windows])
    assert totals.min() >= 1
    assert totals.max() <= 28
    assert np.mean(totals == 3) == pytest.approx(0.5, abs=0.06)
    assert np.mean(totals >= 10) == pytest.approx(1 / 3, abs=0.06)
    shares = np.array([window.votes / window.votes.sum() for window in windows])
    assert shares[totals == 3, SEIZURE].mean() == pytest.approx(0.41, abs=0.08)
    assert shares[totals >= 10, SEIZURE].mean() == pytest.approx(0.05, abs=0.04)
    assert shares[totals >= 10, OTHER].mean() == pytest.approx(0.46, abs=0.08)


def test_recordings_have_real_lengths_and_a_tenth_changes_its_votes(plan: Plan) -> None:
    recordings = [r for stretch in plan.stretches if stretch.split == "train" for r in stretch.recordings]
    lengths = np.array([recording.length for recording in recordings])
    assert lengths.min() >= WINDOW_SECONDS
    assert np.median(lengths) == pytest.approx(58, abs=4)
    changed = [len({tuple(window.votes) for window in recording.windows}) > 1 for recording in recordings]
    assert np.mean(changed) == pytest.approx(0.1, abs=0.03)


def test_lengths_say_nothing_of_the_class(plan: Plan) -> None:
    recordings = [r for stretch in plan.stretches if stretch.split == "train" for r in stretch.recordings]
    lengths = np.log([recording.length for recording in recordings])
    classes = np.array([recording.windows[0].mixture.argmax() for recording in recordings])
    means = [lengths[classes == one].mean() for one in range(N_CLASSES)]
    errors = [lengths[classes == one].std() / np.sqrt(np.sum(classes == one)) for one in range(N_CLASSES)]
    assert np.all(np.abs(np.array(means) - lengths.mean()) < 3.5 * np.array(errors))


def test_every_window_lies_inside_its_recording_and_its_stretch(plan: Plan) -> None:
    for stretch in plan.stretches:
        for recording in stretch.recordings:
            assert recording.start + recording.length <= stretch.duration
            for window in recording.windows:
                assert window.offset + WINDOW_SECONDS <= recording.length
                start = recording.start + window.offset - 275
                assert start >= 0
                assert start % 2 == 0
                assert start + 600 <= stretch.duration


def test_ids_are_distinct(plan: Plan) -> None:
    recordings = [record for stretch in plan.stretches for record in stretch.recordings]
    labels = [window.label_id for record in recordings for window in record.windows]
    assert len(set(labels)) == len(labels)
    assert len({record.eeg_id for record in recordings}) == len(recordings)
    assert len({stretch.spectrogram_id for stretch in plan.stretches}) == len(plan.stretches)
    assert len({stretch.patient_id for stretch in plan.stretches}) == 410


def test_gaps_have_the_share_that_real_files_have(plan: Plan) -> None:
    cells = gap_cells = frames = gap_frames = 0.0
    for stretch in plan.stretches:
        frames += stretch.duration
        gap_frames += sum(stop - start + 4 for start, stop in stretch.gaps)
        for record in stretch.recordings:
            cells += record.length
            for start, stop in stretch.gaps:
                gap_cells += max(0.0, min(stop, record.start + record.length) - max(start, record.start))
    assert gap_cells / cells == pytest.approx(0.0012, abs=0.0006)
    assert gap_frames / frames == pytest.approx(0.024, abs=0.008)


# ------------------------------------------------------------------------------------------ patterns


@pytest.mark.parametrize(
    ("pattern", "low", "high"),
    [(SEIZURE, 120, 480), (GPD, 40, 180), (LPD, 20, 80), (LRDA, 15, 62), (GRDA, 30, 110)],
)
def test_patterns_have_the_amplitudes_of_real_ones(pattern: int, low: float, high: float) -> None:
    sizes = [peak_to_peak(rendered(pattern, number)) for number in range(12)]
    assert low < np.median(sizes) < high


def test_lateralized_patterns_keep_to_one_side_and_generalized_ones_do_not() -> None:
    def median(pattern: int) -> float:
        return float(np.median([abs(asymmetry(rendered(pattern, number))) for number in range(12)]))

    assert median(LPD) > 0.8
    assert median(LRDA) > 0.6
    assert median(GPD) < 0.3
    assert median(GRDA) < 0.3


def test_rhythmic_delta_is_delta_and_blunter_than_periodic_discharges() -> None:
    def share_below_4_hz(pattern: int) -> float:
        shares = []
        for number in range(8):
            frequencies, power = welch(rendered(pattern, number), fs=200, nperseg=800)
            shares.append(power[:, frequencies < 4].sum() / power.sum())
        return float(np.median(shares))

    assert share_below_4_hz(GRDA) > 0.9
    assert share_below_4_hz(LRDA) > 0.9
    assert share_below_4_hz(GPD) < 0.9


def test_seizures_are_fast_and_change_their_rate_by_more_than_half_a_hertz() -> None:
    def peak_rate(bipolar: NDArray[np.float64]) -> float:
        # the first difference favours the rhythm over slow swings of amplitude
        frequencies, power = welch(np.diff(bipolar, axis=1), fs=200, nperseg=1000)
        mean = power.mean(axis=0)
        return float((frequencies * mean).sum() / mean.sum())

    changes = []
    for number in range(8):
        bipolar = rendered(SEIZURE, number, seconds=40)
        changes.append(abs(peak_rate(bipolar[:, 1000:3000]) - peak_rate(bipolar[:, 5500:7500])))
    assert np.median(changes) > 0.5


def test_nothing_is_drawn_for_a_class_with_no_share() -> None:
    mixture = np.eye(N_CLASSES)[OTHER]
    rng = np.random.default_rng(0)
    eeg = render_pattern(LPD, PatternTraits.draw(LPD, 1.0, rng), mixture, head(), 4000, rng)
    assert np.all(eeg == 0)


def test_periods_vary_by_less_than_half_from_cycle_to_cycle() -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        rate = rng.uniform(0.5, 2.5)
        phase = cycle_phase(rate, 0.15, 60 * 200, rng)
        periods = np.diff(np.flatnonzero(np.diff(np.floor(phase)) > 0)) / 200
        assert np.median(periods) == pytest.approx(1 / rate, rel=0.15)
        assert np.mean(np.abs(np.diff(periods)) < 0.5 * periods[1:]) > 0.9


def test_other_is_eventful_and_its_events_have_no_common_form() -> None:
    background = np.zeros((19, 50 * 200), dtype=np.float32)
    sizes = []
    for number in range(30):
        eeg = render_other(background, 0.95, head(), np.random.default_rng(number))
        sizes.append(np.ptp(bipolar_matrix() @ eeg, axis=1).max())
    assert np.min(sizes) > 5
    assert np.quantile(sizes, 0.9) > 4 * np.quantile(sizes, 0.1)
    assert np.all(render_other(background, 0.1, head(), np.random.default_rng(0)) == 0)


# --------------------------------------------------------------------------------------- spectrogram


def test_the_spectrogram_is_the_hosts() -> None:
    eeg = np.random.default_rng(1).normal(0, 20, (19, 30 * 200)).astype(np.float32)
    frames = chain_spectrogram(eeg, 10, first_centre=1000)
    assert frames.shape == (10, 400)

    filtered = sosfiltfilt(butter(3, [0.5, 40], "bandpass", fs=200, output="sos"), eeg.astype(np.float64))
    tapers = dpss(800, 2, 3) * np.sqrt(200)
    chain = ["Fp2", "F4", "C4", "P4", "O2"]  # RP, the last region
    for frame in (0, 4):
        cut = filtered[:, 600 + 400 * frame :][:, :800]
        power = np.zeros(100)
        for one, other in pairwise(chain):
            pair = cut[ELECTRODES.index(one)] - cut[ELECTRODES.index(other)]
            power += (np.abs(np.fft.rfft(tapers * pair, 1024) / 200) ** 2).mean(axis=0)[3:103] / 4
        np.testing.assert_allclose(frames[frame, 300:], power, rtol=1e-3)
    assert SPECTROGRAM_COLUMNS[300] == "RP_0.59"
