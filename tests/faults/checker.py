"""Judges the history of a search after the fact. It knows nothing of how the product works.

=============  ===========================================================================================
one owner      a lineage never has two live leases
one end        at most one COMPLETE attempt in a lineage, and no lease ends twice
contiguous     trials are numbered 0, 1, 2 … without a gap
fenced         nothing is written of an attempt after its end: no report, value, state, renewal; and nobody
               is told of it after its lease was lost
none stuck     every lineage has ended; none was lost on the way
same values    a complete trial's value and reports equal those of an undisturbed run, bit for bit
=============  ===========================================================================================
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from history import Fact

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
    lineages: int
    attempts: int
    complete: int
    violations: tuple[Violation, ...]

    def __str__(self) -> str:
        counted = ", ".join(f"{number} {kind}" for kind, number in sorted(self.facts.items()))
        lines = [
            f"history: {counted}",
            f"{self.lineages} trials in {self.attempts} attempts, {self.complete} complete",
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
    trials : how many lineages there should be; None: any number
    """
    ordered = sorted(facts, key=lambda fact: fact.seq)
    lineage_of = {
        fact.trial: fact.lineage
        for fact in ordered
        if fact.kind in ("bind", "end") and fact.trial is not None
    }
    complete = [fact.trial for fact in ordered if fact.kind == "state" and fact.detail == "COMPLETE"]
    lineages = {fact.lineage for fact in ordered if fact.kind == "claim"}
    violations = [
        *_one_owner(ordered),
        *_one_end(ordered, lineage_of),
        *_contiguous(ordered),
        *_fenced(ordered),
        *_none_stuck(ordered, lineage_of, lineages, trials),
        *_same_values(ordered, reference),
    ]
    return Verdict(
        facts=Counter(fact.kind for fact in ordered),
        lineages=len(lineages),
        attempts=len({fact.trial for fact in ordered if fact.kind == "made"}),
        complete=len(complete),
        violations=tuple(violations),
    )


def _one_owner(facts: Sequence[Fact]) -> list[Violation]:
    live: dict[int | None, int | None] = {}
    found = []
    for fact in facts:
        if fact.kind == "claim":
            if fact.lineage in live:
                what = f"lease {fact.lease} was given while {live[fact.lineage]} held lineage {fact.lineage}"
                found.append(Violation("one owner", what))
            live[fact.lineage] = fact.lease
        elif fact.kind == "end" and live.get(fact.lineage) == fact.lease:
            del live[fact.lineage]
    return found


def _one_end(facts: Sequence[Fact], lineage_of: Mapping[int | None, int | None]) -> list[Violation]:
    ends = Counter(fact.lease for fact in facts if fact.kind == "end")
    complete = Counter(
        lineage_of.get(fact.trial, -1) for fact in facts if fact.kind == "state" and fact.detail == "COMPLETE"
    )
    return [
        Violation("one end", f"lease {lease} ended {number} times")
        for lease, number in ends.items()
        if number > 1
    ] + [
        Violation("one end", f"lineage {lineage} is complete {number} times")
        for lineage, number in complete.items()
        if number > 1
    ]


def _contiguous(facts: Sequence[Fact]) -> list[Violation]:
    last = {fact.trial: fact.step for fact in facts if fact.kind == "made"}
    numbers = sorted(number for number in last.values() if number is not None)
    if numbers == list(range(len(last))):
        return []
    return [Violation("contiguous", f"trials are numbered {numbers}")]


def _fenced(facts: Sequence[Fact]) -> list[Violation]:
    finished: dict[int | None, int | None] = {}
    ended: set[int | None] = set()
    lost_at = {
        fact.trial: fact.at for fact in facts if fact.kind == "end" and fact.detail == "lost" and fact.trial
    }
    found = []
    for fact in facts:
        late = (
            fact.kind in ("report", "value", "state")
            and fact.trial in finished
            and (fact.transaction is None or fact.transaction != finished[fact.trial])
        ) or (fact.kind in ("renew", "bind") and fact.lease in ended)
        if fact.kind == "told":
            late = fact.trial in lost_at and fact.at > lost_at[fact.trial]
        if late:
            whose = f"trial {fact.trial}" if fact.trial is not None else f"lease {fact.lease}"
            found.append(Violation("fenced", f"{fact.kind} of {whose} after its end"))
        if fact.kind == "state" and fact.detail in FINISHED:
            finished[fact.trial] = fact.transaction
        if fact.kind == "end":
            ended.add(fact.lease)
    return found


def _none_stuck(
    facts: Sequence[Fact],
    lineage_of: Mapping[int | None, int | None],
    lineages: set[int | None],
    trials: int | None,
) -> list[Violation]:
    done = {
        lineage_of.get(fact.trial)
        for fact in facts
        if fact.kind == "state" and fact.detail in ("COMPLETE", "PRUNED")
    }
    running = {fact.trial for fact in facts if fact.kind == "made"} - {
        fact.trial for fact in facts if fact.kind == "state" and fact.detail in FINISHED
    }
    live = {fact.lease for fact in facts if fact.kind == "claim"} - {
        fact.lease for fact in facts if fact.kind == "end"
    }
    found = [Violation("none stuck", f"lineage {lineage} came to nothing") for lineage in lineages - done]
    found += [Violation("none stuck", f"trial {trial} was never ended") for trial in running]
    found += [Violation("none stuck", f"lease {lease} was never ended") for lease in live]
    if trials is not None and len(lineages) != trials:
        found.append(Violation("none stuck", f"{len(lineages)} trials were run, not {trials}"))
    return found


def _same_values(facts: Sequence[Fact], reference: Mapping[int, Undisturbed]) -> list[Violation]:
    complete = {fact.trial for fact in facts if fact.kind == "state" and fact.detail == "COMPLETE"}
    values = {fact.trial: fact.value for fact in facts if fact.kind == "value"}
    reports: dict[int | None, dict[int | None, float | None]] = defaultdict(dict)
    for fact in facts:
        if fact.kind == "report":
            reports[fact.trial][fact.step] = fact.value
    found = []
    for trial in complete:
        expected = reference.get(trial) if trial is not None else None
        if expected is None:
            found.append(Violation("same values", f"trial {trial} is unknown to the reference"))
            continue
        if _bits(values.get(trial)) != _bits(expected.value):
            found.append(
                Violation(
                    "same values", f"trial {trial} came to {values.get(trial)!r}, not {expected.value!r}"
                )
            )
        for step, value in expected.reports.items():
            if _bits(reports[trial].get(step)) != _bits(value):
                got = reports[trial].get(step)
                found.append(Violation("same values", f"trial {trial}, step {step}: {got!r}, not {value!r}"))
    return found


def _bits(value: float | None) -> str | None:
    return None if value is None else float(value).hex()
