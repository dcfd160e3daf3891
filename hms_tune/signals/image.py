"""The image a network sees: views of a window of EEG and of a Kaggle spectrogram, in one layout.

In every view the panels (a region, or a bipolar pair) are stacked in the order LL, RL, LP, RP; pairs in the
order of :data:`hms_tune.signals.montage.PAIRS`. So a row keeps its region across the views, and its frequency
where they show the same band.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from hms_tune.config.image_layout import rows_of_views
from hms_tune.config.input import PANELS, InputConfig, Raw, Scaling, Spectral
from hms_tune.errors import SignalError
from hms_tune.signals.filters import ZeroPhaseFilter
from hms_tune.signals.montage import ANODES, CATHODES, ELECTRODES, PAIRS_PER_REGION, REGIONS, SFREQ
from hms_tune.signals.recipes import RawPanels, SpectralPanels, stack_panels
from hms_tune.signals.scaling import (
    KAGGLE_CONSTANTS,
    KAGGLE_RANGE,
    Constants,
    power_constants,
    scaled,
)

KAGGLE_BANDS = 100
"""Frequencies of each region in a Kaggle spectrogram."""

N_LATERAL = PAIRS_PER_REGION * len(REGIONS)
"""Pairs of the four regions: the first 16 of :data:`hms_tune.signals.montage.PAIRS`."""


class BipolarWindow(nn.Module):
    """The longest window that a view needs: cut out, bipolar, filtered and clipped, once for all views."""

    anodes: Tensor
    cathodes: Tensor

    def __init__(self, config: InputConfig) -> None:
        super().__init__()
        self.clip_uv = config.clip_uv
        self.n_times = round(config.window_seconds * SFREQ)
        midline = any(PANELS[view.montage] == len(ANODES) for view in config.eeg_views.values())
        n_pairs = len(ANODES) if midline else N_LATERAL
        self.register_buffer("anodes", torch.tensor(ANODES[:n_pairs]), persistent=False)
        self.register_buffer("cathodes", torch.tensor(CATHODES[:n_pairs]), persistent=False)
        self.filter = ZeroPhaseFilter(
            self.n_times,
            highpass_hz=config.highpass_hz,
            lowpass_hz=config.lowpass_hz,
            notch_hz=config.notch_hz,
        )

    def forward(self, eeg: Tensor) -> Tensor:
        """From (batch, 20, n_times) to (batch, n_pairs, n_times of the window), µV; NaN counts as 0."""
        if eeg.shape[-1] < self.n_times:
            raise SignalError(
                f"the EEG has {eeg.shape[-1]} samples; a window of {self.n_times / SFREQ:g} s at {SFREQ:g} Hz"
                f" needs {self.n_times}",
                hint="Shorten window_seconds of the input's views, or leave the recording out.",
            )
        window = central(eeg, self.n_times)
        pairs = window.index_select(1, self.anodes)
        pairs -= window.index_select(1, self.cathodes)
        filtered: Tensor = self.filter(torch.nan_to_num_(pairs, nan=0.0, posinf=0.0, neginf=0.0))
        return filtered if self.clip_uv is None else filtered.clamp(-self.clip_uv, self.clip_uv)


class EEGImage(nn.Module):
    """One view of the EEG, at its place in the image."""

    def __init__(self, view: Spectral | Raw, *, scaling: Scaling, height: int, width: int) -> None:
        super().__init__()
        self.scaling = scaling
        self.height, self.width = height, width
        self.n_times = round(view.window_seconds * SFREQ)
        self.n_pairs = len(ANODES) if PANELS[view.montage] == len(ANODES) else N_LATERAL
        self.raw = isinstance(view, Raw)
        self.panels: nn.Module
        if isinstance(view, Raw):
            self.panels = RawPanels(view, height=height, width=width)
            self.constants = Constants(0.0, view.scale_uv)
        else:
            self.panels = SpectralPanels(view, width=width)
            self.constants = power_constants(view)

    def forward(self, pairs: Tensor) -> Tensor:
        """From the pairs of :class:`BipolarWindow` to (batch, height, width)."""
        panels = self.panels(central(pairs[:, : self.n_pairs], self.n_times))
        if self.raw:
            panels = scaled(panels, self.constants, self.scaling, limit=None)
        else:
            panels = scaled(panels, self.constants, self.scaling)
        return stack_panels(panels, self.height, self.width, blend_rows=not self.raw)


def central(signal: Tensor, n_times: int) -> Tensor:
    """The middle ``n_times`` samples of the last axis."""
    start = (signal.shape[-1] - n_times) // 2
    return signal[..., start : start + n_times]


def kaggle_panels(spectrogram: Tensor, scaling: Scaling) -> Tensor:
    """Scaled panels of a Kaggle spectrogram; what is missing becomes 0.

    Parameters
    ----------
    spectrogram : float32 tensor, shape (batch, 400, n_frames), natural log of µV²/Hz, NaN where missing

    Returns
    -------
    float32 tensor, shape (batch, 4, 100, n_frames)
    """
    panels = spectrogram.clamp(*KAGGLE_RANGE).unflatten(1, (len(REGIONS), KAGGLE_BANDS))
    return scaled(panels, KAGGLE_CONSTANTS, scaling)


class ImageTransform(nn.Module):
    """Windows of EEG and Kaggle spectrograms to images, under any device and always in float32.

    Parameters
    ----------
    config : the ``input`` section of a trial configuration
    """

    def __init__(self, config: InputConfig) -> None:
        super().__init__()
        self.config = config
        self.needs_eeg = config.needs_eeg
        self.needs_spectrogram = config.needs_spectrogram
        self.window = BipolarWindow(config) if self.needs_eeg else None
        places = config.places
        self.eeg_views = nn.ModuleList(
            EEGImage(view, scaling=config.scaling, height=places[key].height, width=places[key].width)
            for key, view in config.eeg_views.items()
        )
        self.spectrogram_place = places.get("kaggle")

    def forward(self, eeg: Tensor | None, spectrogram: Tensor | None) -> Tensor:
        """Make one image per window.

        Parameters
        ----------
        eeg : float32 tensor, shape (batch, 20, n_times), µV; or None where ``needs_eeg`` is False
        spectrogram : float32 tensor, shape (batch, 400, n_frames), natural log of µV²/Hz, NaN where
            missing; or None where ``needs_spectrogram`` is False

        Returns
        -------
        float32 tensor, shape (batch, channels, height, width); 3 channels repeat one, or each has a view

        Raises
        ------
        SignalError
            If an input is missing, has another shape, or the EEG is shorter than the window.
        """
        parts = []
        device = _device_of(eeg, spectrogram)
        with torch.autocast(device.type, enabled=False):
            if self.window is not None:
                pairs = self.window(_checked(eeg, "EEG", len(ELECTRODES)).float())
                parts += [view(pairs) for view in self.eeg_views]
            if self.spectrogram_place is not None:
                height, width = self.spectrogram_place.height, self.spectrogram_place.width
                spectrogram = _checked(spectrogram, "Kaggle spectrogram", len(REGIONS) * KAGGLE_BANDS)
                panels = kaggle_panels(spectrogram.float(), self.config.scaling)
                parts.append(stack_panels(panels, height, width))
            if self.config.layout == "channels":
                return torch.stack(parts, dim=1)
            image = self._laid_out(parts)
        return image.unsqueeze(1).expand(-1, self.config.channels, -1, -1)

    def _laid_out(self, parts: list[Tensor]) -> Tensor:
        """One image of all views, each of which has the size of its place."""
        if len(parts) == 1:
            return parts[0]
        rows, left = [], iter(parts)
        for count in rows_of_views(self.config.layout, len(parts)):
            rows.append(torch.cat(list(itertools.islice(left, count)), dim=-1))
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=-2)


def _device_of(*tensors: Tensor | None) -> torch.device:
    return next((tensor.device for tensor in tensors if tensor is not None), torch.device("cpu"))


def _checked(tensor: Tensor | None, name: str, rows: int) -> Tensor:
    """The input itself, if it is there and has the right number of rows."""
    if tensor is None:
        raise SignalError(f"this input needs the {name}, and there is none", where="input")
    if tensor.ndim != 3 or tensor.shape[1] != rows:
        raise SignalError(f"the {name} must have shape (batch, {rows}, time), got {tuple(tensor.shape)}")
    return tensor
