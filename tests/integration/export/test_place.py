"""The name of a study leads to its newest bundle, and nobody else's files are touched for it."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
from bundles import write_bundle

from hms_tune.errors import UsageError
from hms_tune.export.bundle import load_bundle
from hms_tune.export.place import bundle_path, check_vacant, point_to_newest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundles"
    made.mkdir()
    return made


def test_the_link_is_relative_and_follows_the_newest(folder: Path, tmp_path: Path) -> None:
    for trial in (17, 5):
        bundle = write_bundle(bundle_path("effnet", trial, folder), networks=1)
        assert point_to_newest(bundle, "effnet") == folder / "effnet"
        assert os.readlink(folder / "effnet") == f"effnet-{trial}"
    folder.rename(tmp_path / "moved")
    assert load_bundle(tmp_path / "moved" / "effnet", device="cpu").config.study == "tiny"
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == ["effnet", "effnet-17", "effnet-5"]


def test_a_link_whose_bundle_was_removed_is_ours_still(folder: Path) -> None:
    (folder / "effnet").symlink_to("effnet-3")
    assert point_to_newest(folder / "effnet-4", "effnet") == folder / "effnet"
    assert os.readlink(folder / "effnet") == "effnet-4"


@pytest.mark.parametrize("theirs", ["../elsewhere", "other-3", "effnet-3/fold", "effnet-best", "/effnet-3"])
def test_a_link_of_somebody_else_is_left_alone(
    theirs: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "effnet").symlink_to(theirs)
    assert point_to_newest(folder / "effnet-4", "effnet") is None
    assert os.readlink(folder / "effnet") == theirs
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / 'effnet'} is not a link of export-best and is left alone; the bundle is "
        f"{folder / 'effnet-4'}"
    ]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_or_file_of_that_name_is_left_alone(kind: str, folder: Path) -> None:
    taken = folder / "effnet"
    if kind == "folder":
        write_bundle(taken, networks=1)
    else:
        taken.write_text("mine")
    before = sorted(path.name for path in folder.rglob("*"))
    assert point_to_newest(folder / "effnet-4", "effnet") is None
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert not taken.is_symlink()


def test_a_file_system_without_links_costs_the_link_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)
    assert point_to_newest(folder / "effnet-4", "effnet") is None
    assert list(folder.iterdir()) == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"no link {folder / 'effnet'}: Operation not permitted; the bundle is " in record.getMessage()


def test_another_studys_link_is_seen_before_a_trial_is_trained_again(folder: Path) -> None:
    """``bundles/effnet-17`` may be the newest of a study called ``effnet-17``, there or gone."""
    (folder / "effnet-17").symlink_to("effnet-17-3")
    with pytest.raises(UsageError, match="effnet-17: already exists"):
        check_vacant(bundle_path("effnet", 17, folder))
