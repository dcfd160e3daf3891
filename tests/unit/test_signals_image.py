"""Images: shapes, panels, scaling, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from hms_tune.config.trial import InputConfig
from hms_tune.errors import SignalError
from hms_tune.signals.image import ImageTransform, kaggle_panels, panel_heights
from hms_tune.signals.montage import ELECTRODES


def background(batch: int = 2, n_times: int = 10_000) -> torch.Tensor:
    """Noise of 20 µV, alike on all channels but independent."""
    return torch.randn(batch, 20, n_times, generator=torch.Generator().manual_seed(0)) * 20


def make(**settings: object) -> ImageTransform:
    return ImageTransform(InputConfig(**settings))


@pytest.mark.parametrize("kind", ["eeg_spectrogram", "kaggle_spectrogram", "both"])
@pytest.mark.parametrize("montage", ["chains", "pairs"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_fills_the_image(kind: str, montage: str, channels: int) -> None:
    transform = make(kind=kind, montage=montage, channels=channels, image=(75, 121))
    eeg = background() if transform.needs_eeg else None
    spectrogram = torch.randn(2, 400, 300) if transform.needs_spectrogram else None
    image = transform(eeg, spectrogram)
    assert image.shape == (2, channels, 75, 121)
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert image.abs().max() <= 3.01
    assert all(torch.equal(image[:, 0], image[:, channel]) for channel in range(channels))


def test_only_the_panel_of_the_chain_that_carries_a_rhythm_lights_up() -> None:
    eeg = torch.zeros(1, 20, 10_000)
    rhythm = 50 * torch.sin(2 * math.pi * 10 * torch.arange(10_000) / 200)
    eeg[0, ELECTRODES.index("T4")] = rhythm
    panels = make()(eeg, None)[0, 0].view(4, 32, 256)
    brightest = panels.amax(dim=(1, 2))
    assert brightest[1] > 1.0
    assert brightest[[0, 2, 3]].tolist() == pytest.approx([-3.0] * 3)
    row = panels[1].mean(dim=1).argmax().item()
    assert 0.5 + 19.5 * (row + 0.5) / 32 == pytest.approx(10, abs=0.7)


def test_pairs_keep_the_midline_and_their_order() -> None:
    eeg = torch.zeros(1, 20, 10_000)
    eeg[0, ELECTRODES.index("Pz")] = 50 * torch.sin(2 * math.pi * 5 * torch.arange(10_000) / 200)
    image = make(montage="pairs", image=(180, 64))(eeg, None)[0, 0].view(18, 10, 64)
    assert (image.amax(dim=(1, 2)) > 0).nonzero().flatten().tolist() == [17]


def test_values_are_scaled_by_constants_not_by_the_sample() -> None:
    transform = make(highpass_hz=None, lowpass_hz=None)
    quiet, loud = transform(background(1), None), transform(10 * background(1), None)
    # Ten times the amplitude is 20 dB more power, and 12 dB is one unit.
    assert (loud - quiet)[(loud < 3) & (quiet > -2)].mean().item() == pytest.approx(20 / 12, abs=0.01)


def test_a_batch_does_not_change_its_samples() -> None:
    eeg = background(3)
    transform = make(transform="mel", kind="eeg_spectrogram")
    torch.testing.assert_close(transform(eeg, None)[1:2], transform(eeg[1:2], None), atol=1e-4, rtol=0)


def test_the_window_is_the_centre_of_the_recording() -> None:
    eeg = background(1)
    changed = eeg.clone()
    changed[..., :3_900] = 0
    changed[..., 6_100:] = 0
    transform = make(window_seconds=10)
    torch.testing.assert_close(transform(eeg, None), transform(changed, None))


def test_amplitudes_are_clipped() -> None:
    eeg = torch.zeros(1, 20, 10_000)
    eeg[0, 5] = 1e6 * torch.sin(2 * math.pi * 3 * torch.arange(10_000) / 200)
    settings = {"window_seconds": 50, "highpass_hz": None, "lowpass_hz": None}
    assert (
        make(clip_uv=1.0, **settings)(eeg, None).max() < 1.0 < make(clip_uv=1e6, **settings)(eeg, None).max()
    )


def test_kaggle_values_are_clipped_and_gaps_are_zero() -> None:
    spectrogram = torch.zeros(1, 400, 300)
    spectrogram[0, 0, 0], spectrogram[0, 0, 1], spectrogram[0, 0, 2] = -50.0, 50.0, float("nan")
    panels = kaggle_panels(spectrogram)
    assert panels.shape == (1, 4, 100, 300)
    assert panels[0, 0, 0, :4].tolist() == pytest.approx([-4.7 / 2.8, 7.3 / 2.8, 0.0, -0.7 / 2.8])


def test_both_inputs_lie_side_by_side() -> None:
    eeg, spectrogram = background(), torch.randn(2, 400, 300)
    image = make(kind="both")(eeg, spectrogram)
    left = make(image=(128, 128))(eeg, None)
    right = make(kind="kaggle_spectrogram", image=(128, 128))(None, spectrogram)
    torch.testing.assert_close(image, torch.cat([left, right], dim=-1))


def test_autocast_does_not_lower_the_precision() -> None:
    eeg = background(1)
    transform = make(transform="mel")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = transform(eeg, None)
    torch.testing.assert_close(lowered, transform(eeg, None), atol=1e-5, rtol=0)


def test_rows_that_do_not_divide_go_to_the_first_panels() -> None:
    assert panel_heights(128, 18) == [8] * 2 + [7] * 16
    assert panel_heights(128, 4) == [32] * 4


def test_missing_and_misshapen_inputs_are_named() -> None:
    with pytest.raises(SignalError, match="needs the Kaggle spectrogram"):
        make(kind="both")(background(), None)
    with pytest.raises(SignalError, match=r"shape \(batch, 20, time\), got \(2, 19, 100\)"):
        make()(torch.zeros(2, 19, 100), None)
    with pytest.raises(SignalError, match="9000 samples; a window of 50 s at 200 Hz needs 10000"):
        make()(background(n_times=9_000), None)
    with pytest.raises(SignalError, match="16 rows cannot show 18 panels"):
        make(montage="pairs", image=(16, 64))
