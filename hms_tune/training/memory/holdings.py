"""What a memory plan places beside the network and its step: signals, images, features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hms_tune.data.schema import Kind
from hms_tune.machine.byte_count import readable
from hms_tune.training.images.cache import Form

Placement = Literal["resident", "streamed", "mapped"]
"""On the device; copied to it a batch at a time; read from the memory map by the CPU."""


@dataclass(frozen=True, slots=True)
class Signals:
    """One array of the store: its bytes, where it lives, and why."""

    kind: Kind
    nbytes: int
    placement: Placement
    why: str

    @property
    def held(self) -> int:
        """Bytes of the device that it takes."""
        return self.nbytes if self.placement == "resident" else 0

    def __str__(self) -> str:
        return f"{self.kind}: {readable(self.nbytes)}, {self.placement}: {self.why}"


@dataclass(frozen=True, slots=True)
class Images:
    """The cached images of all rows: their bytes and form, or None, and why. ``most`` is for all settings."""

    nbytes: int
    form: Form | None
    most: int
    why: str

    def __str__(self) -> str:
        kept = f"{readable(self.nbytes)} as {self.form}" if self.form else "not cached"
        return f"images: {kept}: {self.why}"


@dataclass(frozen=True, slots=True)
class Features:
    """What the frozen layers make of all rows: its bytes, whether it is kept, and why."""

    nbytes: int
    kept: bool
    why: str

    @property
    def held(self) -> int:
        """Bytes of the device that they take."""
        return self.nbytes if self.kept else 0

    def __str__(self) -> str:
        return f"features: {readable(self.nbytes)}, {'kept' if self.kept else 'not kept'}: {self.why}"
