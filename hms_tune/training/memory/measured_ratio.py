"""What a training step really takes on a GPU, over what was counted: measured once and remembered.

Convolutions bring workspaces of their own and the allocator rounds up, by how much only a real step tells.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path

import torch
from torch.nn import functional

from hms_tune.config.trial import TrialConfig
from hms_tune.machine.device import autocast, computes_in_bfloat16, prepare_device
from hms_tune.models.network import build_network
from hms_tune.training.memory.footprint import N_CLASSES, footprint

_logger = logging.getLogger(__name__)

PROBED_BATCH = 8

LEAST_RATIO = 1.0
"""A step that took less than was counted does not make the plan bolder."""


class Calibration:
    """Ratios of measured to counted bytes, in a JSON file that all processes of a machine share.

    Parameters
    ----------
    path : the file; made when the first ratio is remembered. None: remembered in this process alone
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._ratios: dict[str, float] = {}

    def ratio(self, config: TrialConfig, device: torch.device) -> float:
        """The ratio for a trial's backbone, image and precision on a device; probed where nobody has.

        On the CPU it is 1: there, bytes are what was counted.
        """
        if device.type != "cuda":
            return 1.0
        key = probe_key(config, device)
        if key not in self._ratios:
            self._ratios |= self._read()
        if key not in self._ratios:
            measured = _measured(config, device)
            if measured is None:  # what is free went meanwhile; the next trial tries again
                torch.cuda.empty_cache()
                return LEAST_RATIO
            self.remember(key, max(LEAST_RATIO, measured))
        return self._ratios[key]

    def remember(self, key: str, ratio: float) -> None:
        """Keep a ratio, beside those of other processes; where that fails, it is measured again next time."""
        self._ratios[key] = ratio
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._ratios = self._read() | self._ratios
                written = self._path.with_suffix(".new")
                text = json.dumps(self._ratios, indent=2, sort_keys=True) + "\n"
                written.write_text(text, encoding="utf-8")
                os.replace(written, self._path)
        except OSError as error:
            _logger.warning("%s cannot be written: %s", self._path, error.strerror or error)

    def _read(self) -> dict[str, float]:
        """What the file holds; a damaged one holds nothing, and is written anew."""
        if self._path is None:
            return {}
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {key: float(value) for key, value in known.items() if isinstance(value, int | float)}


def probe_key(config: TrialConfig, device: torch.device) -> str:
    """What a ratio depends on, as text."""
    height, width = config.input.image
    half = computes_in_bfloat16(device, config.training.precision)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    parts = (config.model.backbone, f"{config.input.channels}×{height}×{width}", "bf16" if half else "f32")
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
    height, width = config.input.image
    model = config.model.model_copy(update={"pretrained": False})
    counted = footprint(config, half=computes_in_bfloat16(device, config.training.precision))
    with torch.random.fork_rng(devices=[device]):
        network = build_network(model, channels=config.input.channels, image=config.input.image)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        images = torch.zeros(PROBED_BATCH, config.input.channels, height, width, device=device)
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
