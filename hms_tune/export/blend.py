"""Several bundles that predict together: a folder with a copy of each, their weights and their score.

``blend.json`` names each member with its weight and its seal, and ends with its own seal; a member's own
``config.json`` names its files. So a blend is as closed as a bundle.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor

from hms_tune.config.input import InputConfig
from hms_tune.config.section import Section
from hms_tune.data.schema import CLASSES
from hms_tune.errors import BundleError
from hms_tune.export.blend_weights import Blending, choose_blend
from hms_tune.export.bundle import (
    Bundle,
    Weights,
    check_digests,
    in_batches,
    read_bundle_config,
)
from hms_tune.export.bundle import load_bundle as load_member
from hms_tune.export.copies import copy_bundle, copy_file
from hms_tune.export.out_of_fold import OutOfFoldTable, averaged, read_out_of_fold
from hms_tune.export.place import check_vacant
from hms_tune.export.sealed import MOST_BYTES, read_sealed, seal_of
from hms_tune.export.signals import Windows
from hms_tune.export.test_time import SignalChange, unchanged
from hms_tune.machine.private_folder import private_folder
from hms_tune.training.events import OutOfFold
from hms_tune.version import __version__

_logger = logging.getLogger(__name__)

BLEND = "blend.json"


class Member(Section):
    """A bundle of a blend. ``seal`` is that of its ``config.json``."""

    folder: str
    study: str
    trial: int
    weight: float
    seal: str

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if not self.folder.isascii() or not self.folder.replace("-", "").isalnum():
            raise ValueError(f"{self.folder!r} is no folder of a blend")
        if not 0.0 < self.weight <= 1.0:
            raise ValueError(f"a weight is in (0, 1], and {self.weight} is not")
        return self


class BlendConfig(Section):
    """What ``blend.json`` holds. ``score`` is a :class:`~hms_tune.export.blend_weights.Blending`, in JSON."""

    format: Literal[1] = 1
    hms_tune: str
    members: tuple[Member, ...]
    score: dict[str, Any]
    seal: str = ""

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        if not self.members or abs(sum(each.weight for each in self.members) - 1.0) > 1e-9:
            raise ValueError("the weights do not sum to 1")
        if len({each.folder for each in self.members}) < len(self.members):
            raise ValueError("a member is named twice")
        if self.seal != seal_of(self):
            raise ValueError("blend.json differs from what was written")
        return self


@dataclass(frozen=True, slots=True)
class Blend:
    """Bundles that predict together; made by :func:`load_bundle`."""

    path: Path
    config: BlendConfig
    members: Sequence[Bundle]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the columns of :meth:`predict`."""
        return CLASSES

    @property
    def device(self) -> torch.device:
        """Where it predicts."""
        return self.members[0].device

    @property
    def inputs(self) -> tuple[InputConfig, ...]:
        """What each member reads."""
        return tuple(each for member in self.members for each in member.inputs)

    @property
    def batch_size(self) -> int:
        """Windows that every member can predict at once."""
        return min(member.batch_size for member in self.members)

    def predict(
        self,
        eeg: Windows | None,
        spectrogram: Windows | None = None,
        *,
        batch_size: int = 64,
    ) -> NDArray[np.float32]:
        """As :meth:`hms_tune.export.bundle.Bundle.predict`: the weighted mean of the members."""
        return in_batches(self, eeg, spectrogram, batch_size)

    def probabilities(
        self, eeg: Tensor | None, spectrogram: Tensor | None, change: SignalChange = unchanged
    ) -> NDArray[np.float32]:
        """As :meth:`hms_tune.export.bundle.Bundle.probabilities`."""
        total = sum(
            member.weight * bundle.probabilities(eeg, spectrogram, change).astype(np.float64)
            for member, bundle in zip(self.config.members, self.members, strict=True)
        )
        return np.asarray(total, dtype=np.float32)


def load_bundle(
    path: str | os.PathLike[str], *, device: str = "auto", weights: Weights | None = None
) -> Bundle | Blend:
    """Open a bundle or a blend, check every file's digest, and build the networks.

    Parameters
    ----------
    path : the folder that ``hms-tune export-best`` or ``hms-tune blend`` wrote
    device : auto, cpu or cuda:N
    weights : ``folds`` for the ensemble of the folds, ``full`` for the network trained on all rows; by
        default the ensemble, whose score is known

    Raises
    ------
    BundleError
        If something is missing, damaged, or of another version.
    """
    folder = Path(path)
    if not (folder / BLEND).exists():
        return load_member(folder, device=device, weights=weights)
    config = read_blend_config(folder)
    members = []
    for each in config.members:
        member = load_member(folder / each.folder, device=device, weights=weights)
        if member.config.seal != each.seal:
            raise _exchanged(member.path)
        members.append(member)
    return Blend(folder, config, members)


def read_blend_config(folder: Path) -> BlendConfig:
    """Read and validate ``blend.json``."""
    path = folder / BLEND
    try:
        return read_sealed(path, BlendConfig, hint="The blend is damaged; copy or make it again")
    except OSError as error:
        raise BundleError("cannot be read", where=path, hint="Copy the blend again") from error


def write_blend(bundles: Sequence[Path], out: Path, *, most: int | None = None) -> Blending:
    """Choose weights by the bundles' out-of-fold predictions, and write those that count as one folder.

    Parameters
    ----------
    bundles : of trials of the same data and rows
    out : the blend's folder, which must not exist; it appears whole or not at all
    most : most bundles with a weight; None: as many as help

    Raises
    ------
    BundleError
        If a bundle is damaged, or their predictions are not of the same rows and votes.
    UsageError
        If ``out`` exists, or there are fewer than two patients.
    """
    check_vacant(out)
    configs = [read_bundle_config(bundle) for bundle in bundles]
    for bundle, config in zip(bundles, configs, strict=True):
        check_digests(bundle, config)
    tables = [read_out_of_fold(bundle) for bundle in bundles]
    for bundle, table in zip(bundles[1:], tables[1:], strict=True):
        _check_same_rows(bundles[0], tables[0], bundle, table)
    found = choose_blend(
        np.stack([table.probabilities for table in tables]),
        tables[0].targets,
        tables[0].patient_id,
        most=most,
    )
    taken = [place for place, weight in enumerate(found.weights) if weight > 0.0]
    members = tuple(
        Member(
            folder=f"member-{number}",
            study=configs[place].study,
            trial=configs[place].trial,
            weight=found.weights[place],
            seal=configs[place].seal,
        )
        for number, place in enumerate(taken, start=1)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        private_folder(partial)
        for member, place in zip(members, taken, strict=True):
            copy_bundle(bundles[place], partial / member.folder)
        unsealed = BlendConfig.model_construct(hms_tune=__version__, members=members, score=asdict(found))
        sealed = BlendConfig.model_validate(unsealed.model_dump(mode="json") | {"seal": seal_of(unsealed)})
        text = json.dumps(sealed.model_dump(mode="json"), indent=2) + "\n"
        (partial / BLEND).write_text(text, encoding="utf-8")
        load_bundle(partial, device="cpu")  # what was copied is what was meant
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return found


def copy_blend(blend: Path, to: Path) -> BlendConfig:
    """Copy a blend to a new folder, as :func:`~hms_tune.export.copies.copy_bundle` copies its members.

    Raises
    ------
    BundleError
        If a file is missing, a link, or not as it was sealed.
    """
    config = read_blend_config(blend)
    private_folder(to)
    copy_file(blend, PurePosixPath(BLEND), to, most=MOST_BYTES)
    for each in config.members:
        if copy_bundle(blend, to / each.folder, member=each.folder).seal != each.seal:
            raise _exchanged(blend / each.folder)
    if read_blend_config(to).seal != config.seal:
        raise BundleError("changed while it was copied", where=blend, hint="Try again")
    return config


def _exchanged(member: Path) -> BundleError:
    return BundleError("is not the bundle that was blended", where=member, hint="Copy the blend again")


def choose_trials(kept: Mapping[int, OutOfFold], *, most: int) -> list[int]:
    """The trials of a study whose blend is best, by the predictions that were kept of them.

    Parameters
    ----------
    kept : by the trials' numbers, from the best trial on; those of other rows than the first's are left out,
        which is logged
    most : most trials

    Raises
    ------
    UsageError
        If there are fewer than two patients.
    """
    numbers: list[int] = []
    tables: list[OutOfFoldTable] = []
    others: list[str] = []
    for number, predictions in kept.items():
        table = averaged(predictions)
        if not tables or np.array_equal(tables[0].eeg_id, table.eeg_id):
            numbers.append(number)
            tables.append(table)
        else:
            others.append(str(number))
    if others:
        told = "left out of the blend, judged on other rows than trial %d: trials %s"
        _logger.warning(told, numbers[0], ", ".join(others))
    weights = choose_blend(
        np.stack([table.probabilities for table in tables]),
        tables[0].targets,
        tables[0].patient_id,
        most=most,
    ).weights
    chosen = [place for place in np.argsort(weights, kind="stable")[::-1] if weights[place] > 0.0]
    return [numbers[place] for place in chosen]


def _check_same_rows(one: Path, first: OutOfFoldTable, other: Path, second: OutOfFoldTable) -> None:
    hint = "Blend bundles of one competition folder, with equal data.rows and data.min_votes"
    if not np.array_equal(first.eeg_id, second.eeg_id):
        raise BundleError(f"its out-of-fold rows are not those of {one}", where=other, hint=hint)
    if not np.allclose(first.targets, second.targets, atol=1e-6):
        raise BundleError(f"its targets are not those of {one}", where=other, hint=hint)
