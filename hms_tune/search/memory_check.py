"""Whether a device has room for any trial of a study, before its first trial starts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

from hms_tune.config.input import InputConfig
from hms_tune.config.range_corners import configs_at_corners
from hms_tune.config.ranges import keep_only
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import ModelConfig, TrainingConfig, TrialConfig
from hms_tune.errors import MemoryPlanError
from hms_tune.machine.byte_count import readable
from hms_tune.training.memory.plan import MemoryPlan

MOST_TRIED = 64
"""Combinations of model, input and training that are planned at most."""

_MODEL_KEYS = frozenset(
    {"backbone", "trace_backbone", "frozen_layers", "finetuned_layers", "frozen_share", "pooling", "hidden"}
)
_TRAINING_KEYS = frozenset({"batch_size", "test_batch_size", "optimizer", "ema_decay", "precision"})


def check_memory(study_file: StudyFile, plan: Callable[[TrialConfig], MemoryPlan]) -> MemoryPlan:
    """Find a configuration that fits: of every model and input, the one with the smallest batch.

    Parameters
    ----------
    study_file : the study
    plan : plans a configuration on the device

    Returns
    -------
    The plan of the first one that fits

    Raises
    ------
    MemoryPlanError
        If none fits, with the plan that came nearest.
    """
    nearest: MemoryPlan | None = None
    for config in itertools.islice(smallest_configs(study_file), MOST_TRIED):
        planned = plan(config)
        if planned.fits:
            return planned
        if nearest is None or planned.required - planned.available < nearest.required - nearest.available:
            nearest = planned
    assert nearest is not None
    raise MemoryPlanError(
        f"no batch size of the study fits: the least that it may draw, {nearest.batch_size}, needs "
        f"{readable(nearest.required)} on {nearest.device}, and {readable(nearest.available)} are there",
        where=study_file.source,
        hint=f"Let training.batch_size go down to {nearest.largest_batch_size}"
        if nearest.largest_batch_size
        else "Search smaller backbones or images, lower training.test_batch_size, or use a larger device",
        excess=nearest.required / max(1, nearest.available) - 1.0,
    )


def smallest_configs(study_file: StudyFile) -> Iterator[TrialConfig]:
    """Trial configurations with the least batch sizes, small images and many frozen layers first."""
    entries = study_file.space.entries
    training = min(
        configs_at_corners(keep_only(entries["training"], _TRAINING_KEYS), "training", TrainingConfig),
        key=lambda each: (each.batch_size, each.test_batch_size, each.ema_decay is not None),
    )
    kept = keep_only(entries["model"], _MODEL_KEYS)
    models = sorted(configs_at_corners(kept, "model", ModelConfig), key=_trained)
    inputs = list(configs_at_corners(entries["input"], "input", InputConfig))
    inputs.sort(key=lambda each: math.prod(each.for_model.shape))
    views = {each.for_model: each for each in reversed(inputs)}
    for view, model in itertools.product(reversed(views.values()), dict.fromkeys(models)):
        yield TrialConfig(input=view, model=model, training=training)


def _trained(model: ModelConfig) -> tuple[float, float, float]:
    """What orders configurations of one backbone by how much of it is trained, the least first."""
    trained = math.inf if model.finetuned_layers is None else model.finetuned_layers
    return -(model.frozen_layers or 0), -(model.frozen_share or 0.0), trained
