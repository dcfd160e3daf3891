"""Networks of a study that cannot take a step on its images: found before any trial."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hms_tune.config.study_file import StudyFile
from hms_tune.errors import ConfigError
from hms_tune.search.memory_check import smallest_configs
from hms_tune.search.study_check import check_study

STUDY = """
study: steps
input: {{eeg: {eeg}, kaggle: {kaggle}, image: {image}, channels: 1}}
model: {{backbone: {backbone}, pretrained: false{model}}}
training: {{batch_size: {batch}}}
search: {{sampler: random, seed: 0}}
"""

OWN = """
import hms_tune
from torch import nn


class Scaled(nn.Module):
    def __init__(self, given, kernel):
        super().__init__()
        self.num_features = 4
        self.layers = nn.Sequential(
            nn.Conv2d(given.channels, 4, kernel), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)
        )

    def forward(self, images):
        return self.layers(images / (1.0 + {largest}))


@hms_tune.backbone
def small(given):
    return Scaled(given, 3)


@hms_tune.backbone
def wide(given):
    return Scaled(given, 40)


@hms_tune.backbone
def numbers(given):
    import torch
    scale = torch.ones(3).numpy().sum()
    return Scaled(given, int(scale))
"""
ASKS = [
    "float(images.detach().abs().max())",
    "images.detach().numpy().max()",
    "images.detach().abs().tolist()[0][0][0][0]",
]
"""Ways to ask for numbers, which the meta device has not."""


def a_study(backbone: str, **changes: object) -> StudyFile:
    settings: dict[str, object] = {"eeg": "{name: stft, n_fft: 256}", "kaggle": "null", "image": "[32, 32]"}
    settings |= {"batch": 8, "model": ""} | changes
    return StudyFile.parse(STUDY.format(backbone=backbone, **settings), "steps.yaml")


@pytest.fixture(params=[*ASKS, "0.0"], ids=["item", "numpy", "list", "no numbers"])
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of a user's own backbones, some of which ask for numbers."""
    name = f"own_steps_{tmp_path.name}".replace("-", "_").replace("[", "_").replace("]", "_")
    (tmp_path / f"{name}.py").write_text(OWN.replace("{largest}", request.param))
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_network_is_tried_with_one_image_where_a_trial_may_have_one(own: str) -> None:
    state = torch.get_rng_state()
    check_study(a_study(f"{own}:small"))
    told = (
        rf"^steps\.yaml: training\.batch_size: a batch of one image of 32 x 32 leaves {own}:small one value"
    )
    with pytest.raises(ConfigError, match=told):
        check_study(a_study(f"{own}:small", batch="{low: 1, high: 8}"))
    assert torch.equal(state, torch.get_rng_state())


def test_a_network_that_no_image_of_the_study_is_large_enough_for_is_refused(own: str) -> None:
    check_study(a_study(f"{own}:wide", image="[64, 64]"))
    for image in ("[32, 32]", "{choices: [[64, 64], [32, 32]]}"):
        with pytest.raises(
            ConfigError, match=rf"{own}:wide cannot learn from images of 32 x 32: RuntimeError: "
        ):
            check_study(a_study(f"{own}:wide", image=image))


def test_a_network_that_is_built_from_numbers_is_no_less_of_one(own: str) -> None:
    check_study(a_study(f"{own}:numbers"))


@pytest.mark.parametrize("branch", ["resnet1d", "{choices: [resnet1d, null]}", "{choices: [null, resnet1d]}"])
def test_a_branch_of_traces_is_tried_with_its_network(branch: str) -> None:
    views = {"eeg": "{name: raw, lines: 1}", "kaggle": "kaggle", "image": "[128, 32]"}
    model = f", trace_backbone: {branch}"
    check_study(a_study("test_resnet", model=model, batch=2, **views))
    with pytest.raises(
        ConfigError, match="image of 128 x 32 leaves test_resnet with resnet1d one value to norm"
    ):
        check_study(a_study("test_resnet", model=model, batch=1, **views))
    check_study(a_study("test_resnet", batch=1, **views))
    with pytest.raises(ConfigError, match="test_resnet with eegnet cannot learn from images of 128 x 32: "):
        check_study(a_study("test_resnet", model=", trace_backbone: eegnet", **views))


@pytest.mark.parametrize(
    ("depth", "refused"),
    [
        ("frozen_layers: 5", False),
        ("frozen_layers: {low: 0, high: 5}", True),
        ("finetuned_layers: 0", False),
        ("frozen_share: 1.0", False),
        ("frozen_share: {low: 0.0, high: 1.0}", True),
    ],
)
def test_what_is_frozen_is_not_normalized_over_a_batch_of_one(depth: str, refused: bool) -> None:
    study = a_study("test_resnet", batch=1, model=f", {depth}")
    if not refused:
        check_study(study)
        return
    with pytest.raises(ConfigError, match="leaves test_resnet one value"):
        check_study(study)


def test_the_smallest_trial_is_the_one_that_freezes_most_whichever_way_it_is_said() -> None:
    study = a_study("test_resnet", model=", frozen_share: {low: 0.0, high: 0.9}", batch="{choices: [4, 8]}")
    shares = [(config.model.frozen_share, config.training.batch_size) for config in smallest_configs(study)]
    assert shares == [(0.9, 4), (0.0, 4)]
    study = a_study("test_resnet", model=", finetuned_layers: {low: 1, high: 4}")
    assert [config.model.finetuned_layers for config in smallest_configs(study)] == [1, 4]


def test_views_of_one_shape_that_show_traces_at_different_places_are_each_planned() -> None:
    study = a_study(
        "test_resnet",
        model=", trace_backbone: resnet1d",
        eeg="{choices: [{name: raw, lines: 1}, {name: raw, lines: 2}]}",
        kaggle="kaggle",
        image="[128, 64]",
    )
    planned = [config.input.for_model for config in smallest_configs(study)]
    assert len(planned) == len(set(planned)) == 2
