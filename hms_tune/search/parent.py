"""What a study learns from another one, its parent: trials whose values still lie in its space.

Scores of other folds or data do not compare with its own. So they inform the sampler by their distances from
one another alone, and the winner is tried first; none is ever ranked beside the study's trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage

from hms_tune.config.ranges import Choices, Fixed, FloatRange, Group, IntRange, Node, join, resolve
from hms_tune.config.study_file import StudyFile
from hms_tune.errors import ConfigError, UnknownStudyError
from hms_tune.search.promotion.drift import Drift
from hms_tune.search.promotion.surrogate import Known
from hms_tune.search.promotion_sampler import progress_of
from hms_tune.search.reports import rungs_of
from hms_tune.search.study import stored_study_file
from hms_tune.search.suggest import contains


@dataclass(frozen=True, slots=True)
class Parent:
    """What carries over from a parent study.

    Attributes
    ----------
    study : its name
    trials : how many of its trials have got as far as a rung
    known : those whose values lie in the new space, with the scores that they are predicted to end at
    winner : the best complete one of them, by the parent's own scores; None: none is complete
    """

    study: str
    trials: int
    known: tuple[Known, ...]
    winner: dict[str, Any] | None


def read_parent(storage: BaseStorage, study_file: StudyFile) -> Parent | None:
    """What the parent that a study file names has to teach; None: it names none.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    ConfigError
        If nothing carries over.
    """
    name = study_file.search.parent
    if name is None:
        return None
    where = f"{study_file.source}: search.parent"
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        raise UnknownStudyError(
            f'no study "{name}" in the storage', where=where, hint="hms-tune study list names the studies"
        ) from None
    parent = stored_study_file(study)
    rungs = rungs_of(parent)
    progress = [each for each in progress_of(study, rungs) if each.step >= rungs[0]]
    drift = Drift.of(progress, rungs)
    known, complete = [], []
    for trial in progress:
        params = carried_over(parent, trial.params, study_file.space)
        level = sum(trial.step >= rung for rung in rungs) - 1
        if params is None:
            continue
        score = trial.value(rungs[level]) + drift.shift[level]
        known.append(Known(params, score))
        if trial.state == "complete":
            complete.append((score, trial.number, params))
    if not known:
        raise ConfigError(
            f'of the {len(progress)} trials of "{name}" that got far enough, none lies in this space',
            where=where,
            hint="Leave parent out, or widen the ranges that differ (hms-tune study check shows both)",
        )
    winner = min(complete, key=lambda each: each[:2])[2] if complete else None
    return Parent(name, len(progress), tuple(known), winner)


def carried_over(parent: StudyFile, params: Mapping[str, Any], space: Group) -> dict[str, Any] | None:
    """The parameters that a trial of a parent has in another space; None: it does not lie there.

    What both fix, such as epochs or folds, may differ; what one of them searches must agree.
    """
    try:
        values = resolve(parent.space, lambda name, _: params[name])
    except (KeyError, StopIteration):
        return None
    return _located(space, values, "", parent.space)


def _located(node: Node, value: Any, name: str, before: Node | None) -> dict[str, Any] | None:
    """What gives a node a value, as parameters; ``before`` is the parent's node, None within a choice."""
    match node:
        case Fixed(fixed):
            return {} if isinstance(before, Fixed) or fixed == value else None
        case FloatRange() | IntRange():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return {name: value} if is_number and contains(node, value) else None
        case Choices(branches):
            for branch in branches:
                inner = _located(branch.node, value, join(name, branch.label), None)
                if inner is not None:
                    return {name: branch.label, **inner}
            return None
        case Group(entries):
            return _located_within(entries, value, name, before)


def _located_within(
    entries: Mapping[str, Node], values: Any, name: str, before: Node | None
) -> dict[str, Any] | None:
    if not isinstance(values, dict):
        return None
    found: dict[str, Any] = {}
    for key, child in entries.items():
        was = before.entries.get(key) if isinstance(before, Group) else None
        inner = _located(child, values.get(key), join(name, key), was)
        if inner is None:
            return None
        found |= inner
    return found
