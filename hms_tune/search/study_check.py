"""Everything cheap that can be wrong with a study before its first trial starts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from hms_tune.config.input import InputConfig
from hms_tune.config.range_corners import configs_at_corners, values_at_corners
from hms_tune.config.ranges import Choices, Parameter, keep_only, parameters
from hms_tune.config.section import is_function
from hms_tune.config.settings import expanded
from hms_tune.config.study_file import StudyFile
from hms_tune.config.study_sections import MedianPruner, PercentilePruner, WilcoxonPruner
from hms_tune.config.trial import ModelConfig, TimmOptimizer, TrainingConfig, TrialConfig
from hms_tune.errors import ConfigError, ModelError, PretrainedError
from hms_tune.models.backbone import traits
from hms_tune.models.layers import check_depth
from hms_tune.models.network import build_network
from hms_tune.models.optimizers import check_optimizer
from hms_tune.models.pretrained import Place, place_of_weights
from hms_tune.search.pruners import make_pruner
from hms_tune.search.samplers import make_sampler
from hms_tune.search.suggest import grid_size, start_params
from hms_tune.training.step.first_step import check_step

_ASKED_AT_ONCE = 8
"""Backbones whose weights the hub is asked for at once."""

_MOST_STEPS = 64
"""Combinations of network and image that are tried at most."""

_DEPTH_KEYS = frozenset({"backbone", "frozen_layers", "finetuned_layers", "frozen_share"})


@dataclass(frozen=True, slots=True)
class StudyCheck:
    """A study file that can start.

    Attributes
    ----------
    parameters : what is searched
    start : parameters of the configurations that are tried first
    cells : cells of the grid; None when a range is continuous or the grid is huge
    notes : what will work, but perhaps not as meant
    """

    parameters: tuple[Parameter, ...]
    start: tuple[dict[str, Any], ...]
    cells: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the published weights of a backbone are for this machine; or why they are out of its reach."""

    backbone: str
    place: Place | None
    error: PretrainedError | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"weights of {self.backbone} are out of this machine's reach: {self.error.what}"
        where = "are in the local cache" if self.place == "cache" else "will be fetched from the hub"
        return f"weights of {self.backbone} {where}"


def find_weights(study_file: StudyFile) -> tuple[Weights, ...]:
    """Where this machine finds the weights of each backbone that the study would load published ones of.

    What is not in the local cache the hub is asked for. Nothing is downloaded.
    """
    configs = _model_configs(study_file)
    asked = dict.fromkeys(config.backbone for config in configs if config.pretrained is True)
    backbones = [backbone for backbone in asked if traits(backbone).published]

    def find(backbone: str) -> Weights:
        try:
            return Weights(backbone, place_of_weights(backbone))
        except PretrainedError as error:
            return Weights(backbone, None, error)

    with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:
        return tuple(threads.map(find, backbones))


def require_weights(study_file: StudyFile) -> None:
    """See that a trial of this machine finds its weights, whichever backbone is drawn.

    Raises
    ------
    PretrainedError
        If the weights of a backbone are out of reach.
    """
    missing = [each for each in find_weights(study_file) if each.error is not None]
    for first in missing[:1]:
        assert first.error is not None
        more = "" if len(missing) == 1 else f"; nor are those of {', '.join(e.backbone for e in missing[1:])}"
        raise PretrainedError(
            f"{first.error.what}{more}",
            where=f"{study_file.source}: {first.error.where}",
            hint=first.error.hint,
        ) from first.error


def check_study(study_file: StudyFile) -> StudyCheck:
    """Check a study file against its models and its sampler. Nothing is downloaded or written.

    Raises
    ------
    ConfigError
        If a backbone is unknown, more layers are frozen than a backbone has, pretrained weights are a
        file that is missing or does not fit, an optimizer, sampler or pruner is unknown or cannot be used, a
        network cannot take a step on an image, or the sampler cannot search the space.
    """
    _check_models(study_file)
    _check_views(study_file)
    _check_weight_files(study_file)
    _check_optimizers(study_file)
    _check_steps(study_file)
    _check_own_search(study_file)
    cells = _cells(study_file)
    searched = tuple(parameters(study_file.space))
    start = tuple(start_params(study_file))
    return StudyCheck(searched, start, cells, tuple(_notes(study_file, searched, cells)))


def _check_models(study_file: StudyFile) -> None:
    for config in dict.fromkeys(_model_configs(study_file)):
        with _errors_of(study_file):
            check_depth(config)
        if (
            isinstance(config.pretrained, str)
            and not expanded(config.pretrained, where=f"{study_file.source}: model.pretrained").is_file()
        ):
            raise ConfigError(
                f"model.pretrained names no file: {config.pretrained}",
                where=study_file.source,
                hint="Give the path of a .safetensors file, or true for the model hub",
            )


def _check_views(study_file: StudyFile) -> None:
    """See that every image of the space shows traces, where a network of the space reads them."""
    readers = dict.fromkeys(config for config in _model_configs(study_file) if config.reads_traces)
    inputs = _inputs(study_file) if readers else []
    for model, images in itertools.product(readers, inputs):
        try:
            TrialConfig(model=model, input=images)
        except ValidationError as error:
            raise ConfigError(
                error.errors()[0]["msg"].removeprefix("Value error, "),
                where=f"{study_file.source}: model and input",
                hint="Every combination of the space is tried",
            ) from error


def _inputs(study_file: StudyFile) -> list[InputConfig]:
    return list(configs_at_corners(study_file.space.entries["input"], "input", InputConfig))


def _check_weight_files(study_file: StudyFile) -> None:
    """See that each file of weights fits each backbone that would load it, for each number of channels."""
    configs = [each for each in _model_configs(study_file) if isinstance(each.pretrained, str)]
    inputs = {each.for_model.channels: each.for_model for each in _inputs(study_file)} if configs else {}
    for config, given in itertools.product(dict.fromkeys(configs), inputs.values()):
        try:
            with torch.random.fork_rng(devices=[]):
                build_network(config, given)
        except PretrainedError as error:
            raise ConfigError(
                f"model.pretrained of {config.backbone}: {error.what}",
                where=f"{study_file.source}: {error.where}",
                hint=error.hint,
            ) from error


def _check_optimizers(study_file: StudyFile) -> None:
    training = keep_only(study_file.space.entries["training"], frozenset({"optimizer"}))
    for config in configs_at_corners(training, "training", TrainingConfig):
        optimizer = config.optimizer
        if not isinstance(optimizer, TimmOptimizer):
            continue
        with _errors_of(study_file):
            check_optimizer(optimizer)


def _check_steps(study_file: StudyFile) -> None:
    """See that each network of the space learns from its smallest image of each number of channels.

    Where that works a larger image does, too; places of traces are tried one by one. What is frozen matters
    to batches of one image alone, where it is not normalized.
    """
    entries = study_file.space.entries
    training = keep_only(entries["training"], frozenset({"batch_size"}))
    least = min(values["batch_size"] for values in values_at_corners(training, "training"))
    keys = _DEPTH_KEYS if least == 1 else frozenset({"backbone"})
    models = dict.fromkeys(_random_models(study_file, keys | {"trace_backbone"}))
    inputs = dict.fromkeys(config.for_model for config in _inputs(study_file))
    largest_first = sorted(inputs, key=lambda each: math.prod(each.shape), reverse=True)
    steps = []
    for model in models:
        smallest = {
            (given.channels, given.traces if model.reads_traces else None): given for given in largest_first
        }
        steps += [(given, model) for given in smallest.values()]
    for given, model in steps[:_MOST_STEPS]:
        with _errors_of(study_file):
            check_step(model, given, least)


def _check_own_search(study_file: StudyFile) -> None:
    """See that a sampler and a pruner of the user's own can be made."""
    with _errors_of(study_file):
        if is_function(study_file.search.sampler):
            make_sampler(study_file, worker_seed=0)
        make_pruner(study_file)


@contextmanager
def _errors_of(study_file: StudyFile) -> Iterator[None]:
    """Say of an error in which file it is."""
    try:
        yield
    except (ConfigError, ModelError) as error:
        where = study_file.source if error.where is None else f"{study_file.source}: {error.where}"
        raise ConfigError(error.what, where=where, hint=error.hint) from error


def _model_configs(study_file: StudyFile) -> Iterator[ModelConfig]:
    """One for every backbone with every extreme of its depth, and for every source of weights."""
    yield from _random_models(study_file, _DEPTH_KEYS)
    sources = frozenset({"backbone", "trace_backbone", "pretrained"})
    yield from configs_at_corners(keep_only(study_file.space.entries["model"], sources), "model", ModelConfig)


def _random_models(study_file: StudyFile, keys: frozenset[str]) -> Iterator[ModelConfig]:
    """One for every extreme of these keys, without published weights."""
    kept = keep_only(study_file.space.entries["model"], keys)
    for values in values_at_corners(kept, "model"):
        yield ModelConfig.model_validate({**values, "pretrained": False})


def _cells(study_file: StudyFile) -> int | None:
    try:
        return grid_size(study_file.space)
    except ConfigError as error:
        if study_file.search.sampler != "grid":
            return None
        raise ConfigError(f"sampler grid: {error.what}", where=study_file.source, hint=error.hint) from error


def _notes(study_file: StudyFile, searched: tuple[Parameter, ...], cells: int | None) -> Iterator[str]:
    sampler, pruner, trials = study_file.search.sampler, study_file.search.pruner, study_file.budget.trials
    if any(item.name == "training.seed" for item in searched):
        yield "training.seed is searched: its best value was lucky, and is no better the next time"
    if not searched:
        yield "nothing is searched: every trial has the same configuration"
    elif cells is not None and cells < trials:
        if sampler == "grid":
            yield f"the grid has {cells} cells, so the study ends after {cells} of {trials} trials"
        else:
            yield f"the space has {cells} configurations; {trials} trials will repeat some of them"
    if sampler == "cma_es" and searched:
        numeric = [item for item in searched if not isinstance(item.node, Choices) and not item.condition]
        if len(numeric) < 2:
            yield "cma_es models numbers that every trial has and needs two of them; the others are random"
        elif len(numeric) < len(searched):
            yield f"cma_es models {len(numeric)} of {len(searched)} parameters; the others are random"
    if sampler == "gp" and any(item.condition for item in searched):
        yield "gp models parameters that every trial has; conditional ones are random"
    if isinstance(pruner, WilcoxonPruner) and 0.5**study_file.max_folds >= pruner.p_threshold:
        yield (
            f"the wilcoxon pruner never prunes: with {study_file.max_folds} folds p is at least "
            f"{0.5**study_file.max_folds:g}, and p_threshold is {pruner.p_threshold:g}"
        )
    if isinstance(pruner, MedianPruner | PercentilePruner) and pruner.startup_trials >= trials:
        yield f"the {pruner.name} pruner starts after {pruner.startup_trials} trials, the whole budget"
