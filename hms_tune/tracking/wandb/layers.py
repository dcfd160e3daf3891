"""The layers of a trial's network, read from a copy without weights, so that training needs no hook."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import ModelConfig, TrialConfig
from hms_tune.models.network import build_network
from hms_tune.models.without_numbers import without_numbers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights of its own: its parameters' names and shapes, and the shape of its output."""

    name: str
    kind: str
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    output: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return sum(math.prod(shape) for _, shape in self.parameters)


def layers_of(config: TrialConfig) -> tuple[Layer, ...]:
    """The layers of the trial's network, in the order in which one image passes them.

    The network is built on the meta device, which has shapes and no numbers; torch's random state is left
    as it was. A network that cannot be built there has no layers to show.
    """
    # what changes no layer is left out, so that trials of one architecture share the answer
    alike = {
        "pretrained": False,
        "frozen_layers": 0,
        "finetuned_layers": None,
        "frozen_share": None,
        "dropout": 0.0,
        "drop_path": 0.0,
    }
    model = config.model.model_copy(update=alike)
    return _layers(model.model_dump_json(), config.input.for_model)


@lru_cache(maxsize=32)
def _layers(model: str, given: ModelInput) -> tuple[Layer, ...]:
    found: list[Layer] = []
    try:
        with without_numbers(), torch.no_grad():
            config = ModelConfig.model_validate_json(model)
            network = build_network(config, given).eval()
            for name, module in network.named_modules():
                if any(True for _ in module.parameters(recurse=False)):
                    _listen(name, module, found)
            network(torch.empty(1, *given.shape))
    except Exception:  # some networks compute with values as they are built: there are none here
        logger.debug("the network's layers are not shown", exc_info=True)
        return ()
    return tuple(found)


def _listen(name: str, module: nn.Module, found: list[Layer]) -> None:
    parameters = tuple(
        (key, tuple(parameter.shape)) for key, parameter in module.named_parameters(recurse=False)
    )

    def passed(module: nn.Module, inputs: object, output: object) -> None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        found.append(Layer(name, type(module).__name__, parameters, shape))

    module.register_forward_hook(passed)
