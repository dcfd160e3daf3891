"""What ``hms-tune study check`` prints."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from hms_tune.cli.main import app

FILE = """
study: branches
model:
  choices:
    - {backbone: test_resnet, pretrained: false, frozen_share: {low: 0.0, high: 0.9}}
    - {backbone: test_resnet, pretrained: false, finetuned_layers: {low: 1, high: 5}}
"""


def test_a_long_name_of_a_parameter_leaves_room_for_its_range(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(FILE)
    result = CliRunner().invoke(app, ["study", "check", str(tmp_path / "study.yaml")])
    assert result.exit_code == 0, result.output
    assert "0 to 0.9" in result.stdout
    assert "1 to 5" in result.stdout
