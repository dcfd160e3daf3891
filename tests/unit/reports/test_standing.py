"""Partial estimates beside complete scores."""

from __future__ import annotations

import pytest
from rich.console import Console
from stories import a_fold_start, a_trial, an_epoch

from hms_tune.studies.standing import FEWEST, Standing
from hms_tune.tracking.console import ConsoleObserver
from hms_tune.tracking.study_outlook import StudyOutlook
from hms_tune.trial_state import AttemptState

EPOCHS = 2


def curves(number: int) -> list[tuple[dict[int, float], float]]:
    """Trials of three folds; the first is so easy that each had half its score there."""
    scores = [0.8 + 0.1 * place for place in range(number)]
    return [({1: score, 2: 0.5 * score, 3: score, 4: 0.8 * score, 6: score}, score) for score in scores]


def test_from_five_complete_trials_on_they_tell_how_hard_the_folds_are() -> None:
    standing = Standing.of(curves(FEWEST), EPOCHS)
    assert standing.ratios == pytest.approx((2.0, 1.25, 1.0))
    assert standing.best == 0.8
    assert standing.text(0.56, 1, 3) == "≈ 1.1200 in fold 1 of 3"
    assert standing.text(0.3, 1, 3) == "≈ 0.6000 in fold 1 of 3, below the best so far"


def test_before_that_an_estimate_below_the_best_says_that_it_does_not_compare_yet() -> None:
    standing = Standing.of(curves(FEWEST - 1), EPOCHS)
    assert standing.ratios == ()
    assert standing.text(0.5595, 1, 3) == "≈ 0.5595 in fold 1 of 3, not comparable yet"
    assert standing.text(0.95, 1, 3) == "≈ 0.9500 in fold 1 of 3"
    assert standing.text(0.7, 3, 3) == "≈ 0.7000 in fold 3 of 3, below the best so far"  # all folds are in it


def test_a_fold_that_stopped_early_counts_with_its_last_epoch() -> None:
    early = [({1: 0.5 * score, 3: score, 6: score}, score) for _, score in curves(FEWEST)]
    assert Standing.of(early, EPOCHS).ratios == pytest.approx((2.0, 1.0, 1.0))


def test_without_complete_trials_nothing_is_said() -> None:
    assert Standing.of([], EPOCHS).text(0.5, 1, 3) == "≈ 0.5000 in fold 1 of 3"


@pytest.mark.parametrize("live", [False, True], ids=["plain lines", "a live table"])
def test_the_terminal_shows_no_partial_estimate_that_seems_to_beat_the_best(live: bool) -> None:
    console = Console(record=True, width=120, force_terminal=live, _environ={"TERM": "xterm"})
    observer, trial = ConsoleObserver(console, live=live), a_trial()
    standing = Standing(best=0.7929)
    observer.show_study(StudyOutlook("demo", 3, 6, 0.7929, 1, None, None, standing))
    observer.trial_started(trial)
    observer.event(trial, a_fold_start(0, folds=3))
    observer.event(trial, an_epoch(0, 2, kl=0.5595, folds=3))
    if live:
        assert "0.5595?" in console.export_text()
        observer.close()
        return
    observer.trial_ended(trial, AttemptState.PRUNED, 0.5595, "pruned")
    assert "≈ 0.5595 in fold 1 of 3, not comparable yet" in console.export_text()
