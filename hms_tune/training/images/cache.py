"""The un-augmented images of all rows, made once for each input configuration."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hms_tune.config.input import InputConfig, Raw
from hms_tune.machine.progress import ProgressLines
from hms_tune.signals.scaling import LIMIT

_logger = logging.getLogger(__name__)

Form = Literal["float32", "float16", "int8"]

BYTES: dict[Form, int] = {"float32": 4, "float16": 2, "int8": 1}
_TYPES: dict[Form, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}

STEP = LIMIT / 127
"""One level of an int8 image. Levels are symmetric, so that 0, what is missing or masked, stays 0."""

AT_ONCE = 64
"""Rows whose images are made in one piece."""


def harmless_forms(config: InputConfig) -> tuple[Form, ...]:
    """Forms in which images of an input may be kept, widest first.

    The rule: the widest form that fits the memory plan. float32 keeps images bit for bit. float16 is off by
    at most 2⁻¹¹ of a value, that is 0.0015 at the largest scaled power (3). int8 is off by at most
    3/254 = 0.0118, where the images of a data set spread by 1; bfloat16, in which a network reads them on a
    GPU, is itself off by up to 0.0078 there. Raw traces are not limited to ±3, so they have no int8 form.
    """
    raw = any(isinstance(view, Raw) for view in config.views.values())
    return ("float32", "float16") if raw else ("float32", "float16", "int8")


@dataclass(frozen=True, slots=True)
class CachedImages:
    """Images of every row on the device. Input channels that repeat one image are kept once.

    Attributes
    ----------
    images : of the form's type, shape (n_rows, differing channels, height, width)
    form : what they are kept in
    channels : of the images that are given
    """

    images: Tensor
    form: Form
    channels: int

    @property
    def nbytes(self) -> int:
        """Bytes they take."""
        return int(self.images.nbytes)

    def take(self, rows: Tensor) -> Tensor:
        """Images of rows: float32 (n_rows, channels, height, width). Rows on the device need no waiting."""
        images = self.images[rows.to(self.images.device, non_blocking=True)]
        if self.form == "int8":
            images = images.float().mul_(STEP)
        return images.float().expand(-1, self.channels, -1, -1)


class ImageCache:
    """Images by the settings that shape them. As long as there is room, several settings are kept.

    A slot keeps one cache over all its trials: a trial whose settings another had finds its images ready.
    The one that was used longest ago goes first.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, CachedImages] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes that all images take."""
        return sum(images.nbytes for images in self._kept.values())

    def form(self, key: str) -> Form | None:
        """In what form a setting's images are kept; None where they are not."""
        return self._kept[key].form if key in self._kept else None

    def shrink(self, most: int, *, spare: str | None = None) -> None:
        """Drop images until they take at most ``most`` bytes, those of ``spare`` last."""
        for key in [key for key in self._kept if key != spare] + [key for key in self._kept if key == spare]:
            if self.nbytes <= most:
                return
            del self._kept[key]

    def get(
        self,
        key: str,
        make: Callable[[Tensor], Tensor],
        *,
        n_rows: int,
        shape: tuple[int, int, int],
        form: Form,
        device: torch.device,
        most: int,
    ) -> CachedImages:
        """Images of all rows, made where they are not kept in this form.

        Parameters
        ----------
        key : names the settings
        make : from int64 (batch,) rows to float32 (batch, channels, height, width)
        n_rows, shape : of all the images; ``shape`` is (differing channels, height, width)
        most : bytes that the whole cache may take
        """
        if self.form(key) != form:
            self._kept.pop(key, None)
            self.shrink(max(0, most - n_rows * math.prod(shape) * BYTES[form]))
            images = torch.empty((n_rows, *shape), dtype=_TYPES[form], device=device)
            told = ProgressLines("making images", "rows", _logger.info)
            channels = shape[0]
            for rows in torch.arange(n_rows).split(AT_ONCE):
                made = make(rows)
                channels = made.shape[1]
                images[rows[0] : rows[-1] + 1] = _in_form(made[:, : shape[0]], form)
                told.update(int(rows[-1]) + 1, n_rows)
            self._kept[key] = CachedImages(images, form, channels)
        self._kept.move_to_end(key)
        return self._kept[key]


def _in_form(images: Tensor, form: Form) -> Tensor:
    if form == "int8":
        return images.div(STEP).round_().clamp_(-127, 127).to(torch.int8)
    return images.to(_TYPES[form])
