"""Recipes on real EEG, where it lies beside the project."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy import signal

from hms_tune.config.image_layout import panel_heights
from hms_tune.config.input import InputConfig, Spectral
from hms_tune.signals.image import ImageTransform
from hms_tune.signals.montage import CHAINS, ELECTRODES, REGIONS

FOLDER = Path(__file__).parents[3].parent / "shared" / "real_eeg" / "test_eegs"
FILES = sorted(FOLDER.glob("*.parquet"))

pytestmark = pytest.mark.skipif(not FILES, reason=f"no real EEG in {FOLDER}")


@pytest.fixture(scope="module")
def eeg() -> NDArray[np.float32]:
    """Float32 (n, 20, 10000), µV, centred."""
    recordings = np.stack([pd.read_parquet(file)[list(ELECTRODES)].to_numpy(np.float32) for file in FILES])
    centred: NDArray[np.float32] = np.nan_to_num(recordings - np.nanmedian(recordings, axis=1, keepdims=True))
    return centred.transpose(0, 2, 1).copy()


def test_multitaper_panels_are_the_hosts_spectrogram_of_real_eeg(eeg: NDArray[np.float32]) -> None:
    # as high as the bins and as wide as the frames: nothing is resized
    view = {"name": "multitaper"}
    config = InputConfig.model_validate({"eeg": view, "clip_uv": None, "image": [400, 25]})
    got = ImageTransform(config)(torch.from_numpy(eeg), None)[:, 0].numpy().reshape(-1, 4, 100, 25)
    sos = signal.butter(3, [0.5, 40], btype="band", output="sos", fs=200)
    filtered = signal.sosfiltfilt(sos, eeg.astype(np.float64), axis=-1)
    tapers = signal.windows.dpss(800, 2, 3) * np.sqrt(200)
    kept = slice(3, 103)  # 0.59–19.92 Hz
    power = np.zeros((len(eeg), 4, 100, 23))
    for region, name in enumerate(REGIONS):
        chain = filtered[:, [ELECTRODES.index(electrode) for electrode in CHAINS[name]]]
        for trace in np.moveaxis(chain[:, :-1] - chain[:, 1:], 1, 0):
            for frame in range(23):
                stretch = trace[:, 200 + 400 * frame : 1000 + 400 * frame]
                spectra = np.fft.rfft(stretch[:, None] * tapers, 1024)[..., kept] / 200
                power[:, region, :, frame] += (np.abs(spectra) ** 2).mean(axis=1) / 4
    expected = 10 * np.log10(power + 1e-4)
    inner = got[..., 1:-1] * 12.0 + 1.0
    seen = np.abs(got[..., 1:-1]) < 2.999  # what is clipped to the image's range is left out
    assert seen.mean() > 0.97
    assert np.corrcoef(inner[seen], expected[seen])[0, 1] > 0.999
    # what differs is how a filter begins and ends: SciPy's default mirrors less, and upside down
    inner, expected, seen = inner[..., 2:-2], expected[..., 2:-2], seen[..., 2:-2]
    for each in range(len(eeg)):
        mask = seen[each]
        assert np.corrcoef(inner[each][mask], expected[each][mask])[0, 1] > 0.99999


@pytest.mark.parametrize("montage", ["chains", "pairs"])
@pytest.mark.parametrize(
    "view",
    [
        *({"name": each.model_fields["name"].default} for each in get_args(Spectral)),
        {"name": "cwt", "spacing": "linear"},
    ],
    ids=lambda view: "-".join(view.values()),
)
def test_constants_centre_real_eeg(eeg: NDArray[np.float32], view: dict[str, str], montage: str) -> None:
    config = InputConfig.model_validate({"eeg": {**view, "montage": montage}, "image": [180, 250]})
    image = ImageTransform(config)(torch.from_numpy(eeg), None)
    assert image.mean().item() == pytest.approx(0, abs=0.1)
    assert image.std().item() == pytest.approx(0.95, abs=0.15)


def test_raw_lines_hold_the_traces_of_real_eeg(eeg: NDArray[np.float32]) -> None:
    settings = {"highpass_hz": None, "lowpass_hz": None, "clip_uv": None, "image": [160, 1000]}
    config = InputConfig.model_validate({"eeg": {"name": "raw", "scale_uv": 1.0}, **settings})
    image = ImageTransform(config)(torch.from_numpy(eeg), None)[:, 0]
    assert panel_heights(160, 16) == [10] * 16
    # 10 lines of 1000 pixels are the 10,000 samples themselves
    torch.testing.assert_close(
        image.view(len(eeg), 16, 10_000)[:, 0],
        torch.from_numpy(eeg[:, ELECTRODES.index("Fp1")] - eeg[:, ELECTRODES.index("F7")]),
    )
