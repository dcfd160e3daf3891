"""Copies of bundles: what the seal names, as it was sealed, and nothing else.

A folder that somebody sent may hold links, and files that change while they are copied. So every file is
opened without following a link, and its digest is that of the bytes which were copied.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from hms_tune.errors import BundleError
from hms_tune.export.bundle import BundleConfig, read_bundle_config
from hms_tune.export.sealed import MOST_BYTES
from hms_tune.machine.private_folder import folder_without_links, private_folder
from hms_tune.machine.regular_file import open_regular

_PART = 1 << 20


def copy_bundle(root: Path, to: Path, *, member: str = "") -> BundleConfig:
    """Copy a bundle to a new folder; returns what ``config.json`` says.

    Parameters
    ----------
    root : the bundle, or a blend
    member : of the blend

    Raises
    ------
    BundleError
        If a file is missing, a link, or not as it was sealed.
    """
    bundle = root / member
    config = read_bundle_config(bundle)
    private_folder(to)
    copy_file(root, PurePosixPath(member, "config.json"), to, most=MOST_BYTES)
    for name, digest in config.files.items():
        if copy_file(root, PurePosixPath(member, name), to, most=config.sizes.get(name, 0)) != digest:
            raise BundleError(
                "differs from what was exported",
                where=bundle / name,
                hint="Copy the bundle again, or export it again",
            )
    if read_bundle_config(to).seal != config.seal:
        raise BundleError("changed while it was copied", where=bundle, hint="Try again")
    return config


def copy_file(root: Path, below: PurePosixPath, to: Path, *, most: int) -> str:
    """Copy a file ``below`` the root into a folder; returns its SHA-256, hexadecimal.

    Parameters
    ----------
    most : bytes; of a longer file no more are copied, so that its digest differs

    Raises
    ------
    BundleError
        If it is missing, or no regular file, or a link leads to it.
    """
    digest = hashlib.sha256()
    try:
        with (
            folder_without_links(root, below.parent) as folder,
            open_regular(below.name, folder=folder, links=False) as file,
            (to / below.name).open("xb") as copy,
        ):
            left = most + 1
            while left > 0 and (part := file.read(min(left, _PART))):
                left -= len(part)
                digest.update(part)
                copy.write(part)
    except OSError as error:
        raise BundleError(
            f"cannot be copied as a file of its own ({error.strerror or error})",
            where=root / below,
            hint="A bundle has no links; copy it again, or export it again",
        ) from error
    return digest.hexdigest()
