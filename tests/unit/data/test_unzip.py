"""Archives that mean harm write nothing outside the folder, and nothing at all before they are judged."""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hms_tune.data.download.unzip import ArchiveError, Limits, size, unpack
from hms_tune.errors import DownloadError

Build = Callable[[zipfile.ZipFile], None]


def zipped(path: Path, *builds: Build, sound: bool = True) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore", UserWarning)  # of duplicate names
        if sound:
            archive.writestr("train.csv", "eeg_id\n1\n")
        for build in builds:
            build(archive)
    return path


def named(name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644, method: int = 8) -> Build:
    def build(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name  # the constructor would tidy it up
        info.external_attr, info.create_system, info.compress_type = mode << 16, 3, method
        archive.writestr(info, content)

    return build


def both(*builds: Build) -> Build:
    def build(archive: zipfile.ZipFile) -> None:
        for one in builds:
            one(archive)

    return build


OUT = "leads out of the folder"
NAME = "has a name that is no file name everywhere"
LINK = "is a link or a device, not a plain file"

HARMFUL: dict[str, tuple[Build, str]] = {
    "parent": (named("../evil"), OUT),
    "parent inside": (named("train_eegs/../../evil"), OUT),
    "parent at the end": (named("train_eegs/.."), OUT),
    "absolute": (named("/tmp/hms-tune-evil"), OUT),
    "two slashes": (named("//host/share"), OUT),
    "empty part": (named("train_eegs//1.parquet"), OUT),
    "dot": (named("./train_eegs/1.parquet"), OUT),
    "parent folder": (named("../evil/", b"", stat.S_IFDIR | 0o755), OUT),
    "backslashes": (named("..\\..\\evil"), NAME),
    "drive": (named("C:/evil"), NAME),
    "stream": (named("train.csv:evil"), NAME),
    "line break": (named("train\n.csv"), NAME),
    "escape code": (named("\x1b[2Jtrain"), NAME),
    "long name": (named("a" * 300), "has a name that is too long"),
    "long path": (named("/".join(["a" * 200] * 6)), "has a name that is too long"),
    "link to a file": (named("link", b"/etc/passwd", stat.S_IFLNK | 0o777), LINK),
    "link to a folder": (named("train_eegs", b"/tmp", stat.S_IFLNK | 0o777), LINK),
    "link that looks like a folder": (named("train_eegs/", b"/tmp", stat.S_IFLNK | 0o777), LINK),
    "device": (named("null", b"", stat.S_IFCHR | 0o666), LINK),
    "pipe": (named("pipe", b"", stat.S_IFIFO | 0o666), LINK),
    "twice": (both(named("a"), named("a")), "stands there twice"),
    "twice but for its case": (both(named("a/B"), named("A/b")), "stands there twice"),
    "file and folder": (both(named("a"), named("a/b")), "lies in a file"),
    "another method": (named("a", b"x", method=zipfile.ZIP_LZMA), "is compressed in a way"),
    "bomb": (named("zeros", bytes(3_000_000)), "it unpacks to 3,000,009 bytes, more than 1,000,000"),
    "many small bombs": (
        both(*(named(f"zeros-{number}", bytes(60_000)) for number in range(20))),
        "it unpacks to 1,200,009 bytes, more than 1,000,000",
    ),
    "very many files": (
        both(*(named(f"{number}", b"") for number in range(60))),
        "it holds 61 entries, more than 50",
    ),
    "huge directory": (
        both(*(named(f"{'n' * 200}-{number}", b"") for number in range(45))),
        "its directory takes",
    ),
}

SMALL = Limits(files=50, bytes=1_000_000, directory_bytes=10_000, spare_bytes=0)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", HARMFUL)
def test_a_harmful_archive_is_refused_before_a_byte_is_written(tmp_path: Path, name: str) -> None:
    build, why = HARMFUL[name]
    archive = zipped(tmp_path / "archive.zip", build)
    (tmp_path / "inner").mkdir()
    with pytest.raises(ArchiveError) as refusal:
        unpack(archive, tmp_path / "inner/files", limits=SMALL)
    assert why in refusal.value.what
    assert refusal.value.what.startswith("the archive is not safe to unpack: ")
    assert refusal.value.where == str(archive)
    assert "\n" not in str(refusal.value)
    assert "\x1b" not in str(refusal.value)
    assert everything(tmp_path) == ["archive.zip", "inner"]
    assert not Path("/tmp/hms-tune-evil").exists()


def test_a_name_hidden_behind_a_zero_byte_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "archive.zip", named("train_XX/../evil"))
    content = archive.read_bytes().replace(b"train_XX/../evil", b"train.cs\x00/../evi")
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"leads out of the folder|no file name everywhere"):
        unpack(archive, tmp_path / "files")
    assert everything(tmp_path) == ["archive.zip"]


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "archive.zip", named("secret"))
    content = bytearray(archive.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match="is encrypted"):
        unpack(archive, tmp_path / "files")


@pytest.mark.parametrize("claimed", [10, 200_000])
def test_an_entry_that_lies_about_its_size_is_found_out_and_never_exceeds_it(
    tmp_path: Path, claimed: int
) -> None:
    archive = zipped(tmp_path / "archive.zip", named("zeros", bytes(100_000)))
    content = bytearray(archive.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<L", claimed)
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match="not a whole zip archive: 'zeros'"):
        unpack(archive, tmp_path / "files")
    assert (tmp_path / "files/zeros").stat().st_size <= claimed


def test_permissions_of_the_archive_are_not_taken_over(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "archive.zip", named("run", b"#!/bin/sh", stat.S_IFREG | 0o6777))
    unpack(archive, tmp_path / "files")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "files/run").stat().st_mode) == 0o666 & ~mask


def test_files_arrive_whole_with_progress_and_without_a_folder_around_them(tmp_path: Path) -> None:
    content = {f"hms/train_eegs/{number}.parquet": os.urandom(3_000) for number in range(20)}
    content["hms/test.csv"] = b"eeg_id\n"
    archive = zipped(
        tmp_path / "archive.zip",
        named("hms/", b"", stat.S_IFDIR | 0o755),
        *(named(name, data) for name, data in content.items()),
        sound=False,
    )
    told: list[tuple[int, int]] = []
    unpack(archive, tmp_path / "files", progress=lambda done, total: told.append((done, total)))
    for name, data in content.items():
        assert (tmp_path / "files" / name.removeprefix("hms/")).read_bytes() == data
    assert told == [(done, 21) for done in range(1, 22)]


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "archive.zip", named("titanic/gender_submission.csv"), sound=False)
    with pytest.raises(ArchiveError, match=r"another archive: it holds neither train\.csv nor test\.csv"):
        unpack(archive, tmp_path / "files")


def test_a_damaged_archive_says_so(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "whole.zip", named("a", os.urandom(50_000))).read_bytes()
    cases = {
        "empty": b"",
        "text": b"<html>Sign in</html>",
        "cut": whole[:-1_000],
        "only an end": whole[-22:],
        "flipped": whole[:20_000] + bytes([whole[20_000] ^ 1]) + whole[20_001:],
    }
    for name, content in cases.items():
        archive = tmp_path / f"{name}.zip"
        archive.write_bytes(content)
        with pytest.raises(ArchiveError, match="not a whole zip archive"):
            unpack(archive, tmp_path / f"{name} files")


def test_an_archive_of_more_than_four_gigabytes_is_judged_by_its_long_directory(tmp_path: Path) -> None:
    """The end record of a long archive holds ones; the true size of its directory is in another record."""
    archive = zipped(tmp_path / "archive.zip")
    content = archive.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 2**40, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    long_end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    archive.write_bytes(content[:end] + record + locator + long_end)
    with pytest.raises(ArchiveError, match="its directory takes 1,099,511,627,776 bytes"):
        unpack(archive, tmp_path / "files")


def test_a_long_archive_is_unpacked(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, archive.open("train.csv", "w", force_zip64=True) as entry:
        entry.write(b"eeg_id\n")
    (tmp_path / "archive.zip").write_bytes(stream.getvalue())
    unpack(tmp_path / "archive.zip", tmp_path / "files")
    assert (tmp_path / "files/train.csv").read_bytes() == b"eeg_id\n"


def test_a_full_disk_is_found_before_a_byte_is_written(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "archive.zip")
    with pytest.raises(DownloadError, match=r"unpacked the files take 9 bytes, and the disk has .* free"):
        unpack(archive, tmp_path / "files", limits=Limits(spare_bytes=2**60))
    assert everything(tmp_path) == ["archive.zip"]


def test_sizes_read_as_a_person_says_them() -> None:
    assert [size(n) for n in (999, 1_500, 2_300_000, 19_800_000_000)] == [
        "999 bytes",
        "1.5 kB",
        "2.3 MB",
        "19.8 GB",
    ]
