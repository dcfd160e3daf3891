"""A folder that Kaggle's own client uploads: a data set, and a notebook to predict and one to train."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from hms_tune.data.download.kaggle import COMPETITION
from hms_tune.errors import UsageError
from hms_tune.export.bundle import read_bundle_config
from hms_tune.export.kaggle.notebooks import inference_notebook, training_notebook
from hms_tune.export.kaggle.wheel import write_wheel

_USER = re.compile(r"[A-Za-z0-9-]+")


def write_kaggle_folder(bundle: Path, out: Path, *, user: str) -> str:
    """Write the folder; it appears when it is whole.

    Parameters
    ----------
    user : Kaggle's name of whoever uploads it

    Returns
    -------
    Name of the data set on Kaggle

    Raises
    ------
    BundleError
        If ``bundle`` is none.
    UsageError
        If there is something at ``out``, or the name cannot be one of Kaggle's.
    """
    if not _USER.fullmatch(user):
        raise UsageError(
            f'"{user}" is no user of Kaggle', where="--user", hint="Give the name in your profile's URL"
        )
    if os.path.lexists(out):
        raise UsageError("there is something already", where=out, hint="Remove it, or name another folder")
    config = read_bundle_config(bundle)
    name = f"hms-tune-{re.sub('[^a-z0-9]+', '-', config.study.lower()).strip('-')}-{config.trial}"
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    try:
        _write(unfinished, bundle, list(config.files), f"{user}/{name}")
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return f"{user}/{name}"


def _write(folder: Path, bundle: Path, files: list[str], dataset: str) -> None:
    data = folder / "dataset"
    (data / "bundle").mkdir(parents=True)
    for name in ("config.json", *files):
        shutil.copyfile(bundle / name, data / "bundle" / name)
    write_wheel(data)
    user, _, name = dataset.partition("/")
    described = {"title": name, "id": dataset, "licenses": [{"name": "other"}]}
    (data / "dataset-metadata.json").write_text(_text(described))
    for kind, notebook in (("inference", inference_notebook()), ("training", training_notebook())):
        (folder / kind).mkdir()
        (folder / kind / f"{kind}.ipynb").write_text(notebook)
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
