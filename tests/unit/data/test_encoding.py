import numpy as np
import pytest

from hms_tune.data.files.encoding import (
    ABSOLUTE_ERROR,
    FLOAT16_MAX,
    RELATIVE_ERROR,
    centres,
    encode_eeg,
    encode_power,
    round_to_half,
    second_means,
)


def test_every_float16_is_kept_as_it_is() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    rounded = round_to_half(every.astype(np.float32))
    assert rounded.view(np.uint16).tolist() == every.view(np.uint16).tolist()


def test_any_float32_in_range_is_rounded_within_the_documented_bound() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 10**6, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.abs(values) <= FLOAT16_MAX]
    assert len(values) > 500_000
    exact = values.astype(np.float64)
    rounded = round_to_half(values.copy()).astype(np.float64)
    bound = np.maximum(RELATIVE_ERROR * np.abs(exact), ABSOLUTE_ERROR * 1.001)
    assert (np.abs(rounded - exact) <= bound).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0, 10_000.0])
def test_rounding_agrees_with_numpy_but_for_halves(scale: float) -> None:
    values = np.random.default_rng(1).normal(0, scale, (20, 70_000)).astype(np.float32)
    values = np.clip(values, -FLOAT16_MAX, FLOAT16_MAX)
    rounded = round_to_half(values.copy())
    assert rounded.shape == values.shape
    assert np.mean(rounded == values.astype(np.float16)) > 0.999


def test_nan_stays_nan_and_zero_zero() -> None:
    rounded = round_to_half(np.float32([np.nan, 0.0, -0.0, 1.5, -np.nan]))
    assert np.isnan(rounded[[0, 4]]).all()
    assert rounded[1:4].tolist() == [0.0, 0.0, 1.5]


def test_the_centre_is_the_median_of_second_means_and_ignores_an_artefact() -> None:
    eeg = np.tile(np.float32([[700.0], [-3000.0]]), (1, 10_000))
    eeg[0, 2000:6000] += 40_960  # 20 of 50 seconds
    eeg[1, 9_990] = np.nan
    signal = encode_eeg(eeg)
    assert signal.centre.tolist() == [700.0, -3000.0]
    assert signal.values[:2000].tolist() == [[0.0, 0.0]] * 2000
    assert np.isnan(signal.values[9_990, 1])
    assert signal.values[3000, 0] == 40_960


def test_the_last_seconds_of_a_recording_that_is_no_whole_number_of_them_count() -> None:
    ramp = np.arange(450, dtype=np.float32)[None, :]
    assert second_means(ramp).tolist() == [[99.5, 299.5, 349.5]]


def test_a_channel_with_nan_in_every_second_is_centred_on_its_samples_and_a_dead_one_on_zero() -> None:
    eeg = np.full((2, 1000), np.nan, dtype=np.float32)
    eeg[0, ::2] = 40.0
    assert centres(eeg, second_means(eeg)).tolist() == [40.0, 0.0]


def test_what_lies_beyond_the_range_is_stored_at_its_edge_and_counted() -> None:
    eeg = np.zeros((20, 1000), dtype=np.float32)
    eeg[3, 5], eeg[4, 6] = 1e6, -1e6
    signal = encode_eeg(eeg)
    assert (signal.values[5, 3], signal.values[6, 4], signal.clipped) == (FLOAT16_MAX, -FLOAT16_MAX, 2)


def test_log_power_is_kept_within_its_bound_down_to_the_floor() -> None:
    power = np.exp(np.random.default_rng(2).uniform(-16, 16, (400, 300))).astype(np.float32)
    power[0, 0] = 0.0
    stored = encode_power(power.copy()).values.astype(np.float64).T
    assert np.abs(stored - np.log(np.maximum(power, 1e-6).astype(np.float64))).max() <= 2.0**-8 + 2e-6


def test_nan_of_any_bits_is_stored_as_nan() -> None:
    bits = np.uint32([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFFC00000])
    eeg = np.zeros((20, 1000), dtype=np.float32)
    eeg[3, :5] = bits.view(np.float32)
    assert np.flatnonzero(np.isnan(encode_eeg(eeg).values[:, 3])).tolist() == [0, 1, 2, 3, 4]
    power = np.ones((400, 300), dtype=np.float32)
    power[7, :5] = bits.view(np.float32)
    assert np.flatnonzero(np.isnan(encode_power(power).values[:, 7])).tolist() == [0, 1, 2, 3, 4]


def test_channels_in_arrays_of_their_own_are_stored_as_those_in_one() -> None:
    eeg = np.random.default_rng(3).normal(500, 50, (20, 12_345)).astype(np.float32)
    one, apart = encode_eeg(eeg), encode_eeg(list(eeg.copy()))
    assert one.values.tobytes() == apart.values.tobytes()
    assert one.centre.tolist() == apart.centre.tolist()
