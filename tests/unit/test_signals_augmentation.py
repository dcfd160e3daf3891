"""Augmentation: what each method changes, and that its draws are the generator's."""

from __future__ import annotations

import pytest
import torch

from hms_tune.config.trial import AugmentationConfig, InputConfig
from hms_tune.signals.augmentation import Augmentation, draw_beta, draw_spans, swap_hemispheres, swap_regions
from hms_tune.signals.image import ImageTransform


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**settings: float) -> Augmentation:
    return Augmentation(AugmentationConfig(**settings))


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
    ("setting", "touches"),
    [
        ({"left_right_swap": 0.5}, True),
        ({"window_shift_seconds": 1.0}, True),
        ({"channel_drop": 0.5}, True),
        ({"time_mask": 0.2, "frequency_mask": 0.2, "mixup_alpha": 1.0}, False),
    ],
)
def test_knows_whether_it_touches_signals(setting: dict[str, float], touches: bool) -> None:
    assert make(**setting).touches_signals is touches


def test_the_same_generator_gives_the_same_batch() -> None:
    augmentation = make(
        left_right_swap=0.5, channel_drop=0.5, time_mask=0.3, frequency_mask=0.3, mixup_alpha=0.4
    )
    eeg, images, targets = torch.randn(8, 20, 100), torch.randn(8, 1, 16, 16), torch.rand(8, 6)

    def run(seed: int) -> list[torch.Tensor]:
        generator = seeded(seed)
        changed, _ = augmentation.signals(eeg, None, generator)
        assert changed is not None
        return [changed, *augmentation.images(images, targets, generator)]

    assert all(torch.equal(a, b) for a, b in zip(run(3), run(3), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(run(3), run(4), strict=True))


def test_a_swap_exchanges_the_panels_of_the_image() -> None:
    transform = ImageTransform(InputConfig(kind="both"))
    eeg, spectrogram = torch.randn(1, 20, 10_000) * 20, torch.randn(1, 400, 300)
    changed = make(left_right_swap=1.0).signals(eeg, spectrogram, seeded())
    before = transform(eeg, spectrogram).view(4, 32, 256)
    after = transform(*changed).view(4, 32, 256)
    torch.testing.assert_close(after, before[[1, 0, 3, 2]], atol=1e-4, rtol=0)


def test_only_marked_samples_are_swapped_and_twice_is_none() -> None:
    eeg, spectrogram = torch.randn(3, 20, 30), torch.randn(3, 400, 5)
    swapped = torch.tensor([True, False, True])
    once = swap_hemispheres(eeg, swapped)
    assert torch.equal(once[1], eeg[1])
    assert torch.equal(once[0, 0], eeg[0, 11])
    assert torch.equal(once[2, 19], eeg[2, 19])
    assert torch.equal(swap_hemispheres(once, swapped), eeg)
    assert torch.equal(swap_regions(spectrogram, swapped)[0, :100], spectrogram[0, 100:200])
    assert torch.equal(swap_regions(swap_regions(spectrogram, swapped), swapped), spectrogram)


def test_dropped_electrodes_are_few_silent_and_never_the_ekg() -> None:
    eeg = torch.ones(4000, 20, 2)
    changed, _ = make(channel_drop=0.5, channel_drop_max=3).signals(eeg, None, seeded())
    assert changed is not None
    silent = (changed == 0).all(dim=-1)
    counts = silent.sum(dim=1)
    assert not silent[:, 19].any()
    assert counts.max() == 3
    assert (counts > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert [(counts == n).float().mean().item() for n in (1, 2, 3)] == pytest.approx([1 / 6] * 3, abs=0.03)
    assert silent[:, :19].float().mean(dim=0).tolist() == pytest.approx([0.5 * 2 / 19] * 19, abs=0.02)


def test_shifts_are_uniform_within_the_bound() -> None:
    shifts = make(window_shift_seconds=2.0).shifts(10_000, seeded())
    assert shifts is not None
    assert shifts.dtype == torch.int64
    assert (shifts.min().item(), shifts.max().item()) == (-400, 400)
    assert shifts.float().mean().item() == pytest.approx(0, abs=8)


def test_spans_are_contiguous_and_as_long_as_allowed() -> None:
    spans = draw_spans(5000, 40, 0.25, seeded())
    lengths = spans.sum(dim=1)
    assert (lengths.min().item(), lengths.max().item()) == (0, 10)
    assert lengths.float().mean().item() == pytest.approx(5, abs=0.15)
    starts = (spans.int().diff(dim=1, prepend=torch.zeros(5000, 1, dtype=torch.int32)) == 1).sum(dim=1)
    assert starts.max() == 1
    assert spans[:, 0].any()
    assert spans[:, -1].any()


def test_masks_hide_columns_or_rows_with_zero() -> None:
    images, targets = torch.ones(64, 3, 20, 30), torch.rand(64, 6)
    columns, same = make(time_mask=0.5).images(images, targets, seeded())
    assert same is targets
    hidden = columns == 0
    assert torch.equal(hidden, hidden[:, :1, :1].expand_as(hidden))
    assert 0.15 < hidden.float().mean() < 0.35
    rows, _ = make(frequency_mask=0.5).images(images, targets, seeded())
    assert torch.equal(rows == 0, (rows == 0)[:, :1, :, :1].expand_as(rows))
    assert images.min() == 1


def test_mixup_mixes_images_and_targets_by_the_same_share() -> None:
    targets = torch.eye(6).repeat(4, 1)
    images = targets[:, None, None, :].expand(-1, 1, 2, -1)
    mixed, mixed_targets = make(mixup_alpha=1.0).images(images, targets, seeded())
    torch.testing.assert_close(mixed[:, 0, 0], mixed_targets)
    torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(24))
    assert len(mixed_targets.amax(dim=1).unique()) > 10


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_beta_draws_have_the_right_moments(alpha: float) -> None:
    draws = draw_beta(20_000, alpha, seeded())
    assert draws.mean().item() == pytest.approx(0.5, abs=0.01)
    assert draws.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
