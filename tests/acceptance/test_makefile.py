"""``make demo`` installs what users need, once, and says what it does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
# A Python that makes environments, and whose pip installs anything at once.
[ "$2" = venv ] || exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho "python $*"\\n' > "$3/bin/python"
printf '#!/bin/sh\\necho "hms-tune $*"\\n' > "$3/bin/hms-tune"
for name in python hms-tune pip; do touch "$3/bin/$name"; chmod 755 "$3/bin/$name"; done
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / "a-python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(clone: Path, target: str) -> list[str]:
    command = ["make", target, f"PYTHON={clone / 'a-python'}"]
    alone = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    done = subprocess.run(command, cwd=clone, env=alone, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def installed(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("python -m pip install")]


def test_the_demo_installs_what_users_need_once_and_says_how_much_it_is(clone: Path) -> None:
    first = make(clone, "demo")
    assert "about 7 GB" in first[0]
    assert installed(first) == ["python -m pip install --disable-pip-version-check -e .[onnx,kaggle]"]
    assert any(line.startswith("Installed: ") for line in first)
    assert first[-1] == "hms-tune demo"
    assert installed(make(clone, "demo")) == []


def test_developers_get_the_rest_and_need_no_second_installation_for_the_demo(clone: Path) -> None:
    assert installed(make(clone, "install")) == [
        "python -m pip install --disable-pip-version-check -e .[dev]"
    ]
    assert installed(make(clone, "demo")) == []
