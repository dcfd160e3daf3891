"""Random numbers as counters.

Every draw of a trial comes from (trial seed, purpose, fold, epoch, step) and from nothing that happened
before, so any epoch can be replayed on any machine, in any process, after any interruption.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

Purpose = Literal["weights", "order", "augmentation", "regularization"]


def counter_seed(seed: int, purpose: Purpose, *counters: int) -> int:
    """A 63-bit seed that is a pure function of its arguments.

    BLAKE2b keeps neighbouring counters unrelated, which adding them up would not.
    """
    text = ":".join([purpose, str(seed), *map(str, counters)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def counter_generator(seed: int, purpose: Purpose, *counters: int) -> torch.Generator:
    """A CPU generator at the given counters; draws do not depend on the device that trains."""
    return torch.Generator().manual_seed(counter_seed(seed, purpose, *counters))


def seed_device(seed: int, device: torch.device) -> None:
    """Seed what draws from torch's own generators, of the CPU and of a device: dropout, stochastic depth.

    They draw as after ``torch.manual_seed``, which at each call also keeps the seed and the stack of its
    caller for every kind of accelerator that is not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
