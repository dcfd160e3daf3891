"""Networks of shapes and names alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hms_tune.models.backbone import make_backbone, make_skeleton
from hms_tune.models.without_numbers import without_numbers


@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_resnet", "test_convnext", "resnet1d"])
def test_a_skeleton_has_the_names_and_shapes_of_the_backbone(backbone: str) -> None:
    built = {name: tensor.shape for name, tensor in make_backbone(backbone).state_dict().items()}
    skeleton = make_skeleton(backbone).state_dict()
    assert {name: tensor.shape for name, tensor in skeleton.items()} == built
    assert all(tensor.is_meta for tensor in skeleton.values())


class Asked(TorchDispatchMode):
    """Writes down what PyTorch is asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_first_weights_are_not_drawn() -> None:
    before = torch.random.get_rng_state()
    with without_numbers(), Asked() as asked:
        layer = nn.Conv2d(3, 8, 3)
        nn.init.normal_(layer.weight, std=0.1)
        nn.init.kaiming_normal_(layer.weight)
        nn.init.uniform_(layer.weight)
        layer.weight.data.normal_(0.0, 1.0)
    assert (layer.weight.is_meta, layer.weight.shape) == (True, (8, 3, 3, 3))
    assert "empty" in asked.names
    assert not {"normal_", "uniform_"} & asked.names
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_tensor_that_has_numbers_gets_its_own() -> None:
    with without_numbers():
        found = torch.zeros(100, device="cpu").uniform_(1.0, 2.0)
        also = nn.init.normal_(torch.zeros(100, device="cpu"), mean=3.0, std=0.1)
    assert 1.2 < float(found.mean()) < 1.8
    assert 2.9 < float(also.mean()) < 3.1
