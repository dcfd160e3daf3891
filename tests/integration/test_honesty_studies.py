"""The benchmark of whole studies: its page, and that it goes on where it was cut off."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SIZES = {"patients": 8, "truth": 6, "trials": 2, "top": 5, "seeds": 1, "epochs": 1}
SHORT = ["--competitions", "1", *(word for name in SIZES for word in (f"--{name}", f"{SIZES[name]}"))]


@pytest.fixture
def benchmark(tmp_path: Path) -> Iterator[Any]:
    """The module, which writes its results into a folder of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        import honesty_studies
        import machine

        patch.setattr(machine, "RESULTS", tmp_path)
        patch.setattr(honesty_studies, "LINES", tmp_path / "honesty_studies.jsonl")
        yield honesty_studies
        for name in ("honesty_studies", "machine"):
            del sys.modules[name]


def a_line(benchmark: Any, seed: int, *, search: float, true: float) -> dict[str, Any]:
    stated = dict.fromkeys(("search, corrected", "confirmed", "confirmed, corrected", "blend"), true)
    stated = {"search": search, **stated}
    interval = {name: [score - 0.1, score + 0.1] for name, score in stated.items()}
    return {
        "seed": seed,
        **SIZES,
        "stated": stated,
        "interval": interval | {"shown": [true - 0.1, true + 0.1]},
        "true_of_folds": true,
        "true_of_confirmed_folds": true,
        "true": dict.fromkeys(benchmark.ARMS, true),
        "gain": {name: [-0.01, 0.02] for name in benchmark.ARMS[1:]},
    }


def test_competitions_that_are_done_are_not_run_again_and_the_page_says_how_far_off_they_were(
    benchmark: Any, tmp_path: Path
) -> None:
    lines = [a_line(benchmark, 0, search=0.9, true=1.2), a_line(benchmark, 1, search=1.0, true=1.05)]
    benchmark.LINES.write_text("".join(json.dumps(line) + "\n" for line in lines))
    benchmark.study = None  # whoever runs one fails
    benchmark.main(["--competitions", "2", *SHORT[2:]])
    page = (tmp_path / "honesty_studies.md").read_text()
    assert "| search | +0.175 | 0.177 | 1 of 2 | 0 below, 1 above | 0.20 |" in page
    assert "| search, corrected | +0.000 | 0.000 | 2 of 2 | 0 below, 0 above | 0.20 |" in page
    assert "| shown | – | – | 2 of 2 | 0 below, 0 above | 0.20 |" in page
    assert "| 0 | 1.2000 | 1.2000 (-0.010 to +0.020) |" in page


@pytest.mark.slow
def test_its_short_form_runs(benchmark: Any, tmp_path: Path) -> None:
    benchmark.main(SHORT)
    (line,) = map(json.loads, benchmark.LINES.read_text().splitlines())
    assert set(line["true"]) == set(benchmark.ARMS)
    assert line["stated"]["search"] > 0.0
