"""optuna-dashboard's private names, each used here alone; pyproject.toml caps its version because of them."""

from __future__ import annotations

from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA
from optuna_dashboard.artifact._backend import DASHBOARD_ARTIFACTS_ATTR_PREFIX

PAGE, SCRIPT = "index.html", "public/bundle.js"
"""The files of its page, in its package."""

PATHS_IN_PAGE = (('src="', "/static/"),)
PATHS_IN_SCRIPT = (
    ('url_prefix:"', "/dashboard"),
    ("${this.baseURL}", "/api/"),
    ("`${e}", "/artifacts/${"),
    ("`", "/artifacts/${"),
    ("](", "/artifacts/${"),
)
"""What stands before a path from the root of the host there, and how the path begins."""


def artifact_key(trial_id: int, artifact_id: str) -> str:
    """The study attribute under which the dashboard looks for a file of a trial that has ended."""
    return f"{DASHBOARD_ARTIFACTS_ATTR_PREFIX}{trial_id}:{artifact_id}"


def stored_graph(attributes: dict[str, object], name: str) -> str:
    """A figure's JSON as the dashboard keeps it: in study attributes, cut into pieces."""
    prefix = f"{SYSTEM_ATTR_PLOT_DATA}{name}:"
    pieces = {key: value for key, value in attributes.items() if key.startswith(prefix)}
    return "".join(str(pieces.get(f"{prefix}{place}", "")) for place in range(len(pieces)))
