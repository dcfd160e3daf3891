"""What a training step really takes on a GPU, over what was counted: measured once and remembered.

Convolutions bring workspaces of their own and the allocator rounds up, by how much only a real step tells.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from hms_tune.config.trial import TrialConfig
from hms_tune.machine.device import autocast, computes_in_bfloat16, prepare_device
from hms_tune.machine.json_cache import JsonCache
from hms_tune.models.network import build_network
from hms_tune.training.memory.footprint import N_CLASSES, footprint

PROBED_BATCH = 8

LEAST_RATIO = 1.0
"""A step that took less than was counted does not make the plan bolder."""


def step_ratio(config: TrialConfig, device: torch.device, known: JsonCache) -> float:
    """The ratio for a trial's backbone, image and precision on a device; measured where nobody has.

    On the CPU it is 1: there, bytes are what was counted.

    Parameters
    ----------
    known : ratios that this machine's processes have measured
    """
    if device.type != "cuda":
        return 1.0
    key = probe_key(config, device)
    ratio = known.get(key)
    if not isinstance(ratio, int | float):
        ratio = _measured(config, device)
        if ratio is None:  # what is free went meanwhile; the next trial tries again
            torch.cuda.empty_cache()
            return LEAST_RATIO
        ratio = max(LEAST_RATIO, ratio)
        known.keep(key, ratio)
    return float(ratio)


def probe_key(config: TrialConfig, device: torch.device) -> str:
    """What a ratio depends on, as text."""
    channels, height, width = config.input.for_model.shape
    half = computes_in_bfloat16(device, config.training.precision)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    branches = "+".join(filter(None, (config.model.backbone, config.model.trace_backbone)))
    parts = (branches, f"{channels}×{height}×{width}", "bf16" if half else "f32")
    return " ".join((*parts, hardware, f"torch {torch.__version__}"))


def _measured(config: TrialConfig, device: torch.device) -> float | None:
    """As :func:`measure`; None where memory ran out. What it held is free only when the error is gone."""
    try:
        return measure(config, device)
    except torch.OutOfMemoryError:
        return None


def measure(config: TrialConfig, device: torch.device) -> float:
    """Peak bytes of a small real step on a GPU over the bytes counted for it, weights and gradients apart."""
    prepare_device(device, config.training.precision)  # cuDNN's workspaces depend on it
    model = config.model.model_copy(update={"pretrained": False})
    counted = footprint(config, half=computes_in_bfloat16(device, config.training.precision))
    with torch.random.fork_rng(devices=[device]):
        network = build_network(model, config.input.for_model)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        images = torch.zeros(PROBED_BATCH, *config.input.for_model.shape, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        targets = torch.full((PROBED_BATCH, N_CLASSES), 1.0 / N_CLASSES, device=device)
        for _ in range(2):  # the first chooses algorithms, with workspaces that the next does not need
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            with autocast(device, config.training.precision):
                logits = network(images)
            loss = functional.kl_div(logits.float().log_softmax(dim=1), targets, reduction="batchmean")
            loss.backward()
            del logits, loss
            torch.cuda.synchronize(device)
        taken = torch.cuda.max_memory_allocated(device) - before
        del network, images, targets
    torch.cuda.empty_cache()
    return taken / (counted.step_fixed + PROBED_BATCH * counted.step_per_sample)
