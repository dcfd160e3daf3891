"""Competition folders that files of ours may not go into: what belongs to one lies in ``HMS_TUNE_HOME``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from hms_tune.config.settings import Settings


def takes_files(root: Path) -> bool:
    """Whether files of ours may go into a competition folder."""
    # the mode as well as the access check: an administrator may write anywhere, but was not asked to
    return root.is_dir() and os.access(root, os.W_OK) and bool(root.stat().st_mode & 0o222)


def place_at_home(root: Path, kind: str) -> Path:
    """The folder of a kind of files, such as ``stores``, that belong to a competition folder."""
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    return Settings.from_environment().home / kind / f"{root.resolve().name}-{name}"
