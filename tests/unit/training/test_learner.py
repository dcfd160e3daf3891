"""One network for many folds and trials: nothing of one is left in the next."""

import gc
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from hms_tune.config.acceleration import AccelerationSettings
from hms_tune.config.image_layout import ModelInput
from hms_tune.config.input import InputConfig
from hms_tune.config.trial import SGD, Adam, AdamW, ModelConfig, Optimizer, TrainingConfig, TrialConfig
from hms_tune.machine.json_cache import JsonCache
from hms_tune.models.frozen_prefix import cut
from hms_tune.models.network import Network, build_network
from hms_tune.training.step.acceleration import Accelerator, CapturedStep, _Times, compiling_pays
from hms_tune.training.step.learner import Learner, Learners
from hms_tune.training.step.optimizers import Updater
from hms_tune.training.step.weight_average import MovingAverage

CPU = torch.device("cpu")
IMAGE = (32, 64)


def a_trial(*, model: dict[str, object] | None = None, **training: object) -> TrialConfig:
    return TrialConfig(
        input=InputConfig.model_validate({"image": IMAGE, "channels": 1}),
        model=ModelConfig.model_validate({"backbone": "test_resnet", "pretrained": False} | (model or {})),
        training=TrainingConfig.model_validate(training),
    )


def batches(n: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(8, 1, *IMAGE, generator=generator),
            torch.rand(8, 6, generator=generator).softmax(dim=1),
        )
        for _ in range(n)
    ]


def train(learner: Learner, fold: int = 0, factors: Sequence[float] = (1.0, 0.5, 0.25)) -> dict[str, Tensor]:
    learner.begin(fold)
    learner.network.train()
    learner.updater.plan(factors)
    for step, (images, targets) in enumerate(batches(len(factors))):
        torch.manual_seed(step)
        learner.updater.set_step(step)
        learner.learn((images,), targets, None)
    return {name: tensor.clone() for name, tensor in learner.judged_network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_second_trial_on_one_network_learns_what_it_would_alone(optimizer: str) -> None:
    common = {"optimizer": {"name": optimizer}, "ema_decay": 0.9, "seed": 3}
    first = a_trial(learning_rate=0.1, model={"dropout": 0.5}, **common)
    second = a_trial(
        learning_rate=0.01, weight_decay=0.2, model={"dropout": 0.2}, **(common | {"ema_decay": 0.7})
    )
    learners = Learners(CPU)
    used = learners.lend(first)
    train(used, fold=1)
    again = learners.lend(second)
    assert again is used
    assert equal(train(again, fold=0), train(Learners(CPU).lend(second), fold=0))


def test_trials_of_other_shapes_get_a_learner_of_their_own() -> None:
    learners = Learners(CPU)
    first = learners.lend(a_trial())
    assert learners.lend(a_trial(loss="bce")) is not first
    assert learners.lend(a_trial(backbone_lr_ratio=0.1)).network is first.network
    assert learners.lend(a_trial(model={"dropout": 0.1})).network is not first.network


def test_a_learner_that_is_replaced_gives_its_memory_back_at_once() -> None:
    learners = Learners(CPU)
    first = learners.lend(a_trial(ema_decay=0.9))
    train(first)
    token, average = first.begin(0), weakref.ref(first.judged_network)
    gc.disable()  # what is held in a circle alone would stay until the collector comes by
    try:
        learners.lend(a_trial(loss="bce"))
        assert first.fold is not token
        del first
        assert average() is None
    finally:
        gc.enable()


def test_folds_start_from_weights_of_their_own_that_depend_on_the_seed_alone() -> None:
    learners = Learners(CPU)
    learner = learners.lend(a_trial(seed=1))
    starts = []
    for fold in (0, 1, 0):
        learner.begin(fold)
        starts.append({name: tensor.clone() for name, tensor in learner.network.state_dict().items()})
    assert equal(starts[0], starts[2])
    assert not equal(starts[0], starts[1])
    torch.manual_seed(99)
    fresh = Learners(CPU).lend(a_trial(seed=1))
    fresh.begin(1)
    assert equal(starts[1], fresh.network.state_dict())


def test_dropout_and_stochastic_depth_follow_their_rates_and_keep_the_mean() -> None:
    network = build_network(
        ModelConfig(backbone="test_efficientnet", pretrained=False, dropout=0.25, drop_path=0.4),
        ModelInput(1),
    )
    dropout = next(module for module in network.head if type(module).__name__ == "Dropout")
    torch.manual_seed(0)
    dropped = dropout(torch.ones(100_000))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)
    path = [module for module in network.modules() if type(module).__name__ == "DropPath"][-1]
    branches = path(torch.ones(20_000, 2, 1, 1))
    zero = (branches == 0).float().mean(dim=(1, 2, 3))
    assert set(zero.tolist()) == {0.0, 1.0}
    assert zero.mean().item() == pytest.approx(float(path.rate), abs=0.02)
    network.eval()
    assert torch.equal(dropout(torch.ones(10)), torch.ones(10))


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (AdamW(), torch.optim.AdamW),
        (Adam(beta1=0.8), lambda groups: torch.optim.Adam(groups, betas=(0.8, 0.999))),
        (SGD(momentum=0.9), lambda groups: torch.optim.SGD(groups, momentum=0.9, nesterov=True)),
        (SGD(momentum=0.0, nesterov=False), torch.optim.SGD),
    ],
    ids=["adamw", "adam", "sgd", "plain sgd"],
)
def test_updates_are_those_of_torchs_own_optimizers(config: Optimizer, reference) -> None:
    def groups() -> list[dict[str, object]]:
        generator = torch.Generator().manual_seed(0)
        weight, bias = (nn.Parameter(torch.randn(size, generator=generator)) for size in ((4, 5), (5,)))
        return [
            {"params": [weight], "lr": 0.1, "weight_decay": 0.3},
            {"params": [bias], "lr": 0.05, "weight_decay": 0.0},
        ]

    ours, theirs = groups(), groups()
    updater, optimizer = Updater(config, ours, CPU), reference(theirs)
    factors = [1.0, 0.3, 0.7, 0.1]
    updater.plan(factors)
    generator = torch.Generator().manual_seed(1)
    for step, factor in enumerate(factors):
        updater.set_step(step)
        for mine, other in zip(ours, theirs, strict=True):
            gradient = torch.randn(mine["params"][0].shape, generator=generator)
            mine["params"][0].grad, other["params"][0].grad = gradient.clone(), gradient.clone()
        for group, lr in zip(optimizer.param_groups, (0.1, 0.05), strict=True):
            group["lr"] = lr * factor
        updater.step()
        optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine["params"][0], other["params"][0], rtol=1e-5, atol=1e-6)


def test_the_moving_average_is_that_of_timm() -> None:
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="test_resnet", pretrained=False), ModelInput(1))
    ours, timms = MovingAverage(network, 0.6), ModelEmaV3(network, decay=0.6, use_warmup=True)
    for step in range(6):
        network(torch.randn(4, 1, *IMAGE)).sum()  # moves the statistics of its norms
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update(step)
        timms.update(network, step=step)
    assert equal(ours.network.state_dict(), timms.module.state_dict())
    ours.reset()
    assert equal(ours.network.state_dict(), network.state_dict())


def test_steps_that_were_only_tried_leave_no_trace() -> None:
    learner = Learners(CPU).lend(a_trial(ema_decay=0.9))
    train(learner)
    before = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    moments = [{key: value.clone() for key, value in each.items()} for each in learner.updater.state_dict()]
    random = torch.random.get_rng_state()
    images, targets = batches(1)[0]
    with learner._unchanged():
        learner._step(learner.network, (targets, None, images))
        torch.rand(5)
        assert not equal(before, learner.network.state_dict())
    assert equal(before, learner.network.state_dict())
    assert all(map(equal, moments, learner.updater.state_dict()))
    assert torch.equal(random, torch.random.get_rng_state())


def test_a_trial_of_plain_sgd_goes_on_from_a_checkpoint() -> None:
    """Of which there is nothing to remember but the weights."""
    plain = {"name": "sgd", "momentum": 0.0, "nesterov": False}
    learner = Learners(CPU).lend(a_trial(optimizer=plain))
    trained = train(learner)
    saved = {"network": trained, "average": None, "optimizer": learner.updater.state_dict(), "updates": 3}
    other = Learners(CPU).lend(a_trial(optimizer=plain))
    other.load_state_dict(saved)
    assert equal(other.network.state_dict(), trained)


def test_a_fold_whose_network_was_lent_on_is_told_apart() -> None:
    learner = Learners(CPU).lend(a_trial())
    token = learner.begin(0)
    assert learner.fold is token
    learner.begin(1)
    assert learner.fold is not token


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "resnet18d", "efficientnet_b0"])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_network_cut_behind_its_frozen_layers_computes_the_same(backbone: str, depth: int) -> None:
    torch.manual_seed(0)
    config = ModelConfig(backbone=backbone, pretrained=False, frozen_layers=depth)
    network = build_network(config, ModelInput(1, IMAGE))
    images = torch.randn(4, 1, *IMAGE)
    parts = cut(network)
    assert parts is not None
    prefix, rest = parts

    def gradients(logits: Tensor) -> list[Tensor]:
        network.zero_grad()
        logits.square().sum().backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    saved = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    whole = network(images)
    of_whole = gradients(whole)
    network.load_state_dict(saved)
    features = prefix(images)
    assert not any(feature.requires_grad for feature in features)
    assert torch.equal(rest(*features), whole)
    network.load_state_dict(saved)
    of_rest = gradients(rest(*prefix(images)))
    assert len(of_rest) == len(of_whole)
    assert all(map(torch.equal, of_rest, of_whole))


def test_a_moving_average_takes_the_features_of_its_networks_prefix() -> None:
    config = ModelConfig(backbone="test_resnet", pretrained=False, frozen_layers=1)
    network = build_network(config, ModelInput(1, IMAGE))
    network.backbone.act1 = nn.Dropout(0.5)  # random in training alone; pooling follows it
    average = MovingAverage(network, 0.9).network
    parts, of_average = cut(network), cut(average)
    assert parts is not None
    assert of_average is not None
    assert network.training
    assert not any(module.training for module in average.modules())
    images = torch.randn(2, 1, *IMAGE)
    assert torch.equal(of_average[1](*parts[0](images)), average(images))


def test_a_network_without_frozen_layers_is_not_cut() -> None:
    assert cut(build_network(ModelConfig(backbone="test_resnet", pretrained=False), ModelInput(1))) is None


def test_dropout_before_the_cut_would_keep_layers_from_being_frozen() -> None:
    network: Network = build_network(
        ModelConfig(backbone="test_resnet", pretrained=False, frozen_layers=1), ModelInput(1)
    )
    network.backbone.maxpool = nn.Dropout(0.5)
    parts = cut(network)
    assert parts is not None
    assert "maxpool" in dict(parts[1].graph.named_modules())


def test_a_way_is_taken_only_where_it_is_clearly_faster(tmp_path: Path) -> None:
    path = tmp_path / "home" / "steps.json"
    times = _Times(JsonCache(path), "a step")
    assert times.fastest() is None
    times.add("plain", 1.00)
    times.add("graphs", 0.98)
    assert times.fastest() == "plain"
    times.add("graphs", 0.50)
    times.add("compiled", 0.49)
    assert times.fastest() == "graphs"
    times.add("compiled", 0.30)
    times.keep()
    assert _Times(JsonCache(path), "a step").fastest() == "compiled"
    assert _Times(JsonCache(path), "another").fastest() is None
    path.write_text("{ spoilt", encoding="utf-8")
    assert _Times(JsonCache(path), "a step").fastest() is None


def test_compiling_must_pay_within_the_steps_to_come() -> None:
    assert not compiling_pays(step_seconds=0.01, steps_to_come=10_000)
    assert compiling_pays(step_seconds=0.01, steps_to_come=100_000)


@pytest.mark.parametrize("wanted", ["auto", "graphs", "plain"])
def test_on_the_cpu_steps_run_plainly(wanted: str) -> None:
    accelerator = Accelerator(AccelerationSettings(wanted), CPU, name="test")
    taken: list[nn.Module] = []

    def step(network: nn.Module, batch: object) -> Tensor:
        taken.append(network)
        return torch.zeros(())

    network = nn.Identity()
    for _ in range(2):
        accelerator(step, network, (torch.zeros(2), None), pytest.fail)
    assert taken == [network, network]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("wanted", ["graphs", "compiled"])
def test_captured_steps_learn_what_plain_ones_do(wanted: str) -> None:
    device = torch.device("cuda", 0)
    config = a_trial(precision="float32", ema_decay=0.9, model={"dropout": 0.3})
    weights = []
    for way in ("plain", wanted):
        learner = Learners(device, AccelerationSettings(way)).lend(config)
        learner.begin(0)
        learner.network.train()
        learner.updater.plan([1.0, 0.5, 0.25])
        for step, (images, targets) in enumerate(batches()):
            torch.manual_seed(step)
            learner.updater.set_step(step)
            learner.learn((images.to(device),), targets.to(device), None)
        weights.append({name: tensor.cpu() for name, tensor in learner.judged_network.state_dict().items()})
        if way == "graphs":
            assert isinstance(next(iter(learner._accelerator._ways.values())), CapturedStep)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=2e-4, atol=2e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_of_two_shapes_are_captured_while_another_thread_pins_memory() -> None:
    device, ended = torch.device("cuda", 0), threading.Event()

    def pin() -> None:
        stream = torch.cuda.Stream(device)
        while not ended.is_set():
            with torch.cuda.stream(stream):
                torch.empty(2**22, pin_memory=True).to(device, non_blocking=True)

    weights = []
    thread = threading.Thread(target=pin)
    thread.start()
    try:
        for way in ("plain", "graphs"):
            learner = Learners(device, AccelerationSettings(way)).lend(a_trial(precision="float32"))
            learner.begin(0)
            learner.network.train()
            learner.updater.plan([1.0] * 6)
            for step, (images, targets) in enumerate(batches(6)):
                learner.updater.set_step(step)
                rows = 8 if step % 2 else 6
                learner.learn((images[:rows].to(device),), targets[:rows].to(device), None)
            weights.append({name: each.cpu() for name, each in learner.network.state_dict().items()})
    finally:
        ended.set()
        thread.join()
    ways = list(learner._accelerator._ways.values())
    assert [type(each) for each in ways] == [CapturedStep, CapturedStep]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=2e-4, atol=2e-5)
