"""What a slot is asked about the running of steps; see :mod:`hms_tune.training.step.acceleration`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from hms_tune.errors import UsageError

Acceleration = Literal["auto", "plain", "graphs", "compiled"]


@dataclass(frozen=True, slots=True)
class AccelerationSettings:
    """How steps may be run, and where a machine keeps what it found out about them.

    ``times`` : JSON file of the times measured on this machine; None: nothing is kept
    ``trials_to_come`` : about how many trials the slot still runs; compiling must pay within them
    """

    wanted: Acceleration = "auto"
    times: Path | None = None
    trials_to_come: int = 1


def parse_acceleration(text: str) -> Acceleration:
    """The way of that name.

    Raises
    ------
    UsageError
        If there is no such way.
    """
    names = get_args(Acceleration)
    if text not in names:
        raise UsageError(f"unknown way to run steps: {text!r}", hint=f"Use one of {', '.join(names)}")
    return cast(Acceleration, text)
