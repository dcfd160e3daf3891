"""What the console says about trials."""

from __future__ import annotations

import io
import math
import os
import pty
import re

import pytest
from rich.console import Console
from rich.file_proxy import FileProxy
from stories import a_fold_end, a_fold_start, a_story, a_trial, an_epoch, tell

from hms_tune.machine.progress import duration
from hms_tune.tracking.console import ConsoleObserver
from hms_tune.tracking.stderr import error_console
from hms_tune.tracking.study_outlook import StudyOutlook
from hms_tune.trial_state import AttemptState

OUTLOOK = StudyOutlook(
    study="effnet", ended=37, budget=200, best=0.8123, best_trial=12, per_hour=41.5, left_s=14_130.0
)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def observer(stream: io.StringIO) -> ConsoleObserver:
    return ConsoleObserver(Console(file=stream, width=40), live=False)


def terminal(stream: io.StringIO, *, width: int, **environment: str) -> ConsoleObserver:
    console = Console(
        file=stream,
        width=width,
        force_terminal=True,
        _environ={"TERM": "xterm", "LINES": "40", "COLUMNS": str(width)} | environment,
    )
    return ConsoleObserver(console)


def test_a_log_has_one_line_for_each_start_fold_and_end(
    observer: ConsoleObserver, stream: io.StringIO
) -> None:
    trial = a_trial()
    observer.trial_started(trial)
    for event in a_story():
        observer.event(trial, event)
    observer.trial_ended(trial, AttemptState.COMPLETE, 1.05, None)
    assert stream.getvalue().splitlines() == [
        "trial 7  starts on cpu",
        # 3 epochs are left, at 2 s each
        "trial 7  fold 1/2 ends  KL 0.8000 at epoch 3 of 3  200 images/s  0:06 left",
        "trial 7  fold 2/2 ends  KL 1.3000 at epoch 3 of 3  200 images/s",
        "trial 7  complete  KL 1.0500",
    ]


def test_what_an_earlier_attempt_did_is_not_told_again_but_counts_as_done(
    observer: ConsoleObserver, stream: io.StringIO
) -> None:
    trial = a_trial(9, trial=7)
    observer.trial_started(trial)
    for event in a_story(replayed=4):
        observer.event(trial, event)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "trial 7 (attempt 9)  starts on cpu",
        "trial 7 (attempt 9)  fold 2/2 ends  KL 1.3000 at epoch 3 of 3  200 images/s",
    ]


def test_an_end_says_how_and_why(observer: ConsoleObserver, stream: io.StringIO) -> None:
    observer.trial_ended(a_trial(), AttemptState.PRUNED, 1.23456, "worse than the median")
    observer.trial_ended(a_trial(8), AttemptState.FAILED, None, "the loss [x] became NaN")
    observer.trial_ended(a_trial(9), AttemptState.REQUEUED, 0.9, "requeued: the study is paused")
    assert stream.getvalue().splitlines() == [
        "trial 7  pruned  KL 1.2346  worse than the median",
        "trial 8  failed  the loss [x] became NaN",
        "trial 9  requeued  KL 0.9000  the study is paused",
    ]


def test_training_on_all_rows_shows_no_kl(observer: ConsoleObserver, stream: io.StringIO) -> None:
    nothing = dict.fromkeys(("kl_all_rows", "kl_high_vote", "best_kl", "estimate"), math.nan)
    for epoch in range(3):
        observer.event(a_trial(), an_epoch(0, epoch, folds=1, kl=math.nan, **nothing))
    assert stream.getvalue().splitlines() == ["trial 7  all rows, 3 epochs  200 images/s"]


def test_a_terminal_that_cannot_redraw_gets_plain_lines(stream: io.StringIO) -> None:
    observer, trial = terminal(stream, width=120, TERM="dumb"), a_trial(1)
    observer.trial_started(trial)
    observer.event(trial, a_fold_end())
    assert "trial 1  fold 1/2 ends  KL 0.8000" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("width", "header", "other", "speed"),
    [
        (80, "slot trial fold epoch train KL best study images/s left", "cuda1 8", ""),
        (
            160,
            "slot trial fold epoch train loss KL trial best study best images/s left",
            "cuda1 8 (attempt 9)",
            " · 41.5 trials/h",
        ),
    ],
)
def test_a_terminal_shows_one_line_for_each_slot_and_one_for_the_study(
    stream: io.StringIO, width: int, header: str, other: str, speed: str
) -> None:
    observer = terminal(stream, width=width, NO_COLOR="1")
    trial = a_trial(7, slot="cuda0")
    observer.trial_started(a_trial(9, trial=8, slot="cuda1"))
    observer.trial_started(trial)
    observer.event(trial, a_fold_start())
    observer.event(trial, an_epoch(estimate=0.85))
    observer.show_study(OUTLOOK)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    # 5 epochs are left, at 2 s each
    assert [" ".join(line.split()) for line in lines[-4:]] == [
        header,
        "cuda0 7 1/2 1/3 1.0000 0.9000 0.8500 0.8123 200 0:10",
        f"{other} – – – – – 0.8123 – –",
        f"effnet · 37 of 200 trials · 3:55:30 left · best KL 0.8123 (trial 12){speed}",
    ]


def test_a_terminal_without_colours_gets_none(stream: io.StringIO) -> None:
    observer = terminal(stream, width=100, NO_COLOR="1")
    observer.trial_started(a_trial())
    observer.trial_ended(a_trial(), AttemptState.COMPLETE, 0.9, None)
    assert "\x1b[32m" not in stream.getvalue()
    coloured = io.StringIO()
    terminal(coloured, width=100).trial_ended(a_trial(), AttemptState.COMPLETE, 0.9, None)
    assert "\x1b[32mcomplete" in coloured.getvalue()


def test_what_is_left_behind_are_the_ends(stream: io.StringIO) -> None:
    observer = terminal(stream, width=120)
    observer.trial_started(a_trial())
    observer.event(a_trial(), an_epoch())
    observer.trial_ended(a_trial(), AttemptState.COMPLETE, 0.85, None)
    observer.close()
    assert "KL 0.8500" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7.4, "0:07"), (750, "12:30"), (11100, "3:05:00"), (-3, "0:00"), (357_600, "4d 03:20")],
)
def test_durations_read_as_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_disk_full_behind_standard_error_costs_lines_and_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), write_through=True)  # type: ignore[type-var]
    monkeypatch.setattr("sys.stderr", full)
    with pytest.raises(OSError, match="No space left"):
        full.write("a line")
    tell(ConsoleObserver(), a_trial())
    tell(ConsoleObserver(live=True), a_trial())


def test_closed_terminal_costs_lines_and_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    controlling, terminal = pty.openpty()
    stream = io.TextIOWrapper(io.FileIO(terminal, "w"), write_through=True)  # type: ignore[type-var]
    os.close(controlling)
    monkeypatch.setattr("sys.stderr", stream)
    with pytest.raises(OSError, match="Input/output error"):
        stream.write("a line")
    tell(ConsoleObserver(), a_trial())
    tell(ConsoleObserver(live=True), a_trial())
    monkeypatch.setattr("sys.stderr", FileProxy(Console(), stream))  # what a live display puts there
    error_console().print("a line")
