"""A folder that Kaggle's own client uploads: a data set, and a notebook to predict and one to train."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from hms_tune.data.download.kaggle import COMPETITION
from hms_tune.errors import UsageError
from hms_tune.export.blend import BLEND, copy_blend
from hms_tune.export.copies import copy_bundle
from hms_tune.export.kaggle.notebooks import inference_notebook, training_notebook
from hms_tune.export.kaggle.wheel import write_wheel
from hms_tune.export.place import check_vacant
from hms_tune.machine.private_folder import private_folder

_USER = re.compile(r"[A-Za-z0-9-]+")


def write_kaggle_folder(bundle: Path, out: Path, *, user: str) -> str:
    """Write the folder; it appears when it is whole.

    Parameters
    ----------
    bundle : or a blend
    user : Kaggle's name of whoever uploads it

    Returns
    -------
    Name of the data set on Kaggle

    Raises
    ------
    BundleError
        If ``bundle`` is none, or has links or files that are not as they were sealed.
    UsageError
        If there is something at ``out``, or the name cannot be one of Kaggle's.
    """
    if not _USER.fullmatch(user):
        raise UsageError(
            f'"{user}" is no user of Kaggle', where="--user", hint="Give the name in your profile's URL"
        )
    check_vacant(out)
    private_folder(out.parent)
    with tempfile.TemporaryDirectory(
        prefix=f".{out.name}.", suffix=".unfinished", dir=out.parent, ignore_cleanup_errors=True
    ) as unfinished:
        folder = Path(unfinished) / out.name
        private_folder(folder / "dataset")
        name, manifest = _copy_model(bundle, folder / "dataset" / "bundle")
        _write(folder, f"{user}/{name}", inference_notebook(manifest))
        folder.rename(out)
    return f"{user}/{name}"


def _copy_model(model: Path, to: Path) -> tuple[str, str]:
    """Copy a bundle or a blend; returns the name of its data set, and that of its manifest."""
    if os.path.lexists(model / BLEND):
        (first, *_) = copy_blend(model, to).members
        study, trial, manifest = first.study, "blend", BLEND
    else:
        config = copy_bundle(model, to)
        study, trial, manifest = config.study, str(config.trial), "config.json"
    return f"hms-tune-{re.sub('[^a-z0-9]+', '-', study.lower()).strip('-')}-{trial}", manifest


def _write(folder: Path, dataset: str, inference: str) -> None:
    data = folder / "dataset"
    write_wheel(data)
    user, _, name = dataset.partition("/")
    described = {"title": name, "id": dataset, "licenses": [{"name": "other"}]}
    (data / "dataset-metadata.json").write_text(_text(described))
    for kind, notebook in (("inference", inference), ("training", training_notebook())):
        (folder / kind).mkdir()
        (folder / kind / f"{kind}.ipynb").write_text(notebook, encoding="utf-8")
        kernel = {
            "id": f"{user}/{name}-{kind}",
            "title": f"{name}-{kind}",
            "code_file": f"{kind}.ipynb",
            "language": "python",
            "kernel_type": "notebook",
            "is_private": True,
            "enable_gpu": True,
            "enable_internet": kind == "training",
            "dataset_sources": [dataset],
            "competition_sources": [COMPETITION],
            "kernel_sources": [],
        }
        (folder / kind / "kernel-metadata.json").write_text(_text(kernel))


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
