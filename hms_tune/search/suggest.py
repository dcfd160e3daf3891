"""From the space of a study file to Optuna's parameters, and back to trial configurations."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError

from hms_tune.config.range_reader import dotted_keys, read_values
from hms_tune.config.ranges import (
    Choices,
    FloatRange,
    Group,
    IntRange,
    Label,
    Parameter,
    Range,
    Searched,
    assignments,
    combinations,
    describe,
    join,
    parameters,
    resolve,
    stepped_values,
)
from hms_tune.config.section import named
from hms_tune.config.study_file import SECTIONS, StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.config.yaml_lines import Source, nearest, parse_yaml
from hms_tune.errors import ConfigError

LARGEST_GRID = 100_000

_NAMED = 3
"""Ranges that an error names."""


def suggest(space: Group, trial: optuna.trial.BaseTrial) -> TrialConfig:
    """Draw a trial configuration; a conditional parameter is asked for only where its branch was drawn.

    Raises
    ------
    ConfigError
        If the values drawn break a rule between several keys.
    """

    def choose(name: str, node: Searched) -> Any:
        match node:
            case FloatRange(low, high, log, step):
                return trial.suggest_float(name, low, high, log=log, step=step)
            case IntRange(low, high, log, step):
                return trial.suggest_int(name, low, high, log=log, step=step)
            case Choices(branches):
                return trial.suggest_categorical(name, [branch.label for branch in branches])

    return _complete(resolve(space, choose))


def _complete(values: Any) -> TrialConfig:
    try:
        return TrialConfig.model_validate(values)
    except ValidationError as error:
        # Reading the study file tried the ends of all ranges; a rule broke between them.
        found = error.errors()[0]
        where = ".".join(map(str, found["loc"]))
        raise ConfigError(f"the values drawn do not fit together: {found['msg']}", where=where) from error


def config_of(space: Group, params: Mapping[str, Any]) -> TrialConfig:
    """The trial configuration of finished parameters, for example ``study.best_params``.

    Raises
    ------
    ConfigError
        If a parameter of the space is missing: the trial was drawn from another space.
    """
    try:
        return _complete(resolve(space, lambda name, _: params[name]))
    except (KeyError, StopIteration) as error:
        raise ConfigError(f"the trial was drawn from another search space: {error} does not fit") from error


def distribution(node: Searched) -> BaseDistribution:
    """Optuna's distribution of a parameter."""
    match node:
        case FloatRange(low, high, log, step):
            return FloatDistribution(low, high, log=log, step=step)
        case IntRange(low, high, log, step):
            return IntDistribution(low, high, log=log, step=step)
        case Choices(branches):
            return CategoricalDistribution([branch.label for branch in branches])


def distributions(space: Group) -> dict[str, BaseDistribution]:
    """Every parameter's distribution, also of those that exist only in some branches."""
    return {parameter.name: distribution(parameter.node) for parameter in parameters(space)}


def grid_size(space: Group) -> int:
    """How many cells the grid has.

    Raises
    ------
    ConfigError
        If a range is continuous, or the grid has more than 100,000 cells.
    """
    cells = combinations(space, _grid_values)
    if cells > LARGEST_GRID:
        raise ConfigError(
            f"the grid has {cells:,} cells, more than {LARGEST_GRID:,}",
            hint="Give ranges a larger step, fix some values, or use sampler: random",
        )
    return cells


def grid(space: Group) -> list[dict[str, Any]]:
    """Every cell of the grid: parameter values, without those of branches the cell does not take.

    Raises
    ------
    ConfigError
        As :func:`grid_size`.
    """
    grid_size(space)
    return list(assignments(space, _grid_values))


def _grid_values(name: str, node: Range) -> Sequence[float]:
    try:
        return stepped_values(node)
    except ValueError:
        raise ConfigError(
            f"{name} is a continuous range, of which a grid has no cells",
            hint=f"Give it a step or choices: {name.rpartition('.')[2]}: {{choices: […]}}",
        ) from None


def params_from_config(space: Group, values: Mapping[str, str]) -> dict[str, Any]:
    """Parameters to enqueue from what a person typed, for example ``training.learning_rate=1e-3``.

    Parameters
    ----------
    space : the study's space
    values : parameter names and their values as text, read as in a study file

    Returns
    -------
    dict of parameter values; the choices that lead to a conditional parameter are added

    Raises
    ------
    ConfigError
        If a parameter is unknown, a value is outside its range, or two values exclude each other.
    """
    known = {parameter.name: parameter for parameter in parameters(space)}
    params: dict[str, Any] = {}
    for name, text in values.items():
        if name not in known:
            told = nearest(name, list(known)) if known else "it searches nothing"
            raise ConfigError(f'"{name}" is not searched by this study; {told}')
        params[name] = _typed(known[name], text)
    return _with_conditions(known, params)


def _with_conditions(known: Mapping[str, Parameter], params: Mapping[str, Any]) -> dict[str, Any]:
    """These parameters and the choices that they exist under."""
    found = dict(params)
    for name in params:
        for choice, label in known[name].condition:
            if found.setdefault(choice, label) != label:
                given = describe_label(found[choice])
                raise ConfigError(
                    f"{name} exists only where {choice} is {describe_label(label)}, not {given}"
                )
    return {name: found[name] for name in known if name in found}


def start_params(study_file: StudyFile) -> list[dict[str, Any]]:
    """The parameters of each configuration that a study file says to try first.

    Raises
    ------
    ConfigError
        If one is no list of ``KEY=VALUE``, or does not lie in the space.
    """
    found = []
    for number, text in enumerate(study_file.search.start):
        where = f"{study_file.source}: search.start[{number}]"
        pairs = [part.partition("=") for part in shlex.split(text)]
        if not pairs or not all(name and equals for name, equals, _ in pairs):
            raise ConfigError(
                f'"{text}" is not KEY=VALUE KEY=VALUE',
                where=where,
                hint="For example training.learning_rate=1e-3 model.dropout=0.2",
            )
        try:
            found.append(params_from_config(study_file.space, {name: value for name, _, value in pairs}))
        except ConfigError as error:
            raise ConfigError(error.what, where=where, hint=error.hint) from error
    return found


def _typed(parameter: Parameter, text: str) -> Label:
    name, node = parameter.name, parameter.node
    if isinstance(node, Choices):
        for branch in node.branches:
            if text.strip() == describe_label(branch.label):
                return branch.label
    value = parse_yaml(text, Source(name)).plain() if text.strip() else None
    if isinstance(node, Choices):
        label = json.dumps(value, sort_keys=True, separators=(",", ":")) if isinstance(value, list) else value
        for branch in node.branches:
            if branch.label == label and isinstance(branch.label, bool) == isinstance(label, bool):
                return branch.label
    elif isinstance(value, int | float) and not isinstance(value, bool) and contains(node, value):
        return float(value) if isinstance(node, FloatRange) else int(value)
    raise ConfigError(f"{name} cannot be {text}", hint=f"It takes {describe(node)}")


def contains(node: Range, value: float) -> bool:
    """Whether a range has a value, on one of its steps where it has steps."""
    if isinstance(node, IntRange):
        return (
            isinstance(value, int) and node.low <= value <= node.high and (value - node.low) % node.step == 0
        )
    if not node.low <= value <= node.high:
        return False
    return node.step is None or any(abs(value - known) <= 1e-9 * node.step for known in stepped_values(node))


def lies_in(space: Group, params: Mapping[str, Any]) -> bool:
    """Whether each of these values is one that its parameter may have in a space."""
    nodes = {parameter.name: parameter.node for parameter in parameters(space)}

    def has(node: Searched, value: Any) -> bool:
        if isinstance(node, Choices):
            labels = [branch.label for branch in node.branches]
            return any(
                label == value and isinstance(label, bool) == isinstance(value, bool) for label in labels
            )
        return isinstance(value, int | float) and not isinstance(value, bool) and contains(node, value)

    return all(name in nodes and has(nodes[name], value) for name, value in params.items())


def describe_label(label: Label) -> str:
    """A label as a person writes it: words without quotes, the rest as in JSON."""
    return label if isinstance(label, str) else json.dumps(label)


def fixed_config(
    space: Group, given: Mapping[str, str], params: Mapping[str, Any] | None = None
) -> TrialConfig:
    """The configuration of a space whose ranges all have a value.

    Parameters
    ----------
    given : names of parameters or dotted keys, and their values as text, read as in a study file
    params : a trial's parameters, which hold where nothing else is given

    Raises
    ------
    ConfigError
        If a range has no value, a key is unknown, or a value does not fit.
    """
    known = {parameter.name: parameter for parameter in parameters(space)}
    chosen: dict[str, Any] = {}
    other: dict[str, str] = {}
    for name, text in given.items():
        try:
            chosen[name] = _typed(known[name], text)
        except KeyError:
            other[name] = text
        except ConfigError:  # it may lie outside its range
            other[_key_of(known[name])] = text
    _check_keys(other, known)
    drawn = {**(params or {}), **_with_conditions(known, chosen)}
    left: list[str] = []

    def choose(name: str, node: Searched) -> Any:
        if name in drawn:
            return drawn[name]
        key = _key_of(known[name])
        if not any(key == each or key.startswith(f"{each}.") for each in other):
            left.append(name)
        return node.branches[0].label if isinstance(node, Choices) else node.low

    values = resolve(space, choose)
    if left:
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        raise ConfigError(
            f"{', '.join(left[:_NAMED])}{more}: one training needs values, not ranges",
            hint=f"Give each one, as --set {left[0]}=…, or take those of a trial with --trial",
        )
    return _changed(values, other)


def _key_of(parameter: Parameter) -> str:
    """Where a parameter's value stands in a trial configuration: its name without the labels of branches."""
    key, read = "", 0
    for choice, label in parameter.condition:
        key += parameter.name[read : len(choice)]
        read = len(join(choice, label))
    return key + parameter.name[read:]


def _changed(values: dict[str, Any], given: Mapping[str, str]) -> TrialConfig:
    """A configuration with other values at some keys: first whole sections, then what stands in them."""
    for key, text in sorted(given.items(), key=lambda pair: pair[0].count(".")):
        *path, last = key.split(".")
        section = values
        for name in path:
            if not isinstance(section.get(name), dict):
                section[name] = named(section[name]) if isinstance(section.get(name), str) else {}
            section = section[name]
        section[last] = parse_yaml(text, Source(f"--set {key}")).plain() if text.strip() else None
    complete = read_values(values, TrialConfig, Source("--set"))
    try:
        return TrialConfig.model_validate(complete)
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"])
        raise ConfigError(found["msg"].removeprefix("Value error, "), where=where or None) from error


def _check_keys(given: Mapping[str, str], searched: Iterable[str] = ()) -> None:
    known = list(dotted_keys(TrialConfig))
    values = [key for key in known if not any(other.startswith(f"{key}.") for other in known)]
    for key in given:
        if key not in known and not any(key.startswith(f"{each}.") for each in values):
            if key == "data.root" or key.partition(".")[0] in ("study", *SECTIONS):
                hint = "Give --data ROOT" if key == "data.root" else "It belongs to a search; leave it out"
                raise ConfigError(f'"{key}" is no key of one training', where="--set", hint=hint)
            near = nearest(key, [*known, *searched])
            told = near if near.startswith("nearest") else "hms-tune study check names what a file searches"
            raise ConfigError(f'"{key}" is no key of a study file; {told}', where="--set")
