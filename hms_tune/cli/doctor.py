"""``hms-tune doctor``."""

from __future__ import annotations

import logging
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer
from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from hms_tune.cli.options import JsonOption, StorageOption, artifacts_location
from hms_tune.cli.views import tables as render
from hms_tune.config.settings import Settings
from hms_tune.config.trial import ModelConfig
from hms_tune.data.files.competition import Competition
from hms_tune.data.store.store import Store, competition_of
from hms_tune.database.connect import Server, alone, errors_told, resolve_address
from hms_tune.database.connection.connections import connector
from hms_tune.database.connection.url import redacted
from hms_tune.database.other_programs import address_for_others
from hms_tune.database.read_only import open_to_read
from hms_tune.database.rights import missing_grants
from hms_tune.errors import (
    ArtifactError,
    DataError,
    EmptyDatabaseError,
    HmsTuneError,
    PretrainedError,
    UsageError,
)
from hms_tune.machine.private_folder import is_writable
from hms_tune.reports.dashboard.access import is_loopback
from hms_tune.tracking.wandb import ask_account
from hms_tune.worker.checkpoint_store.open import open_store

logger = logging.getLogger(__name__)

SHOWN_PACKAGES = ("torch", "timm", "optuna", "optuna-dashboard")


def doctor(
    storage: StorageOption = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="ROOT", help="Competition folder; else HMS_TUNE_DATA.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed, reachable and writable, with a hint for each. Exit code 1 at a failure."""
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
    table = render.plain_table("", "what", "finding", "what to do")
    for check in checks:
        state = Text(check.state, style=styles[check.state])
        table.add_row(state, check.name, Text(check.detail), Text(check.hint or ""))
    return table


LITTLE_DISK_GB = 20.0


FULL_DISK_GB = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``hint`` says what to do, unless all is well."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    hint: str | None = None


def examine(settings: Settings, *, storage: str | None = None, data: Path | None = None) -> Iterator[Check]:
    """Look at this machine, one thing after another.

    Parameters
    ----------
    storage, data : the database and the competition folder to try, if not those of ``settings``
    """
    yield Check("python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield from _packages()
    yield _device()
    yield from _database(settings, storage or settings.storage)
    yield _data(data or settings.data)
    yield _wandb()
    yield _onnx()
    yield _home(settings.home)
    yield artifacts_check(settings)
    yield _hub()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Check]:
    """The packages that matter most, and each that is missing or of another version than this one needs."""
    for requirement in _requirements():
        check = package_check(requirement)
        if requirement.name in SHOWN_PACKAGES or check.state != "ok":
            yield check


def package_check(requirement: Requirement) -> Check:
    """Whether a package is installed in a version that this one works with."""
    version = _version(requirement.name)
    hint = f"Run pip install '{requirement.name}{requirement.specifier}'"
    if version is None:
        return Check(requirement.name, "fail", "not installed", hint)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, "fail", f"{version}, needs {requirement.specifier}", hint)
    return Check(requirement.name, "ok", version)


def _requirements(extra: str | None = None) -> list[Requirement]:
    """What this package says it needs: always, or for one of its extras."""

    def wanted(requirement: Requirement) -> bool:
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if extra is None:
            return always
        return not always and marker is not None and marker.evaluate({"extra": extra})

    return [each for each in map(Requirement, metadata.requires("hms-tune") or ()) if wanted(each)]


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


def _database(settings: Settings, address: str | None) -> Iterator[Check]:
    try:
        url = resolve_address(address, home=settings.home)
        connect = connector(url)
        with suppress(EmptyDatabaseError):
            open_to_read(url).close()
        with errors_told(url, connect), alone(connect).connect() as connection:
            server = Server.of(connection)
            grants = missing_grants(connection, "work")
        others = address_for_others(address, home=settings.home, secrets=False)
    except HmsTuneError as error:
        yield _failed("database", error)
        return
    kind = "" if address else " (embedded)"
    kind += ", TLS" if server.encrypted else ""
    detail = f"{redacted(url)}, PostgreSQL {server.version}{kind}"
    if grants:
        yield Check("database", "warn", f"{detail}; the user may run no search there", "; ".join(grants))
    else:
        yield database_check(detail, host=server.host, encrypted=server.encrypted)
    yield Check("for optuna's tools", "ok", others)


def database_check(detail: str, *, host: str, encrypted: bool) -> Check:
    """A database beyond this machine should be reached over TLS. ``host``: a name, or a socket's path."""
    if encrypted or host.startswith("/") or is_loopback(host):
        return Check("database", "ok", detail)
    hint = "Add ?sslmode=verify-full&sslrootcert=FILE to the URL (docs/fleet.md)"
    return Check("database", "warn", f"{detail}, not encrypted", hint)


def _data(root: Path | None) -> Check:
    if root is None:
        return Check("data", "warn", "no competition folder named", "Give --data ROOT or set HMS_TUNE_DATA")
    try:
        folder = competition_of(root)
        if folder != root and not folder.exists():
            Store.open(root)
            return Check("data", "ok", f"{root} (a store, whose competition folder is not there)")
        return _halves(root, folder)
    except HmsTuneError as error:
        return _failed("data", error)


def _halves(root: Path, folder: Path) -> Check:
    """The halves of a competition folder; a test half that cannot be read keeps nobody from training."""
    try:
        competition = Competition.open(folder)
    except DataError as error:
        try:
            Competition.open(folder, splits=("train",))
        except DataError:
            raise error from None
        return Check("data", "warn", f"{root} (train); {error.where}: {error.what}", error.hint)
    return Check("data", "ok", f"{root} ({', '.join(competition.splits)})")


def _wandb() -> Check:
    version = _version("wandb") or "not installed"
    try:
        account = ask_account()
    except Exception as error:  # W&B raises of many kinds where it cannot read its own configuration
        logger.debug("W&B cannot be asked", exc_info=True)
        reason = " ".join(str(error).split())
        return Check("wandb", "warn", f"{version}, no runs: {reason}", "Fix W&B's variable or settings file")
    if account.mode == "online":
        return Check("wandb", "ok", f"{version}, runs are sent to {account.host}")
    kept = "no runs are written" if account.mode == "off" else "runs stay on disk"
    return Check("wandb", "warn", f"{version}, {account.reason}: {kept}", account.hint)


def _onnx() -> Check:
    checks = [package_check(requirement) for requirement in _requirements("onnx")]
    missing = [f"{check.name} {check.detail}" for check in checks if check.state != "ok"]
    if missing:
        hint = "Run pip install 'hms-tune[onnx]'"
        return Check("onnx", "warn", f"{', '.join(missing)}: bundles get no model.onnx", hint)
    return Check("onnx", "ok", ", ".join(f"{check.name} {check.detail}" for check in checks))


def _home(home: Path) -> Check:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not is_writable(home):
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


def artifacts_check(settings: Settings) -> Check:
    """Whether the store of checkpoints takes what is written there."""
    location = artifacts_location(settings)
    try:
        open_store(location).check_writable()
    except (ArtifactError, UsageError) as error:
        return _failed("artifacts", error)
    return Check("artifacts", "ok", location)


def _hub() -> Check:
    """The model hub, asked for the weights of one backbone, and the folder of what was fetched."""
    from hms_tune.models.pretrained import ask_hub  # brings timm along

    try:
        cache = ask_hub(ModelConfig().backbone)
    except PretrainedError as error:
        return Check("model hub", "warn", error.what, error.hint)
    return Check("model hub", "ok", f"answers; what it sends is kept in {cache}")


def _failed(name: str, error: HmsTuneError) -> Check:
    where = "" if error.where is None else f"{error.where}: "
    return Check(name, "fail", f"{where}{error.what}", error.hint)
