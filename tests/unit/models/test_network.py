"""Networks: heads, frozen prefixes, and what the optimizer is given."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import ModelConfig
from hms_tune.models.dropout import Dropout
from hms_tune.models.head import GeneralizedMean
from hms_tune.models.layers import layer_groups
from hms_tune.models.network import Network, build_network

IMAGES = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def make(seed: int = 0, channels: int = 1, **settings: object) -> Network:
    torch.manual_seed(seed)
    return build_network(
        ModelConfig(**{"backbone": "test_resnet", "pretrained": False, **settings}), ModelInput(channels)
    )


@pytest.mark.parametrize(
    "backbone", ["resnet18", "resnet18d", "efficientnet_b0", "test_resnet", "test_efficientnet", "test_vit"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_backbones_take_one_or_three_channels(backbone: str, channels: int) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, pretrained=False)
    network = build_network(config, ModelInput(channels, (64, 96))).eval()
    with torch.inference_mode():
        logits = network(torch.randn(2, channels, 64, 96))
    assert logits.shape == (2, 6)
    assert logits.isfinite().all()


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit"])
def test_the_same_seed_gives_the_same_network(backbone: str) -> None:
    one, same, other = (make(seed=seed, backbone=backbone, hidden=8).state_dict() for seed in (1, 1, 2))
    assert one.keys() == same.keys()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["head.1.weight"], other["head.1.weight"])


@pytest.mark.parametrize("pooling", ["avg", "max", "avg_max", "gem"])
def test_poolings_agree_on_a_constant_map_and_order_on_a_varied_one(pooling: str) -> None:
    pool = make(pooling=pooling).head[0]
    constant = torch.full((2, 5, 3, 4), 2.0)
    torch.testing.assert_close(pool(constant), torch.full((2, 5), 2.0))
    varied = torch.tensor([[[[1.0, 3.0]]]])
    expected = {"avg": 2.0, "max": 3.0, "avg_max": 2.5, "gem": 14 ** (1 / 3)}
    assert pool(varied).item() == pytest.approx(expected[pooling])


def test_the_exponent_of_gem_is_learnt() -> None:
    pool = GeneralizedMean()
    pool(torch.rand(2, 3, 4, 4)).sum().backward()
    assert pool.exponent.grad is not None
    assert pool.exponent.grad.abs().item() > 0


@pytest.mark.parametrize(
    ("activation", "kind"),
    [("relu", nn.ReLU), ("silu", nn.SiLU), ("gelu", nn.GELU), ("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid)],
)
def test_the_activation_acts_on_the_hidden_layer_or_else_on_the_pooled_features(
    activation: str, kind: type[nn.Module]
) -> None:
    with_hidden = make(activation=activation, hidden=32, dropout=0.25).head
    assert [type(layer) for layer in with_hidden][1:] == [nn.Linear, kind, Dropout, nn.Linear]
    assert (with_hidden[1].out_features, with_hidden[3].rate, with_hidden[4].in_features) == (32, 0.25, 32)
    without = make(activation=activation).head
    assert [type(layer) for layer in without][1:] == [kind, Dropout, nn.Linear]


def test_stochastic_depth_reaches_the_backbone() -> None:
    network = make(backbone="test_efficientnet", drop_path=0.5).train()
    rates = [float(module.rate) for module in network.modules() if type(module).__name__ == "DropPath"]
    assert rates
    assert 0 < max(rates) <= 0.5


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("setting", ["frozen_layers", "finetuned_layers"])
def test_frozen_groups_keep_weights_and_statistics_through_training(backbone: str, setting: str) -> None:
    network = make(backbone=backbone, **{setting: 2}).train()
    groups = layer_groups(backbone)
    frozen = groups[:2] if setting == "frozen_layers" else groups[:-2]
    trained = groups[len(frozen) :]
    before = copy.deepcopy(network.backbone.state_dict())
    optimizer = torch.optim.SGD(network.parameter_groups(learning_rate=0.1, weight_decay=0.1))
    for _ in range(2):  # some last norms start at zero and let nothing through in the first step
        optimizer.zero_grad()
        network(IMAGES).square().mean().backward()
        optimizer.step()
    after = network.backbone.state_dict()

    def changed(module: str) -> list[bool]:
        return [not torch.equal(before[key], after[key]) for key in after if key.startswith(f"{module}.")]

    assert not any(flag for group in frozen for module in group.modules for flag in changed(module))
    assert all(flag for group in trained for module in group.modules for flag in changed(module))
    assert all(parameter.grad is not None for parameter in network.head.parameters())


def test_no_gradient_graph_is_built_through_the_frozen_prefix() -> None:
    network = make(backbone="resnet18", frozen_layers=5).train()
    needs_gradient: dict[str, bool] = {}
    for name in ("layer2.1", "layer3.0"):
        network.backbone.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: needs_gradient.update({name: output.requires_grad})
        )
    network(IMAGES)
    assert needs_gradient == {"layer2.1": False, "layer3.0": True}


def test_only_frozen_batch_norms_are_in_eval_mode_while_training() -> None:
    network = make(backbone="resnet18", frozen_layers=3).train()
    modes = {
        name: m.training for name, m in network.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)
    }
    frozen = ("bn1", "layer1")
    assert modes == {name: not name.startswith(frozen) for name in modes}
    assert not any(module.training for module in network.eval().modules())
    duplicate = copy.deepcopy(network).train()
    assert not duplicate.backbone.bn1.training
    assert duplicate.backbone.layer2.training


def test_everything_frozen_leaves_the_head() -> None:
    for settings in ({"frozen_layers": 5}, {"finetuned_layers": 0}):
        network = make(**settings)
        trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        assert trained == ["head.3.weight", "head.3.bias"]


def test_optimizer_groups_hold_each_trained_parameter_once_and_spare_norms_and_biases() -> None:
    network = make(frozen_layers=1)
    groups = network.parameter_groups(learning_rate=0.01, weight_decay=0.05, backbone_lr_ratio=0.1)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    assert {(group["lr_scale"], group["weight_decay"]) for group in groups} == {
        (0.1, 0.05),
        (0.1, 0.0),
        (1.0, 0.05),
        (1.0, 0.0),
    }
    for group in groups:
        assert group["lr"] == pytest.approx(0.01 * group["lr_scale"])
        assert type(group["lr"]) is float
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])
    assert {id(p) for g in groups if g["lr_scale"] == 1.0 for p in g["params"]} == {
        id(parameter) for parameter in network.head.parameters()
    }


def test_without_ratio_or_decay_two_groups_are_enough() -> None:
    assert len(make().parameter_groups(learning_rate=0.01, weight_decay=0.05)) == 2


def test_layer_decay_halves_the_rate_from_the_head_down() -> None:
    network = make()
    groups = network.parameter_groups(learning_rate=1.0, weight_decay=0.0, layer_decay=0.5)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    of_layer = [
        {rate[id(network.backbone.get_parameter(name))] for name in group.parameter_names}
        for group in layer_groups("test_resnet")
    ]
    assert of_layer == [{0.5**5}, {0.5**4}, {0.5**3}, {0.5**2}, {0.5}]
    assert all(next(iter(low)) < next(iter(high)) for low, high in pairwise(of_layer))
    assert {rate[id(parameter)] for parameter in network.head.parameters()} == {1.0}
