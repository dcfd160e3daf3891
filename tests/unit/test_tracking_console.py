"""What the console says about a trial."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from hms_tune.config.trial import TrialConfig
from hms_tune.tracking.console import ConsoleObserver, duration
from hms_tune.tracking.observer import TrialInfo
from hms_tune.training.events import EpochEnded, FoldStarted


def a_trial(number: int = 7, lineage: int | None = None, slot: str = "cpu") -> TrialInfo:
    return TrialInfo(
        study="smoke",
        number=number,
        lineage=number if lineage is None else lineage,
        config=TrialConfig(),
        params={},
        slot=slot,
    )


def an_epoch(fold: int, epoch: int, *, kl: float = 0.9, replayed: bool = False) -> EpochEnded:
    return EpochEnded(
        fold=fold,
        folds=2,
        epoch=epoch,
        epochs=3,
        stage=0,
        train_loss=1.0,
        kl=kl,
        kl_all_rows=kl,
        kl_high_vote=kl,
        best_kl=kl,
        estimate=0.85,
        learning_rate=1e-3,
        images=400,
        seconds=2.0,
        replayed=replayed,
    )


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def observer(stream: io.StringIO) -> ConsoleObserver:
    return ConsoleObserver(Console(file=stream, width=40), live=False)


def test_an_epoch_is_one_line_with_everything_that_matters(
    observer: ConsoleObserver, stream: io.StringIO
) -> None:
    trial = a_trial()
    observer.trial_started(trial)
    observer.event(trial, FoldStarted(fold=0, folds=2, epochs=3, train_rows=80, validation_rows=20))
    observer.event(trial, an_epoch(0, 1))
    lines = stream.getvalue().splitlines()
    # 1 epoch of this fold and 3 of the next are left, at 2 s each
    expected = "trial 7  fold 1/2  epoch 2/3  KL 0.9000  best 0.8500  200 images/s  0:08 left"
    assert lines == ["trial 7 starts on cpu", expected]


def test_a_replayed_epoch_is_not_told_again_but_counts_as_done(
    observer: ConsoleObserver, stream: io.StringIO
) -> None:
    trial = a_trial(9, lineage=7)
    observer.trial_started(trial)
    for epoch in range(2):
        observer.event(trial, an_epoch(0, epoch, replayed=True))
    observer.event(trial, an_epoch(0, 2))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("trial 9 (goes on from 7)  fold 1/2  epoch 3/3")
    assert lines[1].endswith("0:06 left")


def test_an_end_says_how_and_why(observer: ConsoleObserver, stream: io.StringIO) -> None:
    observer.trial_ended(a_trial(), "pruned", 1.23456, "worse than the median")
    observer.trial_ended(a_trial(8), "failed", None, "the loss [x] became NaN")
    assert stream.getvalue().splitlines() == [
        "trial 7  pruned  KL 1.2346  worse than the median",
        "trial 8  failed  the loss [x] became NaN",
    ]


def test_training_on_all_rows_shows_no_kl(observer: ConsoleObserver, stream: io.StringIO) -> None:
    trial = a_trial()
    event = EpochEnded(
        fold=0,
        folds=1,
        epoch=0,
        epochs=3,
        stage=0,
        train_loss=1.0,
        kl=math.nan,
        kl_all_rows=math.nan,
        kl_high_vote=math.nan,
        best_kl=math.nan,
        estimate=math.nan,
        learning_rate=1e-3,
        images=400,
        seconds=2.0,
    )
    observer.event(trial, event)
    assert stream.getvalue().splitlines() == ["trial 7  all rows  epoch 1/3  200 images/s  0:04 left"]


def test_a_terminal_that_cannot_redraw_gets_plain_lines(stream: io.StringIO) -> None:
    console = Console(
        file=stream, width=120, force_terminal=True, color_system=None, _environ={"TERM": "dumb"}
    )
    observer, trial = ConsoleObserver(console), a_trial(1)
    observer.trial_started(trial)
    observer.event(trial, an_epoch(0, 0))
    assert "trial 1  fold 1/2  epoch 1/3" in stream.getvalue()


def test_a_terminal_shows_one_line_for_each_slot_and_leaves_only_ends(stream: io.StringIO) -> None:
    console = Console(
        file=stream, width=120, force_terminal=True, color_system=None, _environ={"TERM": "xterm"}
    )
    observer = ConsoleObserver(console)
    first, second = a_trial(1, slot="cuda:0"), a_trial(2, slot="cuda:1")
    for trial in (first, second):
        observer.trial_started(trial)
    observer.event(first, an_epoch(0, 0))
    observer.event(second, an_epoch(1, 2))
    drawn = stream.getvalue()
    assert "cuda:0  trial 1  fold 1/2  epoch 1/3" in drawn
    assert "cuda:1  trial 2  fold 2/2  epoch 3/3" in drawn
    observer.trial_ended(first, "complete", 0.85, None)
    observer.close()
    assert "trial 1  complete  KL 0.8500" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (750, "12:30"), (11100, "3:05:00"), (-3, "0:00")]
)
def test_durations_read_as_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
