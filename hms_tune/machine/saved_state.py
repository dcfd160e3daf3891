"""What ``torch.save`` wrote, read without unpickling: tensors, dictionaries, lists and plain values.

``torch.load(weights_only=True)`` runs no foreign code, but it makes what a file asks for: a few hundred bytes
ask for a tensor of gigabytes, or for a key whose hash takes for ever. Here each step of the pickle is one of
the few that a state needs, a tensor lies in bytes that the file has, and no value stands for many.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MOST_STEPS = 2_000_000
"""Of a pickle; a state of a thousand layers takes about 200,000."""

_MOST_AXES = 16
_LARGEST = 1 << 48

_DTYPES = {
    f"torch {name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
_GIVEN = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"})
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_ORDERED, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


class NotAStateError(ValueError):
    """The content is damaged, or holds more than a state does."""


def read_state(content: bytes | memoryview) -> Any:
    """The value that was saved, its tensors on the CPU.

    It takes memory in proportion to ``content`` at most.

    Raises
    ------
    NotAStateError
        If the content is damaged, or asks for anything else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len({entry.filename for entry in entries}) < len(entries):
                raise NotAStateError("an entry stands there twice")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise NotAStateError("an entry is compressed")
            if sum(entry.file_size for entry in entries) > len(content):
                raise NotAStateError("it unpacks to more than it holds")
            root = entries[0].filename.partition("/")[0] if entries else ""
            return _Reader(lambda name: archive.read(f"{root}/{name}")).value()
    except NotAStateError:
        raise
    except (
        *(zipfile.BadZipFile, EOFError, ValueError, OverflowError, TypeError),
        *(LookupError, RuntimeError, OSError),  # of entries or bytes that are not there
    ) as error:
        raise NotAStateError(f"{type(error).__name__}: {error}") from error


class _Reader:
    """Goes through the steps of a pickle.

    Parameters
    ----------
    record : the bytes of an entry
    """

    def __init__(self, record: Callable[[str], bytes]) -> None:
        self._record = record
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._stored: dict[str, Tensor] = {}

    def value(self) -> Any:
        """What the whole pickle comes to."""
        for number, (step, argument, _) in enumerate(pickletools.genops(self._record("data.pkl"))):
            if number > _MOST_STEPS:
                raise NotAStateError("it has too many parts")
            if step.name != "STOP":
                self._take(step.name, argument)
        (value,) = self._stack
        return value

    def _take(self, step: str, argument: Any) -> None:
        """One step: a value, or what is made of the values before it."""
        if step in _GIVEN:
            self._stack.append(argument)
        elif step in _NEW:
            self._stack.append(_NEW[step]())
        elif step == "MARK":
            self._marks.append(self._stack)
            self._stack = []
        elif step.startswith(("APPEND", "SETITEM", "TUPLE")):
            self._collect(step)
        elif step != "PROTO":
            self._refer(step, argument)

    def _collect(self, step: str) -> None:
        """Put values into a tuple, a list or a dictionary."""
        taken = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}.get(step)
        values = self._since_mark() if taken is None else [self._stack.pop() for _ in range(taken)][::-1]
        if step.startswith("TUPLE"):
            self._stack.append(tuple(values))
        elif step.startswith("APPEND"):
            _a(list, self._stack[-1]).extend(values)
        else:
            target = _a(dict, self._stack[-1])
            for key, value in zip(values[::2], values[1::2], strict=True):
                target[_a((str, int), key)] = value

    def _refer(self, step: str, argument: Any) -> None:
        """What stands elsewhere: earlier in the pickle, in an entry, or in a function's result."""
        match step:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "BINGET" | "LONG_BINGET":
                self._stack.append(_a((str, _Global, Tensor), self._memo[argument]))
            case "GLOBAL":
                self._stack.append(_Global(argument))
            case "BINPERSID":
                self._stack.append(self._storage(self._stack.pop()))
            case "REDUCE":
                arguments, function = self._stack.pop(), self._stack.pop()
                self._stack.append(_made(_a(_Global, function).name, _a(tuple, arguments)))
            case _:
                raise NotAStateError(f"a state has no {step}")

    def _since_mark(self) -> list[Any]:
        values = self._stack
        self._stack = self._marks.pop()
        return values

    def _storage(self, described: Any) -> Tensor:
        """All values of an entry, in one axis."""
        kind, of, key, _, count = _a(tuple, described)
        dtype = _DTYPES[_a(_Global, of).name]
        if kind != "storage":
            raise NotAStateError("it refers to something else than an entry")
        if key not in self._stored:
            content = self._record(f"data/{_a(str, key)}")
            if len(content) != _a(int, count) * dtype.itemsize:
                raise NotAStateError("an entry is of another size than it should be")
            self._stored[key] = (
                torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        if self._stored[key].dtype != dtype:  # each would take the entry's bytes again
            raise NotAStateError("an entry is of two types")
        return self._stored[key]


def _made(function: str, arguments: tuple[Any, ...]) -> Any:
    if function == _ORDERED and not arguments:
        return {}
    if function != _TENSOR:
        raise NotAStateError(f"a state has no {function}")
    values, first, shape, strides = arguments[:4]
    numbers = [first, *_a(tuple, shape), *_a(tuple, strides)]
    if len(numbers) > 1 + 2 * _MOST_AXES or not all(0 <= _a(int, each) < _LARGEST for each in numbers):
        raise NotAStateError("a tensor has no such shape")
    if math.prod(shape) > _a(Tensor, values).numel():
        raise NotAStateError("a tensor is larger than its entry")
    return values.as_strided(shape, strides, first)  # which refuses what lies outside


def _a(kind: Any, value: Any) -> Any:
    """The value, if it is of a kind."""
    if not isinstance(value, kind):
        raise NotAStateError(f"a {type(value).__name__} stands where none belongs")
    return value
