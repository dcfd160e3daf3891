"""The image a network sees: a window of EEG, of a Kaggle spectrogram, or of both.

Every panel (a region, or a bipolar pair) shows time from left to right and frequency from top (lowest)
to bottom (highest). Panels are stacked in the order LL, RL, LP, RP; pairs in the order of
:data:`hms_tune.signals.montage.PAIRS`. With both inputs the EEG's panels take the left half of the
image and the Kaggle spectrogram's the right half, so that a row keeps its region, and its frequency
where the EEG is shown over the Kaggle files' 0.5–20 Hz, across the two time scales.

Values are scaled by fixed constants, never by the sample's own: strong recipes lost 0.02–0.04 KL to
per-sample standardisation. The constants give about zero mean and unit spread: over 24 clinical
recordings the region power has a mean of 3.0 dB and a standard deviation of 11 dB, alike for
transforms of 256, 512 and 1,024 points. Zero is therefore also the neutral fill of what is missing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hms_tune.config.trial import InputConfig
from hms_tune.errors import SignalError
from hms_tune.signals.filters import ZeroPhaseFilter
from hms_tune.signals.montage import ANODES, CATHODES, ELECTRODES, PAIRS_PER_REGION, REGIONS, SFREQ
from hms_tune.signals.spectrogram import PowerSpectrogram, decibel, hop_length, mel_filterbank

EEG_CENTRE_DB = 3.0
EEG_SCALE_DB = 12.0
EEG_LIMIT = 3.0
"""EEG power in dB re 1 µV²/Hz becomes (dB - 3) / 12, clipped to ±3 (-33 to 39 dB)."""

KAGGLE_RANGE = (-4.0, 8.0)
KAGGLE_CENTRE = 0.7
KAGGLE_SCALE = 2.8
"""Natural log power is clipped to [-4, 8] and becomes (x - 0.7) / 2.8: the constants above, in nepers."""

KAGGLE_BANDS = 100
"""Frequencies of each region in a Kaggle spectrogram."""


def panel_heights(height: int, panels: int) -> list[int]:
    """Rows of each panel; what does not divide evenly goes to the first ones, one row each."""
    rows, extra = divmod(height, panels)
    return [rows + 1] * extra + [rows] * (panels - extra)


def stack_panels(panels: Tensor, height: int, width: int) -> Tensor:
    """Resize every panel to its share of the height and stack them top to bottom.

    Parameters
    ----------
    panels : float32 tensor, shape (batch, n_panels, n_frequencies, n_frames)

    Returns
    -------
    float32 tensor, shape (batch, height, width)
    """
    heights = panel_heights(height, panels.shape[1])
    tall = heights.count(heights[0])
    parts = [
        _resize(part, rows, width).flatten(1, 2)
        for part, rows in ((panels[:, :tall], heights[0]), (panels[:, tall:], heights[-1]))
        if part.shape[1]
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _resize(panels: Tensor, height: int, width: int) -> Tensor:
    if panels.shape[-2:] == (height, width):
        return panels
    return functional.interpolate(
        panels, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )


class EEGPanels(nn.Module):
    """The EEG half: bipolar, filtered, clipped, and turned into scaled log power panels."""

    anodes: Tensor
    cathodes: Tensor
    bands: Tensor | None

    def __init__(self, config: InputConfig, *, width: int) -> None:
        super().__init__()
        self.averaged = config.montage == "chains"
        self.clip_uv = config.clip_uv
        self.n_times = round(config.window_seconds * SFREQ)
        n_pairs = PAIRS_PER_REGION * len(REGIONS) if self.averaged else len(ANODES)
        self.register_buffer("anodes", torch.tensor(ANODES[:n_pairs]), persistent=False)
        self.register_buffer("cathodes", torch.tensor(CATHODES[:n_pairs]), persistent=False)
        self.filter = ZeroPhaseFilter(
            self.n_times,
            sfreq=SFREQ,
            highpass_hz=config.highpass_hz,
            lowpass_hz=config.lowpass_hz,
            notch_hz=config.notch_hz,
        )
        self.spectrogram = PowerSpectrogram(
            self.n_times,
            sfreq=SFREQ,
            n_fft=config.n_fft,
            hop=hop_length(self.n_times, width, config.n_fft),
            low_hz=config.low_hz,
            high_hz=config.high_hz,
        )
        bands = None
        if config.transform == "mel":
            bands = mel_filterbank(
                self.spectrogram.frequencies, config.n_mels, low_hz=config.low_hz, high_hz=config.high_hz
            ).T.contiguous()
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, eeg: Tensor) -> Tensor:
        """From (batch, 20, n_times) in µV to scaled panels (batch, n_panels, n_frequencies, n_frames)."""
        start = (eeg.shape[-1] - self.n_times) // 2
        if start < 0:
            raise SignalError(
                f"the EEG has {eeg.shape[-1]} samples; a window of {self.n_times / SFREQ:g} s at {SFREQ:g} Hz"
                f" needs {self.n_times}",
                mend="Shorten input.window_seconds, or leave the recording out.",
            )
        window = eeg[..., start : start + self.n_times]
        pairs = window.index_select(1, self.anodes)
        pairs -= window.index_select(1, self.cathodes)
        pairs = self.filter(pairs).clamp(-self.clip_uv, self.clip_uv)
        power = self.spectrogram(pairs)
        if self.averaged:
            power = power.view(len(power), len(REGIONS), PAIRS_PER_REGION, *power.shape[2:]).mean(dim=2)
        if self.bands is not None:
            power = power @ self.bands
        scaled: Tensor = ((decibel(power) - EEG_CENTRE_DB) / EEG_SCALE_DB).clamp(-EEG_LIMIT, EEG_LIMIT)
        return scaled.transpose(-1, -2)


def kaggle_panels(spectrogram: Tensor) -> Tensor:
    """Scaled panels of a Kaggle spectrogram; what is missing becomes 0.

    Parameters
    ----------
    spectrogram : float32 tensor, shape (batch, 400, n_frames), natural log of µV²/Hz, NaN where missing

    Returns
    -------
    float32 tensor, shape (batch, 4, 100, n_frames)
    """
    scaled = (spectrogram.clamp(*KAGGLE_RANGE) - KAGGLE_CENTRE) / KAGGLE_SCALE
    return torch.nan_to_num(scaled, nan=0.0).view(len(scaled), len(REGIONS), KAGGLE_BANDS, -1)


class ImageTransform(nn.Module):
    """Windows of EEG and Kaggle spectrograms to images, under any device and always in float32.

    Parameters
    ----------
    config : the ``input`` section of a trial configuration

    Raises
    ------
    SignalError
        If the image is too low to give every panel a row.
    """

    def __init__(self, config: InputConfig) -> None:
        super().__init__()
        self.config = config
        self.needs_eeg = config.kind != "kaggle_spectrogram"
        self.needs_spectrogram = config.kind != "eeg_spectrogram"
        self.height, width = config.image
        self.eeg_width = width // 2 if config.kind == "both" else width if self.needs_eeg else 0
        self.spectrogram_width = width - self.eeg_width
        panels = len(ANODES) if self.needs_eeg and config.montage == "pairs" else len(REGIONS)
        if self.height < panels:
            raise SignalError(
                f"an image of {self.height} rows cannot show {panels} panels",
                where="input.image",
                mend=f"Choose a height of at least {panels}, or montage: chains.",
            )
        self.panels = EEGPanels(config, width=self.eeg_width) if self.needs_eeg else None

    def forward(self, eeg: Tensor | None, spectrogram: Tensor | None) -> Tensor:
        """Make one image per window.

        Parameters
        ----------
        eeg : float32 tensor, shape (batch, 20, n_times), µV, finite; or None where ``needs_eeg`` is False
        spectrogram : float32 tensor, shape (batch, 400, n_frames), natural log of µV²/Hz, NaN where
            missing; or None where ``needs_spectrogram`` is False

        Returns
        -------
        float32 tensor, shape (batch, channels, height, width); 3 channels are views of one

        Raises
        ------
        SignalError
            If an input is missing, has another shape, or the EEG is shorter than the window.
        """
        halves = []
        device = _device_of(eeg, spectrogram)
        with torch.autocast(device.type, enabled=False):
            if self.panels is not None:
                eeg = _checked(eeg, "EEG", len(ELECTRODES))
                halves.append(stack_panels(self.panels(eeg.float()), self.height, self.eeg_width))
            if self.needs_spectrogram:
                spectrogram = _checked(spectrogram, "Kaggle spectrogram", len(REGIONS) * KAGGLE_BANDS)
                panels = kaggle_panels(spectrogram.float())
                halves.append(stack_panels(panels, self.height, self.spectrogram_width))
            image = halves[0] if len(halves) == 1 else torch.cat(halves, dim=-1)
        return image.unsqueeze(1).expand(-1, self.config.channels, -1, -1)


def _device_of(*tensors: Tensor | None) -> torch.device:
    return next((tensor.device for tensor in tensors if tensor is not None), torch.device("cpu"))


def _checked(tensor: Tensor | None, name: str, rows: int) -> Tensor:
    """The input itself, if it is there and has the right number of rows."""
    if tensor is None:
        raise SignalError(f"this input needs the {name}, and there is none", where="input.kind")
    if tensor.ndim != 3 or tensor.shape[1] != rows:
        raise SignalError(f"the {name} must have shape (batch, {rows}, time), got {tuple(tensor.shape)}")
    return tensor
