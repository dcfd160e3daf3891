"""A trained model with all it needs to predict, as a folder of safetensors and JSON.

``config.json`` names every other file with its SHA-256, and ends with its own, so whatever is damaged or
exchanged is found before it is used. Nothing in a bundle is ever unpickled, and no file is read that is
larger than it can be.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import field_validator, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hms_tune.config.input import InputConfig
from hms_tune.config.section import Section
from hms_tune.config.trial import TrialConfig
from hms_tune.data.schema import CLASSES
from hms_tune.errors import BundleError, ModelError, first_line
from hms_tune.export.sealed import read_sealed, seal_of
from hms_tune.export.signals import Windows, eeg_windows, spectrogram_windows
from hms_tune.export.test_time import SignalChange, unchanged
from hms_tune.machine.device import resolve_device
from hms_tune.machine.regular_file import open_regular
from hms_tune.models.network import build_network
from hms_tune.signals.image import ImageTransform
from hms_tune.training.step.inference import predict_probabilities
from hms_tune.version import __version__

Weights = Literal["folds", "full"]

_FILE_NAME = re.compile(r"[A-Za-z0-9_]+\.(safetensors|onnx|parquet|json|md)")
_FOLD_WEIGHTS = re.compile(r"fold_(\d+)\.safetensors")
_FULL_WEIGHTS = "full.safetensors"
_CONFIG = "config.json"
_MOST_HEADER_BYTES = 1 << 20
"""Of what stands before the weights in their files."""
_NO_NETWORK = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError)
"""What building one raises whose configuration no trial has had."""


class BundleConfig(Section):
    """What ``config.json`` holds.

    ``files`` and ``sizes`` map each file's name to its SHA-256 and its bytes; ``seal`` is the SHA-256 of all
    else here, as canonical JSON.
    """

    format: Literal[1] = 1
    hms_tune: str
    study: str
    trial: int
    classes: tuple[str, ...]
    config: TrialConfig
    files: dict[str, str]
    sizes: dict[str, int]
    seal: str = ""

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        if self.classes != CLASSES:
            raise ValueError(f"the classes are not {', '.join(CLASSES)}, in this order")
        if self.seal != seal_of(self):
            raise ValueError("config.json differs from what was exported")
        return self

    @field_validator("files")
    @classmethod
    def _plain_safe_files(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} has no place in a bundle: safetensors, JSON, parquet and ONNX only"
                )
        return files

    def weights(self, which: Weights) -> list[str]:
        """Names of the weight files: those of the folds in order, or that of the refit on all rows."""
        if which == "full":
            return [_FULL_WEIGHTS] if _FULL_WEIGHTS in self.files else []
        folds = [match for name in self.files if (match := _FOLD_WEIGHTS.fullmatch(name))]
        return [match.group() for match in sorted(folds, key=lambda match: int(match.group(1)))]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Networks ready to predict; made by :func:`load_bundle`."""

    path: Path
    config: BundleConfig
    device: torch.device
    networks: Sequence[nn.Module]
    transform: ImageTransform

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the columns of :meth:`predict`."""
        return self.config.classes

    @property
    def inputs(self) -> tuple[InputConfig, ...]:
        """What it reads."""
        return (self.config.config.input,)

    @property
    def batch_size(self) -> int:
        """Windows that the trial predicted at once."""
        return self.config.config.training.test_batch_size

    def predict(
        self,
        eeg: Windows | None,
        spectrogram: Windows | None = None,
        *,
        batch_size: int = 64,
    ) -> NDArray[np.float32]:
        """Class probabilities of EEG windows: the mean over the bundle's networks.

        Parameters
        ----------
        eeg : array, shape (n_windows, n_times, 20), µV, 200 Hz
            Channels in the competition's order (Fp1 … O2, EKG). ``n_times`` is at least the model's window;
            of more than 10,000 samples the central 50 s are read. NaN marks gaps. One window may come without
            the first axis, as the DataFrame that pandas reads from a parquet file, or as that file's path;
            columns of these two are found by name. None for a model that reads spectrograms alone.
        spectrogram : array, shape (n_windows, 300, 400), µV²/Hz
            The 10 minutes around each window: 2 s frames, 100 frequencies for each of LL, RL, LP, RP. Needed
            only by models that read it. One window may come as one of the EEG does.
        batch_size : windows at once

        Returns
        -------
        float32 array, shape (n_windows, 6), also of one window; rows sum to 1

        Raises
        ------
        SignalError
            If a shape or a column is wrong, a value infinite, or a window has no value at all.
        DataError
            If a file cannot be read.
        """
        return in_batches(self, eeg, spectrogram, batch_size)

    def probabilities(
        self, eeg: Tensor | None, spectrogram: Tensor | None, change: SignalChange = unchanged
    ) -> NDArray[np.float32]:
        """Class probabilities of one batch of signals, as the store would deliver them.

        Parameters
        ----------
        eeg : float32 tensor, shape (batch, 20, n_times), on the bundle's device; None where it is not needed
        spectrogram : float32 tensor, shape (batch, 400, 300), natural log of power; None likewise
        change : of :mod:`~hms_tune.export.test_time`
        """
        given = next(each for each in (eeg, spectrogram) if each is not None)

        def images_of(_rows: Tensor) -> Tensor:
            images: Tensor = self.transform(*change(eeg, spectrogram))
            return images

        return predict_probabilities(
            self.networks,
            images_of,
            torch.arange(len(given)),
            training=self.config.config.training,
            device=self.device,
            batch_size=len(given),
        )


class Predictor(Protocol):
    """What :func:`in_batches` asks of a bundle or a blend."""

    @property
    def device(self) -> torch.device:
        """Where it predicts."""

    @property
    def inputs(self) -> Sequence[InputConfig]:
        """What each of its models reads."""

    def probabilities(self, eeg: Tensor | None, spectrogram: Tensor | None) -> NDArray[np.float32]:
        """Class probabilities of one batch."""


def in_batches(
    predictor: Predictor, eeg: Windows | None, spectrogram: Windows | None, batch_size: int
) -> NDArray[np.float32]:
    """Check arrays, and predict them a batch at a time; see :meth:`Bundle.predict`."""
    given: list[Tensor | None] = [None, None]
    reading_eeg = [each for each in predictor.inputs if each.needs_eeg]
    if reading_eeg:
        given[0] = eeg_windows(eeg, max(reading_eeg, key=lambda each: each.window_seconds))
    if any(each.needs_spectrogram for each in predictor.inputs):
        given[1] = spectrogram_windows(spectrogram)
    counts = {len(each) for each in given if each is not None}
    if len(counts) > 1:
        raise BundleError(f"EEG and spectrogram differ in their number of windows: {sorted(counts)}")
    parts = []
    for start in range(0, counts.pop(), batch_size):
        batch = slice(start, start + batch_size)
        on_device = (None if each is None else each[batch].to(predictor.device) for each in given)
        parts.append(predictor.probabilities(*on_device))
    return np.concatenate(parts) if parts else np.empty((0, len(CLASSES)), np.float32)


def load_bundle(
    path: str | os.PathLike[str], *, device: str = "auto", weights: Weights | None = None
) -> Bundle:
    """Open a bundle, check every file's digest, and build its networks.

    Parameters
    ----------
    path : the bundle's folder
    device : auto, cpu or cuda:N
    weights : ``folds`` for the ensemble of the folds, ``full`` for the network trained on all rows; by
        default the ensemble, whose score is known

    Raises
    ------
    BundleError
        If the bundle is incomplete, damaged, or of another version.
    """
    folder = Path(path)
    config = read_bundle_config(folder)
    check_digests(folder, config)
    which = weights or ("folds" if config.weights("folds") else "full")
    names = config.weights(which)
    if not names:
        hint = "Export with --refit full" if which == "full" else "Export the trial again"
        raise BundleError(f"the bundle has no {which} weights", where=folder, hint=hint)
    target = resolve_device(device)
    networks = [load_network(config.config, folder / name).to(target) for name in names]
    return Bundle(folder, config, target, networks, ImageTransform(config.config.input).to(target))


def load_network(config: TrialConfig, path: Path) -> nn.Module:
    """The trial's network with the weights of a safetensors file, on the CPU, in eval mode."""
    hint = "Export the trial again"
    try:
        if (needed := _misfit(config, path)) is not None:
            raise BundleError(f"the weights do not fit the model: {needed}", where=path, hint=hint)
        network = _bare_network(config, "cpu")
        network.load_state_dict(load_file(path))
    except (SafetensorError, *_NO_NETWORK, OSError) as error:
        raise BundleError(
            f"the weights do not fit the model: {first_line(error)}", where=path, hint=hint
        ) from error
    return network.eval()


def _bare_network(config: TrialConfig, device: str) -> nn.Module:
    bare = config.model.model_copy(update={"pretrained": False})
    with torch.random.fork_rng(devices=[]), torch.device(device):
        return build_network(bare, config.input.for_model, n_classes=len(CLASSES))


def _misfit(config: TrialConfig, path: Path) -> str | None:
    """Why the weights are not those of the network, if so, by names and shapes alone: no memory is taken."""
    with open_regular(path) as file:
        size, header = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    if header > _MOST_HEADER_BYTES:
        return f"what stands before them takes {header:,} bytes"
    try:
        wanted = _bare_network(config, "meta").state_dict()
    except (NotImplementedError, RuntimeError, ModelError):
        return None  # a few backbones compute while they are built, and are not so large
    if size > (needed := sum(tensor.nbytes for tensor in wanted.values())) + _MOST_HEADER_BYTES:
        return f"they take more than {needed:,} bytes"
    with safe_open(path, framework="pt") as weights:
        there = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    if there == shapes:
        return None
    odd = min(name for name in there.keys() | shapes.keys() if there.get(name) != shapes.get(name))
    return f"{odd} has shape {there.get(odd)}, not {shapes.get(odd)}"


def read_bundle_config(folder: Path) -> BundleConfig:
    """Read and validate ``config.json``."""
    if not folder.is_dir():
        raise BundleError(
            "there is no such folder", where=folder, hint="Make a bundle with hms-tune export-best"
        )
    path = folder / _CONFIG
    hint = f"The bundle is damaged or written by another version than {__version__}; export it again"
    try:
        return read_sealed(path, BundleConfig, hint=hint)
    except OSError as error:
        raise BundleError(
            "is not a bundle: config.json cannot be read",
            where=folder,
            hint="Name the folder that hms-tune export-best wrote",
        ) from error


def seal_bundle(folder: Path, *, study: str, trial: int, config: TrialConfig) -> BundleConfig:
    """Write ``config.json`` over the files that lie in ``folder``: from here on it is a bundle."""
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.name != _CONFIG}
    unsealed = BundleConfig.model_construct(
        hms_tune=__version__,
        study=study,
        trial=trial,
        classes=CLASSES,
        config=config,
        files=files,
        sizes={name: (folder / name).stat().st_size for name in files},
    )
    sealed = BundleConfig.model_validate(unsealed.model_dump() | {"seal": seal_of(unsealed)})
    text = json.dumps(sealed.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / _CONFIG).write_text(text + "\n", encoding="utf-8")
    return sealed


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digests(folder: Path, config: BundleConfig) -> None:
    """Raise BundleError unless every file of a bundle is there as it was exported."""
    for name, digest in config.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError("is missing from the bundle", where=path, hint="Copy the whole folder again")
        if path.stat().st_size != config.sizes.get(name) or file_digest(path) != digest:
            raise BundleError(
                "differs from what was exported", where=path, hint="Copy the bundle again, or export it again"
            )
