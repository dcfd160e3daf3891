"""EEG of another rate becomes what the same electrodes would have given at 200 Hz."""

from __future__ import annotations

import numpy as np
import pytest

from hms_tune.data.resample import resampled, resampled_rows


def waves(sfreq: int, seconds: int = 20) -> np.ndarray:
    """Channels of 1, 10 and 40 Hz on an offset of 2 mV, µV."""
    times = np.arange(seconds * sfreq) / sfreq
    return np.stack([2000 + 50 * np.sin(2 * np.pi * hertz * times) for hertz in (1, 10, 40)]).astype(
        np.float32
    )


@pytest.mark.parametrize("sfreq", [128, 250, 256, 500, 512, 1000, 2000])
def test_waves_keep_their_form_their_length_and_their_offset(sfreq: int) -> None:
    given, wanted = waves(sfreq), waves(200)
    out = resampled(given, sfreq)
    assert out.shape == wanted.shape == (3, resampled_rows(given.shape[1], sfreq))
    inner = slice(20, -20)  # beside a tenth of a second at each end, where a filter knows one side alone
    assert np.abs(out - wanted)[:2, inner].max() < 0.5
    assert np.abs(out - wanted)[2, inner].max() < 2.5
    assert np.abs(out - wanted).max() < 50


def test_what_200_hz_cannot_hold_does_not_come_back_as_another_frequency() -> None:
    times = np.arange(20 * 1000) / 1000
    hum = (50 * np.sin(2 * np.pi * 180 * times)).astype(np.float32)[None]
    assert np.abs(resampled(hum, 1000)[:, 20:-20]).max() < 0.5
    assert np.abs(hum[:, ::5]).max() > 45  # every fifth sample would be 20 Hz


def test_missing_samples_stay_where_they_were_and_harm_no_others() -> None:
    given = waves(256)
    given[0, 1024:1280] = np.nan
    given[1] = np.nan
    out, whole = resampled(given, 256), resampled(waves(256), 256)
    gap = np.flatnonzero(np.isnan(out[0]))
    assert (gap[0], gap[-1] + 1) == (800, 1000)
    assert np.isnan(out[1]).all()
    assert not np.isnan(out[2]).any()
    assert np.abs(out[0] - whole[0])[np.r_[0:780, 1020:4000]].max() < 0.01
    assert np.isnan(given[0, 1024:1280]).all()  # what was given is not changed


@pytest.mark.parametrize(
    ("rows", "sfreq", "out"), [(12_800, 256, 10_000), (12_801, 256, 10_001), (1, 2000, 1)]
)
def test_the_length_is_known_without_the_signal(rows: int, sfreq: int, out: int) -> None:
    assert resampled_rows(rows, sfreq) == out
    assert resampled(np.zeros((1, rows), np.float32), sfreq).shape == (1, out)
