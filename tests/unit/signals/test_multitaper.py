"""Multitaper spectrograms against the host's method, written anew with SciPy and NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import signal

from hms_tune.config.input import InputConfig, Multitaper
from hms_tune.data.synthetic.spectrogram import chain_spectrogram
from hms_tune.signals import spectrogram
from hms_tune.signals.image import BipolarWindow
from hms_tune.signals.montage import CHAINS, ELECTRODES, REGIONS
from hms_tune.signals.recipes import SpectralPanels, multitaper_power

SFREQ = 200


def hosts_spectrogram(eeg: NDArray[np.float64]) -> NDArray[np.float64]:
    """One electrode, one pair, one frame and one taper at a time: float64 (4 regions, 100, 23), µV²/Hz.

    Frames are those of 50 s that lie wholly inside: 1–5 s, 3–7 s, … 45–49 s.
    """
    b, a = signal.butter(3, [0.5, 40], btype="band", fs=SFREQ)
    filtered = {name: signal.filtfilt(b, a, eeg[i]) for i, name in enumerate(ELECTRODES[:19])}
    tapers = signal.windows.dpss(800, 2, 3) * np.sqrt(SFREQ)
    frequencies = np.fft.rfftfreq(1024, 1 / SFREQ)
    kept = (frequencies >= 0.5) & (frequencies <= 20)
    regions = np.zeros((len(REGIONS), kept.sum(), 23))
    for region, name in enumerate(REGIONS):
        electrodes = CHAINS[name]
        for anode, cathode in itertools.pairwise(electrodes):
            trace = filtered[anode] - filtered[cathode]
            for frame in range(23):
                stretch = trace[200 + 400 * frame : 1000 + 400 * frame]
                for taper in tapers:
                    spectrum = np.fft.rfft(stretch * taper, 1024) / SFREQ
                    regions[region, :, frame] += np.abs(spectrum[kept]) ** 2 / 3 / 4
    return regions


def eeg_like(seed: int) -> NDArray[np.float64]:
    """Brownian noise of 19 electrodes and a rhythm on some: float64 (20, 10000), about 30 µV."""
    generator = np.random.default_rng(seed)
    walk = signal.lfilter([1], [1, -0.98], generator.standard_normal((20, 10_000)) * 6, axis=1)
    seconds = np.arange(10_000) / SFREQ
    walk[:8] += 20 * np.sin(2 * np.pi * 3.1 * seconds) * (seconds > 20)
    return walk


def panels_db(eeg: NDArray[np.float64], **settings: object) -> torch.Tensor:
    config = InputConfig(eeg=Multitaper(**settings), clip_uv=None)
    assert isinstance(config.eeg, Multitaper)
    pairs = BipolarWindow(config)(torch.from_numpy(eeg).float().unsqueeze(0))
    panels: torch.Tensor = SpectralPanels(config.eeg, width=256)(pairs)[0]
    return panels


@pytest.mark.parametrize("seed", [0, 1])
def test_is_the_hosts_method(seed: int) -> None:
    eeg = eeg_like(seed)
    expected = 10 * np.log10(hosts_spectrogram(eeg) + spectrogram.POWER_FLOOR)
    got = panels_db(eeg).numpy()
    assert got.shape == (4, 100, 25)
    inner = got[:, :, 1:-1]
    assert np.corrcoef(inner.ravel(), expected.ravel())[0, 1] > 0.9999
    assert np.abs(inner - expected).max() < 0.5
    power = np.corrcoef(10 ** (inner / 10).ravel(), 10 ** (expected / 10).ravel())
    assert power[0, 1] > 0.9999


def test_agrees_with_the_spectrograms_of_the_synthetic_competition() -> None:
    eeg = eeg_like(2)
    file = chain_spectrogram(eeg[:19].astype(np.float32), 23, 600).reshape(23, 4, 100)
    expected = 10 * np.log10(file.transpose(1, 2, 0) + spectrogram.POWER_FLOOR)
    inner = panels_db(eeg)[:, :, 1:-1].numpy()
    assert np.corrcoef(inner.ravel(), expected.ravel())[0, 1] > 0.9999
    assert np.abs(inner - expected).mean() < 0.01


def test_white_noise_has_half_its_one_sided_density() -> None:
    noise = torch.randn(8, 4, 10_000, generator=torch.Generator().manual_seed(0)) * 10
    assert multitaper_power(Multitaper(), 10_000)(noise).mean().item() == pytest.approx(100 / SFREQ, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "frames", "bins"),
    [
        ({}, 25, 100),
        ({"step_seconds": 0.5}, 100, 100),
        ({"taper_seconds": 2.0, "step_seconds": 1.0}, 50, 50),
        ({"taper_seconds": 6.5, "half_bandwidth": 4.0, "tapers": 7}, 25, 199),
        ({"window_seconds": 5.0}, 2, 100),
    ],
)
@pytest.mark.parametrize("limit", [0, 1024])
def test_a_tone_stands_in_its_row_whatever_the_tapers(
    settings: dict[str, float], frames: int, bins: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectrogram, "MATMUL_LIMIT", limit)
    view = Multitaper(**settings)
    n_times = round(view.window_seconds * SFREQ)
    module = multitaper_power(view, n_times)
    tone = torch.sin(2 * torch.pi * 7.0 * torch.arange(n_times) / SFREQ)
    power = module(tone.expand(2, 3, -1))
    assert power.shape == (2, 3, frames, bins)
    resolution = 2 * view.half_bandwidth / view.taper_seconds
    peaks = module.frequencies[power.argmax(dim=-1)]
    assert (peaks - 7.0).abs().max() <= resolution / 2
