"""optuna-dashboard's private names, each used here alone; pyproject.toml caps its version because of them."""

from __future__ import annotations

from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA
from optuna_dashboard.artifact._backend import DASHBOARD_ARTIFACTS_ATTR_PREFIX


def artifact_key(trial_id: int, artifact_id: str) -> str:
    """The study attribute under which the dashboard looks for a file of a trial that has ended."""
    return f"{DASHBOARD_ARTIFACTS_ATTR_PREFIX}{trial_id}:{artifact_id}"


def stored_graph(attributes: dict[str, object], name: str) -> str:
    """A figure's JSON as the dashboard keeps it: in study attributes, cut into pieces."""
    prefix = f"{SYSTEM_ATTR_PLOT_DATA}{name}:"
    pieces = {key: value for key, value in attributes.items() if key.startswith(prefix)}
    return "".join(str(pieces.get(f"{prefix}{place}", "")) for place in range(len(pieces)))
