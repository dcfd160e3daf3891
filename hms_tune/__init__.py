"""Hyperparameter optimization for harmful-brain-activity models.

bundle = hms_tune.load_bundle("bundles/effnet")
probabilities = bundle.predict(eeg)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hms_tune.version import __version__

if TYPE_CHECKING:
    from hms_tune.export.blend import Blend, load_bundle
    from hms_tune.export.bundle import Bundle

__all__ = ["Blend", "Bundle", "__version__", "load_bundle"]


def __getattr__(name: str) -> Any:
    """Import what predicts when it is first asked for: torch takes seconds."""
    if name in __all__:
        from hms_tune.export import blend

        return getattr(blend, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names of this module, those that are not imported yet too: ``help(hms_tune)`` shows them."""
    return sorted({*globals(), *__all__})
