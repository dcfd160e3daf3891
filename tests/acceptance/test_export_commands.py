"""``export-best``, ``predict`` and ``demo`` told something wrong: one line, and nothing on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("predict", "absent", "."), 1, "absent: there is no such folder"),
        (("predict", ".", ".", "--out", "absent/submission.csv"), 2, "absent: there is no such folder"),
        (("predict", ".", "."), 1, "is not a bundle"),
        (("export-best", "--study", "../other"), 2, '"../other" is no study name'),
        (("export-best", "--study", "effnet", "--device", "cuda:99"), 2, "device cuda:99 is not there"),
        (
            ("export-best", "--study", "effnet", "--storage", "postgresql://u:canary@127.0.0.1:9/x"),
            2,
            "HMS_TUNE_STORAGE",
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_changes_nothing(
    hms_tune: Run, arguments: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    found, error = hms_tune(*arguments)
    assert found == code
    lines = error.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert "canary" not in error
    assert list(tmp_path.iterdir()) == []


def test_the_demo_leaves_other_folders_alone(hms_tune: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    code, error = hms_tune("demo", "--dir", "mine")
    assert code == 2
    assert "mine: is not a demo's folder" in error
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_demo_of_another_size_is_not_mixed_in(hms_tune: Run, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.json").write_text('{"patients": 99, "trials": 3}\n')
    code, error = hms_tune("demo")
    assert code == 2
    assert "demo: holds a demo of another size" in error
