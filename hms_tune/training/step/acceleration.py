"""How the step of a network is run: plainly, as a captured CUDA graph, or compiled; what measures fastest.

A small network on a fast GPU waits for its kernels to be launched: some hundred a step (with gradients and
update), each a few microseconds. A CUDA graph launches all of them at once. Compiling fuses them as well, but
costs up to a minute for each shape, so it is tried only where the steps to come can earn that back.

On the CPU steps run plainly unless something else is asked for: there a resumed trial must equal an
undisturbed one bit for bit, and what is fastest today need not be so tomorrow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import Tensor, nn

from hms_tune.config.acceleration import Acceleration, AccelerationSettings
from hms_tune.machine.json_cache import JsonCache

Batch = tuple[Tensor | None, ...]
"""Targets, weights and inputs of a step; None where there are no weights."""

Step = Callable[[nn.Module, Batch], Tensor]
"""Takes one step through a network or a compiled form of it; returns the loss."""

COMPILE_SECONDS = 60.0
"""What compiling costs where none has been timed yet: 34–87 s with cold caches, of a small backbone."""

HOPED_GAIN = 0.2
"""Share of a step that compiling may save; it is tried where so much of all steps to come pays for it."""

WORTH = 0.97
"""A faster way is taken where it needs at most this share of the time."""

_WARM_UP, _TIMED = 3, 10

_logger = logging.getLogger(__name__)


class Accelerator:
    """Runs the step of one learner.

    Parameters
    ----------
    settings : what was asked
    device : where it runs
    name : what the step is made of, for the record of times
    """

    def __init__(self, settings: AccelerationSettings, device: torch.device, *, name: str) -> None:
        self._settings = settings
        self._device = device
        self._name = name
        self._steps_of_trial = 0
        self._compiled: dict[nn.Module, nn.Module] = {}
        self._ways: dict[tuple[nn.Module, str], Callable[[Batch], Tensor]] = {}

    def forget(self) -> None:
        """Drop captured steps: they reference the learner, which references this object."""
        self._ways.clear()
        self._compiled.clear()

    def expect(self, steps: int) -> None:
        """Set about how many steps a trial takes; compiling must pay within those of the trials to come."""
        self._steps_of_trial = steps

    def __call__(
        self,
        step: Step,
        network: nn.Module,
        batch: Batch,
        unchanged: Callable[[], AbstractContextManager[None]],
    ) -> Tensor:
        """Take one step.

        Parameters
        ----------
        step : the step
        network : what it runs through
        batch : what it learns from
        unchanged : a context that puts everything back as it was; steps are tried in it

        Returns
        -------
        the loss; a later step may overwrite it
        """
        key = (network, _describe(batch))
        if key not in self._ways:
            self._ways[key] = self._choose(step, network, batch, unchanged)
        return self._ways[key](batch)

    def _choose(
        self,
        step: Step,
        network: nn.Module,
        batch: Batch,
        unchanged: Callable[[], AbstractContextManager[None]],
    ) -> Callable[[Batch], Tensor]:
        def plain(some: Batch) -> Tensor:
            return step(network, some)

        wanted = self._settings.wanted
        if wanted == "plain" or (wanted in ("auto", "graphs") and self._device.type != "cuda"):
            return plain
        times = _Times(
            JsonCache(self._settings.times), f"{_device_name(self._device)} {self._name} {_describe(batch)}"
        )
        ways: dict[Acceleration, Callable[[Batch], Tensor]] = {"plain": plain}
        with unchanged():
            if wanted != "auto":
                return self._made(wanted, step, network, batch) or plain
            known = times.fastest()
            if known is not None:
                return plain if known == "plain" else self._made(known, step, network, batch) or plain
            times.add("plain", self._timed(plain, batch))
            others: tuple[Acceleration, ...] = ("graphs", "compiled")
            for way in others:
                if way == "compiled" and not compiling_pays(
                    times.best, self._steps_of_trial * self._settings.trials_to_come
                ):
                    continue
                made = self._made(way, step, network, batch)
                if made is not None:
                    ways[way] = made
                    times.add(way, self._timed(made, batch))
        chosen = times.fastest() or "plain"
        times.keep()
        _logger.info("Steps run %s: %s", chosen, times)
        return ways[chosen]

    def _made(
        self, way: Acceleration, step: Step, network: nn.Module, batch: Batch
    ) -> Callable[[Batch], Tensor] | None:
        """A way of taking the step, ready to run; None where it cannot be made."""
        try:
            through = network
            if way == "compiled":
                if network not in self._compiled:
                    self._compiled[network] = cast(nn.Module, torch.compile(network))
                through = self._compiled[network]

            def taken(some: Batch) -> Tensor:
                return step(through, some)

            if self._device.type == "cuda":
                return CapturedStep(taken, batch, beside=self._captured())
            taken(batch)
        except RuntimeError as error:
            _logger.warning("Steps run plainly, for they cannot run %s: %s", way, str(error).splitlines()[0])
            return None
        return taken

    def _captured(self) -> CapturedStep | None:
        """A step that has been captured before."""
        captured = (way for way in self._ways.values() if isinstance(way, CapturedStep))
        return next(captured, None)

    def _timed(self, way: Callable[[Batch], Tensor], batch: Batch) -> float:
        """Seconds of a step."""
        for _ in range(_WARM_UP):
            way(batch)
        _synchronize(self._device)
        start = time.perf_counter()
        for _ in range(_TIMED):
            way(batch)
        _synchronize(self._device)
        return (time.perf_counter() - start) / _TIMED


class CapturedStep:
    """A step as a CUDA graph: one launch for all of its kernels.

    Parameters
    ----------
    step : takes the step; whatever it allocates belongs to the graph, and it must not wait for the device
    batch : an example; batches to come have its shapes
    beside : another step of the same learner, whose memory this one shares. Nothing but the loss outlives a
        replay, and that is read before the next, so that they may be replayed in any order

    Notes
    -----
    Gradients are set to None within the step, so that the graph's backward pass writes them into memory of
    its own instead of adding to them. Autocast begins and ends within it too: its casts of the weights are
    part of the graph and are made anew in each replay. The device's random generator is the graph's by
    default; a seed that is set before a replay holds in it.
    """

    def __init__(
        self, step: Callable[[Batch], Tensor], batch: Batch, *, beside: CapturedStep | None = None
    ) -> None:
        self._batch = tuple(None if tensor is None else tensor.clone() for tensor in batch)
        device = next(tensor.device for tensor in self._batch if tensor is not None)
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # what is set up at first use must not be captured
                for _ in range(_WARM_UP):
                    step(self._batch)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            pool = None if beside is None else beside._graph.pool()
            # Other threads go on: batches that are gathered ahead take pinned memory and ask for events. That
            # would break a capture that watches all threads, and fail in theirs as well.
            with torch.cuda.graph(self._graph, pool, stream=aside, capture_error_mode="thread_local"):
                self._loss = step(self._batch)

    def __call__(self, batch: Batch) -> Tensor:
        for mine, given in zip(self._batch, batch, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._loss


def compiling_pays(step_seconds: float, steps_to_come: int) -> bool:
    """Whether a gain of :data:`HOPED_GAIN` over all steps to come pays for compiling."""
    return HOPED_GAIN * step_seconds * steps_to_come > COMPILE_SECONDS


class _Times:
    """Seconds of a step run in different ways, kept from one process to the next."""

    def __init__(self, kept: JsonCache, name: str) -> None:
        self._kept = kept
        self._name = name
        known = kept.get(name)
        self._seconds: dict[str, float] = dict(known) if isinstance(known, dict) else {}

    @property
    def best(self) -> float:
        return min(self._seconds.values())

    def add(self, way: str, seconds: float) -> None:
        self._seconds[way] = seconds

    def fastest(self) -> Acceleration | None:
        """The way to take; None while none is known. A way must be clearly faster than what is simpler."""
        chosen: str | None = None
        for way in ("plain", "graphs", "compiled"):
            if way in self._seconds and (
                chosen is None or self._seconds[way] <= WORTH * self._seconds[chosen]
            ):
                chosen = way
        return cast("Acceleration | None", chosen)

    def keep(self) -> None:
        """Write them down, so that the next process need not measure."""
        self._kept.keep(self._name, self._seconds)

    def __str__(self) -> str:
        return ", ".join(f"{way} {1e3 * seconds:.2f} ms" for way, seconds in self._seconds.items())


def _describe(batch: Batch) -> str:
    return " ".join("none" if tensor is None else "x".join(map(str, tensor.shape)) for tensor in batch)


def _device_name(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return f"{name} torch {torch.__version__}"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
