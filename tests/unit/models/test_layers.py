"""Layer groups: what they hold, what is frozen, what is refused."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from hms_tune.cli.model import app
from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import ModelConfig
from hms_tune.errors import ModelError
from hms_tune.models.backbone import check_backbone
from hms_tune.models.layers import check_depth, frozen_count, layer_groups
from hms_tune.models.network import build_network, check_model

BACKBONES = ["resnet18", "resnet18d", "resnet34d", "efficientnet_b0", "test_resnet", "test_efficientnet"]


@pytest.mark.parametrize(
    ("backbone", "depth", "first", "last"),
    [
        ("resnet18", 9, "conv1, bn1", "layer4.1"),
        ("resnet18d", 9, "conv1, bn1", "layer4.1"),
        ("resnet34d", 17, "conv1, bn1", "layer4.2"),
        ("efficientnet_b0", 17, "conv_stem, bn1", "blocks.6, conv_head, bn2"),
        ("test_resnet", 5, "conv1, bn1", "layer4"),
        ("test_efficientnet", 6, "conv_stem, bn1", "blocks.4, conv_head, bn2"),
    ],
)
def test_groups_are_the_blocks_of_the_backbone(backbone: str, depth: int, first: str, last: str) -> None:
    groups = layer_groups(backbone)
    assert len(groups) == depth
    assert [group.number for group in groups] == list(range(depth))
    assert (groups[0].name, groups[-1].name) == (first, last)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_is_in_exactly_one_group(backbone: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(backbone, num_classes=0)
    names = [name for group in layer_groups(backbone) for name in group.parameter_names]
    assert sorted(names) == sorted(name for name, _ in network.named_parameters())
    total = sum(parameter.numel() for parameter in network.parameters())
    assert sum(group.parameters for group in layer_groups(backbone)) == total


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_buffer_lies_in_a_module_of_one_group(backbone: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(backbone, num_classes=0)
    modules = [module for group in layer_groups(backbone) for module in group.modules]
    for name, _ in network.named_buffers():
        assert sum(name.startswith(f"{module}.") for module in modules) == 1


def test_listing_layers_leaves_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    layer_groups("test_vit")
    check_model(ModelConfig(backbone="test_vit", drop_path=0.1))
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_backbone_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ModelError, match=r"no backbone 'ResNet18'. Did you mean resnet18\?"):
        check_backbone("ResNet18")
    with pytest.raises(ModelError, match=r"Did you mean efficientnet_b0\?"):
        check_backbone("EfficientNet-B0")
    with pytest.raises(ModelError, match=r"no backbone 'resnet19'. Did you mean resnet1\w") as refused:
        check_depth(ModelConfig(backbone="resnet19"))
    assert refused.value.exit_code == 1
    with pytest.raises(ModelError, match=r"no pretrained weights tagged 'nonsense'.*a1_in1k"):
        check_depth(ModelConfig(backbone="resnet18.nonsense"))
    with pytest.raises(ModelError, match="no backbone"):
        check_depth(ModelConfig(backbone="hf_hub:someone/something"))


@pytest.mark.parametrize("key", ["frozen_layers", "finetuned_layers"])
def test_layers_beyond_the_depth_are_refused(key: str) -> None:
    check_depth(ModelConfig(backbone="resnet18", **{key: 9}))
    with pytest.raises(ModelError, match=rf"model.{key}: resnet18 has 9 layer groups, not 10. Choose 0 to 9"):
        check_depth(ModelConfig(backbone="resnet18", **{key: 10}))


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0", "resnet1d"])
def test_a_share_freezes_as_many_layers_as_hold_at_most_that(backbone: str) -> None:
    groups = layer_groups(backbone)
    total = sum(group.parameters for group in groups)
    for share in (0.0, 0.3, 0.7, 1.0):
        frozen = frozen_count(ModelConfig(backbone=backbone, frozen_share=share), groups)
        assert sum(group.parameters for group in groups[:frozen]) <= share * total
        assert (
            frozen == len(groups) or sum(group.parameters for group in groups[: frozen + 1]) > share * total
        )
    with pytest.raises(ValidationError, match="frozen_layers and frozen_share exclude each other"):
        ModelConfig(frozen_layers=1, frozen_share=0.5)


def test_stochastic_depth_is_refused_where_there_is_none() -> None:
    check_model(ModelConfig(backbone="resnet18", drop_path=0.2))
    with pytest.raises(ModelError, match=r"model.drop_path: vgg11 has no stochastic depth"):
        check_model(ModelConfig(backbone="vgg11", drop_path=0.2))


def test_a_backbone_without_feature_map_is_refused() -> None:
    with pytest.raises(ModelError, match="crossvit_9_240 cannot be built like this"):
        build_network(ModelConfig(backbone="crossvit_9_240", pretrained=False), ModelInput(1))


def test_a_backbone_that_timm_does_not_divide_has_its_children_as_groups() -> None:
    groups = layer_groups("pit_ti_224")
    assert [group.number for group in groups] == list(range(len(groups)))
    assert [group.name for group in groups][:2] == ["patch_embed, pos_embed, cls_token", "transformers.0"]
    assert sum(group.parameters for group in groups) == 4_590_272
    stages = [group.name for group in layer_groups("caformer_s18")]
    assert stages == ["stem", "stages.0", "stages.1", "stages.2", "stages.3", "head"]


def test_the_command_lists_layers_with_parameters_and_shares() -> None:
    result = CliRunner().invoke(app, ["layers", "test_resnet", "--json"])
    assert result.exit_code == 0
    rows = json.loads(result.stdout)["layers"]
    assert [row["frozen_layers"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[-1]["cumulative_share"] == 1.0
    table = CliRunner().invoke(app, ["layers", "resnet18"]).stdout
    assert "11,176,512 parameters" in table
    assert "layer3.1" in table


def test_the_command_names_an_unknown_backbone() -> None:
    assert isinstance(CliRunner().invoke(app, ["layers", "resnet19"]).exception, ModelError)
