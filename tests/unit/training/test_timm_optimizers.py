"""timm's optimizers by name: each goes on from a checkpoint bit for bit, or is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import Tensor, nn

from hms_tune.config.acceleration import AccelerationSettings
from hms_tune.config.image_layout import ModelInput
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TimmOptimizer, TrainingConfig, TrialConfig
from hms_tune.errors import ConfigError
from hms_tune.machine.saved_state import read_state
from hms_tune.models.network import build_network
from hms_tune.models.optimizers import check_optimizer
from hms_tune.search.study_check import check_study
from hms_tune.training.memory.footprint import footprint
from hms_tune.training.step.learner import Learners
from hms_tune.training.step.random_counters import seed_device
from hms_tune.training.step.timm_optimizers import TimmUpdater

CPU = torch.device("cpu")
OURS = {"sgd", "adam", "adamw"}
APEX = {"fusedadam", "fusedadamw", "fusedlamb", "fusednovograd", "fusedsgd"}
BITSANDBYTES = {
    f"bnb{name}{bits}" for name in ("adam", "adamw", "ademamix", "lion", "sgd") for bits in ("", "8bit")
}
REFUSED = APEX | BITSANDBYTES | {"adahessian", "kron", "kronc", "kronw"}
USABLE = sorted(set(list_optimizers()) - OURS - REFUSED)
STEPS = 9


def a_network() -> nn.Module:
    torch.default_generator.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)),
    )


def groups_of(network: nn.Module) -> list[dict[str, Any]]:
    """Three rates, and no decay of norms and biases, as of a trial with layer-wise rates."""
    parameters = list(network.parameters())
    plain = [each for each in parameters if each.ndim <= 1]
    return [
        {"params": [parameters[0]], "lr": 2e-3, "lr_scale": 0.2, "weight_decay": 0.05},
        {"params": plain, "lr": 5e-3, "lr_scale": 0.5, "weight_decay": 0.0},
        {"params": [each for each in parameters[1:] if each.ndim > 1], "lr": 1e-2, "weight_decay": 0.05},
    ]


def learn(network: nn.Module, updater: Any, steps: Iterator[int] | range) -> None:
    updater.plan([1.0 / (1 + step) for step in range(STEPS)])
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 1, 10, 10, generator=generator)
        targets = torch.randn(8, 6, generator=generator).softmax(dim=1)
        seed_device(step, CPU)
        updater.zero_grad()
        updater.set_step(step)
        nn.functional.cross_entropy(network(images), targets).backward()
        updater.step()


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", USABLE)
def test_a_trial_goes_on_from_a_checkpoint_bit_for_bit(name: str) -> None:
    whole = a_network()
    updater = TimmUpdater(TimmOptimizer(name=name), groups_of(whole))
    first = weights(whole)
    learn(whole, updater, range(4))
    content = io.BytesIO()
    torch.save({"network": weights(whole), "optimizer": updater.state_dict()}, content)
    learn(whole, updater, range(4, STEPS))
    resumed = a_network()
    updater = TimmUpdater(TimmOptimizer(name=name), groups_of(resumed))
    learn(resumed, updater, range(2))  # what it had learnt before is forgotten
    saved = read_state(content.getvalue())
    resumed.load_state_dict(saved["network"])
    updater.load_state_dict(saved["optimizer"])
    learn(resumed, updater, range(4, STEPS))
    assert equal(weights(resumed), weights(whole))
    assert not equal(first, weights(whole))


@pytest.mark.parametrize("name", USABLE)
def test_a_second_fold_learns_what_it_would_alone(name: str) -> None:
    network = a_network()
    first = weights(network)
    updater = TimmUpdater(TimmOptimizer(name=name), groups_of(network))
    learn(network, updater, range(3))
    once = weights(network)
    network.load_state_dict(first)
    updater.reset()
    learn(network, updater, range(3))
    assert equal(weights(network), once)


def refusal(name: str) -> str | None:
    try:
        check_optimizer(TimmOptimizer(name=name))
    except ConfigError as error:
        return error.what
    return None


def test_what_cannot_be_used_of_timms_is_refused_and_nothing_else() -> None:
    refused = {name: why for name in set(list_optimizers()) - OURS if (why := refusal(name)) is not None}
    assert refused.keys() == REFUSED
    assert all(why.startswith(f"{name} cannot be used: it ") for name, why in refused.items())


def test_rates_and_decay_of_each_group_are_those_that_timm_is_given() -> None:
    ours, theirs = a_network(), a_network()
    updater = TimmUpdater(TimmOptimizer(name="lamb", beta2=0.98), groups_of(ours))
    learn(ours, updater, range(STEPS))
    plain = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in groups_of(theirs)]
    optimizer = create_optimizer_v2(plain, "lamb", betas=(0.9, 0.98))
    peaks = [group["lr"] for group in optimizer.param_groups]

    class Plain:
        plan = staticmethod(lambda factors: None)
        zero_grad, step = staticmethod(optimizer.zero_grad), staticmethod(optimizer.step)

        @staticmethod
        def set_step(step: int) -> None:
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak / (1 + step)

    learn(theirs, Plain, range(STEPS))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    ("optimizer", "message", "hint"),
    [
        ("lionn", 'timm has no optimizer "lionn"', "Nearest: lion"),
        ("adamm", 'timm has no optimizer "adamm"', "Nearest: adam"),
        ("{choices: [adamw, {name: lion, momentum: 0.9}]}", "lion takes no momentum", "Leave it out"),
        ("{choices: [lamb, kron]}", "kron cannot be used: it remembers more", "Choose another"),
        ("{name: nesterov, momentum: {low: 0.0, high: 0.9}}", "Nesterov momentum requires", "Choose another"),
    ],
)
def test_a_study_with_an_optimizer_that_no_trial_could_use_is_refused(
    optimizer: str, message: str, hint: str
) -> None:
    text = "study: named\nmodel: {backbone: test_resnet, pretrained: false}\ntraining: {optimizer: %s}"
    text %= optimizer
    with pytest.raises(ConfigError) as refused:
        check_study(StudyFile.parse(text, "named.yaml"))
    assert message in refused.value.what
    assert refused.value.where == "named.yaml: training.optimizer"
    assert hint in str(refused.value.hint)


def test_settings_of_a_named_optimizer_are_searched_like_others() -> None:
    lamb = "{name: lamb, beta1: {low: 0.8, high: 0.95}}"
    text = f"study: named\ntraining: {{optimizer: {{choices: [adamw, lion, {lamb}]}}}}"
    file = StudyFile.parse(text, "named.yaml")
    assert [branch.label for branch in file.space.entries["training"].entries["optimizer"].branches] == [
        *("adamw", "lion", "lamb")
    ]
    with pytest.raises(ConfigError, match='unknown key "beta9"'):
        StudyFile.parse("study: named\ntraining: {optimizer: {name: lion, beta9: 0.5}}", "named.yaml")


def test_the_optimizers_of_before_are_written_as_before() -> None:
    assert {
        name: TrainingConfig.model_validate({"optimizer": name}).optimizer.model_dump() for name in OURS
    } == {
        "sgd": {"name": "sgd", "momentum": 0.9, "nesterov": True},
        "adam": {"name": "adam", "beta1": 0.9, "beta2": 0.999},
        "adamw": {"name": "adamw", "beta1": 0.9, "beta2": 0.999},
    }


def test_steps_of_a_named_optimizer_are_never_captured() -> None:
    config = TrialConfig.model_validate(
        {"model": {"backbone": "test_resnet", "pretrained": False}, "training": {"optimizer": "lion"}}
    )
    learner = Learners(CPU, AccelerationSettings("compiled")).lend(config)
    assert learner._accelerator._settings.wanted == "plain"


@pytest.mark.parametrize(("name", "moments"), [("lion", 1), ("nadam", 2), ("adan", 4)])
def test_the_memory_plan_counts_what_the_optimizer_makes(name: str, moments: int) -> None:
    config = TrialConfig.model_validate(
        {"model": {"backbone": "test_resnet", "pretrained": False}, "training": {"optimizer": name}}
    )
    network = build_network(config.model, ModelInput(1))
    trained = sum(parameter.nbytes for parameter in network.parameters())
    assert moments * trained <= footprint(config, half=False).optimizer <= (moments + 1.5) * trained
