"""What every part of the configuration is built on."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the configuration: immutable, no unknown keys, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def named(value: Any) -> Any:
    """``adamw`` is short for ``{name: adamw}``."""
    return {"name": value} if isinstance(value, str) else value
