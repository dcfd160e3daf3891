"""There is one advisory lock, and one place that takes it."""

from __future__ import annotations

import ast
from pathlib import Path

import hms_tune
from hms_tune.database.locks import SETUP_LOCK

PACKAGE = Path(hms_tune.__file__).parent
HOME = PACKAGE / "database" / "locks.py"


def test_no_other_module_takes_an_advisory_lock_or_names_its_number() -> None:
    elsewhere = []
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text()
        if file == HOME or not ("advisory_" in text or str(SETUP_LOCK) in text.replace("_", "")):
            continue
        constants = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
        elsewhere += [
            f"{file.relative_to(PACKAGE)}:{each.lineno}"
            for each in constants
            if each.value == SETUP_LOCK or (isinstance(each.value, str) and "advisory_" in each.value)
        ]
    assert elsewhere == []
