"""Optimizers that timm knows by name. What each takes, and what it remembers, is asked of timm."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from timm.optim import (  # type: ignore[attr-defined]  # they are re-exported without saying so
    create_optimizer_v2,
    get_optimizer_info,
    list_optimizers,
)
from torch import Tensor

from hms_tune.config.trial import TimmOptimizer
from hms_tune.config.yaml_lines import nearest
from hms_tune.errors import ConfigError

WHERE = "training.optimizer"


def make_optimizer(config: TimmOptimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of that name; what the configuration leaves open is as timm has it."""
    given: dict[str, Any] = {"lr": max(group["lr"] for group in groups)}
    if config.momentum is not None:
        given["momentum"] = config.momentum
    if config.beta1 is not None or config.beta2 is not None:
        beta1, beta2, *more = create_optimizer_v2([torch.zeros(1)], config.name, lr=1.0).defaults["betas"]
        beta1 = beta1 if config.beta1 is None else config.beta1
        beta2 = beta2 if config.beta2 is None else config.beta2
        given["betas"] = (beta1, beta2, *more)
    return create_optimizer_v2(groups, config.name, **given)


def check_optimizer(config: TimmOptimizer) -> None:
    """Refuse a name that timm does not know, and what a trial could not use or not go on with.

    Raises
    ------
    ConfigError
        With the nearest name, or the reason.
    """
    name, known = config.name, [str(each) for each in list_optimizers()]
    if name not in known:
        near = nearest(name, ["sgd", "adam", "adamw", *known])
        hint = near if near.startswith("nearest") else "timm.optim.list_optimizers() names them all"
        raise ConfigError(f'timm has no optimizer "{name}"', where=WHERE, hint=hint[0].upper() + hint[1:])
    info = get_optimizer_info(name)
    if isinstance(info.opt_class, str):
        package = info.opt_class.partition(".")[0]
        raise _refusal(name, f"it is of the package {package}, which hms-tune does not use")
    if info.second_order:
        raise _refusal(name, "it asks for second derivatives, which no step here computes")
    _check_settings(config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on one that is refused
            optimizer = make_optimizer(config, [{"params": _tried(), "lr": 1e-3, "weight_decay": 0.0}])
    except ValueError as error:
        raise _refusal(name, str(error)) from error
    if optimizer.state_dict().keys() != {"state", "param_groups"} or not _remembers_numbers(optimizer):
        raise _refusal(name, "it remembers more than the tensors and numbers of a checkpoint")


def _check_settings(config: TimmOptimizer) -> None:
    info = get_optimizer_info(config.name)
    takes = {"momentum": info.has_momentum, "beta1": info.has_betas, "beta2": info.has_betas}
    for setting, taken in takes.items():
        if getattr(config, setting) is not None and not taken:
            raise ConfigError(
                f"{config.name} takes no {setting}", where=WHERE, hint="Leave it out, or set it to null"
            )


def _tried() -> list[Tensor]:
    """Parameters of each number of axes, with gradients."""
    tensors = [torch.ones(shape, requires_grad=True) for shape in ((3,), (3, 2), (3, 2, 2, 2))]
    for tensor in tensors:
        tensor.grad = torch.full_like(tensor, 0.1)
    return tensors


def _remembers_numbers(optimizer: torch.optim.Optimizer) -> bool:
    with torch.random.fork_rng(devices=[]):
        optimizer.step()
    values = (value for state in optimizer.state.values() for value in state.values())
    return all(value is None or isinstance(value, Tensor | int | float) for value in values)


def _refusal(name: str, reason: str) -> ConfigError:
    return ConfigError(f"{name} cannot be used: {reason}", where=WHERE, hint="Choose another optimizer")
