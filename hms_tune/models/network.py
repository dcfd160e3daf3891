"""The network of a trial: a backbone, partly frozen perhaps, one of traces beside it perhaps, and a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from hms_tune.config.image_layout import ModelInput
from hms_tune.config.trial import ModelConfig
from hms_tune.errors import ModelError
from hms_tune.models.backbone import make_backbone, traits
from hms_tune.models.dropout import replace_drop_paths
from hms_tune.models.head import FeatureMap, Head
from hms_tune.models.layers import check_depth, divide, freeze, frozen_count
from hms_tune.models.pretrained import load_weights, with_published_weights
from hms_tune.models.trace_backbones import TRACE_BACKBONES
from hms_tune.models.traces import OtherViews, TraceReader


class Network(nn.Module):
    """Images to logits.

    Parameters
    ----------
    backbone : returns its last feature map, of images or of what ``sees`` makes of them
    head : from feature maps to logits
    frozen : modules of the backbone that stay in eval mode
    group_of : number of the layer group of each of the backbone's parameters, by name
    sees : the part of an image that the backbone is given; None: all of it
    second : reads the traces of an image, beside the backbone; None: there is no second branch
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        frozen: list[nn.Module],
        group_of: dict[str, int],
        sees: nn.Module | None = None,
        second: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = FeatureMap.of(backbone)
        self.head = head
        self.group_of = group_of
        self.sees, self.second = sees, second
        self._frozen = tuple(frozen)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of each class.

        Parameters
        ----------
        images : float tensor, shape (batch, channels, height, width)

        Returns
        -------
        float tensor, shape (batch, n_classes)
        """
        maps = [self.features(self.backbone(images if self.sees is None else self.sees(images)))]
        if self.second is not None:
            maps.append(self.second(images))
        logits: Tensor = self.head(*maps)
        return logits

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation; frozen layers stay in evaluation."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def parameter_groups(
        self,
        *,
        learning_rate: float,
        weight_decay: float,
        backbone_lr_ratio: float = 1.0,
        layer_decay: float | None = None,
    ) -> list[dict[str, Any]]:
        """Group the trained parameters by learning rate and weight decay, for an optimizer.

        The head has the learning rate itself. With ``layer_decay`` d, the backbone's last layer group has
        d times it, the one before d² times, and so on to the input; else the whole backbone has
        ``backbone_lr_ratio`` times it. Biases and one-dimensional parameters (norms) do not decay.

        Returns
        -------
        list of dicts with ``params``, ``lr``, ``lr_scale`` (``lr`` over the head's) and ``weight_decay``,
        in the order of the parameters
        """
        depth = max(self.group_of.values(), default=-1) + 1
        spared = self._undecayed()
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            number = self.group_of.get(name.removeprefix("backbone."), depth)
            if not name.startswith("backbone."):
                scale = 1.0
            elif layer_decay is not None:
                scale = layer_decay ** (depth - number)
            else:
                scale = backbone_lr_ratio
            plain = parameter.ndim <= 1 or name.endswith(".bias") or name in spared
            decay = 0.0 if plain else weight_decay
            group = groups.setdefault(
                (scale, decay),
                {"params": [], "lr": learning_rate * scale, "lr_scale": scale, "weight_decay": decay},
            )
            group["params"].append(parameter)
        return list(groups.values())

    def _undecayed(self) -> set[str]:
        """What else the backbone asks to keep from decay, such as position embeddings."""
        ask = getattr(self.backbone, "no_weight_decay", None)
        return {f"backbone.{name}" for name in ask()} if callable(ask) else set()


def build_network(config: ModelConfig, given: ModelInput, *, n_classes: int = 6) -> Network:
    """Build the network of a trial, with random or pretrained weights.

    Random weights come from torch's global generator: seeded alike, it gives the same network.

    Parameters
    ----------
    config : the ``model`` section of a trial configuration
    given : what the network is given
    n_classes : outputs

    Raises
    ------
    ModelError
        If the backbone is unknown, is not as deep as the configuration has it, or lacks what it asks for.
    PretrainedError
        If pretrained weights are out of reach or do not fit.
    """
    check_model(config)
    sees, narrowed = _seen(config, given)
    backbone = _build_backbone(config, narrowed)
    if config.drop_path:
        replace_drop_paths(backbone, config.drop_path)
    groups = divide(backbone)
    frozen = freeze(backbone, groups[: frozen_count(config, groups)])
    width, second = _width(backbone, narrowed), None
    if config.trace_backbone is not None and given.traces is not None:
        branch = make_backbone(config.trace_backbone, given=given)
        second = nn.Sequential(TraceReader(given.traces), branch, FeatureMap.of(branch))
        width += _width(branch, given)
    head = Head(config, width=width, n_classes=n_classes)
    group_of = {name: group.number for group in groups for name in group.parameter_names}
    return Network(backbone, head, frozen=frozen, group_of=group_of, sees=sees, second=second).train()


def _seen(config: ModelConfig, given: ModelInput) -> tuple[nn.Module | None, ModelInput]:
    """The module that makes of an image what the backbone is given, and what that is."""
    place = given.traces
    if place is not None and config.backbone in TRACE_BACKBONES:
        return TraceReader(place), given
    if place is not None and config.trace_backbone is not None:
        others = OtherViews(given)
        return others, others.left
    return None, given


def _build_backbone(config: ModelConfig, given: ModelInput) -> nn.Module:
    """The backbone with the weights that it begins with."""
    known = traits(config.backbone)
    arguments: dict[str, Any] = {"given": given}
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    if known.fixed_size:
        arguments["img_size"] = given.image
    if config.pretrained is True and known.published:
        return with_published_weights(config.backbone, **arguments)
    backbone = make_backbone(config.backbone, **arguments)
    if isinstance(config.pretrained, str):
        load_weights(backbone, Path(config.pretrained))
    return backbone


def _width(backbone: Any, given: ModelInput) -> int:
    """Channels of a backbone's feature map."""
    width = getattr(backbone, "head_hidden_size", None) or getattr(backbone, "num_features", None)
    if width is not None:
        return int(width)
    like = next(backbone.parameters())
    with torch.no_grad():
        features = FeatureMap.of(backbone)(backbone.eval()(torch.zeros(1, *given.shape, device=like.device)))
    backbone.train()
    return int(features.shape[1])


def check_model(config: ModelConfig) -> None:
    """Refuse what no trial could be built from, without building it.

    Raises
    ------
    ModelError
        If the backbone is unknown, is not as deep as the configuration has it, or has no stochastic depth
        where ``drop_path`` asks for it.
    """
    check_depth(config)
    if config.drop_path and not traits(config.backbone).drop_path:
        raise ModelError(
            f"{config.backbone} has no stochastic depth",
            where="model.drop_path",
            hint="Set model.drop_path to 0 for this backbone.",
        )
