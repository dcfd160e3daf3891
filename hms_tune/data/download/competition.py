"""The competition's files, from Kaggle or from its archive, into a folder that is complete or not there.

Everything happens beside the folder, in ``<folder>.partial``: the archive arrives there piece by piece, is
unpacked there, and the result is renamed. A run that was ended in any way is continued by the next.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hms_tune.data.download.http import fetch, is_whole
from hms_tune.data.download.kaggle import find_credentials, open_archive
from hms_tune.data.download.unzip import ArchiveError, refuse_full_disk, size, unpack
from hms_tune.data.files.competition import Competition
from hms_tune.data.files.lock import exclusive
from hms_tune.errors import DownloadError
from hms_tune.machine.private_folder import private_folder
from hms_tune.machine.progress import ProgressCallback

_UNPACKED_SHARE = 4 / 3
"""Size of the competition's files over that of its archive: 26.4 GB over 19.8 GB."""

_REPLACEABLE = frozenset(
    {
        *("train.csv", "test.csv", "sample_submission.csv", "oracle.parquet", "example_figures"),
        *("train_eegs", "test_eegs", "train_spectrograms", "test_spectrograms", "store", "store.lock"),
    }
)
"""What may lie in a folder that ``--force`` replaces: what is downloaded, synthesized or prepared."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told how a download goes on.

    Parameters
    ----------
    fetching : told how many of how many bytes have arrived
    unpacking : told how many of how many files are unpacked
    """

    fetching: ProgressCallback | None = None
    unpacking: ProgressCallback | None = None


def download(
    root: Path,
    *,
    from_zip: Path | None = None,
    force: bool = False,
    watch: Watch | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Competition:
    """Fetch the competition from Kaggle, or take its archive, and unpack it.

    Parameters
    ----------
    root : the folder to make; it must not exist, or be empty
    from_zip : the archive, for those who have it; it is left as it is
    force : replace a competition folder that is there, once the new one is complete
    watch : who is told how it goes on
    sleep : waits some seconds between attempts

    Returns
    -------
    The folder, complete.

    Raises
    ------
    DownloadError
        If Kaggle's client, credentials or consent to the rules are missing, if the connection is lost, if the
        disk has no room, if the archive is not safe, or if something else lies at ``root``.
    """
    root, watch = Path(root).resolve(), watch or Watch()
    _refuse_occupied(root, force)
    if from_zip is not None and not from_zip.is_file():
        raise DownloadError("there is no such archive", where=from_zip, hint="Check the path")
    partial = root.with_name(root.name + ".partial")
    with _locked(root, partial):
        _refuse_occupied(root, force)  # another download may just have finished
        archive = from_zip or partial / "archive.zip"
        if from_zip is None and not is_whole(archive):
            _fetch(archive, watch.fetching, sleep)
        _unpack(archive, partial, watch.unpacking, ours=from_zip is None)
        _put_in_place(partial, root)
    return Competition.open(root)


def _refuse_occupied(root: Path, force: bool) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise DownloadError("a file is there", where=root, hint="Name a folder")
    if os.path.ismount(root):
        what = "this is the top of a disk or volume, which cannot be put in place at once"
        raise DownloadError(what, where=root, hint="Name a folder inside it")
    names = sorted(entry.name for entry in root.iterdir())
    if not names:
        return
    if not force:
        hint = "Check it with `hms-tune data check`, name another folder, or replace it with --force"
        raise DownloadError("the folder is there already and is not empty", where=root, hint=hint)
    if strange := [name for name in names if name not in _REPLACEABLE]:
        what = f"the folder holds {strange[0]}, which is no part of a competition"
        raise DownloadError(what, where=root, hint="Move it elsewhere; --force would remove it")


@contextmanager
def _locked(root: Path, partial: Path) -> Iterator[None]:
    """One download of a folder at a time. Folders made here go again if they stay empty."""
    made = [folder for folder in root.parents if not folder.exists()]
    try:
        private_folder(root.parent)
        with exclusive(root.with_name(root.name + ".partial.lock")):
            yield
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise DownloadError(what, where=root, hint="Name a writable place with enough room") from error
    finally:
        for folder in [partial, *made]:
            with suppress(OSError):
                folder.rmdir()


def _fetch(archive: Path, progress: ProgressCallback | None, sleep: Callable[[float], None]) -> None:
    credentials = find_credentials()

    def before(missing: int, whole: int) -> None:
        unpacked = round(whole * _UNPACKED_SHARE)
        why = f"{size(missing)} are to be downloaded, and unpacked they take about {size(unpacked)} more"
        refuse_full_disk(archive.parent.parent, missing + unpacked, why)

    fetch(lambda: open_archive(credentials), archive, before=before, sleep=sleep, progress=progress)


def _unpack(archive: Path, partial: Path, progress: ProgressCallback | None, *, ours: bool) -> None:
    files = partial / "files"
    shutil.rmtree(files, ignore_errors=True)
    private_folder(partial, links=False)
    try:
        unpack(archive, files, progress=progress)
    except BaseException as error:
        at_fault = ours and isinstance(error, ArchiveError)  # going on from it would fail again
        shutil.rmtree(partial if at_fault else files, ignore_errors=True)
        raise


def _put_in_place(partial: Path, root: Path) -> None:
    """Rename the finished folder; one that is replaced goes only then."""
    if root.exists():
        root.rename(partial / "old")
    (partial / "files").rename(root)
    shutil.rmtree(partial, ignore_errors=True)
