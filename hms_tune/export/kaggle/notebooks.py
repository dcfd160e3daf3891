"""The two notebooks: their cells, and the file that Jupyter reads."""

from __future__ import annotations

import json
from collections.abc import Sequence

_FIND = '''
from pathlib import Path

INPUT = Path("/kaggle/input")
WORKING = Path("/kaggle/working")


def found(pattern):
    """The newest input of that name, wherever Kaggle mounts it."""
    paths = sorted(INPUT.glob(f"**/{pattern}"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise FileNotFoundError(f"no {pattern} among the inputs of this notebook: add it on the right")
    return paths[-1]


COMPETITION = found("test.csv").parent
WHEEL = found("hms_tune-*.whl")
'''

_INFERENCE = (
    """# Predict with a bundle or a blend of hms_tune
Everything comes from the inputs; the internet is off. The result is `submission.csv`.""",
    _FIND
    + """BUNDLE = found("bundle/{manifest}").parent
print(COMPETITION, WHEEL, BUNDLE, sep="\\n")
""",
    """
import subprocess
import sys

# Kaggle's image has what predicting needs; nothing else of the program's requirements is installed.
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
subprocess.run([*pip, str(WHEEL)], check=True)
""",
    """
import hms_tune
from hms_tune.export.predict import predict

predict(hms_tune.load_bundle(BUNDLE), COMPETITION, out=WORKING / "submission.csv")
""",
    """
import pandas as pd

submission = pd.read_csv(WORKING / "submission.csv")
assert set(submission["eeg_id"]) == set(pd.read_csv(COMPETITION / "test.csv")["eeg_id"])
submission.head()
""",
)

_TRAINING = (
    """# Search on Kaggle, twelve hours at a time
Turn the internet on and choose a GPU. Each session goes on with the study of the last one: after *Save
Version*, add this notebook's own output to its inputs and save again. When the study is over, the output has
a folder `kaggle` to predict with.""",
    _FIND
    + """
HOURS = 11.0  # Kaggle ends a session after twelve, and what is not saved by then is lost
STUDY = "effnet"  # a study that comes with hms_tune, or a file: found("mine.yaml")
""",
    """
import subprocess
import sys

subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", str(WHEEL)], check=True)
""",
    """
import os

# The data stands still in a folder that cannot be written; what is prepared goes beside links to it.
scratch = Path("/kaggle/tmp")
data = scratch / "hms"
data.mkdir(parents=True, exist_ok=True)
for each in COMPETITION.iterdir():
    if not (data / each.name).exists():
        (data / each.name).symlink_to(each)
os.environ["HMS_TUNE_HOME"] = str(scratch / "home")
os.environ["HMS_TUNE_DATA"] = str(data)
os.environ.setdefault("WANDB_MODE", "offline")


def hms_tune(*words, **options):
    return subprocess.Popen([sys.executable, "-m", "hms_tune", *map(str, words)], cwd=WORKING, **options)


def done(*words):
    assert hms_tune(*words).wait() == 0, words
""",
    """
saved = sorted(INPUT.glob("**/study.zip"), key=lambda path: path.stat().st_mtime)
if saved:
    done("study", "load", saved[-1])
""",
    """
worker = hms_tune("worker", STUDY)
try:
    status = worker.wait(timeout=3600 * HOURS)
except subprocess.TimeoutExpired:
    worker.terminate()  # trials are handed back with their checkpoints
    status = worker.wait()
assert status in (0, 75), f"the worker ended with status {status}: read what it said above"
""",
    """
from hms_tune.config.study_file import load_study_file

name = load_study_file(str(STUDY)).study
done("status", name)
done("study", "save", name, WORKING / "study.zip")
if status == 0:  # the study is over
    done("export-best", name, "--out", WORKING / "bundle")
    done("kaggle", WORKING / "bundle", WORKING / "kaggle")
""",
)


def inference_notebook(manifest: str) -> str:
    """Installs the program without a network and writes ``submission.csv``.

    Parameters
    ----------
    manifest : the file that a bundle's folder, or a blend's, is known by
    """
    return _notebook([cell.replace("{manifest}", manifest) for cell in _INFERENCE])


def training_notebook() -> str:
    """Goes on with a study for a session, and saves it for the next."""
    return _notebook(_TRAINING)


def _notebook(cells: Sequence[str]) -> str:
    """A file of Jupyter's format 4: a heading, then code."""
    heading, *code = cells
    content = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "cells": [
            {"id": "heading", "cell_type": "markdown", "metadata": {}, "source": heading},
            *(
                {
                    "id": f"cell-{number}",
                    "cell_type": "code",
                    "metadata": {},
                    "execution_count": None,
                    "outputs": [],
                    "source": source.strip(),
                }
                for number, source in enumerate(code)
            ),
        ],
    }
    return json.dumps(content, indent=1) + "\n"
