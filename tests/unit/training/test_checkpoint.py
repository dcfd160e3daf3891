"""A checkpoint is whole or it is not there."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from hms_tune.errors import CheckpointError
from hms_tune.training.checkpoint import (
    contents_checked,
    read_checkpoint,
    read_newest_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from hms_tune.training.progress import Progress


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


def written(path: Path, pickled: bytes, entries: dict[str, bytes]) -> Path:
    """A checkpoint with a sound digest around a pickle that somebody composed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, each in {"data.pkl": pickled, "version": b"3\n", **entries}.items():
            archive.writestr(f"archive/{name}", each)
    payload = content.getvalue()
    path.write_bytes(b"hms-tune checkpoint 1\n" + hashlib.sha256(payload).digest() + payload)
    return path


def a_tensor(shape: str, strides: str, stored: int = 4) -> bytes:
    """The pickle of a state with one tensor of an entry of ``stored`` floats."""
    arguments = f"((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI{stored}\ntQI0\n{shape}{strides}I00\n"
    arguments += "ccollections\nOrderedDict\n)Rt"
    return f"(dVweights\nctorch._utils\n_rebuild_tensor_v2\n{arguments}Rs.".encode()


def binary(pickled: bytes) -> bytes:
    """The same with the steps that ``torch.save`` writes in place of the legible ones."""
    steps = [(step.name, argument) for step, argument, _ in pickletools.genops(pickled)]
    made = {
        "UNICODE": lambda text: b"X" + struct.pack("<I", len(text)) + text.encode(),
        "INT": lambda n: b"\x89" if n is False else b"\x8a\x08" + n.to_bytes(8, "little", signed=True),
        "GLOBAL": lambda name: b"c" + name.replace(" ", "\n").encode() + b"\n",
    }
    codes = {step.name: step.code.encode("latin1") for step in pickletools.opcodes}
    codes |= {"DICT": b"", "MARK": b"("}
    body = b"".join(made[name](argument) if name in made else codes[name] for name, argument in steps)
    return b"\x80\x02" + body.replace(b"(", b"}", 1)


MEMORY = """
import resource, sys
from pathlib import Path
from hms_tune.errors import CheckpointError
from hms_tune.training.checkpoint import read_checkpoint
taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for name in sys.argv[1:]:
    try:
        read_checkpoint(Path(name))
    except CheckpointError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - taken) // 1024)
"""


def hostile(tmp_path: Path) -> dict[str, Path]:
    """Checkpoints of less than a kilobyte that ask for gigabytes or hours."""
    four = {"data/0": bytes(16)}
    nested = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
    pickles = {
        "large": (binary(a_tensor("(I400000000\nt", "(I1\nt")), four),
        "wide": (binary(a_tensor("(I400000000\nt", "(I0\nt")), four),
        "outside": (binary(a_tensor("(I2\nI2\nt", "(I9999\nI1\nt")), four),
        "beyond": (binary(a_tensor("(I4\nt", "(I1\nt", stored=4000)), four),
        "bytes": (
            b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x05\x00\xca\x9a\x3b\x00\x85Rs.",
            {},
        ),
        "key": (b"\x80\x02()q\x00" + nested + b"t}h\x3cNs.", {}),
        "set": (b"\x80\x02cbuiltins\nset\n)R.", {}),
    }
    return {
        name: written(tmp_path / f"{name}.pt", pickled, entries)
        for name, (pickled, entries) in pickles.items()
    }


def test_a_small_checkpoint_cannot_ask_for_much_memory_or_time(tmp_path: Path) -> None:
    files = hostile(tmp_path)
    assert max(path.stat().st_size for path in files.values()) < 1000
    told = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, files.values())], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told[:-1] == [
        f"{path}: holds other things than tensors and plain values" for path in files.values()
    ]
    assert int(told[-1]) < 50  # MiB


def test_a_tensor_is_read_as_it_was_laid_out(tmp_path: Path) -> None:
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    told = {
        "view": whole[1:3, ::2],
        "transposed": whole.T,
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        **{
            str(kind): torch.ones(3).to(kind)
            for kind in (torch.bfloat16, torch.half, torch.bool, torch.uint8)
        },
        "plain": [1, -(2**40), 1.5, True, False, None, "é", (1, (2,)), {3: {}}],
    }
    read = read_checkpoint(write_checkpoint(tmp_path, 0, told))
    assert read.keys() == told.keys()
    assert read.pop("plain") == told.pop("plain")
    for name, tensor in told.items():
        assert torch.equal(read[name], tensor), name
        assert (read[name].dtype, read[name].stride()) == (tensor.dtype, tensor.stride())


def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint-000000.pt")
    with pytest.raises(CheckpointError, match=r"000000.pt: cannot be read .it is no regular file"):
        read_checkpoint(tmp_path / "checkpoint-000000.pt")


@pytest.mark.parametrize("wrong", [{"story": [{"type": "Other"}]}, {"story": 1}, {"predictions": {0: "x"}}])
def test_a_state_of_another_kind_is_told_with_its_place(tmp_path: Path, wrong: dict) -> None:
    sound = {"story": [], "predictions": {}, "best_weights": None, "fold_state": None, "best_state": None}
    for state in ({}, sound | wrong):
        with (
            pytest.raises(CheckpointError, match=r"else than a trial's state \(.*Remove it"),
            contents_checked(tmp_path),
        ):
            Progress.unpacked(state)
