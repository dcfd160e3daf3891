"""How processes become the ranks of one group, and the line over which the first tells the others what to do.

Tensors travel through torch's process group: gloo between CPUs, NCCL between GPUs. Words travel through the
key-value store at which the ranks met: there, unlike in a collective, one may wait for hours between trials.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import (  # type: ignore[attr-defined]
    FileStore,
    PrefixStore,
    Store,
    rendezvous,
)

from hms_tune.errors import RankLostError, UsageError
from hms_tune.training.distributed.ranks import RANK_TIMEOUT_S, ProcessRanks

_WORDS, _LOST = "words", "lost"

_LONGEST_PAUSE_S = 0.1
"""Between two looks for a word that has been long in coming."""


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Which rank a process is, and where it meets the others.

    Attributes
    ----------
    rank, size : its number and how many there are
    folder : where they meet on this machine, closed to other users; None: where ``MASTER_ADDR`` and
        ``MASTER_PORT`` say, as torchrun does
    """

    rank: int
    size: int
    folder: Path | None = None


def place_from_environment(environment: Mapping[str, str] = os.environ) -> RankPlace | None:
    """The place that torchrun, or whoever speaks like it, gave this process; None: it is on its own.

    Raises
    ------
    UsageError
        If the variables contradict one another.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in environment for name in names):
        return None
    rank, size = environment["RANK"], environment["WORLD_SIZE"]
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise UsageError(
            f"there is no rank {rank} of {size}", where="RANK and WORLD_SIZE", hint="Use torchrun"
        )
    return RankPlace(int(rank), int(size)) if int(size) > 1 else None


def store_in(folder: Path) -> FileStore:
    """The store of ranks that this machine starts itself.

    It is a file, because torch's own server listens on every interface, and believes whoever connects.
    """
    return FileStore(str(folder / "ranks"))


def tell_of_loss(store: Store, word: str) -> None:
    """Let ranks that wait for a word know that none comes; for who hosts the store and sees one die."""
    PrefixStore(_WORDS, store).set(_LOST, word)


def join(place: RankPlace, device: torch.device, *, timeout_s: float = RANK_TIMEOUT_S) -> RankGroup:
    """Meet the other ranks.

    Parameters
    ----------
    device : where this rank computes
    timeout_s : how long a rank waits for another

    Raises
    ------
    RankLostError
        If not all of them come in time.
    """
    timeout = timedelta(seconds=timeout_s)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    try:
        store: Store
        if place.folder is None:
            store = next(iter(rendezvous("env://", timeout=timeout)))[0]
        else:
            for transport in ("GLOO", "NCCL"):  # tensors, too, stay on this machine
                os.environ.setdefault(f"{transport}_SOCKET_IFNAME", "lo")
            store = store_in(place.folder)
            store.set_timeout(timeout)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=PrefixStore("ranks", store),
            rank=place.rank,
            world_size=place.size,
            timeout=timeout,
            device_id=device if cuda else None,
        )
    except (RuntimeError, ValueError) as error:
        lines = str(error).splitlines()
        raise RankLostError(
            f"rank {place.rank} of {place.size} could not meet the others ({lines[0] if lines else error})",
            hint="Start all ranks together; between machines, open the ports and set GLOO_SOCKET_IFNAME",
        ) from error
    return RankGroup(ProcessRanks(device, timeout_s=timeout_s), PrefixStore(_WORDS, store))


class RankGroup:
    """The ranks, and the line between them: the first speaks, the others hear and report.

    Attributes
    ----------
    ranks : what training needs
    """

    def __init__(self, ranks: ProcessRanks, store: Store) -> None:
        self.ranks = ranks
        self._store = store
        self._turn = 0

    def say(self, word: str) -> None:
        """Tell the others. Only the first rank speaks."""
        self._turn += 1
        self._set(f"said/{self._turn}", word)

    def hear(self, *, patience_s: float = math.inf) -> str | None:
        """The first rank's next word; None when the patience is at an end before it comes."""
        self._turn += 1
        return self._look(f"said/{self._turn}", patience_s=patience_s)

    def report(self, word: str) -> None:
        """Tell the first how its last word was carried out: nothing, or what went wrong."""
        self._set(f"report/{self._turn}/{self.ranks.rank}", word)

    def reports(self) -> dict[int, str]:
        """What every other rank reports of the last word.

        Raises
        ------
        RankLostError
            If one of them does not in time; it has had the time to give up on others before.
        """
        patience_s = self.ranks.timeout.total_seconds() + 30.0
        reports: dict[int, str] = {}
        for rank in range(1, self.ranks.size):
            key = f"report/{self._turn}/{rank}"
            word = self._look(key, patience_s=patience_s)
            if word is None:
                raise RankLostError(f"rank {rank} of {self.ranks.size} does not answer")
            reports[rank] = word
            self._store.delete_key(key)
        self._store.delete_key(f"said/{self._turn}")
        return reports

    def last_words(self) -> list[str]:
        """What ranks that failed have already said about it."""
        keys = {rank: f"report/{self._turn}/{rank}" for rank in range(1, self.ranks.size)}
        found = {rank: self._look(key, patience_s=0.5) for rank, key in keys.items()}
        return [f"rank {rank}: {word}" for rank, word in found.items() if word]

    def _look(self, key: str, *, patience_s: float) -> str | None:
        """A word once it is there, or None. It waits in Python, where signals are answered.

        Raises
        ------
        RankLostError
            If a rank was seen to die, or the store is gone.
        """
        deadline = time.monotonic() + patience_s
        pause = 0.001
        try:
            while not self._store.check([key]):
                if self._store.check([_LOST]):
                    raise RankLostError(str(self._store.get(_LOST).decode()))
                if time.monotonic() > deadline:
                    return None
                time.sleep(pause)
                pause = min(1.5 * pause, _LONGEST_PAUSE_S)
            return str(self._store.get(key).decode())
        except RuntimeError as error:
            raise _meeting_point_lost(error) from error

    def _set(self, key: str, word: str) -> None:
        try:
            self._store.set(key, word)
        except RuntimeError as error:
            raise _meeting_point_lost(error) from error


def _meeting_point_lost(error: RuntimeError) -> RankLostError:
    return RankLostError(f"the store where the ranks met is gone ({str(error).splitlines()[0]})")
