"""The numbers of the advisory locks stand in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import hms_tune
from hms_tune.database.locks import Lock

PACKAGE = Path(hms_tune.__file__).parent
HOME = PACKAGE / "database" / "locks.py"


def test_no_two_locks_have_the_same_number() -> None:
    assert len(Lock.__members__) == len({int(lock) for lock in Lock}) == 4


def test_no_other_module_names_a_lock_or_a_number_of_one() -> None:
    numbers = {int(lock) for lock in Lock}
    elsewhere = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if file == HOME:
            continue
        constants = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant))
        elsewhere += [
            f"{file.relative_to(PACKAGE)}:{each.lineno}"
            for each in constants
            if each.value in numbers or (isinstance(each.value, str) and "advisory_" in each.value)
        ]
    assert elsewhere == []
