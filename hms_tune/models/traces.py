"""Images apart: the traces that a ``raw`` view shows, and what the other views show.

A raw view cuts each trace into lines and stacks them. Read line after line they are the trace again, so a
network of traces needs no other data than a network of images: caches, augmentation and exports are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hms_tune.config.image_layout import ModelInput, TracePlace


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
        self.channel = place.channel
        self.register_buffer("rows", torch.tensor(place.rows), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """From (batch, channels, height, width) to (batch, traces, samples), in units of the view's scale."""
        lines = images[:, self.channel, :, self.columns].index_select(1, self.rows)
        traces: Tensor = lines.unflatten(1, (self.traces, -1)).flatten(2)
        return traces


class OtherViews(nn.Module):
    """Images without the part that shows the traces: a channel if it is as wide as the image, else columns.

    Parameters
    ----------
    given : what the network is given; it has traces

    Attributes
    ----------
    left : what is left of it
    """

    def __init__(self, given: ModelInput) -> None:
        super().__init__()
        height, width = given.image
        assert given.traces is not None
        start, end, channel = given.traces.start, given.traces.end, given.traces.channel
        if end - start == width:
            self.axis, self.start, self.end = 1, channel, channel + 1
            self.left = ModelInput(given.channels - 1, given.image)
        else:
            self.axis, self.start, self.end = 3, start, end
            self.left = ModelInput(given.channels, (height, width - (end - start)))

    def forward(self, images: Tensor) -> Tensor:
        """From (batch, channels, height, width) to the same without a channel or some columns."""
        before = images.narrow(self.axis, 0, self.start)
        after = images.narrow(self.axis, self.end, images.shape[self.axis] - self.end)
        return torch.cat([before, after], dim=self.axis)
