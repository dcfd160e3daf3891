"""What is kept of a trial's story."""

from __future__ import annotations

from dataclasses import replace

from hms_tune.training.events import EpochEnded, Event, FoldEnded, FoldStarted
from hms_tune.training.history import Recorder, folds_as_json, folds_from_json


def epoch(fold: int, number: int, kl: float) -> EpochEnded:
    return EpochEnded(
        fold=fold,
        folds=2,
        epoch=number,
        epochs=2,
        stage=0,
        train_loss=kl + 0.1,
        kl=kl,
        kl_all_rows=kl,
        kl_high_vote=float("nan"),
        best_kl=kl,
        estimate=kl,
        learning_rate=1e-3,
        images=10,
        seconds=0.5,
    )


def story() -> list[Event]:
    started = FoldStarted(fold=0, folds=2, epochs=2, train_rows=10, validation_rows=5)
    ended = FoldEnded(
        fold=0,
        folds=2,
        kl=0.5,
        kl_all_rows=0.5,
        kl_high_vote=float("nan"),
        best_epoch=1,
        epochs_run=2,
        stopped_early=False,
    )
    return [started, epoch(0, 0, 0.7), epoch(0, 1, 0.5), ended, replace(started, fold=1), epoch(1, 0, 1 / 3)]


def told(events: list[Event]) -> Recorder:
    recorder = Recorder()
    for event in events:
        recorder.add(event)
    return recorder


def test_a_record_has_each_folds_curve_and_score() -> None:
    first, second = told(story()).records()
    assert [each.kl for each in first.epochs] == [0.7, 0.5]
    assert (first.kl, first.best_epoch, first.kl_high_vote) == (0.5, 1, None)
    assert (second.kl, second.best_kl, len(second.epochs)) == (None, 1 / 3, 1)


def test_a_story_that_is_told_again_changes_nothing() -> None:
    assert told([*story(), *story()]).records() == told(story()).records()


def test_json_keeps_a_record_to_six_digits() -> None:
    records = told(story()).records()
    again = folds_from_json(folds_as_json(records))
    assert again[0] == replace(records[0], epochs=again[0].epochs)
    assert [each.kl for each in again[0].epochs] == [0.7, 0.5]
    assert again[1].epochs[0].kl == 0.333333
