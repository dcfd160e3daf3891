"""Random draws of the augmentations: all on the CPU and from a generator that is passed in."""

from __future__ import annotations

import scipy
import torch
from torch import Tensor


def draw_uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform between two values: float32 tensor, shape (n,)."""
    return low + (high - low) * torch.rand(n, generator=generator)


def draw_marks(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which samples are changed: bool tensor, shape (n,), each True with the given probability."""
    return torch.rand(n, generator=generator) < probability


def draw_spans(n: int, length: int, largest: float, generator: torch.Generator) -> Tensor:
    """One contiguous span in each row.

    Parameters
    ----------
    n : rows
    length : positions in a row
    largest : longest span as a share of the length; lengths are uniform from 0 to it
    generator : CPU generator

    Returns
    -------
    bool tensor, shape (n, length), True inside the span
    """
    spans = torch.randint(0, round(largest * length) + 1, (n,), generator=generator)
    return place_spans(spans, length, generator)


def place_spans(spans: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """Spans of given lengths, int64 (n,), anywhere in rows of ``length``: bool tensor, shape (n, length)."""
    spans = spans[:, None]
    start = (torch.rand(len(spans), 1, generator=generator) * (length - spans + 1)).long()
    position = torch.arange(length)
    return (position >= start) & (position < start + spans)


def draw_beta(n: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Draw from Beta(alpha, alpha) by inverting its distribution function: float32 tensor, shape (n,)."""
    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    return torch.from_numpy(scipy.special.betaincinv(alpha, alpha, uniform.numpy())).to(torch.float32)


def draw_noise(n: int, n_chans: int, n_times: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """White noise for a batch, as a pool of values and the place in it where every channel begins.

    Every channel reads its own stretch of one pool, so that a batch needs tens of thousands of draws and
    not tens of millions; two stretches that overlap do so at another lag in every batch.

    Returns
    -------
    pool : float32 tensor, shape (at least n_times,), mean 0, standard deviation 1
    start : int64 tensor, shape (n, n_chans)
    """
    spare = 2**16
    pool = torch.randn(n_times + spare, generator=generator)
    return pool, torch.randint(0, spare + 1, (n, n_chans), generator=generator)
