"""How the packages of hms_tune are laid: beside the import contracts in pyproject.toml."""

from __future__ import annotations

import ast
import runpy
import tomllib
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hms_tune"
MOST_FILES = 16
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("hms_tune")


def test_no_module_imports_itself_through_others(graph: grimp.ImportGraph) -> None:
    order = TopologicalSorter(
        {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    )
    order.prepare()  # raises CycleError, which names the circle


def test_no_folder_imports_itself_through_others(graph: grimp.ImportGraph) -> None:
    uses: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ours, theirs = _folder(module), _folder(imported)
            if ours != theirs and "hms_tune" not in (ours, theirs):
                uses[ours].add(theirs)
    TopologicalSorter(uses).prepare()


def _folder(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    return module if path.is_dir() else module.rpartition(".")[0]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_can_be_taken_in_at_a_glance(folder: Path) -> None:
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_FILES


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_package_says_in_one_line_what_it_is_for(folder: Path) -> None:
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    line, _, rest = said.partition("\n")
    assert line.endswith(".")
    assert not rest.strip() or rest.startswith("\n")


def test_every_folder_stands_in_an_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = {
        f"{container}.{name.strip()}".replace(".", "/")
        for contract in contracts
        for container in contract.get("containers", ())
        for layer in contract["layers"]
        for name in layer.split("|")
    }
    # A single folder in a package can form no circle that the test above would not see.
    siblings = defaultdict(list)
    for folder in FOLDERS:
        siblings[folder.parent].append(str(folder.relative_to(ROOT)))
    missing = [
        each
        for parent, folders in siblings.items()
        for each in folders
        if parent != ROOT and (len(folders) > 1 or parent == PACKAGE) and each not in named
    ]
    assert missing == []


def test_the_picture_of_the_house_is_the_one_its_imports_give() -> None:
    house = runpy.run_path(str(ROOT / "docs" / "house.py"))
    assert house["PICTURE"].read_text() == house["draw"](), "run: python docs/house.py"
