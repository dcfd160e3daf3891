"""A checkpoint is whole or it is not there."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from hms_tune.errors import CheckpointError
from hms_tune.training.checkpoint import (
    read_checkpoint,
    read_newest_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)


def state(number: int) -> dict:
    return {"number": number, "weights": torch.full((40,), float(number))}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 3, state(3))
    loaded = read_checkpoint(path)
    assert loaded["number"] == 3
    assert torch.equal(loaded["weights"], torch.full((40,), 3.0))


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        write_checkpoint(tmp_path, number, state(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-000003.pt",
        "checkpoint-000004.pt",
    ]


def test_corrupt_or_truncated_checkpoint_is_found_at_every_flipped_bit_and_cut(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 0, state(0))
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(5000 if os.environ.get("HMS_TUNE_FAULTS_LONG") == "1" else 200):  # make faults
        position, bit = draw.randrange(len(whole)), draw.randrange(8)
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)
        path.write_bytes(whole[: draw.randrange(len(whole))])
        with pytest.raises(CheckpointError, match="damaged"):
            verify_checkpoint(path)


def test_corrupt_newest_checkpoint_falls_back_on_the_one_before(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 0, state(0))
    newest = write_checkpoint(tmp_path, 1, state(1))
    newest.write_bytes(newest.read_bytes()[:-1])
    loaded = read_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["number"] == 0


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert read_newest_checkpoint(tmp_path / "nowhere") is None


def test_a_foreign_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "executed").touch, ())

    path = tmp_path / "checkpoint-000000.pt"
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, 0, state(0))

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_checkpoint(tmp_path, 1, state(1))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000.pt"]
    loaded = read_newest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded["number"] == 0


def test_a_checkpoint_that_unpacks_to_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 0, {"weights": torch.zeros(1 << 20)})
    head = path.read_bytes().index(b"PK")
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(path.read_bytes()[head:])) as stored,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for entry in stored.infolist():
            deflated.writestr(entry.filename, stored.read(entry))
    magic = path.read_bytes()[: head - 32]
    path.write_bytes(magic + hashlib.sha256(packed.getvalue()).digest() + packed.getvalue())
    verify_checkpoint(path)
    with pytest.raises(CheckpointError, match="holds other things"):
        read_checkpoint(path)
