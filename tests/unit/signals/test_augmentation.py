"""Augmentation: what each method changes, what it must leave, and that its draws are the generator's."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch

from hms_tune.config.augmentation import AugmentationConfig
from hms_tune.config.input import InputConfig, Raw, Spectral
from hms_tune.signals.augmentation import (
    Augmentation,
    draw_rectangles,
    swap_hemispheres,
    swap_regions,
    warp,
)
from hms_tune.signals.filters import band_pass_each
from hms_tune.signals.image import ImageTransform
from hms_tune.signals.montage import ELECTRODES
from hms_tune.signals.random_draws import draw_beta, draw_spans

RECIPES = [each.model_fields["name"].default for each in get_args(Spectral | Raw)]
EVERYTHING = {
    "left_right_swap": 0.5,
    "channel_drop": 0.5,
    "sign_flip": 0.5,
    "band_pass": 0.5,
    "noise_uv": 3.0,
    "time_reversal": 0.5,
    "amplitude_db": 6.0,
    "time_warp": 0.1,
    "time_mask": 0.3,
    "frequency_mask": 0.3,
    "mixup_alpha": 0.4,
    "cutmix_alpha": 1.0,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views(*names: str) -> InputConfig:
    eeg = next((name for name in names if name != "kaggle"), None)
    return InputConfig.model_validate({"eeg": eeg, "kaggle": "kaggle" if "kaggle" in names else None})


def make(*names: str, **settings: float) -> Augmentation:
    return Augmentation(AugmentationConfig(**settings), views(*(names or ("raw", "kaggle"))))


def vary(eeg: torch.Tensor, **settings: float) -> torch.Tensor:
    changed, _ = make(**settings).signals(eeg, None, seeded())
    assert changed is not None
    return changed


def tone(hz: float, n: int = 1) -> torch.Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(10_000) / 200).expand(n, 20, -1)


def test_without_settings_nothing_changes_and_nothing_is_drawn() -> None:
    generator = seeded()
    before = generator.get_state()
    augmentation = make()
    eeg, spectrogram, images, targets = (
        torch.randn(4, *shape) for shape in ((20, 50), (400, 9), (1, 8, 8), (6,))
    )
    assert augmentation.shifts(4, generator) is None
    assert augmentation.signals(eeg, spectrogram, generator) == (eeg, spectrogram)
    assert augmentation.images(images, targets, generator) == (images, targets)
    assert torch.equal(generator.get_state(), before)
    assert not augmentation.touches_signals


@pytest.mark.parametrize(
    ("setting", "of_kaggle", "of_stft", "of_raw"),
    [
        ({"left_right_swap": 0.5}, True, True, True),
        ({"window_shift_seconds": 1.0}, False, True, True),
        ({"channel_drop": 0.5}, False, True, True),
        ({"band_pass": 0.2}, False, True, True),
        ({"noise_uv": 2.0}, False, True, True),
        ({"time_warp": 0.1}, False, True, True),
        ({"time_reversal": 0.5}, True, True, True),
        ({"amplitude_db": 3.0}, True, True, True),
        ({"sign_flip": 0.5}, False, False, True),
        ({"time_mask": 0.2, "frequency_mask": 0.2}, False, False, False),
        ({"mixup_alpha": 1.0, "cutmix_alpha": 1.0}, False, False, False),
        ({"band_pass_low_hz": 1.0, "channel_drop_max": 9}, False, False, False),
    ],
)
def test_knows_whether_it_touches_the_signals_that_an_image_shows(
    setting: dict[str, float], of_kaggle: bool, of_stft: bool, of_raw: bool
) -> None:
    found = [make(*names, **setting).touches_signals for names in (("kaggle",), ("stft", "kaggle"), ("raw",))]
    assert found == [of_kaggle, of_stft, of_raw]


def test_the_same_generator_gives_the_same_batch() -> None:
    augmentation = make(**EVERYTHING)
    eeg, images, targets = torch.randn(8, 20, 1000), torch.randn(8, 1, 16, 16), torch.rand(8, 6)

    def run(seed: int) -> list[torch.Tensor]:
        generator = seeded(seed)
        changed, _ = augmentation.signals(eeg, None, generator)
        assert changed is not None
        return [changed, *augmentation.images(images, targets, generator)]

    assert all(torch.equal(a, b) for a, b in zip(run(3), run(3), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(run(3), run(4), strict=True))


def test_what_comes_in_is_never_written_to() -> None:
    eeg, spectrogram = torch.randn(6, 20, 1000), torch.randn(6, 400, 9)
    images, targets = torch.randn(6, 1, 16, 16), torch.rand(6, 6)
    given = (eeg, spectrogram, images, targets)
    copies = [tensor.clone() for tensor in given]
    make(**EVERYTHING).signals(eeg, spectrogram, seeded())
    make(**EVERYTHING).images(images, targets, seeded())
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_swap_exchanges_the_panels_of_the_image_and_leaves_the_midline(recipe: str) -> None:
    montage = "pairs" if recipe == "raw" else "chains"
    settings: dict[str, Any] = {"eeg": {"name": recipe, "montage": montage}, "kaggle": "kaggle"}
    transform = ImageTransform(InputConfig.model_validate({**settings, "image": [144, 256]}))
    eeg, spectrogram = torch.randn(1, 20, 10_000) * 20, torch.randn(1, 400, 300)
    changed = make(left_right_swap=1.0).signals(eeg, spectrogram, seeded())
    before, after = transform(eeg, spectrogram)[0, 0], transform(*changed)[0, 0]
    close = {"atol": 1e-4, "rtol": 0}
    regions = [1, 0, 3, 2]
    right_half = (before[:, 128:].reshape(4, 36, 128), after[:, 128:].reshape(4, 36, 128))
    torch.testing.assert_close(right_half[1], right_half[0][regions], **close)
    if recipe != "raw":
        left_half = (before[:, :128].reshape(4, 36, 128), after[:, :128].reshape(4, 36, 128))
        torch.testing.assert_close(left_half[1], left_half[0][regions], **close)
        return
    pairs = (before[:, :128].reshape(18, 8, 128), after[:, :128].reshape(18, 8, 128))
    swapped = [4 * regions[pair // 4] + pair % 4 for pair in range(16)]
    torch.testing.assert_close(pairs[1], pairs[0][[*swapped, 16, 17]], **close)


def test_only_marked_samples_are_swapped_and_twice_is_none() -> None:
    eeg, spectrogram = torch.randn(3, 20, 30), torch.randn(3, 400, 5)
    swapped = torch.tensor([True, False, True])
    once = swap_hemispheres(eeg, swapped)
    assert torch.equal(once[1], eeg[1])
    assert torch.equal(once[0, 0], eeg[0, 11])
    assert torch.equal(once[:, 8:11], eeg[:, 8:11])  # Fz, Cz, Pz
    assert torch.equal(once[2, 19], eeg[2, 19])
    assert torch.equal(swap_hemispheres(once, swapped), eeg)
    assert torch.equal(swap_regions(spectrogram, swapped)[0, :100], spectrogram[0, 100:200])
    assert torch.equal(swap_regions(swap_regions(spectrogram, swapped), swapped), spectrogram)


def test_dropped_electrodes_are_few_silent_and_never_the_ekg() -> None:
    eeg = torch.ones(4000, 20, 2)
    changed = vary(eeg, channel_drop=0.5, channel_drop_max=3)
    silent = (changed == 0).all(dim=-1)
    counts = silent.sum(dim=1)
    assert torch.equal(changed[~silent], eeg[~silent])
    assert not silent[:, 19].any()
    assert counts.max() == 3
    assert (counts > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert [(counts == n).float().mean().item() for n in (1, 2, 3)] == pytest.approx([1 / 6] * 3, abs=0.03)
    assert silent[:, :19].float().mean(dim=0).tolist() == pytest.approx([0.5 * 2 / 19] * 19, abs=0.02)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_sign_flip_changes_nothing_but_raw_traces(recipe: str) -> None:
    eeg = torch.randn(1, 20, 10_000) * 20
    transform = ImageTransform(views(recipe))
    flipped = vary(eeg, sign_flip=1.0)
    assert torch.equal(flipped, -eeg)
    before, after = transform(eeg, None), transform(flipped, None)
    assert torch.equal(after, -before if recipe == "raw" else before)


def test_signs_are_flipped_with_the_probability_asked_for_and_drawn_only_where_they_show() -> None:
    flipped = vary(torch.ones(4000, 20, 1), sign_flip=0.3)[:, 0, 0]
    assert (flipped < 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    generator = seeded()
    eeg = torch.ones(4, 20, 1)
    assert make("stft", sign_flip=1.0).signals(eeg, None, generator)[0] is eeg
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("hz", [4.0, 6.0])
def test_a_random_band_pass_leaves_tones_that_every_band_holds(hz: float) -> None:
    eeg = 50 * tone(hz, 16)
    settings = {"band_pass": 1.0, "band_pass_low_hz": 1.0, "band_pass_high_hz": 20.0}
    changed = vary(eeg, **settings)
    assert (changed - eeg)[..., 2000:-2000].abs().max() < 0.002 * 50
    assert torch.equal(changed[:, 19], eeg[:, 19])


def test_a_random_band_pass_draws_its_edges_and_its_samples() -> None:
    generator = seeded(1)
    eeg = torch.randn(64, 20, 4_000, generator=generator)
    changed = vary(eeg, band_pass=0.5, band_pass_low_hz=2.0, band_pass_high_hz=5.0)
    touched = (changed != eeg).any(dim=-1).any(dim=-1)
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.15)
    power = torch.fft.rfft(changed[touched, :19]).abs().square().mean(dim=1)
    frequencies = torch.fft.rfftfreq(4_000, 1 / 200)
    kept = [power[:, (frequencies > low) & (frequencies < high)] for low, high in ((2.5, 4), (60, 99))]
    assert (kept[1].mean(dim=1) / kept[0].mean(dim=1)).max() < 0.01
    # upper edges spread between 5 and 40 Hz
    upper = (power * frequencies).sum(dim=1) / power.sum(dim=1)
    assert upper.max() / upper.min() > 3


def test_a_band_pass_halves_amplitudes_at_its_edges_and_shifts_nothing() -> None:
    eeg = torch.stack([tone(hz)[0, :1] for hz in (2.0, 10.0, 5.0, 30.0)])
    got = band_pass_each(eeg, torch.full((4,), 2.0), torch.full((4,), 10.0))[:, 0, 600:-600]
    kept = (got * eeg[:, 0, 600:-600]).mean(dim=1) / eeg[:, 0, 600:-600].square().mean(dim=1)
    assert kept.tolist() == pytest.approx([0.5, 0.5, 0.98, 0.0], abs=0.02)
    slow = band_pass_each(torch.ones(1, 1, 1000), torch.zeros(1), torch.full((1,), 40.0))
    torch.testing.assert_close(slow, torch.ones(1, 1, 1000))


def test_noise_has_its_spread_leaves_the_mean_and_is_each_channels_own() -> None:
    eeg = torch.randn(4, 20, 10_000) * 30
    noise = vary(eeg, noise_uv=5.0) - eeg
    assert noise[:, :19].std(dim=-1).flatten().tolist() == pytest.approx([5.0] * 76, rel=0.05)
    assert noise[:, :19].mean(dim=-1).abs().max() < 5 * 5.0 / math.sqrt(10_000)
    assert noise[:, 19].abs().max() == 0
    together = torch.corrcoef(noise[:, :19].flatten(0, 1)) - torch.eye(76)
    assert together.abs().median() < 0.02
    assert (together.abs() > 0.1).float().mean() < 0.01


def test_reversed_samples_run_backwards_in_eeg_and_file_together() -> None:
    eeg, spectrogram = torch.randn(16, 20, 100), torch.randn(16, 400, 9)
    back, file_back = make(time_reversal=0.5).signals(eeg, spectrogram, seeded())
    assert back is not None
    assert file_back is not None
    marked = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(back, eeg, strict=True)])
    assert 0 < marked.sum() < 16
    assert torch.equal(file_back, torch.where(marked[:, None, None], spectrogram.flip(-1), spectrogram))
    assert torch.equal(back[~marked], eeg[~marked])


def test_louder_eeg_has_as_much_more_power_in_the_file() -> None:
    eeg, spectrogram = torch.randn(16, 20, 100), torch.randn(16, 400, 9)
    loud, file_loud = make(amplitude_db=6.0).signals(eeg, spectrogram, seeded())
    assert loud is not None
    assert file_loud is not None
    gain_db = 20 * (loud / eeg).log10().mean(dim=(1, 2))
    assert gain_db.abs().max() <= 6.0
    assert gain_db.std() > 1.0
    torch.testing.assert_close((file_loud - spectrogram).mean(dim=(1, 2)) * 10 / math.log(10), gain_db)


def test_a_warped_tone_has_another_frequency_and_its_middle_stays() -> None:
    slow = warp(tone(8.0), torch.tensor([0.5]))
    power = torch.fft.rfft(slow[0, 0]).abs()
    assert power.argmax().item() * 200 / 10_000 == pytest.approx(4.0, abs=0.05)
    eeg = torch.randn(3, 20, 1001)
    warped = warp(eeg, torch.tensor([0.8, 1.0, 1.2]))
    assert torch.equal(warped[:, :, 500], eeg[:, :, 500])
    assert torch.equal(warped[1], eeg[1])
    assert torch.equal(warped[2, :, -1], eeg[2, :, -1])  # beyond the end it stays there


def test_shifts_are_uniform_within_the_bound() -> None:
    shifts = make(window_shift_seconds=2.0).shifts(10_000, seeded())
    assert shifts is not None
    assert shifts.dtype == torch.int64
    assert (shifts.min().item(), shifts.max().item()) == (-400, 400)
    assert shifts.float().mean().item() == pytest.approx(0, abs=8)
    assert make("kaggle", window_shift_seconds=2.0).shifts(4, seeded()) is None


def test_signals_augmentation_leaves_the_kaggle_spectrogram_but_for_what_both_share() -> None:
    spectrogram = torch.randn(4, 400, 300)
    shared = ("left_right_swap", "time_reversal", "amplitude_db")
    settings = {key: value for key, value in EVERYTHING.items() if key not in shared}
    assert make(**settings).signals(torch.randn(4, 20, 500), spectrogram, seeded())[1] is spectrogram


def test_spans_are_contiguous_and_as_long_as_allowed() -> None:
    spans = draw_spans(5000, 40, 0.25, seeded())
    lengths = spans.sum(dim=1)
    assert (lengths.min().item(), lengths.max().item()) == (0, 10)
    assert lengths.float().mean().item() == pytest.approx(5, abs=0.15)
    starts = (spans.int().diff(dim=1, prepend=torch.zeros(5000, 1, dtype=torch.int32)) == 1).sum(dim=1)
    assert starts.max() == 1
    assert spans[:, 0].any()
    assert spans[:, -1].any()


def test_masks_hide_columns_or_rows_with_zero_and_leave_the_rest_bit_for_bit() -> None:
    images, targets = torch.randn(64, 3, 20, 30), torch.rand(64, 6)
    columns, same = make(time_mask=0.5).images(images, targets, seeded())
    assert same is targets
    hidden = columns == 0
    assert torch.equal(hidden, hidden[:, :1, :1].expand_as(hidden))
    assert torch.equal(columns[~hidden], images[~hidden])
    assert 0.15 < hidden.float().mean() < 0.35
    rows, same = make(frequency_mask=0.5).images(images, targets, seeded())
    assert same is targets
    assert torch.equal(rows == 0, (rows == 0)[:, :1, :, :1].expand_as(rows))
    assert torch.equal(rows[rows != 0], images[rows != 0])


def test_mixup_mixes_images_and_targets_by_the_same_share() -> None:
    targets = torch.eye(6).repeat(4, 1)
    images = targets[:, None, None, :].expand(-1, 1, 2, -1)
    mixed, mixed_targets = make(mixup_alpha=1.0).images(images, targets, seeded())
    torch.testing.assert_close(mixed[:, 0, 0], mixed_targets)
    torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(24))
    assert len(mixed_targets.amax(dim=1).unique()) > 10


def test_cutmix_mixes_targets_by_the_area_that_was_pasted() -> None:
    n = 48
    targets = torch.eye(n)
    images = torch.arange(n).float()[:, None, None, None].expand(-1, 2, 17, 23)
    mixed, mixed_targets = make(cutmix_alpha=1.0).images(images, targets, seeded())
    areas = torch.stack([(mixed == value).float().mean(dim=(1, 2, 3)) for value in range(n)], dim=1)
    torch.testing.assert_close(mixed_targets, areas)
    assert torch.equal(mixed[:, 0], mixed[:, 1])
    assert mixed_targets.diagonal().mean().item() == pytest.approx(0.5, abs=0.15)


def test_pasted_rectangles_lie_inside_and_cover_beta_distributed_shares() -> None:
    rectangles = draw_rectangles(4000, 64, 96, 1.0, seeded())
    rows, columns = rectangles.any(dim=2).sum(dim=1), rectangles.any(dim=1).sum(dim=1)
    assert torch.equal(rectangles.sum(dim=(1, 2)), rows * columns)
    shares = rectangles.float().mean(dim=(1, 2))
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.quantile(0.1).item() == pytest.approx(0.1, abs=0.02)


def test_with_mixup_and_cutmix_each_sample_gets_one_of_them() -> None:
    n = 400
    images = torch.arange(n).float()[:, None, None, None].expand(-1, 1, 16, 16)
    mixed, targets = make(mixup_alpha=1.0, cutmix_alpha=1.0).images(images, torch.eye(n), seeded())
    blended = torch.tensor([len(image.unique()) == 1 for image in mixed])
    assert blended.float().mean().item() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(n))
    means = (targets * torch.arange(n)).sum(dim=1)
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), means, atol=0.01, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_beta_draws_have_the_right_moments(alpha: float) -> None:
    draws = draw_beta(20_000, alpha, seeded())
    assert draws.mean().item() == pytest.approx(0.5, abs=0.01)
    assert draws.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_every_method_is_a_probability_or_size_that_zero_switches_off() -> None:
    assert AugmentationConfig() == AugmentationConfig(
        **dict.fromkeys(EVERYTHING, 0.0), window_shift_seconds=0
    )
    assert ELECTRODES[-1] == "EKG"
