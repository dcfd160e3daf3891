"""SQL stands in ``hms_tune.database``, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hms_tune

PACKAGE = Path(hms_tune.__file__).parent

_DRIVERS = ("sqlalchemy", "psycopg2")
_CALLS = ("execute", "exec_driver_sql", "engine")


def sql_in(text: str) -> Iterator[int]:
    """Lines that import a driver, use an engine or execute a statement."""
    if not any(word in text for word in (*_DRIVERS, *_CALLS)):
        return
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if any(name.partition(".")[0] in _DRIVERS for name in names):
            yield node.lineno
        if isinstance(node, ast.Attribute) and node.attr in _CALLS:
            yield node.lineno


def test_no_module_outside_the_database_package_holds_sql() -> None:
    files = {str(file.relative_to(PACKAGE)): file for file in PACKAGE.rglob("*.py")}
    found = {
        name
        for name, file in files.items()
        if not name.startswith("database/") and any(sql_in(file.read_text()))
    }
    assert found == set()


def test_no_query_that_others_call_returns_rows() -> None:
    functions = (
        (file, node)
        for file in (PACKAGE / "database").rglob("*.py")
        if "Row[" in (text := file.read_text())
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    )
    assert [
        f"{file.relative_to(PACKAGE)}: {node.name}"
        for file, node in functions
        if node.returns is not None and "Row[" in ast.unparse(node.returns)
    ] == []
