"""The saved view that ``docs/wandb_view.py`` makes, as W&B's own package writes it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hms_tune.config.study_file import load_study_file

pytest.importorskip("wandb_workspaces")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[3] / "docs" / "wandb_view.py"
    spec = importlib.util.spec_from_file_location("wandb_view", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(written: Any, key: str) -> list[Any]:
    """What stands at a key, however deep."""
    inner = written.values() if isinstance(written, dict) else written if isinstance(written, list) else ()
    here = [written[key]] if isinstance(written, dict) and key in written else []
    return [*here, *(each for child in inner for each in found(child, key))]


def test_the_view_has_a_column_for_each_searched_value_and_leaves_paused_runs_out(
    script: ModuleType,
) -> None:
    view = script.view(load_study_file("effnet"), "team", "hms-tune")
    written = json.loads(view._to_model().model_dump_json(by_alias=True, exclude_none=True))
    columns = found(written, "accessor")
    assert "config:training.value.learning_rate" in columns
    assert "config:training.value.scheduler.name" in columns
    assert columns[-1] == "summary:kl"
    assert len(columns) == 22
    assert found(written, "targetKey") == ["kl"]
    assert found(written, "metrics") == [["val/kl"], ["train/loss"]]
    assert found(written, "groupBy") == ["model.value.backbone"] * 2
    filters = [each for each in found(written, "filters") if isinstance(each, list)]
    shown = [(each["key"]["name"], each["op"], each["value"]) for each in filters[-1]]
    assert shown == [("group", "=", "effnet"), ("state", "!=", "paused")]
