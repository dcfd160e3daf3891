"""Images and augmentation are the same on a GPU; skipped where there is none."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from hms_tune.config.augmentation import AugmentationConfig
from hms_tune.config.input import InputConfig, Raw, Spectral
from hms_tune.signals.augmentation import Augmentation
from hms_tune.signals.image import ImageTransform

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("scaling", ["global", "per_sample"])
@pytest.mark.parametrize(
    "eeg_view",
    [
        *({"name": each.model_fields["name"].default} for each in get_args(Spectral | Raw)),
        {"name": "stft", "n_fft": 2048},
    ],
    ids=lambda view: "-".join(map(str, view.values())),
)
def test_a_gpu_makes_the_image_that_a_cpu_makes(eeg_view: dict[str, object], scaling: str) -> None:
    generator = torch.Generator().manual_seed(0)
    eeg = torch.randn(4, 20, 10_000, generator=generator) * 20
    spectrogram = torch.randn(4, 400, 300, generator=generator)
    settings = {"eeg": eeg_view, "kaggle": "kaggle", "notch_hz": 60, "scaling": scaling}
    module = ImageTransform(InputConfig.model_validate(settings))
    expected = module(eeg, spectrogram)
    got = module.cuda()(eeg.cuda(), spectrogram.cuda()).cpu()
    # 0.01 of the image's unit is 0.12 dB: rounding in bins that hold almost no power.
    assert (got - expected).abs().max() < 0.01


def test_a_gpu_augments_as_a_cpu_does() -> None:
    augmentation = Augmentation(
        AugmentationConfig(
            left_right_swap=0.5,
            channel_drop=0.5,
            sign_flip=0.5,
            band_pass=0.5,
            noise_uv=5.0,
            time_mask=0.3,
            frequency_mask=0.3,
            mixup_alpha=0.4,
            cutmix_alpha=1.0,
        ),
        InputConfig.model_validate({"eeg": "raw", "kaggle": "kaggle"}),
    )
    eeg, spectrogram = torch.randn(8, 20, 1000), torch.randn(8, 400, 30)
    images, targets = torch.randn(8, 1, 32, 32), torch.rand(8, 6)

    def run(device: str) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(5)
        signals = augmentation.signals(eeg.to(device), spectrogram.to(device), generator)
        mixed = augmentation.images(images.to(device), targets.to(device), generator)
        return [tensor.cpu() for tensor in (*signals, *mixed) if tensor is not None]

    for got, expected in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
