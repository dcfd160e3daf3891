"""A Python with some of this machine's packages and no way out: no network, nothing else installed."""

from __future__ import annotations

import subprocess
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

_NO_NETWORK = """
import socket

_connect = socket.socket.connect


def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(("127.", "::1")):
        raise OSError(101, f"the network is unreachable: {address}")
    return _connect(self, address)


socket.socket.connect = connect
"""


def offline_python(folder: Path, packages: list[str]) -> Path:
    """Make an environment with these packages and what they need, without a network; returns its Python."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in _with_needs(packages):
        here = metadata.distribution(name)
        tops = {file.parts[0] for file in here.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(here.locate_file(top))
    (site / "sitecustomize.py").write_text(_NO_NETWORK)
    python = folder / "bin" / "python"
    subprocess.run([python, "-c", "import pip"], check=True)
    return python


def _with_needs(packages: list[str]) -> set[str]:
    found: set[str] = set()
    waiting = ["pip", *packages]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system
            continue
        found.add(name)
        for each in map(Requirement, needs):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                waiting.append(each.name)
    return found
