"""How much memory a trial's network takes while it learns, found without a number being computed.

One training step runs on the meta device, where tensors have shapes and no contents, while every byte that
comes alive and goes again is counted. Two batch sizes give the bytes per sample and the rest.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hms_tune.config.image_layout import ModelInput
from hms_tune.config.input import InputConfig
from hms_tune.config.trial import SGD, ModelConfig, Optimizer, TimmOptimizer, TrialConfig
from hms_tune.data.schema import CLASSES
from hms_tune.models.network import Network, build_network
from hms_tune.models.optimizers import make_optimizer
from hms_tune.models.without_numbers import without_numbers
from hms_tune.signals.image import ImageTransform

N_CLASSES = len(CLASSES)

BATCH_SIZES = (2, 4)
"""The two batch sizes that are counted; batch normalization needs two samples."""

EEG_SHAPE = (20, 10_000)
SPECTROGRAM_SHAPE = (400, 300)


Count = TypeVar("Count")


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a trial's network takes, apart from its data.

    Attributes
    ----------
    weights : parameters and buffers
    gradients : one for each trained parameter
    optimizer : momentum (SGD, where it has any), or both moments (Adam, AdamW), of the trained parameters;
        of timm's others the most that is alive in their first step
    average : the moving average of weights and buffers, where there is one
    saved_per_sample : what the forward pass of one sample keeps for the backward pass
    step_per_sample : the most that is alive at once in a training step, for one sample
    step_fixed : the same, whatever the batch size: weights cast for autocast, sums over the batch
    predict_per_sample : the most that is alive at once while one sample is predicted
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    saved_per_sample: int
    step_per_sample: int
    step_fixed: int
    predict_per_sample: int

    @property
    def network(self) -> int:
        """All that stays from step to step."""
        return self.weights + self.gradients + self.optimizer + self.average


def _batch_norm(images: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What batch normalization returns: its images, and a mean and a deviation of each channel."""
    exact = torch.promote_types(images.dtype, torch.float32)
    mean = torch.empty(images.shape[1], dtype=exact, device=images.device)
    return torch.empty_like(images), mean, torch.empty_like(mean)


def _batch_norm_backward(
    gradient: Tensor, images: Tensor, weight: Tensor | None, *others: Any
) -> tuple[Tensor | None, ...]:
    """What its backward pass returns: the gradients of images, weight and bias that are asked for."""
    like = images if weight is None else weight
    gradients = (torch.empty_like(images), *(like.new_empty(images.shape[1]) for _ in range(2)))
    return tuple(each if asked else None for each, asked in zip(gradients, others[-1], strict=True))


_SHAPED: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.native_batch_norm.default: _batch_norm,
    torch.ops.aten.native_batch_norm_backward.default: _batch_norm_backward,
}
"""Operations that the meta device puts together from dozens of others, and what they return there."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that come alive while it is entered.

    Works alike on tensors with contents and on the meta device. Views share their storage and count once.

    Attributes
    ----------
    now : bytes alive of those that were made here
    peak : the most there were at once
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        leaves = tree_leaves((args, kwargs))
        given = {id(leaf.untyped_storage()) for leaf in leaves if isinstance(leaf, Tensor)}
        shaped = _SHAPED.get(func) if leaves and isinstance(leaves[0], Tensor) and leaves[0].is_meta else None
        result = (shaped or func)(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def footprint(config: TrialConfig, *, half: bool) -> Footprint:
    """Count what a trial's network takes.

    Parameters
    ----------
    config : the trial
    half : whether it computes under bfloat16 autocast. The meta device has no autocast; the network is
        counted with a backbone in bfloat16, and the weights in float32 with a cast copy of each

    Raises
    ------
    ModelError
        If there is no such network.
    """
    training = config.training
    counted = _counted(shape_of(config.model), config.input.for_model, half)
    return Footprint(
        weights=counted.weights,
        gradients=sum(map(_float_bytes, counted.trained_shapes)),
        optimizer=_optimizer_bytes(training.optimizer, counted.trained_shapes),
        average=counted.weights if training.ema_decay is not None else 0,
        saved_per_sample=counted.saved_per_sample,
        step_per_sample=counted.step_per_sample,
        step_fixed=counted.step_fixed,
        predict_per_sample=counted.predict_per_sample,
    )


@lru_cache(maxsize=64)
def _optimizer_bytes(optimizer: Optimizer, shapes: tuple[tuple[int, ...], ...]) -> int:
    if isinstance(optimizer, TimmOptimizer):
        try:
            return _first_step_bytes(optimizer, shapes, "meta")
        except (NotImplementedError, RuntimeError):  # it asks for the values of tensors
            return _first_step_bytes(optimizer, shapes, "cpu")
    moments = (1 if optimizer.momentum else 0) if isinstance(optimizer, SGD) else 2
    return moments * sum(map(_float_bytes, shapes))


def _first_step_bytes(optimizer: TimmOptimizer, shapes: tuple[tuple[int, ...], ...], device: str) -> int:
    parameters = [torch.zeros(shape, device=device, requires_grad=True) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    made = make_optimizer(optimizer, [{"params": parameters, "lr": 1e-3, "weight_decay": 0.01}])
    with torch.random.fork_rng(devices=[]), LiveBytes() as live:
        made.step()
    return int(live.peak)


def _float_bytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * torch.float32.itemsize


@lru_cache(maxsize=64)
def transform_bytes_per_sample(config: InputConfig) -> int:
    """The most that is alive at once while one sample's signals become an image, these two included."""
    transform = ImageTransform(config)

    def needed(count: int) -> int:
        live = LiveBytes()
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), live:
            eeg = torch.empty(count, *EEG_SHAPE) if config.needs_eeg else None
            spectrogram = torch.empty(count, *SPECTROGRAM_SHAPE) if config.needs_spectrogram else None
            transform(eeg, spectrogram)
        return live.peak

    per_sample, _ = _line(needed)
    return per_sample


@dataclass(frozen=True, slots=True)
class _Counted:
    weights: int
    trained_shapes: tuple[tuple[int, ...], ...]
    saved_per_sample: int
    step_per_sample: int
    step_fixed: int
    predict_per_sample: int


def shape_of(model: ModelConfig) -> ModelConfig:
    """The configuration without what changes no shape, so that fewer are counted."""
    return model.model_copy(
        update={
            "pretrained": False,
            "dropout": 0.5 if model.dropout else 0.0,
            "drop_path": 0.1 if model.drop_path else 0.0,
        }
    )


@lru_cache(maxsize=256)
def _counted(model: ModelConfig, given: ModelInput, half: bool) -> _Counted:
    return count_shapes(model, given, lambda network: _count(network, given, half))


def count_shapes(model: ModelConfig, given: ModelInput, count: Callable[[Network], Count]) -> Count:
    """What ``count`` makes of a network without contents; the caller's random numbers are left untouched.

    Some networks ask for the values of tensors, or for autocast, which the meta device does not have: they
    are counted on the CPU, where a few samples take the same bytes.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with without_numbers():
                network = build_network(model, given)
            return count(network)
        except Exception:  # noqa: BLE001  (with real numbers it says what it is, unless it was for want of them)
            return count(build_network(model, given))


def _count(network: Network, given: ModelInput, half: bool) -> _Counted:
    network.to(memory_format=torch.channels_last)
    weights = sum(_bytes(tensor) for tensor in (*network.parameters(), *network.buffers()))
    trained = tuple(tuple(each.shape) for each in network.parameters() if each.requires_grad)
    cast = weights // 2 if half else 0
    if half:
        for branch in (network.backbone, network.second):
            if branch is not None:
                branch.to(torch.bfloat16)
        network.head.register_forward_pre_hook(lambda _, maps: tuple(each.float() for each in maps))
    steps: dict[int, StepBytes] = {
        count: count_step(network, _images(network, count, given)) for count in BATCH_SIZES
    }
    saved, _ = _line(lambda count: steps[count].saved)
    step, fixed = _line(lambda count: steps[count].peak)
    predict, _ = _line(lambda count: _count_prediction(network, _images(network, count, given)))
    return _Counted(weights, trained, saved, step, max(0, fixed) + cast, predict)


def _images(network: nn.Module, count: int, given: ModelInput) -> Tensor:
    like = next(network.parameters())
    images = torch.empty(count, *given.shape, dtype=like.dtype, device=like.device)
    return images.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True)
class StepBytes:
    """What one training step took: alive after its forward pass, and the most at once in all of it.

    Neither the images nor the gradients of parameters are in it: they are there before and after.
    """

    saved: int
    peak: int


def count_step(network: nn.Module, images: Tensor) -> StepBytes:
    """Run a training step, without the optimizer's part, and count its bytes.

    Parameters
    ----------
    network : in the mode and precision in which it learns
    images : a batch, on the network's device
    """
    network.train()
    network.zero_grad(set_to_none=True)
    targets = torch.full((len(images), N_CLASSES), 1.0 / N_CLASSES, device=images.device)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    live = LiveBytes()
    with live:
        logits = network(images)
        saved = live.now
        loss = functional.kl_div(logits.float().log_softmax(dim=1), targets, reduction="batchmean")
        loss.backward()
    network.zero_grad(set_to_none=True)
    return StepBytes(saved, live.peak)


@torch.no_grad()
def _count_prediction(network: nn.Module, images: Tensor) -> int:
    network.eval()
    live = LiveBytes()
    with live:
        network(images)
    return live.peak


def _line(needed: Callable[[int], int]) -> tuple[int, int]:
    """Bytes per sample, rounded up, and bytes whatever the batch size."""
    small, large = BATCH_SIZES
    at_small, at_large = needed(small), needed(large)
    per_sample = -((at_small - at_large) // (large - small))
    return per_sample, at_large - per_sample * large


def _bytes(tensor: Tensor) -> int:
    return int(tensor.nbytes)
