"""Hyperparameter optimization for harmful-brain-activity models.

bundle = hms_tune.load_bundle("bundles/effnet")
probabilities = bundle.predict(eeg)

A backbone of one's own is a function marked with hms_tune.backbone (docs/models.md); a sampler or pruner,
one that is marked with hms_tune.sampler or hms_tune.pruner (docs/search.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hms_tune.version import __version__

if TYPE_CHECKING:
    from hms_tune.config.image_layout import ModelInput
    from hms_tune.export.blend import Blend, load_bundle
    from hms_tune.export.bundle import Bundle
    from hms_tune.models.own_backbone import backbone
    from hms_tune.models.traces import TraceReader
    from hms_tune.search.samplers import SearchInput, pruner, sampler
    from hms_tune.studies.export_best import train

__all__ = [
    "Blend",
    "Bundle",
    "ModelInput",
    "SearchInput",
    "TraceReader",
    "__version__",
    "backbone",
    "load_bundle",
    "pruner",
    "sampler",
    "train",
]

_HOMES = {
    "Blend": "export.blend",
    "Bundle": "export.bundle",
    "ModelInput": "config.image_layout",
    "TraceReader": "models.traces",
    "SearchInput": "search.samplers",
    "backbone": "models.own_backbone",
    "load_bundle": "export.blend",
    "pruner": "search.samplers",
    "sampler": "search.samplers",
    "train": "studies.export_best",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: torch takes seconds."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names of this module, those that are not imported yet too: ``help(hms_tune)`` shows them."""
    return sorted({*globals(), *__all__})
