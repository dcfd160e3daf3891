"""Judges the history of a search after the fact. Of the product it knows the steps between states alone.

=============  ===========================================================================================
one owner      a trial never has two live leases, nor a fold two helpers
one end        at most one COMPLETE attempt at a trial, and no lease ends twice
contiguous     attempts are numbered 0, 1, 2 … without a gap
fenced         nothing is written of an attempt after its end: no report, value, state, renewal; and nobody
               is told of it after its lease was lost
none stuck     every trial has ended; none was lost on the way
drawn steps    states of trials and attempts change only as ``docs/trial-states.md`` draws it
same values    a complete trial's value and reports equal those of an undisturbed run, bit for bit
=============  ===========================================================================================
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from history import Fact

from hms_tune.trial_state import AttemptState, TrialState

FINISHED = {"COMPLETE", "PRUNED", "FAIL"}


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a trial comes to when nothing happens to it."""

    value: float
    reports: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule, and how it was broken."""

    rule: str
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The checker's report."""

    facts: Counter[str]
    trials: int
    attempts: int
    complete: int
    violations: tuple[Violation, ...]

    def __str__(self) -> str:
        counted = ", ".join(f"{number} {kind}" for kind, number in sorted(self.facts.items()))
        lines = [
            f"history: {counted}",
            f"{self.trials} trials in {self.attempts} attempts, {self.complete} complete",
            f"{len(self.violations)} violations",
            *(f"  {violation.rule}: {violation.what}" for violation in self.violations),
        ]
        return "\n".join(lines)


def check(
    facts: Sequence[Fact], reference: Mapping[int, Undisturbed], *, trials: int | None = None
) -> Verdict:
    """Judge a finished search.

    Parameters
    ----------
    facts : its history
    reference : by the id of each complete Optuna trial, what it should have come to
    trials : how many trials there should be; None: any number
    """
    ordered = sorted(facts, key=lambda fact: fact.seq)
    trial_of = {
        fact.attempt: fact.trial
        for fact in ordered
        if fact.kind in ("bind", "end") and fact.attempt is not None
    }
    complete = [fact.attempt for fact in ordered if fact.kind == "state" and fact.detail == "COMPLETE"]
    claimed = {fact.trial for fact in ordered if fact.kind == "claim"}
    violations = [
        *_one_owner(ordered),
        *_one_end(ordered, trial_of),
        *_contiguous(ordered),
        *_fenced(ordered),
        *_none_stuck(ordered, trial_of, claimed, trials),
        *_same_values(ordered, reference),
        *_drawn_steps(ordered),
    ]
    return Verdict(
        facts=Counter(fact.kind for fact in ordered),
        trials=len(claimed),
        attempts=len({fact.attempt for fact in ordered if fact.kind == "made"}),
        complete=len(complete),
        violations=tuple(violations),
    )


def _one_owner(facts: Sequence[Fact]) -> list[Violation]:
    live: dict[tuple[int | None, int | None], int | None] = {}
    found = []
    for fact in facts:
        if fact.kind in ("claim", "help"):
            held = fact.trial, fact.step
            if held in live:
                whose = f"trial {fact.trial}" + (f", fold {fact.step}" if fact.kind == "help" else "")
                what = f"lease {fact.lease} was given while {live[held]} held {whose}"
                found.append(Violation("one owner", what))
            live[held] = fact.lease
        elif fact.kind == "end":
            live = {held: lease for held, lease in live.items() if lease != fact.lease}
    return found


def _one_end(facts: Sequence[Fact], trial_of: Mapping[int | None, int | None]) -> list[Violation]:
    ends = Counter(fact.lease for fact in facts if fact.kind == "end")
    complete = Counter(
        trial_of.get(fact.attempt, -1) for fact in facts if fact.kind == "state" and fact.detail == "COMPLETE"
    )
    return [
        Violation("one end", f"lease {lease} ended {number} times")
        for lease, number in ends.items()
        if number > 1
    ] + [
        Violation("one end", f"trial {trial} is complete {number} times")
        for trial, number in complete.items()
        if number > 1
    ]


def _contiguous(facts: Sequence[Fact]) -> list[Violation]:
    last = {fact.attempt: fact.step for fact in facts if fact.kind == "made"}
    numbers = sorted(number for number in last.values() if number is not None)
    if numbers == list(range(len(last))):
        return []
    return [Violation("contiguous", f"attempts are numbered {numbers}")]


def _fenced(facts: Sequence[Fact]) -> list[Violation]:
    finished: dict[int | None, int | None] = {}
    ended: set[int | None] = set()
    lost_at = {
        fact.attempt: fact.at
        for fact in facts
        if fact.kind == "end" and fact.detail == "lost" and fact.attempt
    }
    found = []
    for fact in facts:
        late = (
            fact.kind in ("report", "value", "state")
            and fact.attempt in finished
            and (fact.transaction is None or fact.transaction != finished[fact.attempt])
        ) or (fact.kind in ("renew", "bind") and fact.lease in ended)
        if fact.kind == "told":
            late = fact.attempt in lost_at and fact.at > lost_at[fact.attempt]
        if late:
            whose = f"attempt {fact.attempt}" if fact.attempt is not None else f"lease {fact.lease}"
            found.append(Violation("fenced", f"{fact.kind} of {whose} after its end"))
        if fact.kind == "state" and fact.detail in FINISHED:
            finished[fact.attempt] = fact.transaction
        if fact.kind == "end":
            ended.add(fact.lease)
    return found


def _none_stuck(
    facts: Sequence[Fact],
    trial_of: Mapping[int | None, int | None],
    claimed: set[int | None],
    trials: int | None,
) -> list[Violation]:
    done = {
        trial_of.get(fact.attempt)
        for fact in facts
        if fact.kind == "state" and fact.detail in ("COMPLETE", "PRUNED")
    }
    running = {fact.attempt for fact in facts if fact.kind == "made"} - {
        fact.attempt for fact in facts if fact.kind == "state" and fact.detail in FINISHED
    }
    live = {fact.lease for fact in facts if fact.kind in ("claim", "help")} - {
        fact.lease for fact in facts if fact.kind == "end"
    }
    found = [Violation("none stuck", f"trial {trial} came to nothing") for trial in claimed - done]
    found += [Violation("none stuck", f"attempt {attempt} was never ended") for attempt in running]
    found += [Violation("none stuck", f"lease {lease} was never ended") for lease in live]
    if trials is not None and len(claimed) != trials:
        found.append(Violation("none stuck", f"{len(claimed)} trials were run, not {trials}"))
    return found


def _same_values(facts: Sequence[Fact], reference: Mapping[int, Undisturbed]) -> list[Violation]:
    complete = {fact.attempt for fact in facts if fact.kind == "state" and fact.detail == "COMPLETE"}
    values = {fact.attempt: fact.value for fact in facts if fact.kind == "value"}
    reports: dict[int | None, dict[int | None, float | None]] = defaultdict(dict)
    for fact in facts:
        if fact.kind == "report":
            reports[fact.attempt][fact.step] = fact.value
    found = []
    for attempt in complete:
        expected = reference.get(attempt) if attempt is not None else None
        if expected is None:
            found.append(Violation("same values", f"attempt {attempt} is unknown to the reference"))
            continue
        if _bits(values.get(attempt)) != _bits(expected.value):
            found.append(
                Violation(
                    "same values",
                    f"attempt {attempt} came to {values.get(attempt)!r}, not {expected.value!r}",
                )
            )
        for step, value in expected.reports.items():
            if _bits(reports[attempt].get(step)) != _bits(value):
                got = reports[attempt].get(step)
                found.append(
                    Violation("same values", f"attempt {attempt}, step {step}: {got!r}, not {value!r}")
                )
    return found


def _drawn_steps(facts: Sequence[Fact]) -> list[Violation]:
    found = []
    states: dict[str, type[TrialState] | type[AttemptState]] = {"trial": TrialState, "attempt": AttemptState}
    for fact in facts:
        of, _, changed = fact.kind.partition(" ")
        if changed:
            before, after = map(states[of], (fact.detail or "").split())
            if not before.may_become(after):
                what = f"an attempt at trial {fact.trial}" if of == "attempt" else f"trial {fact.trial}"
                found.append(Violation("drawn steps", f"{what} went from {before} to {after}"))
    return found


def _bits(value: float | None) -> str | None:
    return None if value is None else float(value).hex()
