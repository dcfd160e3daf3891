"""What goes to Kaggle: the files that were sealed, each as it was, of a bundle or of a blend."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hms_tune
from hms_tune.errors import BundleError, UsageError
from hms_tune.export.blend import BLEND, write_blend
from hms_tune.export.kaggle.folder import write_kaggle_folder
from tests.bundles import predictions, sealed, write_bundle


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two bundles, and of their blend."""
    folder = tmp_path_factory.mktemp("bundles")
    bundle = write_bundle(folder / "tiny", oof={"oof.parquet": predictions(5)})
    other = write_bundle(folder / "other", trial=6, oof={"oof.parquet": predictions(6)})
    write_blend([bundle, other], folder / "blend")
    return folder


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written / "tiny", tmp_path / "tiny"))


@pytest.fixture
def blend(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written / "blend", tmp_path / "blend"))


def content(folder: Path) -> dict[str, bytes]:
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def notebook(out: Path) -> str:
    cells = json.loads((out / "inference/inference.ipynb").read_text())["cells"]
    return "\n".join(cell["source"] for cell in cells)


def test_the_sealed_files_go_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    before = content(bundle)
    (bundle / "notes.txt").write_text("PRIVATE")
    (bundle / "more").symlink_to("/etc")
    out = tmp_path / "new" / "out"
    assert write_kaggle_folder(bundle, out, user="somebody") == "somebody/hms-tune-tiny-5"
    assert content(out / "dataset/bundle") == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert 'found("bundle/config.json")' in notebook(out)


def test_a_blend_goes_whole_and_the_notebook_predicts_with_it(blend: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write_kaggle_folder(blend, out, user="somebody") == "somebody/hms-tune-tiny-blend"
    assert content(out / "dataset/bundle") == content(blend)
    assert len(list((out / "dataset/bundle").glob("member-*"))) == 2
    kernel = json.loads((out / "inference/kernel-metadata.json").read_text())
    assert kernel["dataset_sources"] == ["somebody/hms-tune-tiny-blend"]

    source = notebook(out)
    finding, opening = 'BUNDLE = found("bundle/blend.json").parent', "hms_tune.load_bundle(BUNDLE)"
    assert finding in source
    assert opening in source
    found = next((out / "dataset").glob("**/bundle/blend.json")).parent
    eeg = np.random.default_rng(7).normal(0, 30, (2, 10_000, 20)).astype(np.float32)
    expected = hms_tune.load_bundle(blend, device="cpu").predict(eeg)
    np.testing.assert_array_equal(hms_tune.load_bundle(found, device="cpu").predict(eeg), expected)


def linked(path: Path) -> None:
    there = path.rename(path.with_name("elsewhere"))
    path.symlink_to(there)


def changed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"?")


def missing(path: Path) -> None:
    path.unlink()


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [linked, changed, longer, missing, piped])
@pytest.mark.parametrize("kind", ["bundle", "blend"])
def test_a_file_that_is_a_link_or_was_changed_is_named_and_nothing_is_written(
    damage: Callable[[Path], None], kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(kind)
    file = model / ("fold_0.safetensors" if kind == "bundle" else "member-2/fold_0.safetensors")
    damage(file)
    with pytest.raises(BundleError) as caught:
        write_kaggle_folder(model, tmp_path / "out", user="somebody")
    assert caught.value.where == str(file)
    assert caught.value.hint is not None
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize("name", ["config.json", BLEND, "member-1", "member-1/config.json"])
def test_a_link_in_place_of_a_manifest_or_a_member_is_refused(
    name: str, bundle: Path, blend: Path, tmp_path: Path
) -> None:
    model = bundle if name == "config.json" else blend
    linked(model / name)
    with pytest.raises(BundleError, match="cannot be copied as a file of its own"):
        write_kaggle_folder(model, tmp_path / "out", user="somebody")
    assert not (tmp_path / "out").exists()


def test_an_exchanged_member_of_a_blend_is_refused(blend: Path, tmp_path: Path) -> None:
    config = blend / "member-1" / "config.json"
    config.write_text(sealed(json.loads(config.read_text()) | {"trial": 9}))
    with pytest.raises(BundleError, match="member-1: is not the bundle that was blended"):
        write_kaggle_folder(blend, tmp_path / "out", user="somebody")


def test_the_link_of_a_study_leads_to_its_newest_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "effnet").symlink_to(bundle.name)
    write_kaggle_folder(tmp_path / "effnet", tmp_path / "out", user="somebody")
    assert content(tmp_path / "out/dataset/bundle") == content(bundle)


def test_a_place_that_is_taken_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        write_kaggle_folder(bundle, tmp_path / "out", user="somebody")
