"""JSON files that end with their own digest: the manifests of bundles and of blends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from hms_tune.config.section import Section
from hms_tune.errors import BundleError
from hms_tune.machine.regular_file import read_regular

S = TypeVar("S", bound=Section)

MOST_BYTES = 1 << 20
"""Of such a file, which takes a few kB."""


def seal_of(content: Section) -> str:
    """The SHA-256 of all but the ``seal``, as canonical JSON."""
    text = json.dumps(content.model_dump(mode="json", exclude={"seal"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_sealed(path: Path, kind: type[S], *, hint: str) -> S:
    """Read and validate a file; what is larger than it can be is not read.

    Parameters
    ----------
    hint : what to do about a file that is damaged

    Raises
    ------
    OSError
        If it cannot be read.
    BundleError
        If it is damaged.
    """
    content = read_regular(path, most=MOST_BYTES)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{key or path.name}: {first['msg']}", where=path, hint=hint) from error
