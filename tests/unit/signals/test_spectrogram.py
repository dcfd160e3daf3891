"""Power spectrograms: units, equivalence of the two ways to compute them, mel bands."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import signal

from hms_tune.config.input import InputConfig
from hms_tune.signals import spectrogram
from hms_tune.signals.image import ImageTransform
from hms_tune.signals.spectrogram import (
    FrequencyBins,
    PowerSpectrogram,
    decibel,
    frequency_bins,
    hann_taper,
    hop_length,
    mel_filterbank,
)

SFREQ = 200.0


def make(n_times: int = 10_000, n_fft: int = 512, hop: int = 39, low: float = 0.5, high: float = 20.0):
    return PowerSpectrogram(
        n_times,
        hann_taper(min(n_fft, n_times)),
        frequency_bins(n_fft, low_hz=low, high_hz=high),
        hop=hop,
        one_sided=True,
    )


def edges(bins: FrequencyBins) -> tuple[int, int]:
    return bins.first, bins.stop


def test_power_is_the_density_that_scipy_computes() -> None:
    eeg = np.random.default_rng(0).standard_normal((1, 2, 10_000)) * 20
    power = make(n_fft=500, hop=250, low=0.0, high=100.0)(torch.from_numpy(eeg).float())[0, 0]
    frequencies, _, expected = signal.spectrogram(
        eeg[0, 0], fs=SFREQ, window="hann", nperseg=500, noverlap=250, detrend=False, mode="psd"
    )
    assert frequencies.shape == (power.shape[1],)
    # Ours begins with a frame that is centred on the first half hop; scipy's 39 lie 125 samples later.
    ours = make(n_times=9_750, n_fft=500, hop=250, low=0.0, high=100.0)
    assert ours.before == 125
    inner = ours(torch.from_numpy(eeg[..., 125:9_875]).float())[0, 0, 1:-1].numpy()
    np.testing.assert_allclose(inner, expected[:, 1:38].T[: len(inner)], rtol=1e-3, atol=1e-5)


def test_white_noise_of_known_variance_has_its_density() -> None:
    eeg = torch.randn(4, 4, 10_000, generator=torch.Generator().manual_seed(0)) * 10
    assert make()(eeg).mean().item() == pytest.approx(2 * 100 / SFREQ, rel=0.02)


@pytest.mark.parametrize("n_fft", [128, 256, 512, 1024])
def test_matrix_product_and_fft_agree(n_fft: int, monkeypatch: pytest.MonkeyPatch) -> None:
    eeg = torch.randn(2, 3, 10_000, generator=torch.Generator().manual_seed(0)) * 50
    module = make(n_fft=n_fft)
    product = module(eeg)
    monkeypatch.setattr(spectrogram, "MATMUL_LIMIT", 0)
    fft = module(eeg)
    assert (decibel(product) - decibel(fft)).abs().max() < 0.01


def test_a_batch_is_done_in_parts_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    eeg = torch.randn(5, 3, 2_000, generator=torch.Generator().manual_seed(0)) * 50
    module = make(n_times=2_000)
    whole = module(eeg)
    monkeypatch.setattr(spectrogram, "CPU_VALUES", 1)
    torch.testing.assert_close(module(eeg), whole)


def test_a_tone_appears_at_its_frequency_and_time() -> None:
    seconds = torch.arange(10_000) / SFREQ
    tone = torch.sin(2 * math.pi * 10 * seconds) * (seconds > 25)
    module = make()
    power = module(tone[None, None])[0, 0]
    assert module.frequencies[power[200].argmax()].item() == pytest.approx(10, abs=0.4)
    # A tone of amplitude 1 between two bins: 0.5 µV² over about 1.5 bins of 0.39 Hz, -1 dB or so.
    assert decibel(power[:120]).max() < -30
    assert decibel(power[140:-8]).amax(dim=1).tolist() == pytest.approx([-1.6] * 108, abs=0.1)


def test_silence_is_minus_40_decibel() -> None:
    assert decibel(make()(torch.zeros(1, 1, 10_000))).unique().tolist() == pytest.approx([-40.0])


@pytest.mark.parametrize(
    ("n_times", "n_fft", "width"),
    [(10_000, 512, 256), (1_000, 2048, 512), (1_000, 128, 2048), (10_000, 128, 16)],
)
def test_frames_cover_the_width_and_leave_no_sample_out(n_times: int, n_fft: int, width: int) -> None:
    hop = hop_length(n_times, width, n_fft)
    module = make(n_times=n_times, n_fft=n_fft, hop=hop)
    power = module(torch.randn(1, 2, n_times))
    enough = spectrogram.MOST_OVERLAP * n_times // min(n_fft, n_times)
    assert power.shape[2] == n_times // hop >= min(width, enough)
    assert hop <= n_fft // 2
    assert power.isfinite().all()


@pytest.mark.parametrize("n_fft", [512, 2048])
def test_frames_that_are_left_out_are_not_missed(n_fft: int, monkeypatch: pytest.MonkeyPatch) -> None:
    eeg = torch.randn(1, 20, 10_000, generator=torch.Generator().manual_seed(0)) * 50
    config = InputConfig.model_validate({"eeg": {"name": "stft", "n_fft": n_fft}, "image": [128, 512]})
    sparse = ImageTransform(config)(eeg, None)
    monkeypatch.setattr(spectrogram, "MOST_OVERLAP", 10_000)
    dense = ImageTransform(config)(eeg, None)
    assert torch.corrcoef(torch.stack([sparse.flatten(), dense.flatten()]))[0, 1] > 0.999
    assert (sparse - dense).abs().mean() * 12 < 0.15  # dB


def test_default_hop_gives_exactly_the_image_width() -> None:
    assert 10_000 // hop_length(10_000, 256, 512) == 256


def test_bins_lie_between_the_frequencies() -> None:
    assert edges(frequency_bins(200, low_hz=0.5, high_hz=20)) == (1, 21)
    assert edges(frequency_bins(512, low_hz=0.5, high_hz=20)) == (2, 52)
    assert edges(frequency_bins(128, low_hz=0.1, high_hz=0.5)) == (0, 1)
    assert edges(frequency_bins(128, low_hz=0.5, high_hz=100)) == (1, 65)


@pytest.mark.parametrize(("n_fft", "n_mels"), [(256, 128), (512, 64), (2048, 32), (128, 256)])
def test_no_mel_band_is_empty_and_a_flat_spectrum_stays_flat(n_fft: int, n_mels: int) -> None:
    frequencies = make(n_fft=n_fft).frequencies
    bands = mel_filterbank(frequencies, n_mels, low_hz=0.5, high_hz=20)
    assert bands.shape == (n_mels, len(frequencies))
    torch.testing.assert_close(bands @ torch.full((len(frequencies),), 7.0), torch.full((n_mels,), 7.0))
    centres = (bands * frequencies).sum(dim=1)
    assert (centres.diff() >= -1e-4).all()
    assert centres[0] < 2
    assert centres[-1] > 18
