"""Where a trial computes, and in which precision."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from hms_tune.config.trial import Precision
from hms_tune.errors import UsageError


def resolve_device(text: str = "auto") -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` names.

    Raises
    ------
    UsageError
        If it is not on this machine.
    """
    if text == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise UsageError(f"unknown device {text!r}", hint="Use auto, cpu or cuda:0") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = device.index or 0
        if index >= count:
            raise UsageError(
                f"device {text} is not there; this machine has {count} CUDA devices",
                hint="Use --device cpu, or run hms-tune doctor",
            )
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise UsageError(f"device {text!r} is not supported", hint="Use auto, cpu or cuda:0")
    return device


def make_current(device: torch.device) -> None:
    """Let what torch asks of "the" GPU be asked of this one, and no context be opened on another."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def prepare_device(device: torch.device, precision: Precision) -> None:
    """Let a GPU choose its fastest kernels, and round products to TF32 only where that is asked for."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def computes_in_bfloat16(device: torch.device, precision: Precision) -> bool:
    """Whether a precision means bfloat16 on a device: where asked, or ``auto`` on hardware made for it."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16" or (precision == "auto" and native)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context that computes in bfloat16 where the precision means it."""
    if computes_in_bfloat16(device, precision):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
