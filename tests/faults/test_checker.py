"""The checker passes a clean history, and finds each kind of violation that is planted in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from checker import Undisturbed, check
from history import Fact

REFERENCE = {10: Undisturbed(0.5, {1: 0.7, 2: 0.5}), 12: Undisturbed(0.4, {1: 0.6, 2: 0.4})}


def numbered(facts: list[Fact]) -> list[Fact]:
    return [replace(fact, seq=number, at=float(number)) for number, fact in enumerate(facts)]


def clean() -> list[Fact]:
    """Two trials. The second loses its worker after an epoch and goes on as a third attempt."""
    return [
        Fact(kind="claim", lease=1, trial=1),
        Fact(kind="made", attempt=10, step=0),
        Fact(kind="bind", lease=1, trial=1, attempt=10),
        Fact(kind="claim", lease=2, trial=2),
        Fact(kind="made", attempt=11, step=1),
        Fact(kind="bind", lease=2, trial=2, attempt=11),
        Fact(kind="report", attempt=10, step=1, value=0.7),
        Fact(kind="report", attempt=11, step=1, value=0.6),
        Fact(kind="renew", lease=1, trial=1),
        Fact(kind="report", attempt=10, step=2, value=0.5),
        Fact(kind="value", attempt=10, value=0.5),
        Fact(kind="state", attempt=10, detail="COMPLETE"),
        Fact(kind="end", lease=1, trial=1, attempt=10, detail="complete"),
        Fact(kind="told", attempt=11),
        Fact(kind="state", attempt=11, detail="FAIL"),
        Fact(kind="end", lease=2, trial=2, attempt=11, detail="lost"),
        Fact(kind="claim", lease=3, trial=2),
        Fact(kind="made", attempt=12, step=2),
        Fact(kind="bind", lease=3, trial=2, attempt=12),
        Fact(kind="report", attempt=12, step=1, value=0.6),
        Fact(kind="report", attempt=12, step=2, value=0.4),
        Fact(kind="value", attempt=12, value=0.4),
        Fact(kind="state", attempt=12, detail="COMPLETE"),
        Fact(kind="end", lease=3, trial=2, attempt=12, detail="complete"),
        Fact(kind="attempt changed", trial=2, detail="running complete"),
        Fact(kind="trial changed", trial=2, detail="running complete"),
    ]


def rules(facts: list[Fact]) -> set[str]:
    return {violation.rule for violation in check(numbered(facts), REFERENCE, trials=2).violations}


def test_a_clean_history_passes() -> None:
    verdict = check(numbered(clean()), REFERENCE, trials=2)
    assert verdict.violations == ()
    assert (verdict.trials, verdict.attempts, verdict.complete) == (2, 3, 2)


def test_a_fold_has_one_helper_at_a_time_and_each_is_ended() -> None:
    one = [Fact(kind="help", lease=8, trial=1, step=3), Fact(kind="end", lease=8, detail="complete")]
    two = [Fact(kind="help", lease=9, trial=1, step=3), Fact(kind="end", lease=9, detail="complete")]
    assert rules(clean() + one + two) == set()
    assert rules([*clean(), one[0], *two, one[1]]) == {"one owner"}
    assert rules(clean() + one[:1]) == {"none stuck"}


def without(kind: str, **fields: object) -> list[Fact]:
    kept = [
        fact
        for fact in clean()
        if fact.kind != kind or any(getattr(fact, name) != value for name, value in fields.items())
    ]
    assert len(kept) < len(clean())
    return kept


def changed(kind: str, attempt: int, **fields: object) -> list[Fact]:
    return [
        replace(fact, **fields) if (fact.kind, fact.attempt) == (kind, attempt) else fact  # type: ignore[arg-type]
        for fact in clean()
    ]


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        # a second lease before the first has ended
        (
            [*clean()[:13], Fact(kind="claim", lease=3, trial=2), *clean()[13:16], *clean()[17:]],
            "one owner",
        ),
        # both attempts at a trial complete
        (changed("state", 11, detail="COMPLETE"), "one end"),
        # a lease that ends twice
        ([*clean(), Fact(kind="end", lease=1, trial=1, attempt=10, detail="complete")], "one end"),
        # a number left out
        (changed("made", 12, step=3), "contiguous"),
        # a number twice
        (changed("made", 12, step=1), "contiguous"),
        # a report, a value, an end, a renewal and a word to an observer after the loss
        ([*clean(), Fact(kind="report", attempt=11, step=2, value=0.4)], "fenced"),
        ([*clean(), Fact(kind="value", attempt=11, value=0.4)], "fenced"),
        ([*clean(), Fact(kind="state", attempt=11, detail="COMPLETE")], "fenced"),
        ([*clean(), Fact(kind="renew", lease=2, trial=2)], "fenced"),
        ([*clean(), Fact(kind="told", attempt=11)], "fenced"),
        # a trial that nobody continues, one that never ends, a lease that never ends
        (clean()[:16], "none stuck"),
        (without("state", attempt=12), "none stuck"),
        (without("end", lease=3), "none stuck"),
        # a trial too many
        ([*clean(), Fact(kind="claim", lease=9, trial=9)], "none stuck"),
        # a value that differs in its last bit, a report that is missing, one that differs
        (changed("value", 12, value=0.4000000000000001), "same values"),
        (without("report", attempt=12, step=1), "same values"),
        (changed("report", 12, value=0.6), "same values"),
        # a trial and an attempt that go on after their ends
        ([*clean(), Fact(kind="trial changed", trial=1, detail="complete running")], "drawn steps"),
        ([*clean(), Fact(kind="attempt changed", trial=2, detail="lost complete")], "drawn steps"),
    ],
)
def test_each_planted_violation_is_found(facts: list[Fact], rule: str) -> None:
    assert rule in rules(facts)
