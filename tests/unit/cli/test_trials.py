"""``study show``: a line for each trial, whatever the number of parameters."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from hms_tune.cli.views.tables import as_json, as_json_lines
from hms_tune.cli.views.trials import PAGE, sort_column, sorted_trials, trial_view, trials_csv
from hms_tune.database.queries.trial_list import AttemptKey
from hms_tune.errors import UsageError
from hms_tune.studies.standing import Estimate
from hms_tune.studies.status_types import TrialSummary
from hms_tune.training.history import FoldRecord, StoredFolds, folds_as_json
from hms_tune.trial_state import AttemptState

MEMORY = "batch size 64 needs 3.2 GiB and 2.0 GiB are there"


def trial(number: int, state: str = "complete", value: float | None = 0.5, **given: Any) -> TrialSummary:
    return TrialSummary(
        trial=number,
        attempt=given.pop("attempt", number),
        state=AttemptState(state),
        value=value if state == "complete" else None,
        estimate=given.pop("estimate", None),
        params=given.pop("params", {"training.learning_rate": 10.0**-number}),
        reason=given.pop("reason", None),
        seconds=given.pop("seconds", 60.0 * number),
        attributes={},
        reported={},
    )


def shown(trials: list[TrialSummary], width: int = 100) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(trial_view(trials, width=width))
    written = console.file
    assert isinstance(written, io.StringIO)
    return [line.rstrip() for line in written.getvalue().splitlines()]


def ordered(trials: list[TrialSummary], by: str) -> list[TrialSummary]:
    column = sort_column(by, list(dict.fromkeys(name for each in trials for name in each.params)))
    return sorted_trials(trials, column, largest_first=by.startswith("-"))


def many_parameters(number: int) -> dict[str, Any]:
    params: dict[str, Any] = {f"input.eeg.stft.parameter_{place}": number + place / 7 for place in range(33)}
    return {"data.folds": 5, **params, "model.backbone": "tf_efficientnetv2_b0"}


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_trial_of_35_parameters_is_one_line_that_fits(width: int) -> None:
    lines = shown([trial(number, params=many_parameters(number)) for number in range(4)], width)
    assert len(lines) == 6
    assert all(len(line) <= width for line in lines)
    assert lines[0].split()[:5] == ["trial", "state", "KL", "time", "parameter_0"]
    assert lines[3].split()[:5] == ["2", "complete", "0.5000", "2:00", "2"]
    assert "more parameters: --csv lists all" in lines[5]


def test_what_does_not_differ_is_shown_last() -> None:
    params = {"data.folds": 5, "model.dropout": 0.1}
    lines = shown([trial(0, params=params), trial(1, params=params | {"model.dropout": 0.23456})])
    assert lines[0].split() == ["trial", "state", "KL", "time", "dropout", "folds"]
    assert lines[2].split() == ["1", "complete", "0.5000", "1:00", "0.235", "5"]


def test_the_same_error_is_shown_once() -> None:
    failed = [trial(number, "failed", None, reason=MEMORY) for number in range(12)]
    lines = shown(
        [*failed, trial(12, "pruned", reason="pruned"), trial(13, "failed", None, reason="KeyError")]
    )
    assert [line for line in lines if MEMORY in line] == [f"[1] {MEMORY} (12 times)"]
    assert "[2] KeyError" in lines
    assert "[1]" in lines[1]
    assert "[" not in lines[13]


def test_a_kl_that_is_known_in_part_is_marked_with_its_fold_and_whether_it_compares() -> None:
    below = Estimate(0.31, fold=1, folds=5, remark="not comparable yet")
    lines = shown(
        [trial(0), trial(1, "pruned", estimate=replace(below, remark="")), trial(2, estimate=below)]
    )
    assert lines[2].split()[:5] == ["1", "pruned", "≈", "0.3100", "1/5"]
    assert lines[3].split()[2:5] == ["≈", "0.3100?", "1/5"]
    assert lines[4].startswith("≈ KL m/n: trained up to fold m of n, on the scale of complete trials; ?: not")
    assert len(shown([trial(0)])) == 2


def test_trials_are_sorted_by_any_column_and_those_without_a_value_come_last() -> None:
    trials = [trial(0, value=0.7), trial(1, value=None), trial(2, value=0.3, seconds=1.0)]
    order = {by: [each.trial for each in ordered(trials, by)] for by in ("trial", "KL", "-kl", "time")}
    assert order == {"trial": [0, 1, 2], "KL": [2, 0, 1], "-kl": [0, 2, 1], "time": [0, 2, 1]}
    by_rate = ordered(trials, "learning_rate")
    assert by_rate == ordered(trials, "training.learning_rate")
    assert [each.trial for each in by_rate] == [2, 1, 0]


def test_a_part_of_a_kl_stands_behind_the_whole_ones() -> None:
    keys = [
        AttemptKey(number, number, AttemptState(state), value, None, None, {})
        for number, (state, value) in enumerate(
            [("pruned", 0.1), ("complete", 0.7), ("complete", 0.3), ("paused", 0.2)]
        )
    ]
    order = {
        by: [each.trial for each in sorted_trials(keys, "KL", largest_first=by == "-KL")]
        for by in ("KL", "-KL")
    }
    assert order == {"KL": [2, 1, 0, 3], "-KL": [1, 2, 3, 0]}


def test_values_of_several_kinds_are_sorted() -> None:
    kinds: list[Any] = ["b", 2, None, "a", 1.5, True]
    trials = [trial(place, params={"x.kind": kind}) for place, kind in enumerate(kinds)]
    assert [each.params["x.kind"] for each in ordered(trials, "kind")] == [1.5, 2, True, "a", "b", None]


def test_a_column_that_is_not_there_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="nearest: "):
        ordered([trial(0)], "lr")


def test_csv_has_every_parameter_of_every_attempt() -> None:
    trials = [
        trial(0, params={"input.image": [256, 384], "model.dropout": 0.12345678}),
        trial(1, "failed", None, attempt=4, reason='it said "no", twice', params={"model.pooling": None}),
        trial(2, "pruned", estimate=Estimate(0.625, fold=2, folds=5, remark=""), params={}),
    ]
    params = ["input.image", "model.dropout", "model.pooling"]
    rows = list(csv.reader(trials_csv(trials, params)))
    first = ["trial", "attempt", "state", "kl", "estimate", "fold", "seconds", "reason"]
    assert rows == [
        [*first, "input.image", "model.dropout", "model.pooling"],
        ["0", "0", "complete", "0.5", "", "", "0.0", "", "[256, 384]", "0.12345678", ""],
        ["1", "4", "failed", "", "", "", "60.0", 'it said "no", twice', "", "", ""],
        ["2", "2", "pruned", "", "0.625", "2", "120.0", "", "", "", ""],
    ]


def test_a_study_without_trials_has_a_table_without_lines() -> None:
    assert shown([])[0].split() == ["trial", "state", "KL", "time"]


def test_a_page_says_how_many_there_are() -> None:
    page = [trial(number) for number in range(PAGE)]
    console = Console(width=100, file=io.StringIO(), highlight=False)
    console.print(trial_view(page, width=100, page=2, of=1234))
    written = console.file
    assert isinstance(written, io.StringIO)
    assert written.getvalue().splitlines()[-1].strip() == (
        "page 2 of 13, of 1,234 attempts: --page N shows another"
    )
    assert "page" not in shown(page)[-1]


def test_folds_that_are_read_when_somebody_looks_are_json_too() -> None:
    fold = FoldRecord(fold=0, epochs_planned=10, train_rows=5, validation_rows=2, kl=0.5)
    stored = StoredFolds(folds_as_json([fold]))
    assert json.loads(as_json({"folds": stored})) == json.loads(as_json({"folds": [fold]}))


def test_json_that_is_written_item_by_item_is_that_of_the_list() -> None:
    for trials in ([], [trial(0)], [trial(0, reason="a\nb"), trial(1)]):
        assert "".join(as_json_lines(trials)) == as_json(trials) + "\n"
