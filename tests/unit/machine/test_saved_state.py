"""States that somebody wrote who wants more memory than they hold."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from hms_tune.machine.saved_state import NotAStateError, read_state


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _tensor(kind: str, count: int) -> bytes:
    """The steps of a pickle that make a tensor of an entry's first value."""
    storage = _text("storage") + _global("torch", f"{kind}Storage") + _text("0") + _text("cpu")
    entry = b"(" + storage + _number(count) + b"tQ"
    arguments = b"(" + entry + _number(0) + _number(1) + b"\x85" + _number(1) + b"\x85" + b"\x89Nt"
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def _file(*tensors: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("state/data.pkl", b"\x80\x02](" + b"".join(tensors) + b"e.")
        archive.writestr("state/data/0", bytes(64))
    return stream.getvalue()


def test_an_entry_is_taken_in_once_however_many_tensors_lie_in_it() -> None:
    first, second = read_state(_file(_tensor("Byte", 64), _tensor("Byte", 64)))
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def test_an_entry_is_not_taken_in_again_as_each_other_type() -> None:
    """Ten types of one entry took ten times its bytes."""
    with pytest.raises(NotAStateError, match="an entry is of two types"):
        read_state(_file(_tensor("Byte", 64), _tensor("Int", 16)))
