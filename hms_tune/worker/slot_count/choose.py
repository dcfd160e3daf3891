"""How many slots share a device: as many as pay.

One process after another joins in training the study's middle configuration on the device, and all train at
once for some seconds. When one more adds less than a tenth to the images per second, or has no room, the
number before it is the device's. What was found is kept under the home folder, by device, version of torch
and whatever shapes the work.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from hms_tune.config.acceleration import Acceleration
from hms_tune.config.trial import TrialConfig
from hms_tune.errors import HmsTuneError, TrainingError
from hms_tune.machine.cores import usable_cores

LEAST_GAIN = 0.10
"""What one more slot must add to the images per second."""

MOST_MEMORY = 0.92
"""Share of the device's memory that slots may take; the rest is for what comes and goes."""

_logger = logging.getLogger(__name__)


class NoRoomError(TrainingError):
    """One more slot does not fit the device's memory."""


@dataclass(frozen=True, slots=True)
class Measured:
    """So many slots at once: images per second of all together, and the share of memory they take."""

    slots: int
    images_per_second: float
    memory: float


class Probes(Protocol):
    """Processes that train on one device."""

    def device_name(self) -> str:
        """What the device is."""

    def add(self) -> None:
        """One more, ready to train; raises :class:`NoRoomError` when it does not fit."""

    def measure(self) -> Measured:
        """Let all train at once; raises :class:`NoRoomError` when they do not fit together."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a slot does, as far as it decides how many of them a device takes."""

    middle: TrialConfig
    largest: TrialConfig
    store_digest: str
    acceleration: Acceleration = "auto"

    def key(self, device_name: str) -> str:
        """The name under which a result is kept."""
        shape = [_shape(self.middle), _shape(self.largest), self.store_digest, self.acceleration]
        digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:12]
        return f"{device_name}, torch {torch.__version__}, work {digest}"


def _shape(config: TrialConfig) -> dict[str, Any]:
    """Of a configuration, what its speed and memory depend on."""
    content = config.model_dump(mode="json")
    training = content["training"]
    for name in ("learning_rate", "weight_decay", "backbone_lr_ratio", "layer_decay", "scheduler", "epochs"):
        del training[name]
    return {key: content[key] for key in ("input", "augmentation", "model", "training")}


def slots_that_pay(
    probes: AbstractContextManager[Probes], work: Work, *, most: int, memory: Path | None
) -> int:
    """How many slots a device should have.

    Parameters
    ----------
    probes : opened only where there is something to find out
    most : no more than this are tried
    memory : JSON file of what was found before; None: nothing is kept

    Returns
    -------
    at least 1; where nothing can be measured, 1, with a warning
    """
    if most < 2:
        return 1
    try:
        with probes as opened:
            name = opened.device_name()
            known = _read(memory).get(work.key(name))
            if known is not None:
                table = [Measured(**row) for row in known]
                _logger.info("%s: %s, as found before", name, _in_words(table))
            else:
                table = fill(opened, most=most)
                _keep(memory, work.key(name), table)
                _logger.info("%s: %s", name, _in_words(table))
    except HmsTuneError as error:
        _logger.warning("How many slots pay could not be measured, so there is one: %s", error)
        return 1
    return best(table)


def fill(probes: Probes, *, most: int) -> list[Measured]:
    """Add one probe after another until one more does not pay or does not fit.

    Raises
    ------
    NoRoomError
        If not even one fits.
    """
    table: list[Measured] = []
    while len(table) < most:
        if table and table[0].memory * (len(table) + 1) > MOST_MEMORY:
            break
        try:
            probes.add()
            table.append(probes.measure())
        except NoRoomError:
            if not table:
                raise
            break
        if best(table) < len(table):
            break
    return table


def best(table: Sequence[Measured]) -> int:
    """The number of slots before the first that adds too little."""
    for before, after in itertools.pairwise(table):
        if after.images_per_second < (1 + LEAST_GAIN) * before.images_per_second:
            return before.slots
    return table[-1].slots


def _in_words(table: Sequence[Measured]) -> str:
    chosen = best(table)
    rows = ", ".join(
        f"{row.slots} at once {row.images_per_second:,.0f} images/s in {row.memory:.0%} of the memory"
        for row in table
    )
    return f"{chosen} slot{'s' * (chosen > 1)} ({rows})"


def _read(path: Path | None) -> dict[str, list[dict[str, Any]]]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for rows in content.values():
            for row in rows:
                Measured(**row)
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or not ours to understand
        return {}
    return dict(content)


def _keep(path: Path | None, key: str, table: Sequence[Measured]) -> None:
    """Write a result beside the others; where that fails, it is measured again next time."""
    if path is None:
        return
    content = _read(path) | {key: [asdict(row) for row in table]}
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        _logger.warning("%s cannot be written: %s", path, error.strerror or error)


MOST_SLOTS = 16
"""No device gets more slots than this by itself."""


def most_slots() -> int:
    """The most slots worth trying on a device: each needs a core of the processor."""
    return min(MOST_SLOTS, usable_cores())
