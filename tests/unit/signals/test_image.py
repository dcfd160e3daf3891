"""Images: shapes, views, panels, scaling, and what is refused."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch

from hms_tune.config.image_layout import panel_heights
from hms_tune.config.input import InputConfig, Raw, Spectral
from hms_tune.errors import SignalError
from hms_tune.signals.image import ImageTransform, kaggle_panels
from hms_tune.signals.montage import ELECTRODES

SPECTRAL = [recipe().name for recipe in get_args(Spectral)]
RECIPES = [*SPECTRAL, Raw().name]


def background(batch: int = 2, n_times: int = 10_000) -> torch.Tensor:
    """Noise of 20 µV, alike on all channels but independent."""
    return torch.randn(batch, 20, n_times, generator=torch.Generator().manual_seed(0)) * 20


def eeg_like(batch: int, n_times: int = 10_000) -> torch.Tensor:
    """Noise whose power falls with the square of the frequency above 1 Hz, SD 15 µV."""
    spectrum = torch.fft.rfft(background(batch, n_times))
    frequencies = torch.fft.rfftfreq(n_times, 1 / 200)
    shaped = torch.fft.irfft(spectrum / (1 + frequencies), n=n_times)
    return 15 * shaped / shaped.std()


def make(**settings: Any) -> ImageTransform:
    return ImageTransform(InputConfig.model_validate(settings))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "settings",
    [
        {"image": [75, 121], "channels": 3},
        {"image": [181, 67], "montage": "pairs", "kaggle": "kaggle"},
        {"image": [33, 530], "montage": "lateral_pairs", "window_seconds": 7.3},
    ],
)
@pytest.mark.parametrize("scaling", ["global", "per_sample"])
def test_every_recipe_fills_images_of_odd_sizes(recipe: str, settings: dict[str, Any], scaling: str) -> None:
    view = {
        "name": recipe,
        **{key: settings[key] for key in ("montage", "window_seconds") if key in settings},
    }
    rest = {key: settings[key] for key in ("image", "channels", "kaggle") if key in settings}
    transform = make(eeg=view, scaling=scaling, **rest)
    image = transform(background(), torch.randn(2, 400, 300) if transform.needs_spectrogram else None)
    assert image.shape == (2, settings.get("channels", 1), *settings["image"])
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    if recipe != "raw":
        assert image.abs().max() <= 3.01
    assert torch.equal(image[:, 0], image[:, -1])


@pytest.mark.parametrize("recipe", SPECTRAL)
def test_only_the_panel_of_the_chain_that_carries_a_rhythm_lights_up(recipe: str) -> None:
    eeg = torch.zeros(1, 20, 10_000)
    rhythm = 50 * torch.sin(2 * math.pi * 10 * torch.arange(10_000) / 200)
    eeg[0, ELECTRODES.index("T4")] = rhythm
    linear = {"spacing": "linear"} if recipe == "cwt" else {}
    panels = make(eeg={"name": recipe, **linear})(eeg, None)[0, 0].view(4, 32, 256)
    brightest = panels.amax(dim=(1, 2))
    assert brightest[1] > 1.0
    assert brightest[[0, 2, 3]].tolist() == pytest.approx([-3.0] * 3)
    row = panels[1].mean(dim=1).argmax().item()
    assert 0.5 + 19.5 * (row + 0.5) / 32 == pytest.approx(10, abs=0.7)


@pytest.mark.parametrize("recipe", SPECTRAL)
@pytest.mark.parametrize("window_seconds", [10.0, 50.0])
def test_a_burst_lights_up_its_columns(recipe: str, window_seconds: float) -> None:
    eeg = torch.zeros(1, 20, 10_000)
    at = 5_000 + round(0.2 * window_seconds * 200)  # at 70 % of the window
    burst = 100 * torch.sin(2 * math.pi * 8 * torch.arange(200) / 200)
    eeg[0, ELECTRODES.index("C3"), at - 100 : at + 100] = burst
    step = {"step_seconds": 0.5} if recipe == "multitaper" else {}
    view = {"name": recipe, "window_seconds": window_seconds, **step}
    panels = make(eeg=view, image=[128, 200])(eeg, None)[0, 0].view(4, 32, 200)
    course = (panels[2] + 3).clamp(min=0).sum(dim=0)
    centre = (course * (torch.arange(200) + 0.5)).sum() / course.sum()
    assert centre.item() == pytest.approx(140, abs=8)


def test_raw_traces_run_line_by_line_through_their_panel() -> None:
    ramp = torch.arange(10_000, dtype=torch.float32) / 100
    eeg = torch.zeros(1, 20, 10_000)
    eeg[0, ELECTRODES.index("P4")] = ramp
    settings = {"highpass_hz": None, "lowpass_hz": None, "clip_uv": None, "image": [166, 100]}
    lines = {"name": "raw", "lines": 10, "scale_uv": 10.0}
    image = make(eeg=lines, **settings)(eeg, None)[0, 0]
    heights = panel_heights(166, 16)
    starts = [sum(heights[:panel]) for panel in range(16)]
    # C4-P4 falls, P4-O2 rises; all other pairs are silent
    rising = image[starts[15] : starts[15] + 10]
    torch.testing.assert_close(rising.flatten(), (torch.arange(1000) + 0.45) / 100, atol=0.006, rtol=0)
    torch.testing.assert_close(image[starts[14] : starts[14] + 10], -rising)
    assert image[: starts[14]].abs().max() == 0
    # a panel of 11 rows shows one of its 10 lines twice, and mixes none
    assert heights[0] == 11
    first = make(eeg=lines, **settings)(eeg.roll(-12, dims=1), None)[0, 0, :11]
    assert len(first.unique(dim=0)) <= 10


@pytest.mark.parametrize(("lines", "rows"), [(None, 8), (4, 4)])
def test_raw_traces_fill_their_panels(lines: int | None, rows: int) -> None:
    image = make(eeg={"name": "raw", "lines": lines}, image=[128, 256])(background(1), None)[0, 0]
    assert [len(panel.unique(dim=0)) for panel in image.view(16, 8, 256)] == [rows] * 16


def test_pairs_keep_the_midline_and_their_order() -> None:
    eeg = torch.zeros(1, 20, 10_000)
    eeg[0, ELECTRODES.index("Pz")] = 50 * torch.sin(2 * math.pi * 5 * torch.arange(10_000) / 200)
    image = make(eeg={"name": "stft", "montage": "pairs"}, image=[180, 64])(eeg, None)[0, 0].view(18, 10, 64)
    assert (image.amax(dim=(1, 2)) > 0).nonzero().flatten().tolist() == [17]


def test_values_are_scaled_by_constants_not_by_the_sample() -> None:
    transform = make(highpass_hz=None, lowpass_hz=None)
    quiet, loud = transform(background(1), None), transform(10 * background(1), None)
    # Ten times the amplitude is 20 dB more power, and 12 dB is one unit.
    assert (loud - quiet)[(loud < 3) & (quiet > -2)].mean().item() == pytest.approx(20 / 12, abs=0.01)


@pytest.mark.parametrize("recipe", [*RECIPES, "kaggle"])
def test_each_sample_is_scaled_by_itself_on_request(recipe: str) -> None:
    eeg = eeg_like(3)
    spectrogram = torch.randn(3, 40, 1).repeat_interleave(10, dim=1).expand(-1, -1, 300) + 1
    views = {"eeg": None, "kaggle": "kaggle"} if recipe == "kaggle" else {"eeg": recipe}
    transform = make(**views, scaling="per_sample", clip_uv=None)
    given = (None, spectrogram) if recipe == "kaggle" else (eeg, None)
    image = transform(*given)
    # resizing to the image averages noise away
    assert image.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0] * 3, abs=0.05)
    assert all(0.4 < spread < 1.1 for spread in image.std(dim=(1, 2, 3)).tolist())
    louder = transform(None, spectrogram + 0.5) if recipe == "kaggle" else transform(2 * eeg, None)
    torch.testing.assert_close(louder, image, atol=0.02, rtol=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_constants_bring_eeg_to_about_zero_mean_and_unit_spread(recipe: str) -> None:
    for montage in ("lateral_pairs", "pairs") if recipe == "raw" else ("chains", "pairs"):
        image = make(eeg={"name": recipe, "montage": montage}, image=[144, 256])(eeg_like(4), None)
        assert abs(image.mean().item()) < 0.5
        assert 0.4 < image.std().item() < 1.6


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("scaling", ["global", "per_sample"])
@pytest.mark.parametrize("fill", [0.0, float("nan")])
def test_windows_without_signal_give_finite_images(recipe: str, scaling: str, fill: float) -> None:
    transform = make(eeg=recipe, kaggle="kaggle", scaling=scaling)
    image = transform(torch.full((2, 20, 10_000), fill), torch.full((2, 400, 300), fill))
    assert image.isfinite().all()
    if scaling == "per_sample":
        assert image.abs().max() == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_batch_does_not_change_its_samples(recipe: str) -> None:
    eeg = background(3)
    transform = make(eeg=recipe, scaling="per_sample")
    torch.testing.assert_close(transform(eeg, None)[1:2], transform(eeg[1:2], None), atol=1e-4, rtol=0)


def test_the_window_is_the_centre_of_the_recording() -> None:
    eeg = background(1)
    changed = eeg.clone()
    changed[..., :3_900] = 0
    changed[..., 6_100:] = 0
    transform = make(eeg={"name": "stft", "window_seconds": 10})
    torch.testing.assert_close(transform(eeg, None), transform(changed, None))


def test_amplitudes_are_clipped() -> None:
    eeg = torch.zeros(1, 20, 10_000)
    eeg[0, 5] = 1e6 * torch.sin(2 * math.pi * 3 * torch.arange(10_000) / 200)
    settings = {"highpass_hz": None, "lowpass_hz": None}
    assert (
        make(clip_uv=1.0, **settings)(eeg, None).max() < 1.0 < make(clip_uv=None, **settings)(eeg, None).max()
    )
    assert make(eeg={"name": "raw", "scale_uv": 32}, clip_uv=64.0, **settings)(
        eeg, None
    ).max().item() == pytest.approx(2)


def test_kaggle_values_are_clipped_and_gaps_are_zero() -> None:
    spectrogram = torch.zeros(1, 400, 300)
    spectrogram[0, 0, 0], spectrogram[0, 0, 1], spectrogram[0, 0, 2] = -50.0, 50.0, float("nan")
    panels = kaggle_panels(spectrogram, "global")
    assert panels.shape == (1, 4, 100, 300)
    assert panels[0, 0, 0, :4].tolist() == pytest.approx([-4.7 / 2.8, 7.3 / 2.8, 0.0, -0.7 / 2.8])


def test_views_lie_side_by_side_in_their_widths() -> None:
    eeg, spectrogram = background(), torch.randn(2, 400, 300)
    detail = {"name": "cwt", "window_seconds": 10, "share": 0.5}
    image = make(eeg="multitaper", detail=detail, kaggle="kaggle", image=[128, 320])(eeg, spectrogram)
    alone = [
        make(eeg="multitaper", image=[128, 128])(eeg, None),
        make(eeg=None, detail=detail, image=[128, 64])(eeg, None),
        make(eeg=None, kaggle="kaggle", image=[128, 128])(None, spectrogram),
    ]
    torch.testing.assert_close(image[..., :128], alone[0])
    torch.testing.assert_close(image[..., 192:], alone[2])
    # filtered as part of 50 s the 10 s differ at their edges alone
    torch.testing.assert_close(image[..., 148:172], alone[1][..., 20:44], atol=0.15, rtol=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_autocast_does_not_lower_the_precision(recipe: str) -> None:
    eeg = background(1)
    transform = make(eeg=recipe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = transform(eeg, None)
    assert lowered.dtype == torch.float32
    torch.testing.assert_close(lowered, transform(eeg, None), atol=1e-5, rtol=0)


def test_rows_that_do_not_divide_go_to_the_first_panels() -> None:
    assert panel_heights(128, 18) == [8] * 2 + [7] * 16
    assert panel_heights(128, 4) == [32] * 4


def test_missing_and_misshapen_inputs_are_named() -> None:
    with pytest.raises(SignalError, match="needs the Kaggle spectrogram"):
        make(kaggle="kaggle")(background(), None)
    with pytest.raises(SignalError, match=r"shape \(batch, 20, time\), got \(2, 19, 100\)"):
        make()(torch.zeros(2, 19, 100), None)
    with pytest.raises(SignalError, match="9000 samples; a window of 50 s at 200 Hz needs 10000"):
        make()(background(n_times=9_000), None)
