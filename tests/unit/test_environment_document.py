"""docs/environment.md names every environment variable that is read, and none of ours that is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from hms_tune.config.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ROOT / "hms_tune"
DOCUMENT = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")

NO_VARIABLES = {
    *("ROOT", "FILE", "BUNDLE", "POST", "PG_VERSION", "GLOO", "NCCL", "HMS_TUNE_"),
    # the settings, which `Asked` sees by their whole names
    *("ARTIFACTS", "CHECKPOINT_SECONDS", "DASHBOARD_PASSWORD", "DATA", "LEASE_SECONDS", "STORAGE", "STUDIES"),
}
"""Words in capitals of modules that read the environment."""


class Asked(Mapping[str, str]):
    """An environment without variables, which remembers what was asked of it."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def read_by_settings() -> set[str]:
    asked = Asked()
    Settings.from_environment(asked)
    return asked.names


def words_in_capitals(module: Path) -> set[str]:
    """String constants that may be names of variables, of a module that reads the environment."""
    text = module.read_text(encoding="utf-8")
    if "os.environ" not in text and "getenv" not in text and "envvar=" not in text:
        return set()
    constants = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return {
        value for value in constants if isinstance(value, str) and re.fullmatch(r"[A-Z][A-Z0-9_]{3,}", value)
    }


def read_by_the_product() -> set[str]:
    found = set().union(*map(words_in_capitals, PRODUCT.rglob("*.py")))
    return found - NO_VARIABLES | read_by_settings()


def named() -> set[str]:
    return set(re.findall(r"`([A-Z][A-Z0-9_]+)`", DOCUMENT))


def test_every_variable_that_is_read_is_named() -> None:
    read = read_by_the_product()
    assert {"HMS_TUNE_HOME", "HMS_TUNE_WEBHOOK", "HMS_TUNE_ACCELERATION", "RANK", "KAGGLE_KEY"} <= read
    assert sorted(read - named()) == []


def test_no_variable_of_ours_is_named_that_nothing_reads() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    ours = {name for name in named() if name.startswith("HMS_TUNE_") and name not in compose}
    assert sorted(ours - read_by_the_product()) == []
