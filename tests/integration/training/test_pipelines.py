"""The benchmark of data paths, in its short form."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from hms_tune.data.store.prepare import prepare

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def pipelines() -> Iterator[ModuleType]:
    """The benchmark, where DALI is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setitem(sys.modules, "nvidia.dali", None)
        import pipelines

        yield pipelines
        for name in ("pipelines", "machine"):
            del sys.modules[name]


def test_a_data_loader_over_the_store_makes_the_images_of_the_product_and_missing_dali_is_told(
    pipelines: ModuleType, tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=4)
    prepare(root, jobs=1)
    written = BENCHMARKS / "results" / "pipelines.md"
    before = written.read_bytes()
    lines = pipelines.main(
        ["--data", str(root), "--rounds", "1", "--image", "32", "64", "--batch", "3", "--device", "cpu"]
    )
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    arms = {cells[0]: cells[-2:] for cells in table}
    assert list(arms)[2:] == [pipelines.OURS, pipelines.ANEW, pipelines.LOADER]
    for arm in (pipelines.ANEW, pipelines.LOADER):
        largest, mean = map(float, arms[arm])
        assert largest < 1e-4
        assert mean <= largest
    assert any(line.startswith("8 windows to 32 × 64 images") for line in lines)
    assert lines[-1] == pipelines.NO_DALI
    assert str(tmp_path) not in "\n".join(lines)
    assert written.read_bytes() == before
