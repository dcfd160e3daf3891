"""What was measured on this machine, in JSON files that all of its processes share."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Any

_logger = logging.getLogger(__name__)


class JsonCache:
    """Values by name in one file. Processes that write at once keep each other's values.

    Parameters
    ----------
    path : the file; made when the first value is kept. None: values are kept in this process alone
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._own: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """The value that this or another process kept; None where there is none."""
        return self._own[name] if name in self._own else self._read().get(name)

    def keep(self, name: str, value: Any) -> None:
        """Keep a value that JSON can hold. If the file cannot be written, this process alone has it."""
        self._own[name] = value
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                written = self._path.with_suffix(".new")
                text = json.dumps(self._read() | {name: value}, indent=2, sort_keys=True) + "\n"
                written.write_text(text, encoding="utf-8")
                os.replace(written, self._path)
        except OSError as error:
            _logger.warning("%s cannot be written: %s", self._path, error.strerror or error)

    def _read(self) -> dict[str, Any]:
        """What the file holds. A damaged one holds nothing, and is written anew."""
        if self._path is None:
            return {}
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}
