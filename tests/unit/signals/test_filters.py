"""The zero-phase filter against SciPy's, and what it does to known signals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal

from hms_tune.signals.filters import ZeroPhaseFilter

SFREQ = 200.0


def noise(n_times: int = 10_000, n_chans: int = 3) -> np.ndarray:
    """Random walks with white noise on top: strong slow drift, like EEG electrodes, SD about 50."""
    generator = np.random.default_rng(0)
    walk = generator.standard_normal((n_chans, n_times)).cumsum(axis=-1)
    return walk - walk.mean(axis=-1, keepdims=True) + 5 * generator.standard_normal((n_chans, n_times))


def filtered(eeg: np.ndarray, **corners: float | None) -> np.ndarray:
    module = ZeroPhaseFilter(eeg.shape[-1], **corners)
    return module(torch.from_numpy(eeg).float().unsqueeze(0))[0].numpy()


@pytest.mark.parametrize(
    ("highpass", "lowpass", "kind"),
    [(0.5, 40.0, "bandpass"), (0.5, None, "highpass"), (None, 20.0, "lowpass"), (1.0, 70.0, "bandpass")],
)
def test_agrees_with_sosfiltfilt_over_the_whole_window(
    highpass: float | None, lowpass: float | None, kind: str
) -> None:
    eeg = noise()
    ours = ZeroPhaseFilter(10_000, highpass_hz=highpass, lowpass_hz=lowpass)
    corner = [edge for edge in (highpass, lowpass) if edge is not None]
    sos = signal.butter(3, corner if len(corner) == 2 else corner[0], btype=kind, output="sos", fs=SFREQ)
    expected = signal.sosfiltfilt(sos, eeg, padtype="even", padlen=ours.padding)
    difference = np.abs(ours(torch.from_numpy(eeg).float().unsqueeze(0))[0].numpy() - expected)
    assert difference.max() < 1e-3 * eeg.std()


def test_notch_agrees_with_filtfilt() -> None:
    eeg = noise()
    b, a = signal.iirnotch(60, 30, fs=SFREQ)
    expected = signal.filtfilt(b, a, eeg, padtype="even", padlen=400)
    assert np.abs(filtered(eeg, notch_hz=60) - expected).max() < 1e-3 * eeg.std()


def test_keeps_the_band_without_shifting_it_and_removes_the_rest() -> None:
    seconds = np.arange(10_000) / SFREQ
    slow, kept, mains = (np.sin(2 * np.pi * hz * seconds) for hz in (0.05, 8.0, 60.0))
    got = filtered((100 * slow + 20 * kept + 50 * mains)[None], highpass_hz=0.5, lowpass_hz=40, notch_hz=60)[
        0
    ]
    inner = slice(800, -800)
    assert np.abs(got[inner] - 20 * kept[inner]).max() < 0.2


def test_removes_a_direct_current_offset_completely() -> None:
    assert np.abs(filtered(np.full((1, 2000), 5000.0), highpass_hz=0.5)).max() < 0.01


def test_without_corners_nothing_is_touched() -> None:
    eeg = torch.randn(2, 3, 1000)
    assert ZeroPhaseFilter(1000)(eeg) is eeg


def test_corner_frequencies_lose_6_db() -> None:
    module = ZeroPhaseFilter(10_000, highpass_hz=0.5, lowpass_hz=40)
    frequencies = np.fft.rfftfreq(module.n_fft, 1 / SFREQ)
    at = [int(np.abs(frequencies - hz).argmin()) for hz in (0.5, 40.0, 5.0)]
    assert module.gain is not None
    assert module.gain[at].tolist() == pytest.approx([0.5, 0.5, 1.0], abs=0.02)
