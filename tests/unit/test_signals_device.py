"""Images and augmentation are the same on a GPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from hms_tune.config.trial import AugmentationConfig, InputConfig
from hms_tune.signals.augmentation import Augmentation
from hms_tune.signals.image import ImageTransform

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("n_fft", [512, 2048])
@pytest.mark.parametrize("transform", ["stft", "mel"])
def test_a_gpu_makes_the_image_that_a_cpu_makes(n_fft: int, transform: str) -> None:
    generator = torch.Generator().manual_seed(0)
    eeg = torch.randn(4, 20, 10_000, generator=generator) * 20
    spectrogram = torch.randn(4, 400, 300, generator=generator)
    module = ImageTransform(InputConfig(kind="both", n_fft=n_fft, transform=transform, notch_hz=60))
    expected = module(eeg, spectrogram)
    got = module.cuda()(eeg.cuda(), spectrogram.cuda()).cpu()
    # 0.01 of the image's unit is 0.12 dB: rounding in bins that hold almost no power.
    assert (got - expected).abs().max() < 0.01


def test_a_gpu_augments_as_a_cpu_does() -> None:
    augmentation = Augmentation(
        AugmentationConfig(
            left_right_swap=0.5, channel_drop=0.5, time_mask=0.3, frequency_mask=0.3, mixup_alpha=0.4
        )
    )
    eeg, spectrogram = torch.randn(8, 20, 100), torch.randn(8, 400, 30)
    images, targets = torch.randn(8, 1, 32, 32), torch.rand(8, 6)

    def run(device: str) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(5)
        signals = augmentation.signals(eeg.to(device), spectrogram.to(device), generator)
        mixed = augmentation.images(images.to(device), targets.to(device), generator)
        return [tensor.cpu() for tensor in (*signals, *mixed) if tensor is not None]

    for got, expected in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(got, expected)
