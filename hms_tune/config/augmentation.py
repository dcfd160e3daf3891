"""What is varied in training batches."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hms_tune.config.section import Section

TestTime = Literal["swap", "shift"]
"""What predictions may be averaged over: hemispheres exchanged, the window moved to both sides."""


class AugmentationConfig(Section):
    """What is varied in training batches only. Zero switches a method off."""

    LATER = frozenset({"time_reversal", "amplitude_db", "time_warp"})

    left_right_swap: float = Field(0.0, ge=0.0, le=1.0, description="Probability of swapping hemispheres.")
    window_shift_seconds: float = Field(
        0.0, ge=0.0, le=25.0, description="Largest shift of the EEG window within its recording, s."
    )
    channel_drop: float = Field(
        0.0, ge=0.0, le=1.0, description="Probability of silencing electrodes in a sample."
    )
    channel_drop_max: int = Field(4, ge=1, le=19, description="Most electrodes silenced in one sample.")
    sign_flip: float = Field(0.0, ge=0.0, le=1.0, description="Probability of reversing the EEG's polarity.")
    band_pass: float = Field(0.0, ge=0.0, le=1.0, description="Probability of a random band-pass of the EEG.")
    band_pass_low_hz: float = Field(
        2.0, ge=0.1, le=5.0, description="Its lower edge is drawn between 0 and this, Hz."
    )
    band_pass_high_hz: float = Field(
        12.0, ge=5.0, le=40.0, description="Its upper edge is drawn between this and 40, Hz."
    )
    noise_uv: float = Field(
        0.0, ge=0.0, le=100.0, description="Standard deviation of white noise on every electrode, µV."
    )
    time_reversal: float = Field(
        0.0, ge=0.0, le=1.0, description="Probability of running EEG and 10-minute file backwards."
    )
    amplitude_db: float = Field(
        0.0,
        ge=0.0,
        le=20.0,
        description="EEG and 10-minute file are made louder or softer by up to this, dB.",
    )
    time_warp: float = Field(
        0.0,
        ge=0.0,
        le=0.5,
        description="The EEG runs faster or slower by up to this share, about its middle.",
    )
    time_mask: float = Field(0.0, ge=0.0, le=0.9, description="Longest masked share of the time axis.")
    frequency_mask: float = Field(
        0.0, ge=0.0, le=0.9, description="Longest masked share of the frequency axis."
    )
    mixup_alpha: float = Field(0.0, ge=0.0, le=10.0, description="Beta(α, α) of mixup; 0: none.")
    cutmix_alpha: float = Field(
        0.0,
        ge=0.0,
        le=10.0,
        description="Beta(α, α) of cutmix; 0: none. With mixup too, each sample gets one of them.",
    )
