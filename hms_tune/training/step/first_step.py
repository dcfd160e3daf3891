"""Whether a network can learn from an image at all, found before a trial: one step without numbers."""

from __future__ import annotations

import torch

from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import ModelConfig
from hms_tune.errors import ModelError, first_line
from hms_tune.models.network import Network
from hms_tune.training.memory.footprint import count_shapes, count_step, shape_of


def check_step(model: ModelConfig, given: ModelInput, batch_size: int) -> None:
    """Refuse a network that cannot take a training step.

    It runs on the meta device. One that asks for numbers runs on the CPU, with random weights and one or two
    images.

    Parameters
    ----------
    given : what the network is given
    batch_size : the least that a trial may have; whatever takes two images takes more

    Raises
    ------
    ModelError
        If the image is too small for it, batch normalization would have one value of each channel, or it
        fails in another way.
    """
    count = min(batch_size, 2)
    error = _error_of_step(model, given, count)
    if error is None:
        return
    name = " with ".join(filter(None, (model.backbone, model.trace_backbone)))
    height, width = given.image
    if count == 1 and _error_of_step(model, given, 2) is None:
        raise ModelError(
            f"a batch of one image of {height} x {width} leaves {name} one value to normalize: "
            f"{first_line(error)}",
            where="training.batch_size",
            hint="Use 2 or more, or a larger image",
        ) from error
    raise ModelError(
        f"{name} cannot learn from images of {height} x {width}: {type(error).__name__}: {first_line(error)}",
        where="model.backbone",
        hint="Use a larger image or another backbone; what is your own should take a step on the CPU, too",
    ) from error


def _error_of_step(model: ModelConfig, given: ModelInput, count: int) -> Exception | None:
    def step(network: Network) -> None:
        like = next(network.parameters())
        count_step(network, torch.zeros(count, *given.shape, dtype=like.dtype, device=like.device))

    try:
        count_shapes(shape_of(model), given, step)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever a layer makes of an image that it cannot take)
        return error
    return None
