"""How a window of EEG becomes an image: views of it in one layout, each made by a recipe of its own.

A view names its recipe (``stft``, ``mel``, ``multitaper``, ``cwt``, ``raw``), and every setting of a recipe
can be searched::

    input:
      eeg: {name: stft, montage: pairs}                       # the 50 s window
      detail: {choices: [null, {name: cwt, window_seconds: 10, cycles: {low: 4, high: 9}}]}
      more: {wide: mel, middle: {name: mel, window_seconds: 20}}
      kaggle: kaggle                                          # the 10-minute file
      layout: grid
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hms_tune.config.image_layout import (
    Layout,
    ModelInput,
    TracePlace,
    ViewPlace,
    shown_lines,
    view_places,
)
from hms_tune.config.section import Section, named, names_of

PANELS = {"chains": 4, "lateral_pairs": 16, "pairs": 18}
"""How many panels lie one above the other in a view of each montage."""

KAGGLE_PANELS = 4
"""The regions of a Kaggle spectrogram."""

LEAST_COLUMNS = 8
"""Fewest columns of a view that is worth looking at."""


class View(Section):
    """A part of the image."""

    share: float = Field(
        1.0,
        gt=0.0,
        le=100.0,
        description="Width of this view in its row, in proportion to the shares of the others there.",
    )


class EEGView(View):
    """A view of the central part of the EEG window."""

    name: str
    window_seconds: float = Field(
        50.0, ge=5.0, le=50.0, description="Length of the central EEG window, in seconds."
    )
    montage: Literal["chains", "lateral_pairs", "pairs"]


class SpectralView(EEGView):
    """A view of the power of bipolar EEG over time and frequency."""

    montage: Literal["chains", "lateral_pairs", "pairs"] = Field(
        "chains",
        description="chains: power averaged over the 4 pairs of each region; lateral_pairs: the regions' 16 "
        "bipolar pairs kept apart; pairs: those and the 2 of the midline.",
    )
    low_hz: float = Field(0.5, ge=0.0, le=50.0, description="Lowest frequency shown, Hz.")
    high_hz: float = Field(20.0, gt=0.0, le=100.0, description="Highest frequency shown, Hz.")

    @model_validator(mode="after")
    def _band_has_a_width(self) -> Self:
        if self.high_hz <= self.low_hz:
            raise ValueError(f"high_hz {self.high_hz} must exceed low_hz {self.low_hz}")
        return self


FFTLength = Literal[128, 256, 512, 1024, 2048]


class STFT(SpectralView):
    """Short-time Fourier transform with a Hann window."""

    name: Literal["stft"] = "stft"
    n_fft: FFTLength = Field(512, description="FFT length in samples at 200 Hz.")


class Mel(SpectralView):
    """Short-time Fourier transform, summed up in mel bands."""

    name: Literal["mel"] = "mel"
    n_fft: FFTLength = Field(1024, description="FFT length in samples at 200 Hz.")
    n_mels: int = Field(64, ge=8, le=256, description="Mel bands.")


class Multitaper(SpectralView):
    """The method of the competition's host; the defaults are the host's own values."""

    name: Literal["multitaper"] = "multitaper"
    taper_seconds: float = Field(4.0, ge=0.5, le=20.0, description="Length of the tapers, s.")
    step_seconds: float = Field(2.0, ge=0.05, le=10.0, description="Time between two spectra, s.")
    half_bandwidth: float = Field(
        2.0, ge=1.0, le=8.0, description="NW of the DPSS tapers: half bandwidth times taper length."
    )
    tapers: int = Field(3, ge=1, le=16, description="Number of DPSS tapers, at most twice half_bandwidth.")

    @model_validator(mode="after")
    def _tapers_fit(self) -> Self:
        if self.taper_seconds > self.window_seconds:
            raise ValueError(
                f"taper_seconds {self.taper_seconds} exceeds window_seconds {self.window_seconds}"
            )
        if self.step_seconds > self.taper_seconds:
            raise ValueError(
                f"step_seconds {self.step_seconds} exceeds taper_seconds {self.taper_seconds}: "
                "samples between two spectra would be left out"
            )
        if self.tapers > 2 * self.half_bandwidth:
            raise ValueError(
                f"tapers {self.tapers} exceeds twice half_bandwidth {self.half_bandwidth}: "
                "the last tapers would leak"
            )
        return self


class Wavelet(SpectralView):
    """Continuous transform with complex Morlet wavelets."""

    name: Literal["cwt"] = "cwt"
    low_hz: float = Field(0.5, ge=0.2, le=50.0, description="Lowest frequency shown, Hz.")
    cycles: float = Field(
        6.0, ge=2.0, le=20.0, description="Length of a wavelet in cycles: more for finer frequencies."
    )
    frequencies: int = Field(40, ge=8, le=256, description="Number of wavelets.")
    spacing: Literal["log", "linear"] = Field("log", description="Spacing of the wavelets' frequencies.")


class Raw(EEGView):
    """The traces themselves, each cut into lines that are stacked."""

    name: Literal["raw"] = "raw"
    montage: Literal["lateral_pairs", "pairs"] = Field(
        "lateral_pairs",
        description="lateral_pairs: the 16 bipolar pairs of the four regions; pairs: those and the 2 of the "
        "midline.",
    )
    lines: int | None = Field(
        None, ge=1, le=128, description="Lines each trace is cut into; null: one in every row of its panel."
    )
    scale_uv: float = Field(32.0, gt=0.0, le=1000.0, description="Amplitude that becomes 1, µV.")

    def lines_of(self, height: int) -> int:
        """Lines that each trace is cut into, in an image of that height."""
        return self.lines if self.lines is not None else height // PANELS[self.montage]


class Kaggle(View):
    """The 10-minute spectrogram of the competition's files."""

    name: Literal["kaggle"] = "kaggle"


Scaling = Literal["global", "per_sample"]
Spectral = STFT | Mel | Multitaper | Wavelet
EEGRecipe = Annotated[Annotated[Spectral | Raw, Field(discriminator="name")], BeforeValidator(named)]


VIEW_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class InputConfig(Section):
    """How a window of EEG becomes an image. At least one view."""

    LATER = frozenset({"more", "layout"})

    eeg: EEGRecipe | None = Field(STFT(), description=f"View of the EEG: {names_of(EEGRecipe)}; null: none.")
    detail: EEGRecipe | None = Field(
        None,
        description="Second view of the EEG, such as the central 10 s that experts labelled; null: none.",
    )
    more: dict[str, EEGRecipe | None] = Field(
        {},
        max_length=64,
        description="Further views of the EEG under names of your own, in alphabetical order.",
    )
    kaggle: Annotated[Kaggle, BeforeValidator(named)] | None = Field(
        None, description="View of the 10-minute file; null: none."
    )
    layout: Layout = Field(
        "side_by_side",
        description="How views lie: left to right, as tiles of a grid, or each in its own input channel.",
    )
    highpass_hz: float | None = Field(
        0.5, gt=0.0, le=20.0, description="Zero-phase high-pass, Hz; null: none."
    )
    lowpass_hz: float | None = Field(
        40.0, gt=1.0, lt=100.0, description="Zero-phase low-pass, Hz; null: none."
    )
    notch_hz: Literal[50, 60] | None = Field(None, description="Mains notch, Hz; null: none.")
    clip_uv: float | None = Field(
        1024.0, gt=0.0, description="EEG is clipped to ± this many µV after filtering; null: never."
    )
    scaling: Scaling = Field(
        "global",
        description="global: by fixed constants; per_sample: each view of each sample to mean 0, spread 1.",
    )
    image: tuple[int, int] = Field(
        (128, 256), description="Image height (frequency) and width (time), pixels."
    )
    channels: Literal[1, 3] = Field(
        1, description="Input channels of the network; 3 repeats the image. Layout channels has one per view."
    )

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @field_validator("more")
    @classmethod
    def _in_the_order_of_names(cls, more: dict[str, EEGRecipe | None]) -> dict[str, EEGRecipe | None]:
        for name in more:
            if not VIEW_NAME.fullmatch(name) or name in cls.model_fields:
                raise ValueError(
                    f"{name!r} is no name of a view: use a-z, 0-9 and _ after a letter, and no key of input"
                )
        return dict(sorted(more.items()))

    @model_validator(mode="after")
    def _views_differ(self) -> Self:
        if not self.views:
            raise ValueError("eeg, detail and kaggle are all null; an image needs at least one of them")
        for (one, view), (other, another) in itertools.combinations(self.eeg_views.items(), 2):
            if view == another:
                raise ValueError(f"{other} shows the same as {one}; give it another window_seconds or recipe")
        return self

    @model_validator(mode="after")
    def _channels_follow_the_layout(self) -> Self:
        if self.layout == "channels" and self.channels != 1:
            raise ValueError("layout channels has an input channel for each view; leave channels out")
        return self

    @model_validator(mode="after")
    def _filters_make_sense(self) -> Self:
        if self.highpass_hz and self.lowpass_hz and self.lowpass_hz <= self.highpass_hz:
            raise ValueError(f"lowpass_hz {self.lowpass_hz} must exceed highpass_hz {self.highpass_hz}")
        return self

    @model_validator(mode="after")
    def _views_fit_the_image(self) -> Self:
        if min(self.image) < 16 or max(self.image) > 2048:
            raise ValueError(f"image sides must lie in 16–2048 pixels, got {list(self.image)}")
        places = self.places
        for key, view in self.views.items():
            height, width = places[key].height, places[key].width
            part = "an image" if height == self.image[0] else "a tile"
            panels = PANELS[view.montage] if isinstance(view, EEGView) else KAGGLE_PANELS
            if height < panels:
                raise ValueError(f"{part} of {height} rows cannot show the {panels} panels of {key}")
            if isinstance(view, Raw) and view.lines is not None and view.lines > height // panels:
                raise ValueError(
                    f"{part} of {height} rows has {height // panels} for each trace of {key}, and lines is "
                    f"{view.lines}"
                )
            if width < LEAST_COLUMNS:
                raise ValueError(f"share leaves {key} {width} of the image's {self.image[1]} columns")
        return self

    @property
    def eeg_views(self) -> dict[str, Spectral | Raw]:
        """The views of the EEG, in their order, by their key."""
        views = {"eeg": self.eeg, "detail": self.detail, **self.more}
        return {key: view for key, view in views.items() if view is not None}

    @property
    def views(self) -> dict[str, Spectral | Raw | Kaggle]:
        """The views there are, in their order, by their key."""
        return {**self.eeg_views, **({} if self.kaggle is None else {"kaggle": self.kaggle})}

    @property
    def places(self) -> dict[str, ViewPlace]:
        """Where each view stands in the image."""
        shares = [view.share for view in self.views.values()]
        return dict(zip(self.views, view_places(self.layout, shares, self.image), strict=True))

    @property
    def differing_channels(self) -> int:
        """Channels of an image that do not repeat another."""
        return len(self.views) if self.layout == "channels" else 1

    @property
    def for_model(self) -> ModelInput:
        """What a network is given of it."""
        return ModelInput(max(self.channels, self.differing_channels), self.image, self._traces)

    @property
    def _traces(self) -> TracePlace | None:
        places = self.places
        for key, view in self.views.items():
            if isinstance(view, Raw):
                place = places[key]
                panels, lines = PANELS[view.montage], view.lines_of(place.height)
                shown = shown_lines(panels, lines, place.height)
                rows = tuple(place.top + shown.index(line) for line in range(panels * lines))
                end = place.left + place.width
                return TracePlace(panels, rows, place.left, end, view.window_seconds, place.channel)
        return None

    @property
    def needs_eeg(self) -> bool:
        """Whether an image cannot be made without the EEG."""
        return bool(self.eeg_views)

    @property
    def needs_spectrogram(self) -> bool:
        """Whether an image cannot be made without the 10-minute file."""
        return self.kaggle is not None

    @property
    def window_seconds(self) -> float:
        """Length of the longest EEG window that is read; 0 without one."""
        return max((view.window_seconds for view in self.eeg_views.values()), default=0.0)
