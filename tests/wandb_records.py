"""What W&B keeps of a run on disk, read back.

A ``.wandb`` file is LevelDB's log (blocks of 32 KiB, records of one or more parts) of protocol buffers, after
seven bytes of W&B's own. wandb no longer brings a reader in Python.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK_BYTES = 32_768
HEADER_BYTES = 7


@dataclass(slots=True)
class Stored:
    """A run on disk."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    system: int = 0
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None


def read_run(path: Path) -> Stored:
    """A ``.wandb`` file; one that was cut off in the middle is read as far as it goes."""
    found = Stored()
    for record in _records(path.read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                found.run = record.run
                found.config |= _values(record.run.config.update)
            case "history":
                found.history.append(_values(record.history.item))
            case "summary":
                found.summary |= _values(record.summary.update)
            case "metric":
                found.metrics[record.metric.name or record.metric.glob_name] = record.metric
            case "stats":
                found.system += 1
            case "artifact":
                found.artifacts.append(record.artifact)
            case "exit":
                found.exit_code = record.exit.exit_code
            case _:
                pass
    return found


def _records(data: bytes) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    assert data[:4] == b":W&B"
    position, parts = HEADER_BYTES, b""
    while position + HEADER_BYTES <= len(data):
        if BLOCK_BYTES - position % BLOCK_BYTES < HEADER_BYTES:
            position += BLOCK_BYTES - position % BLOCK_BYTES
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER_BYTES])
        position += HEADER_BYTES
        if position + length > len(data):  # cut off
            return
        parts += data[position : position + length]
        position += length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
