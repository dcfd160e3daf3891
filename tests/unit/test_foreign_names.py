"""Marks that other packages write, and their names that are no part of an interface: do they still hold?"""

from __future__ import annotations

import optuna
from optuna_dashboard import save_plotly_graph_object
from optuna_dashboard.artifact import _backend

from hms_tune.reports.dashboard import files as dashboard_store
from hms_tune.reports.dashboard import publish as publishing
from hms_tune.reports.dashboard.plotly import Graph
from hms_tune.search.list_turns import is_enqueued


def test_what_optuna_enqueues_is_known_as_enqueued() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 1.0})
    study.ask()
    study.ask()
    assert [is_enqueued(trial) for trial in study.trials] == [True, False]


def test_a_graph_that_the_dashboard_keeps_is_read_back_whole() -> None:
    study = optuna.create_study()
    graph = Graph("history", [], {"title": "long " * 2_000})  # kept in several pieces
    save_plotly_graph_object(study, graph, graph_object_id=graph.name)
    attributes = study._storage.get_study_system_attrs(study._study_id)
    assert publishing._standing(attributes, graph.name) == graph.to_json()


def test_the_dashboard_looks_for_attached_files_where_they_are_written() -> None:
    trial_id, prefix = 7, dashboard_store.DASHBOARD_ARTIFACTS_ATTR_PREFIX
    assert _backend._dashboard_artifact_prefix(trial_id) == f"{prefix}{trial_id}:"
