"""The program as a wheel, made from what is installed here: no build tool, no network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from hms_tune import version
from hms_tune.version import __version__

_TAG = "py3-none-any"
_STUDIES = "study_files"


def write_wheel(folder: Path) -> Path:
    """Write the wheel of this hms-tune into a folder; returns its path."""
    installed = metadata.distribution("hms-tune")
    info = f"hms_tune-{__version__}.dist-info"
    wheel = folder / f"hms_tune-{__version__}-{_TAG}.whl"
    record = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as written:

        def add(name: str, content: bytes) -> None:
            written.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}\n")

        for name, path in _files():
            add(f"hms_tune/{name}", path.read_bytes())
        add(f"{info}/METADATA", (installed.read_text("METADATA") or "").encode())
        add(f"{info}/entry_points.txt", (installed.read_text("entry_points.txt") or "").encode())
        add(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {_TAG}\n".encode())
        record.append(f"{info}/RECORD,,\n")
        written.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "".join(record))
    return wheel


def _files() -> Iterator[tuple[str, Path]]:
    """The package's files; in a checkout the study files lie beside it."""
    package = Path(version.__file__).parent
    yield from _within(package, "")
    if not (package / _STUDIES).exists():
        yield from _within(package.parent / "studies", f"{_STUDIES}/")


def _within(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{prefix}{path.relative_to(folder).as_posix()}", path
