"""Who is told of a study, as a user asks and tries it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from receiver import SECRET, receiver

Run = Callable[..., tuple[int, str]]


def test_a_test_message_arrives_and_a_receiver_that_refuses_it_is_an_error_without_its_secret(
    hms_tune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "tiny.yaml"
    study.write_text("study: tiny\n")
    code, said = hms_tune("study", "notify", "--study", str(study), "--test")
    assert code == 2
    assert "nobody is told anything. Set HMS_TUNE_WEBHOOK" in said
    with receiver() as webhook:
        monkeypatch.setenv("HMS_TUNE_WEBHOOK", webhook.address)
        assert hms_tune("study", "notify", "--study", str(study)) == (0, "")
        assert webhook.messages == []
        assert hms_tune("study", "notify", "--study", str(study), "--test") == (0, "")
        assert webhook.events() == ["test"]
        assert webhook.messages[0]["text"] == "tiny: a test message of hms-tune"
        webhook.answers = [404]
        code, said = hms_tune("study", "notify", "--study", str(study), "--test")
    assert code == 1
    assert said == "error: 127.0.0.1: the webhook answered 404. Check its address\n"
    assert SECRET not in said
