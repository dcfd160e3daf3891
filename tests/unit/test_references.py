"""What docstrings, comments and pages refer to exists."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("hms_tune", "tests", "benchmarks", "docs")
ROLE = re.compile(r":(?:mod|class|func|meth|data|attr|exc|obj):`~?([\w.]+)`")
PROSE = re.compile(r'"""[^"].*?"""|(?:^|\s)# [^\n]*', re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?<![\w*<>.{}/-])((?:[\w-]+/)*[\w-]+\.py)\b")


@cache
def files(suffix: str) -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob(f"*{suffix}")]
    return sorted([*found, *ROOT.glob(f"*{suffix}")])


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def names_of(path: Path) -> frozenset[str]:
    """Names that a module defines, those of its classes as ``Class.name``."""
    names = set()
    for statement in tree_of(path).body:
        names |= _defined(statement)
        if isinstance(statement, ast.ClassDef):
            own = {name for inner in statement.body for name in _defined(inner)} | _set_on_self(statement)
            names |= {f"{statement.name}.{name}" for name in own}
    return frozenset(names)


def _set_on_self(statement: ast.ClassDef) -> set[str]:
    attributes = [node for node in ast.walk(statement) if isinstance(node, ast.Attribute)]
    return {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}


def _defined(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.Assign):
        return {
            node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)
        }
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    if isinstance(statement, ast.If):  # imports for types alone
        return {name for inner in statement.body for name in _defined(inner)}
    return set()


@cache
def imported(path: Path) -> dict[str, str]:
    """The full names of what a module imports."""
    found = ast.walk(tree_of(path))
    froms = (node for node in found if isinstance(node, ast.ImportFrom))
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}" for node in froms for alias in node.names
    }


def module_file(dotted: str) -> Path | None:
    base = ROOT / dotted.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def exists(target: str, path: Path) -> bool:
    """Whether a reference in a file leads anywhere, by its full name or seen from the file."""
    here = names_of(path)
    if target in here or any(name.endswith(f".{target}") for name in here if "." not in target):
        return True
    first, dot, rest = target.partition(".")
    parts = f"{imported(path).get(first, first)}{dot}{rest}".split(".")
    for length in range(len(parts), 0, -1):
        module, rest = ".".join(parts[:length]), ".".join(parts[length:])
        if (found := module_file(module)) is not None:
            return not rest or rest in names_of(found)
    return bool(parts[0]) and parts[0] != "hms_tune" and _importable(parts)


def _importable(parts: list[str]) -> bool:
    """Whether another package has it."""
    try:
        found = importlib.import_module(parts[0])
        for part in parts[1:]:
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True


@cache
def prose_of(path: Path) -> list[str]:
    """Comments and docstrings of a module, or a page."""
    text = path.read_text(encoding="utf-8")
    return PROSE.findall(text) if path.suffix == ".py" else [text]


def test_every_reference_in_a_docstring_leads_to_a_name() -> None:
    lost = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in files(".py")
        for text in prose_of(path)
        for target in ROLE.findall(text)
        if not exists(target, path)
    ]
    assert lost == []


def test_every_python_file_that_prose_names_is_there() -> None:
    there = [f"/{path.relative_to(ROOT).as_posix()}" for path in files(".py")]
    lost = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (*files(".py"), *files(".md"))
        for text in prose_of(path)
        for name in FILE.findall(text)
        if not any(file.endswith(f"/{name}") for file in there)
    ]
    assert lost == []


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("hms_tune.data.store.store.Store", True),
        ("hms_tune.data.store.store.Store.open", True),
        ("hms_tune.data.store.gone", False),
        ("hms_tune.data.store.store.Gone", False),
        ("os.stat_result.st_blocks", True),
        ("os.gone", False),
        ("exists", True),
        ("gone", False),
    ],
)
def test_a_reference_is_found_by_its_full_name_or_from_where_it_stands(target: str, found: bool) -> None:
    assert exists(target, Path(__file__)) == found
