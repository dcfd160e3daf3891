"""From dB, nepers and µV to values that a network likes: about zero mean and unit spread.

Constants are shared by all samples ("global"), because strong recipes lost 0.02–0.04 KL to per-sample
standardisation; that is there too, for a search to decide. Zero is the neutral fill of what is missing.

The constants of the spectral recipes are the mean and the standard deviation over 24 clinical recordings,
rounded; ``python benchmarks/recipes.py constants FOLDER`` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hms_tune.config.input import STFT, Mel, Multitaper, Scaling, Spectral, Wavelet

LIMIT = 3.0
"""Scaled power is clipped to ± this."""

LEAST_SPREAD = 1e-3
"""A view of one sample that varies less than this is flat, and becomes zero."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Values become (x - centre) / spread."""

    centre: float
    spread: float


_SPREAD_DB = 12.0


def power_constants(view: Spectral) -> Constants:
    """Centre and spread of a spectral view, dB."""
    averaged, single = _centres_db(view)
    return Constants(averaged if view.montage == "chains" else single, _SPREAD_DB)


def _centres_db(view: Spectral) -> tuple[float, float]:
    """The mean in dB re 1 µV²/Hz, averaged over chains and pair by pair.

    Wavelets at even steps of the logarithm show more of the low frequencies, where the power is; a
    multitaper's density counts one sign of frequency.
    """
    match view:
        case STFT():
            return 3.0, 0.5
        case Mel():
            return 3.5, 1.5
        case Multitaper():
            return 1.0, -0.5
        case Wavelet():
            return (10.0, 7.0) if view.spacing == "log" else (3.0, 0.5)


KAGGLE_RANGE = (-4.0, 8.0)
KAGGLE_CONSTANTS = Constants(0.7, 2.8)
"""Natural log power is clipped to the range first; the constants are about those above, in nepers."""


def scaled(view: Tensor, constants: Constants, scaling: Scaling, *, limit: float | None = LIMIT) -> Tensor:
    """Scale one view of a batch.

    Parameters
    ----------
    view : float32 tensor, shape (batch, n_panels, rows, columns); NaN where missing
    constants : for ``global``
    limit : largest absolute value of the result

    Returns
    -------
    float32 tensor of the same shape; 0 where the view is NaN
    """
    if scaling == "per_sample":
        axes = tuple(range(1, view.ndim))
        view = view - view.nanmean(dim=axes, keepdim=True)
        spread = view.square().nanmean(dim=axes, keepdim=True).sqrt()
        view = torch.where(spread > LEAST_SPREAD, view / spread, 0.0)
    else:
        view = (view - constants.centre) / constants.spread
    return torch.nan_to_num(view if limit is None else view.clamp(-limit, limit), nan=0.0)
