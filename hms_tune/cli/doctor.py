"""``hms-tune doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from hms_tune.cli.options import JsonOption, StorageOption
from hms_tune.cli.views import tables as render
from hms_tune.cli.views.tables import _table
from hms_tune.config.settings import Settings
from hms_tune.data.files.competition import Competition
from hms_tune.database.connect import open_storage, resolve_address
from hms_tune.errors import HmsTuneError
from hms_tune.reports.dashboard.access import is_loopback
from hms_tune.tracking.wandb import resolve_mode


def doctor(
    storage: StorageOption = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="ROOT", help="Competition folder; else HMS_TUNE_DATA.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, reachable and writable, with the mend for each. Exit code 1 at a failure."""
    checks = list(examine(Settings.from_environment(), storage=storage, data=data))
    if as_json:
        typer.echo(render.as_json(checks))
    else:
        render.out().print(check_table(checks))
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


def check_table(checks: Sequence[Check]) -> Table:
    """The findings of ``doctor``."""
    styles = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = _table("", "what", "finding", "what to do")
    for check in checks:
        state = Text(check.state, style=styles[check.state])
        table.add_row(state, check.name, Text(check.detail), Text(check.mend or ""))
    return table


LITTLE_DISK_GB = 20.0


FULL_DISK_GB = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``mend`` says what to do, unless all is well."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    mend: str | None = None


def examine(settings: Settings, *, storage: str | None = None, data: Path | None = None) -> Iterator[Check]:
    """Look at this machine, one thing after another.

    Parameters
    ----------
    storage, data : the database and the competition folder to try, if not those of ``settings``
    """
    yield Check("python", "ok", f"{platform.python_version()} at {sys.executable}")
    for package in ("torch", "timm", "optuna", "optuna-dashboard"):
        yield _package(package)
    yield _device()
    yield _database(settings, storage or settings.storage)
    yield _data(data or settings.data)
    yield _wandb()
    yield _onnx()
    yield _home(settings.home)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _package(package: str) -> Check:
    version = _version(package)
    if version is None:
        return Check(package, "fail", "not installed", "Run pip install hms-tune again")
    return Check(package, "ok", version)


def _device() -> Check:
    import torch

    if not torch.cuda.is_available():
        built = "torch is built for CUDA" if torch.version.cuda else "torch is built without CUDA"
        return Check(
            "gpu", "warn", f"none ({built}); trials run on the CPU", "Check the driver with nvidia-smi"
        )
    names = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        names.append(f"cuda:{index} {device.name} {device.total_memory / 2**30:.0f} GiB")
    return Check("gpu", "ok", ", ".join(names))


def _database(settings: Settings, address: str | None) -> Check:
    try:
        opened = open_storage(resolve_address(address, home=settings.home))
    except HmsTuneError as error:
        return _failed("database", error)
    try:
        server = opened.server()
    finally:
        opened.close()
    kind = "" if address else " (embedded)"
    kind += ", TLS" if server.encrypted else ""
    detail = f"{opened.address}, PostgreSQL {server.version}{kind}"
    return database_check(detail, host=server.host, encrypted=server.encrypted)


def database_check(detail: str, *, host: str, encrypted: bool) -> Check:
    """A database beyond this machine should be reached over TLS. ``host``: a name, or a socket's path."""
    if encrypted or host.startswith("/") or is_loopback(host):
        return Check("database", "ok", detail)
    mend = "Add ?sslmode=verify-full&sslrootcert=FILE to the URL (docs/fleet.md)"
    return Check("database", "warn", f"{detail}, not encrypted", mend)


def _data(root: Path | None) -> Check:
    if root is None:
        return Check("data", "warn", "no competition folder named", "Give --data ROOT or set HMS_TUNE_DATA")
    try:
        competition = Competition.open(root)
    except HmsTuneError as error:
        return _failed("data", error)
    return Check("data", "ok", f"{root} ({', '.join(competition.splits)})")


def _wandb() -> Check:
    version = _version("wandb")
    if version is None:
        return Check(
            "wandb", "warn", "not installed", "Run pip install wandb, or set tracking.wandb.mode: off"
        )
    mode = resolve_mode("auto")
    if mode == "online":
        return Check("wandb", "ok", f"{version}, runs are sent")
    return Check(
        "wandb", "warn", f"{version}, no key: runs stay on disk", "Run wandb login, or wandb sync later"
    )


def _onnx() -> Check:
    found = {package: _version(package) for package in ("onnx", "onnxscript", "onnxruntime")}
    missing = [package for package, version in found.items() if version is None]
    if missing:
        mend = "Run pip install 'hms-tune[onnx]'"
        return Check("onnx", "warn", f"{', '.join(missing)} missing: bundles get no model.onnx", mend)
    return Check("onnx", "ok", ", ".join(f"{package} {version}" for package, version in found.items()))


def _home(home: Path) -> Check:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Check(
            "disk", "fail", f"{existing} cannot be written to", "Set HMS_TUNE_HOME to a folder of yours"
        )
    free_gb = shutil.disk_usage(existing).free / 1e9
    detail = f"{home}, {free_gb:.0f} GB free"
    if free_gb < FULL_DISK_GB:
        return Check("disk", "fail", detail, "Free some space, or set HMS_TUNE_HOME to another disk")
    if free_gb < LITTLE_DISK_GB:
        return Check("disk", "warn", detail, "The store of the whole competition takes about 15 GB")
    return Check("disk", "ok", detail)


def _failed(name: str, error: HmsTuneError) -> Check:
    where = "" if error.where is None else f"{error.where}: "
    return Check(name, "fail", f"{where}{error.what}", error.mend)
