"""Where bundles go: ``bundles/STUDY-TRIAL``, and ``bundles/STUDY``, a link to the newest of a study."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

from hms_tune.errors import UsageError

logger = logging.getLogger(__name__)

BUNDLES = Path("bundles")
"""The folder of bundles, in the working directory."""


def bundle_path(study: str, trial: int | Literal["blend", "training"], folder: Path = BUNDLES) -> Path:
    """Where a bundle goes by default: a trial's, a study's blend, a training outside of a search."""
    return folder / f"{study}-{trial}"


def point_to_newest(bundle: Path, study: str) -> Path | None:
    """Let the study's name, beside its new bundle, lead to it.

    The link is relative, so that the folder of bundles can be moved, and is replaced in one step, so that
    whoever reads finds a whole bundle at any moment. Whatever else has that name is left alone.

    Parameters
    ----------
    bundle : the new bundle, at :func:`bundle_path`
    study : name of the study

    Returns
    -------
    The link, or None where there is none: its name is taken, or the file system has no links. The log says so
    """
    link = bundle.parent / study
    if os.path.lexists(link) and not _is_ours(link, study):
        logger.warning("%s is not a link of export-best and is left alone; the bundle is %s", link, bundle)
        return None
    fresh = link.with_name(f".{study}.{os.getpid()}.link")
    try:
        fresh.symlink_to(bundle.name)
        fresh.replace(link)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        logger.warning("no link %s: %s; the bundle is %s", link, error.strerror or error, bundle)
        return None
    return link


def check_vacant(out: Path) -> None:
    """Refuse, before any training, a place where a bundle cannot be written."""
    if os.path.lexists(out):
        raise UsageError("already exists", where=out, hint="Choose another --out, or remove it")
    parent = out.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError("cannot be written to", where=parent, hint="Choose another --out")


def _is_ours(link: Path, study: str) -> bool:
    """Whether it is a link to a bundle of the study beside it, there or gone."""
    return link.is_symlink() and re.fullmatch(rf"{re.escape(study)}-\d+", os.readlink(link)) is not None
