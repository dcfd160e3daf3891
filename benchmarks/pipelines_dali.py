"""The product's STFT images, as nearly as NVIDIA DALI's operators make them; for ``pipelines.py``.

Signals come from the store through DALI's external source; everything after that is DALI. Its settings are
read from the product's own transform. DALI has no recursive filter, nor any product with a gain in the
frequency domain, so recipes with a band-pass or a notch cannot be said in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, math, pipeline_def, types
from torch import Tensor

from hms_tune.config.image_layout import panel_heights
from hms_tune.config.input import STFT, InputConfig
from hms_tune.data.store.windows import WindowSource
from hms_tune.signals.montage import CHAINS, ELECTRODES, PAIRS_PER_REGION, REGIONS, SFREQ
from hms_tune.signals.recipes import short_time_power
from hms_tune.signals.scaling import LIMIT, power_constants
from hms_tune.signals.spectrogram import POWER_FLOOR, PowerSpectrogram


def start_dali(
    source: WindowSource, config: InputConfig, batches: list[Tensor], device: torch.device, threads: int
) -> Callable[[], Iterator[Tensor]]:
    """Build the pipeline; gives what makes an epoch: float32 (batch, channels, height, width)."""

    def eeg() -> Iterator[list[np.ndarray]]:
        for rows in batches:
            yield list(source.eeg(rows).numpy())

    on_gpu = device.type == "cuda"
    pipeline = _pipeline(
        config,
        eeg,
        on_gpu,
        batch_size=len(batches[0]),
        num_threads=threads,
        device_id=(device.index or 0) if on_gpu else None,
    )
    pipeline.build()

    def epoch() -> Iterator[Tensor]:
        for _ in batches:
            (images,) = pipeline.run()
            # DALI writes into its buffers again
            made = torch.from_dlpack(images.as_tensor()).clone()
            yield made.unsqueeze(1).expand(-1, config.channels, -1, -1)
        try:
            pipeline.run()
        except StopIteration:
            pipeline.reset()

    return epoch


@pipeline_def
def _pipeline(config: InputConfig, eeg: Callable[[], Iterator[list[np.ndarray]]], on_gpu: bool) -> Any:
    """From windows of (20, n_times), µV, to images of (height, width)."""
    view = config.eeg
    if not isinstance(view, STFT) or view.montage != "chains" or config.scaling != "global":
        raise ValueError("this pipeline shows an STFT, averaged over chains and scaled globally")
    if any((config.highpass_hz, config.lowpass_hz, config.notch_hz)):
        raise ValueError("DALI has no such filters")
    (height, width), n_times = config.image, round(view.window_seconds * SFREQ)
    transform = short_time_power(view, n_times, width)
    window = fn.external_source(source=eeg, batch=True, cycle="raise", layout="HW", no_copy=True)
    if on_gpu:
        window = window.gpu()
    pairs = _bipolar(window)
    if config.clip_uv is not None:
        pairs = math.clamp(pairs, -config.clip_uv, config.clip_uv)
    power = fn.reductions.mean(_power(pairs, transform, n_times), axes=2)
    decibels = 10.0 * math.log10(power + POWER_FLOOR)
    constants = power_constants(view)
    scaled = math.clamp((decibels - constants.centre) / constants.spread, -LIMIT, LIMIT)
    panels = fn.transpose(scaled, perm=[1, 0, 2], transpose_layout=False, output_layout="CHW")
    shown = fn.resize(
        panels,
        resize_y=panel_heights(height, len(REGIONS))[0],
        resize_x=width,
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )
    return fn.reshape(shown, shape=[height, width], layout="HW")


def _bipolar(window: Any) -> Any:
    """From (20, n_times) to the pairs of the four regions, (16, n_times)."""
    pairs = []
    for region in REGIONS:
        places = [ELECTRODES.index(name) for name in CHAINS[region]]
        chain = fn.cat(*(window[place : place + 1] for place in places), axis=0)
        pairs.append(chain[:-1] - chain[1:])
    return fn.cat(*pairs, axis=0)


def _power(pairs: Any, transform: PowerSpectrogram, n_times: int) -> Any:
    """From (16, n_times) to (n_bins, 4, 4, n_frames), µV²/Hz.

    The operator reads one signal at a time: the pairs are put behind each other, and frames that see two of
    them, one in twenty, are thrown away.
    """
    length, hop = transform.length, transform.hop
    before, after = transform.before, transform.after
    padded = n_times + before + after
    n_frames, columns = (padded - length) // hop + 1, -(-padded // hop)
    n_pairs = len(REGIONS) * PAIRS_PER_REGION
    mirrored = fn.cat(
        _flipped(pairs[:, 1 : before + 1], n_pairs, before),
        pairs,
        _flipped(pairs[:, n_times - after - 1 : n_times - 1], n_pairs, after),
        axis=1,
    )
    filled = fn.pad(mirrored, axes=[1], shape=[columns * hop])
    signal = fn.reshape(filled, shape=[n_pairs * columns * hop])
    whole = fn.pad(signal, axes=[0], shape=[n_pairs * columns * hop + length - hop])
    power = fn.spectrogram(
        whole,
        nfft=transform.n_fft,
        window_length=length,
        window_step=hop,
        window_fn=transform.tapers[0].tolist(),
        center_windows=False,
        power=2,
    )[transform.first : transform.stop]
    n_bins = transform.stop - transform.first
    by_region = fn.reshape(power, shape=[n_bins, len(REGIONS), PAIRS_PER_REGION, columns])
    return by_region[:, :, :, :n_frames]


def _flipped(pairs: Any, n_pairs: int, n_times: int) -> Any:
    """In reverse time; the operator wants an image."""
    image = fn.reshape(pairs, shape=[n_pairs, n_times, 1], layout="HWC")
    return fn.reshape(fn.flip(image, horizontal=1), shape=[n_pairs, n_times], layout="HW")
