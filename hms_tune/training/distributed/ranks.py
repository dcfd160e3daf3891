"""Several processes, each with a device of its own, that train one network together.

Every rank holds the whole network and computes a share of each batch. What is drawn at random is drawn for
the whole batch on every rank, from the same counters, so that a batch does not depend on how many share it.
Sums over the batch (the loss, the gradients, the statistics of BatchNorm) are taken over all ranks, and every
rank then takes the same optimizer step. One device is the special case :data:`ALONE`, which does nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hms_tune.errors import RankLostError, TrainingError

RANK_TIMEOUT_S = 300.0
"""A rank that keeps the others waiting for longer than this is given up."""

_BUCKET_BYTES = 32 * 2**20
"""Gradients travel in flat pieces of about this size: few messages, little memory on top."""


@dataclass(frozen=True, slots=True)
class Share:
    """The rows ``start`` to ``stop`` of a batch of ``size``."""

    start: int
    stop: int
    size: int

    @property
    def rows(self) -> slice:
        """As an index."""
        return slice(self.start, self.stop)


class Ranks:
    """One process that trains alone: what is shared is its own, and nothing is sent.

    Attributes
    ----------
    rank : number of this process; 0 owns the trial
    size : how many there are
    batch : this rank's share of the batch that is being computed, which layers ask for
    """

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.batch = Share(0, 0, 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # layers know it, and the copy of a network belongs to the same ranks

    @property
    def first(self) -> bool:
        """Whether this is the rank that owns the trial: it alone writes files."""
        return self.rank == 0

    def share(self, size: int) -> Share:
        """This rank's share of ``size`` rows: consecutive, in the order of ranks, alike to within one."""
        return Share(self.rank * size // self.size, (self.rank + 1) * size // self.size, size)

    def begin_batch(self, size: int) -> slice:
        """Rows of a batch of ``size`` that this rank computes.

        Raises
        ------
        TrainingError
            If there are fewer rows than ranks.
        """
        if size < self.size:
            raise TrainingError(
                f"a batch of {size} cannot be shared by {self.size} ranks",
                where="training.batch_size",
                hint="Choose larger batches, or fewer --ranks-per-trial",
            )
        self.batch = self.share(size)
        return self.batch.rows

    def share_weights(self, network: nn.Module) -> None:
        """Give every rank the first one's weights and buffers."""

    def part_of_mean(self, mean: Tensor) -> Tensor:
        """A mean over this rank's rows as its part of the mean over the batch."""
        return mean

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, without a gradient."""
        return value

    def sum_through(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, through which gradients flow back to every rank."""
        return value

    def sum_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its sum over the ranks, which hold parts of one mean."""

    def gather_rows(self, rows: Tensor, size: int) -> Tensor:
        """All ``size`` rows in order, from every rank's share of them; shape (size, …)."""
        return rows

    def agreed(self, *values: float) -> tuple[float, ...]:
        """The first rank's values. Decisions rest on them, whatever the last bit says on another machine."""
        return values

    def from_first(self, make: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        """What the first rank, and no other, makes or reads: tensors on the CPU and plain values.

        Raises
        ------
        TrainingError
            On the other ranks, if it raised on the first.
        """
        return make()


ALONE = Ranks()
"""One process without others."""


class ProcessRanks(Ranks):
    """The ranks of torch's default process group, which :func:`~hms_tune.training.distributed.group.join`
    makes.

    Raises
    ------
    RankLostError
        From every method that waits for others, if one of them is gone or does not answer in time.
    """

    def __init__(self, device: torch.device, *, timeout_s: float = RANK_TIMEOUT_S) -> None:
        super().__init__()
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self.device = device
        self.timeout = timedelta(seconds=timeout_s)

    @torch.no_grad()
    def share_weights(self, network: nn.Module) -> None:
        """As they lie on the device."""
        with self._waiting():
            for tensor in network.state_dict().values():
                same = tensor.contiguous()
                dist.broadcast(same, src=0)
                tensor.copy_(same)

    def part_of_mean(self, mean: Tensor) -> Tensor:
        """Weigh by the share of the rows."""
        return mean * ((self.batch.stop - self.batch.start) / self.batch.size)

    def sum(self, value: Tensor) -> Tensor:
        """A new tensor; the same bits on every rank."""
        total = value.detach().clone(memory_format=torch.contiguous_format)
        with self._waiting():
            dist.all_reduce(total)
        return total

    def sum_through(self, value: Tensor) -> Tensor:
        """As :meth:`sum`; the gradient is summed over the ranks too."""
        total: Tensor = _SumThrough.apply(value, self)
        return total

    @torch.no_grad()
    def sum_gradients(self, network: nn.Module) -> None:
        """In flat pieces, all under way at once."""
        gradients = [each.grad for each in network.parameters() if each.grad is not None]
        pieces = [(torch.cat([each.flatten() for each in bucket]), bucket) for bucket in _buckets(gradients)]
        with self._waiting():
            works = [dist.all_reduce(flat, async_op=True) for flat, _ in pieces]
            for work in works:
                work.wait()
        for flat, bucket in pieces:
            parts = flat.split([each.numel() for each in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def gather_rows(self, rows: Tensor, size: int) -> Tensor:
        """Shares differ by one row at most: the shorter ones travel with one row of zeros."""
        longest = -(-size // self.size)
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in range(self.size)]
        with self._waiting():
            dist.all_gather(received, padded)
        counts = [(rank + 1) * size // self.size - rank * size // self.size for rank in range(self.size)]
        return torch.cat([each[:count] for each, count in zip(received, counts, strict=True)])

    def agreed(self, *values: float) -> tuple[float, ...]:
        """Exactly, as float64."""
        same = torch.tensor(values, dtype=torch.float64)
        with self._waiting():
            dist.broadcast(same, src=0)
        return tuple(same.tolist())

    def from_first(self, make: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        """As bytes, read with ``weights_only``."""
        if not self.first:
            return self._received()
        try:
            value = make()
        except Exception:
            self._send(torch.tensor([_FAILED]))
            raise
        if value is None:
            self._send(torch.tensor([_NOTHING]))
            return None
        buffer = io.BytesIO()
        torch.save(value, buffer)
        content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        self._send(torch.tensor([len(content)]))
        self._send(content)
        return value

    def _received(self) -> dict[str, Any] | None:
        length = torch.zeros(1, dtype=torch.int64)
        self._send(length)
        if (count := int(length)) == _FAILED:
            raise TrainingError("the first rank could not go on")
        if count == _NOTHING:
            return None
        content = torch.empty(count, dtype=torch.uint8)
        self._send(content)
        value: dict[str, Any] = torch.load(
            io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True
        )
        return value

    def _send(self, tensor: Tensor) -> None:
        """From the first rank into the others' tensors."""
        with self._waiting():
            dist.broadcast(tensor, src=0)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """What a collective says when another process is gone, in our words."""
        try:
            yield
        except RuntimeError as error:
            text = str(error).lower()
            silent = "timeout" in text or "timed out" in text
            how = f"did not answer in {self.timeout.total_seconds():.0f} s" if silent else "is gone"
            raise RankLostError(
                f"rank {self.rank} of {self.size} waits in vain: another one {how}",
                hint="Look at that rank's log; the trial goes on from its last checkpoint",
            ) from error


_NOTHING, _FAILED = -1, -2


class _SumThrough(torch.autograd.Function):
    """Sum over ranks; every rank's result depends on every rank's value, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: ProcessRanks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.sum(gradients[0]), None


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one dtype, up to the size of a piece."""
    bucket: list[Tensor] = []
    filled = 0
    for gradient in gradients:
        size = gradient.numel() * gradient.element_size()
        if bucket and (filled + size > _BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, filled = [], 0
        bucket.append(gradient)
        filled += size
    if bucket:
        yield bucket
