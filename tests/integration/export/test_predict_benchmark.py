"""The benchmark of ``predict`` beside plain ONNX Runtime, in its short form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_the_benchmark_of_predict_compares_equal_probabilities_and_leaves_the_threads_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "benchmarks"))
    import predict

    before = torch.get_num_threads()
    lines = predict.compare(predict.SMALL, threads=1, windows_each=20, rounds=2, folds=1)
    assert torch.get_num_threads() == before
    header, _, only = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
    assert header == predict.HEADER
    told = dict(zip(header, only, strict=True))
    assert all(float(told[name]) > 0.0 for name in ("predict", "ONNX Runtime", "image"))
    for name in ("predict over ONNX Runtime", "networks over graph"):
        assert re.fullmatch(r"\d+\.\d\d \(\d+\.\d\d–\d+\.\d\d\)", told[name])
    assert float(told["difference"]) < 1e-5
