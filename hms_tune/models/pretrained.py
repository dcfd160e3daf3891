"""Pretrained weights: from the model hub, or from a safetensors file. Never from a pickle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import timm
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from hms_tune.config.settings import expanded
from hms_tune.errors import PretrainedError
from hms_tune.machine.private_folder import is_writable
from hms_tune.models.backbone import make_backbone

WEIGHTS_NAME = constants.SAFETENSORS_SINGLE_FILE
"""What timm's repositories on the hub call their weights, as all of the hub's do."""

KEYS_SHOWN = 3

_HUB_ERRORS: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)
# The base of the hub's own errors is that of the HTTP client it uses, which differs between its versions.


Place = Literal["cache", "hub"]
"""Where published weights are found: on this machine, or on the hub, from where they are fetched."""


def published_weights(backbone: str) -> Path:
    """The published weights of a backbone, from the local cache or else from the hub.

    Raises
    ------
    PretrainedError
        If none are published as safetensors, or the hub cannot be reached.
    """
    repository, revision = _repository(backbone)
    if (path := _cached(repository, revision)) is not None:
        return path
    with _told(backbone, repository):
        # Asked once: a download tries again, and a search must not wait long.
        _ask(repository, revision)
        return Path(hf_hub_download(repository, WEIGHTS_NAME, revision=revision))


def place_of_weights(backbone: str) -> Place:
    """Where :func:`published_weights` finds a backbone's weights. Nothing is downloaded.

    Raises
    ------
    PretrainedError
        If none are published as safetensors, the hub cannot be reached, or there is no room for a cache.
    """
    if _cached(*_repository(backbone)) is not None:
        return "cache"
    ask_hub(backbone)
    return "hub"


def ask_hub(backbone: str) -> Path:
    """Ask the hub whether it has a backbone's weights; returns the folder where they would be kept.

    Raises
    ------
    PretrainedError
        If it does not answer or has none, or nothing can be written to the folder.
    """
    repository, revision = _repository(backbone)
    cache = Path(constants.HF_HUB_CACHE)
    if not is_writable(cache):
        raise PretrainedError(
            "nothing can be written to the cache of the model hub",
            where=cache,
            hint="Point HF_HOME at a folder of yours",
        )
    with _told(backbone, repository):
        _ask(repository, revision)
    return cache


def _repository(backbone: str) -> tuple[str, str | None]:
    """The repository of a backbone's weights on the hub, and its revision; None: the newest."""
    config = timm.get_pretrained_cfg(backbone)
    if config is None or not config.hf_hub_id:
        raise PretrainedError(
            f"no pretrained weights of {backbone} are published as safetensors",
            where="model.pretrained",
            hint=f"Set model.pretrained to false, or choose one of timm.list_pretrained('{backbone[:4]}*').",
        )
    repository, _, revision = config.hf_hub_id.partition("@")
    return repository, revision or None


def _cached(repository: str, revision: str | None) -> Path | None:
    path = try_to_load_from_cache(repository, WEIGHTS_NAME, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _ask(repository: str, revision: str | None) -> None:
    """Ask the hub whether it has the weights, within its own time-out."""
    get_hf_file_metadata(
        hf_hub_url(repository, WEIGHTS_NAME, revision=revision), timeout=constants.HF_HUB_ETAG_TIMEOUT
    )


@contextmanager
def _told(backbone: str, repository: str) -> Iterator[None]:
    """Turn what the hub's client raises into errors that say what to do."""
    where = f"model.pretrained of {backbone}"
    try:
        yield
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            raise PretrainedError(
                f"the hub's repository {repository} has no {WEIGHTS_NAME}",
                where=where,
                hint="Choose another tag of the backbone, or set model.pretrained to false.",
            ) from error
        raise _unreachable(repository, where, error) from error
    except _HUB_ERRORS as error:
        raise _unreachable(repository, where, error) from error


def _unreachable(repository: str, where: str, error: BaseException) -> PretrainedError:
    reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return PretrainedError(
        f"the model hub could not be reached for {repository} ({reason})",
        where=where,
        hint=f"Download the repository's {WEIGHTS_NAME} on a machine that reaches the hub and set"
        " model.pretrained to its path; or point HF_HOME at a cache that holds it; or set"
        " model.pretrained to false.",
    )


def with_published_weights(backbone: str, **arguments: Any) -> nn.Module:
    """Build a backbone with its published weights; timm adapts them to the number of input channels.

    Parameters
    ----------
    backbone : timm model name
    **arguments : passed on to :func:`make_backbone`

    Raises
    ------
    PretrainedError
        If the weights are out of reach or do not fit.
    """
    path = published_weights(backbone)
    try:
        return make_backbone(backbone, weights=path, **arguments)
    except (RuntimeError, SafetensorError) as error:
        raise PretrainedError(
            f"the published weights of {backbone} do not fit it ({str(error).partition(chr(10))[0]})",
            where=path,
            hint="Delete the file if it may be damaged, or set model.pretrained to false.",
        ) from error


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Load a backbone's weights from a safetensors file: timm's own, or those of a trained network.

    Every tensor of the backbone must be there with its shape and finite numbers, and nothing else but a
    classifier. The first convolution is summed over colours where the backbone has one input channel.

    Raises
    ------
    PretrainedError
        If the file is missing, of another kind, damaged, quantized, or for another backbone.
    """
    weights = _without_classifier(_read(expanded(path, where="model.pretrained")), backbone)
    expected = backbone.state_dict()
    for name in _names(backbone, "first_conv"):
        key = f"{name}.weight"
        if key in weights and key in expected and weights[key].shape != expected[key].shape:
            weights[key] = _adapted(weights[key], expected[key])
    both = [key for key in expected if key in weights]
    misfits = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unknown": sorted(weights.keys() - expected.keys()),
        "of another shape": [key for key in both if weights[key].shape != expected[key].shape],
        "of whole numbers": [
            key for key in both if expected[key].is_floating_point() > weights[key].is_floating_point()
        ],
        "with NaN or infinity": [key for key in both if not weights[key].isfinite().all()],
    }
    described = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in misfits.items() if keys]
    if described:
        raise PretrainedError(
            f"the weights do not fit the backbone: {'; '.join(described)}",
            where=path,
            hint=_prefix_hint(weights, expected) or "Use the file that belongs to model.backbone.",
        )
    backbone.load_state_dict(weights, strict=True)


def _prefix_hint(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> str | None:
    """What to do where every name has something before it, as wrappers of networks write them."""
    first = next(iter(expected))
    prefix = next((key.removesuffix(first) for key in weights if key.endswith(f".{first}")), "")
    if not prefix or not all(f"{prefix}{key}" in weights for key in expected):
        return None
    return f'Its names begin with "{prefix}": save it anew with names without that.'


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        raise PretrainedError(
            f"weights are read from .safetensors files only, not {path.suffix or 'files without a suffix'}",
            where=path,
            hint="A pickle can run code; convert one that you trust with safetensors.torch.save_file.",
        )
    if not path.is_file():
        raise PretrainedError(
            "no such file", where=path, hint="Set model.pretrained to a file, true or false."
        )
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise PretrainedError(
            f"not a readable safetensors file ({error})", where=path, hint="Download the file again."
        ) from error
    return weights


def _without_classifier(weights: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The backbone's tensors; in a trained network's file they have a prefix, and the head lies beside."""
    if any(key.startswith("backbone.") for key in weights):
        return {
            key.removeprefix("backbone."): tensor
            for key, tensor in weights.items()
            if key.startswith("backbone.")
        }
    classifiers = tuple(f"{name}." for name in _names(backbone, "classifier"))
    return {key: tensor for key, tensor in weights.items() if not key.startswith(classifiers)}


def _names(backbone: nn.Module, key: str) -> Iterable[str]:
    """Module names that timm's configuration of a backbone gives under ``key``: none, one or several."""
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}
    value = config.get(key) or ()
    return (value,) if isinstance(value, str) else tuple(value)


def _adapted(weight: Tensor, expected: Tensor) -> Tensor:
    """A convolution over colours for another number of input channels; itself where that cannot be."""
    if weight.ndim != 4 or weight.shape[1] != 3:
        return weight
    adapted: Tensor = adapt_input_conv(expected.shape[1], weight)
    return adapted


def _first(keys: list[str]) -> str:
    shown = ", ".join(keys[:KEYS_SHOWN])
    return shown if len(keys) <= KEYS_SHOWN else f"{shown}, …"
