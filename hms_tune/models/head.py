"""The head: pool the feature map, then classify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hms_tune.config.trial import ModelConfig
from hms_tune.models.dropout import Dropout

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

GEM_EXPONENT = 3.0
"""Where the exponent of generalized-mean pooling starts (Radenović et al., TPAMI 2019)."""

GEM_FLOOR = 1e-6


class GeneralizedMean(nn.Module):
    """Generalized-mean pooling with a learnt exponent: 1 is the average, ∞ the maximum.

    Features below 1e-6 count as 1e-6. Computed in float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor([GEM_EXPONENT]))

    def forward(self, features: Tensor) -> Tensor:
        """From (batch, width, height, width) to (batch, width)."""
        with torch.autocast(features.device.type, enabled=False):
            positive = features.float().clamp(min=GEM_FLOOR)
            return positive.pow(self.exponent).mean(dim=(-2, -1)).pow(1.0 / self.exponent)


class AveragePooling(nn.Module):
    """Mean over all places."""

    def forward(self, features: Tensor) -> Tensor:
        """From (batch, width, rows, columns) to (batch, width)."""
        return functional.adaptive_avg_pool2d(features, 1).flatten(1)


class MaximumPooling(nn.Module):
    """Maximum over all places."""

    def forward(self, features: Tensor) -> Tensor:
        """From (batch, width, rows, columns) to (batch, width)."""
        return features.amax(dim=(-2, -1))


class AverageMaximumPooling(nn.Module):
    """Half the sum of mean and maximum over all places."""

    def forward(self, features: Tensor) -> Tensor:
        """From (batch, width, rows, columns) to (batch, width)."""
        mean = functional.adaptive_avg_pool2d(features, 1).flatten(1)
        return 0.5 * (mean + features.amax(dim=(-2, -1)))


POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "avg": AveragePooling,
    "max": MaximumPooling,
    "avg_max": AverageMaximumPooling,
    "gem": GeneralizedMean,
}


class FeatureMap(nn.Module):
    """Brings what a backbone returns into (batch, width, rows, columns).

    Parameters
    ----------
    channels_last : whether four-dimensional features come as (batch, rows, columns, width)
    prefix_tokens : tokens before the patches in three-dimensional features (batch, tokens, width)
    """

    def __init__(self, *, channels_last: bool, prefix_tokens: int) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.prefix_tokens = prefix_tokens

    @classmethod
    def of(cls, backbone: Any) -> FeatureMap:
        """Read the form of a timm backbone's features."""
        return cls(
            channels_last=str(getattr(backbone, "output_fmt", "NCHW")) == "NHWC",
            prefix_tokens=int(getattr(backbone, "num_prefix_tokens", 0) or 0),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Reorder; tokens become one column of places, features without places one place."""
        if features.ndim == 2:
            return features[..., None, None]
        if features.ndim == 3:
            return features[:, self.prefix_tokens :].transpose(1, 2).unsqueeze(-1)
        return features.permute(0, 3, 1, 2) if self.channels_last else features


class Head(nn.Sequential):
    """Pooling, an optional hidden layer, activation, dropout, and the classifying layer.

    Without a hidden layer the activation acts on the pooled features. Maps of several branches are pooled
    alike and lie beside one another.

    Parameters
    ----------
    config : the ``model`` section of a trial configuration
    width : channels of all feature maps
    n_classes : outputs
    """

    def __init__(self, config: ModelConfig, *, width: int, n_classes: int) -> None:
        layers: list[nn.Module] = [POOLINGS[config.pooling]()]
        if config.hidden:
            layers.append(nn.Linear(width, config.hidden))
        layers += [
            ACTIVATIONS[config.activation](),
            Dropout(config.dropout),
            nn.Linear(config.hidden or width, n_classes),
        ]
        super().__init__(*layers)

    def forward(self, *maps: Tensor) -> Tensor:
        """From feature maps of (batch, width, rows, columns) to (batch, n_classes)."""
        pooling, *rest = self
        pooled = [pooling(each) for each in maps]
        features: Tensor = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
        for layer in rest:
            features = layer(features)
        return features
