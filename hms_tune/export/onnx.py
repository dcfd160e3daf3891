"""The ensemble as one ONNX graph, checked against torch.

The graph begins at the image: it takes what :class:`~hms_tune.signals.image.ImageTransform` makes, because
FFTs and resampling differ between runtimes far more than convolutions do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hms_tune.config.trial import LossName
from hms_tune.errors import BundleError
from hms_tune.models.losses import probabilities

OPSET = 18
"""The dynamo exporter's own operator set; higher ones are converted from it, and nothing here needs them."""

TOLERANCE = 1e-4
"""Largest difference from torch, in probability, that is accepted."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class OnnxUnavailableError(BundleError):
    """The packages of the ``onnx`` extra are not installed."""


@dataclass(frozen=True, slots=True)
class OnnxCheck:
    """How the written graph compares with torch on real images."""

    opset: int
    images: int
    max_abs_difference: float


class Ensemble(nn.Module):
    """Mean class probabilities of several networks."""

    def __init__(self, networks: Sequence[nn.Module], loss: LossName) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.loss = loss

    def forward(self, image: Tensor) -> Tensor:
        """Images ``(batch, channels, height, width)`` to probabilities ``(batch, 6)``."""
        parts = [probabilities(network(image), self.loss) for network in self.networks]
        return torch.stack(parts).mean(dim=0)


def export_onnx(networks: Sequence[nn.Module], loss: LossName, images: Tensor, path: Path) -> OnnxCheck:
    """Write ``image → probabilities`` with a free batch size, and compare it with torch.

    Parameters
    ----------
    networks : on the CPU
    loss : the training loss, which says what logits mean
    images : float32 tensor, shape (n_images, channels, height, width), real ones, at least two

    Raises
    ------
    OnnxUnavailableError
        If the ``onnx`` extra is not installed.
    BundleError
        If the network cannot be exported, or the graph computes something else. No file is left then.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise OnnxUnavailableError(
            f"no model.onnx: {', '.join(missing)} not installed", hint="Run pip install 'hms-tune[onnx]'"
        )
    ensemble = Ensemble(networks, loss).eval()
    try:
        with _quiet():
            program = torch.onnx.export(
                ensemble,
                (images[:2].contiguous(),),
                input_names=["image"],
                output_names=["probabilities"],
                dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        assert program is not None  # the dynamo exporter always returns one
        program.save(path, external_data=False)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        path.unlink(missing_ok=True)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BundleError(f"no model.onnx: torch cannot export this network: {reason}") from error
    return _checked(ensemble, images, path)


def _checked(ensemble: Ensemble, images: Tensor, path: Path) -> OnnxCheck:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = ensemble(images).numpy()
    whole = session.run(None, {"image": images.numpy()})[0]
    single = session.run(None, {"image": images[:1].numpy()})[0]
    difference = float(max(np.abs(whole - expected).max(), np.abs(single - expected[:1]).max()))
    if not difference <= TOLERANCE:
        path.unlink()
        raise BundleError(f"no model.onnx: it differs from torch by {difference:.2g} in probability")
    return OnnxCheck(opset=OPSET, images=len(images), max_abs_difference=difference)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of its own internals."""
    onnx_logger = logging.getLogger("torch.onnx")
    level = onnx_logger.level
    onnx_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        onnx_logger.setLevel(level)
