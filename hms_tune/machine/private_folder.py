"""Folders that other users of the machine cannot enter."""

from __future__ import annotations

from pathlib import Path


def private_folder(folder: Path) -> None:
    """Make a folder, and the parents that it lacks, for this user alone; one that is there stays as it is."""
    for each in reversed((folder, *folder.parents)):
        each.mkdir(mode=0o700, exist_ok=True)
