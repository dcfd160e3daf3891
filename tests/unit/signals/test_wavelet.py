"""Morlet power: density, place in time and frequency, and agreement with convolution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hms_tune.signals import spectrogram
from hms_tune.signals.wavelet import MorletPower, wavelet_frequencies

SFREQ = 200.0


def make(n_times: int = 10_000, columns: int = 256, cycles: float = 6.0, count: int = 30, log: bool = True):
    frequencies = wavelet_frequencies(count, low_hz=0.5, high_hz=20.0, logarithmic=log)
    module = MorletPower(n_times, frequencies=frequencies, cycles=cycles, columns=columns)
    return module, frequencies


def test_agrees_with_convolution_by_the_wavelets() -> None:
    eeg = np.random.default_rng(0).standard_normal(10_000) * 20
    module, frequencies = make(count=5)
    got = module(torch.from_numpy(eeg).float()[None, None])[0, 0].numpy()
    seconds = np.arange(-2000, 2001) / SFREQ
    for row, hz in enumerate(frequencies.numpy()):
        spread = 6.0 / (2 * np.pi * hz)
        kernel = np.exp(2j * np.pi * hz * seconds - seconds**2 / (2 * spread**2))
        kernel /= np.sqrt(2 * np.pi) * spread * SFREQ  # gain 1 at its own frequency
        power = 2 * np.abs(np.convolve(eeg, kernel, "same")) ** 2 / (hz / 6.0 * np.sqrt(np.pi))
        # mean over each column's span; the columns' edges fall between samples
        sums = np.interp(
            np.linspace(0, 10_000, 257), np.arange(10_001), np.concatenate([[0], power.cumsum()])
        )
        expected = np.diff(sums) / (10_000 / 256)
        inner = slice(60, -60)
        assert np.corrcoef(got[inner, row], expected[inner])[0, 1] > 0.998
        assert got[inner, row].mean() == pytest.approx(expected[inner].mean(), rel=0.02)


@pytest.mark.parametrize("cycles", [2.0, 6.0, 15.0])
def test_white_noise_of_known_variance_has_its_density_at_every_frequency(cycles: float) -> None:
    noise = torch.randn(16, 16, 10_000, generator=torch.Generator().manual_seed(0)) * 10
    power = make(cycles=cycles, count=6)[0](noise).mean(dim=(0, 1, 2))
    assert power.tolist() == pytest.approx([2 * 100 / SFREQ] * 6, rel=0.12)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("hz", [1.0, 4.0, 11.0])
def test_a_tone_stands_in_its_row(hz: float, log: bool) -> None:
    module, frequencies = make(count=40, log=log)
    tone = torch.sin(2 * math.pi * hz * torch.arange(10_000) / SFREQ)
    # at the edges the mirrored tone meets itself with another phase
    rows = module(tone[None, None])[0, 0, 25:-25].argmax(dim=-1)
    nearest = (frequencies - hz).abs().min()
    assert ((frequencies[rows] - hz).abs() <= max(2 * nearest, 0.08 * hz)).all()


@pytest.mark.parametrize(
    ("n_times", "columns"), [(10_000, 256), (2_000, 121), (1_000, 333), (1_001, 17), (1_000, 2_048)]
)
@pytest.mark.parametrize("cycles", [2.0, 20.0])
def test_a_burst_stands_in_its_column_at_odd_sizes_too(n_times: int, columns: int, cycles: float) -> None:
    module, _ = make(n_times=n_times, columns=columns, cycles=cycles)
    at = round(0.7 * n_times)
    eeg = torch.zeros(1, 1, n_times)
    eeg[..., at : at + 3] = 100.0
    power = module(eeg)[0, 0]
    assert power.shape == (min(columns, n_times), 30)
    assert power.isfinite().all()
    column = power[:, -1].argmax().item()
    slack = 1.0 + 0.02 * SFREQ * len(power) / n_times
    assert abs(column + 0.5 - (at + 1.5) * len(power) / n_times) <= slack


def test_a_batch_is_done_in_parts_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    eeg = torch.randn(5, 3, 2_000, generator=torch.Generator().manual_seed(0)) * 50
    module, _ = make(n_times=2_000, columns=64)
    whole = module(eeg)
    monkeypatch.setattr(spectrogram, "CPU_VALUES", 1)
    torch.testing.assert_close(module(eeg), whole)


def test_slow_wavelets_cost_short_transforms() -> None:
    module, _ = make()
    lengths = [module.get_buffer(f"gain_{i}").shape[1] for i in range(len(module.oversampling))]
    assert lengths[0] < 400
    assert lengths[-1] < 2_000
