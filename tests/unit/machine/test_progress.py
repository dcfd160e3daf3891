"""Long work tells a file how far it is: in lines at growing intervals."""

from __future__ import annotations

import io
import logging

import pytest
import torch
from rich.console import Console

from hms_tune.cli.console import progress_bar
from hms_tune.machine import progress
from hms_tune.machine.byte_count import readable
from hms_tune.machine.progress import GrowingPauses, ProgressLines
from hms_tune.training.images.cache import ImageCache


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_pauses_double_until_they_are_ten_minutes() -> None:
    clock = Clock()
    pauses = GrowingPauses(clock)
    told = []
    for second in range(3000):
        clock.now = float(second)
        if pauses.is_due():
            told.append(second)
    assert told == [10, 30, 70, 150, 310, 630, 1230, 1830, 2430]


def test_lines_say_what_is_done_and_how_long_the_rest_takes() -> None:
    clock, said = Clock(), []
    lines = ProgressLines("preparing", "files", said.append, clock=clock)
    for done in range(0, 1001, 10):
        clock.now = done / 10
        lines.update(done, 1000)
    assert said == [
        "preparing: 100 of 1,000 files after 0:10, about 1:30 left",
        "preparing: 300 of 1,000 files after 0:30, about 1:10 left",
        "preparing: 700 of 1,000 files after 1:10, about 0:30 left",
        "preparing: 1,000 files in 1:40",
    ]


def test_what_an_earlier_run_did_makes_this_one_no_faster() -> None:
    clock, said = Clock(), []
    lines = ProgressLines("downloading", "", said.append, amount=readable, clock=clock)
    lines.update(2**29, 2**30)
    clock.now = 20.0
    lines.update(2**29 + 2**27, 2**30)
    assert said == ["downloading: 640.0 MiB of 1.0 GiB after 0:20, about 1:00 left"]


def test_quick_work_says_nothing() -> None:
    said: list[str] = []
    lines = ProgressLines("preparing", "files", said.append)
    for done in range(11):
        lines.update(done, 10)
    assert said == []


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes six seconds."""
    monkeypatch.setattr(progress.time, "monotonic", Clock(6.0))
    defaults = dict(ProgressLines.__init__.__kwdefaults__, clock=Clock(6.0))
    monkeypatch.setattr(ProgressLines.__init__, "__kwdefaults__", defaults)


@pytest.mark.usefixtures("slow")
def test_a_bar_is_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with progress_bar("preparing", "files", Console(file=stream, width=40)) as update:
        for done in range(11):
            update(done, 10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "preparing: 0 of 10 files after 0:12"
    assert lines[-1].startswith("preparing: 10 files in ")


@pytest.mark.usefixtures("slow")
def test_making_images_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hms_tune")
    ImageCache().get(
        "key",
        lambda rows: torch.zeros(len(rows), 1, 2, 2),
        n_rows=1000,
        shape=(1, 2, 2),
        form="float32",
        device=torch.device("cpu"),
        most=2**20,
    )
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "making images: 64 of 1,000 rows after 0:12"
    assert said[-1].startswith("making images: 1,000 rows in ")
    assert 3 <= len(said) <= 6
