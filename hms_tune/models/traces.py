"""Images apart: the traces that a ``raw`` view shows, and what the other views show.

A raw view cuts each trace into lines and stacks them. Read line after line they are the trace again, so a
network of traces needs no other data than a network of images: caches, augmentation and exports are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hms_tune.config.image_layout import TracePlace


class TraceReader(nn.Module):
    """Images to the traces they show.

    Parameters
    ----------
    place : where they stand
    """

    rows: Tensor

    def __init__(self, place: TracePlace) -> None:
        super().__init__()
        self.traces, self.columns = place.traces, slice(place.start, place.end)
        self.register_buffer("rows", torch.tensor(place.rows), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """From (batch, channels, height, width) to (batch, traces, samples), in units of the view's scale."""
        lines = images[:, 0, :, self.columns].index_select(1, self.rows)
        traces: Tensor = lines.unflatten(1, (self.traces, -1)).flatten(2)
        return traces


class OtherViews(nn.Module):
    """Images without the columns that show the traces."""

    def __init__(self, place: TracePlace) -> None:
        super().__init__()
        self.start, self.end = place.start, place.end

    def forward(self, images: Tensor) -> Tensor:
        """From (batch, channels, height, width) to the same without some columns."""
        return torch.cat([images[..., : self.start], images[..., self.end :]], dim=-1)
