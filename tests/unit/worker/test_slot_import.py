"""A slot that cannot import what it trains with."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from hms_tune.errors import HmsTuneError
from hms_tune.worker import slot_process


def test_a_slot_that_cannot_import_says_so_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hms_tune.worker.trainer", None)
    plan: Any = SimpleNamespace(slot="cpu", device="cpu")
    unused: Any = None
    with pytest.raises(
        HmsTuneError, match=r"slot cpu cannot import hms_tune\.worker\.trainer: .*Rename the file"
    ):
        slot_process._run(plan, unused, unused)
