"""``Dockerfile`` and ``docker-compose.yml`` without an engine: what they would build and run, here.

Read is what these files use, no more: another instruction or another kind of value fails here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
_KNOWN = {
    "FROM",
    "ARG",
    "ENV",
    "HEALTHCHECK",
    "RUN",
    "WORKDIR",
    "COPY",
    "USER",
    "STOPSIGNAL",
    "ENTRYPOINT",
    "CMD",
}
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")


@dataclass(frozen=True)
class Dockerfile:
    """The instructions that decide what is in the image, and what runs."""

    environment: dict[str, str]
    copied: list[tuple[list[str], str]]
    installed: str
    entrypoint: list[str]
    workdir: str
    healthcheck: str

    @classmethod
    def read(cls) -> Dockerfile:
        """Of this repository."""
        text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
        lines = [line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        said: dict[str, list[str]] = {}
        for instruction, _, rest in lines:
            said.setdefault(instruction, []).append(rest)
        assert set(said) <= _KNOWN
        (environment,), (entrypoint,) = said["ENV"], said["ENTRYPOINT"]
        copied = [(words[:-1], words[-1]) for words in map(str.split, said["COPY"])]
        (installed,) = re.findall(r'pip install "(.+)"', "\n".join(said["RUN"]))
        return cls(
            dict(word.split("=", 1) for word in environment.split()),  # type: ignore[misc]
            copied,
            installed,
            json.loads(entrypoint),
            said["WORKDIR"][-1],
            said["HEALTHCHECK"][0].partition("CMD ")[2],
        )


@dataclass(frozen=True)
class Image:
    """The program as the image has it: built from what is copied, beside this machine's packages."""

    dockerfile: Dockerfile
    environment: Path
    extras: frozenset[str] = field(default=frozenset())

    @classmethod
    def build(cls, folder: Path) -> Image:
        """Build the wheel from the copied files alone, and install it in an empty environment."""
        dockerfile = Dockerfile.read()
        context = folder / "context"
        context.mkdir(parents=True)
        for sources, target in dockerfile.copied:
            for source in sources:
                assert source in admitted(), f".dockerignore keeps {source} out"
                _copy(ROOT / source, context / target / ("" if (ROOT / source).is_dir() else source))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        alone = ["--no-deps", "--no-index"]
        wheels = folder / "wheels"
        _run([*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", str(wheels), str(context)])
        (wheel,) = wheels.glob("*.whl")
        environment = folder / "environment"
        venv.create(environment, with_pip=False)
        (packages,) = environment.glob("lib/python*/site-packages")
        # The dependencies are this machine's. A path in a .pth file is searched after the environment's own
        # packages, and is no place whose .pth files are read: this checkout is not seen through it.
        seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (packages / "dependencies.pth").write_text("\n".join(seen))
        python = str(environment / "bin" / "python")
        _run([*pip, "--python", python, "install", *alone, "--ignore-installed", str(wheel)])
        extras = dockerfile.installed.partition("[")[2].rstrip("]").split(",")
        return cls(dockerfile, environment, frozenset(extras))

    def variables(self, home: Path, given: Mapping[str, str]) -> dict[str, str]:
        """All that a process in a container finds: what the image and the service say, a PATH and a HOME."""
        path = f"{self.environment / 'bin'}:{os.defpath}"
        return {"PATH": path, "HOME": str(home), **self.dockerfile.environment, **given}


def admitted() -> set[str]:
    """What ``.dockerignore`` lets into the build."""
    first, *rest = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    return {line.removeprefix("!") for line in rest if line.startswith("!")}


@dataclass(frozen=True)
class Service:
    """A service as Docker Compose would run it, with its folders on this machine."""

    command: list[str]
    environment: dict[str, str]
    volumes: dict[str, str]

    def on_this_machine(self, folders: Mapping[str, Path], command: Sequence[str] | None = None) -> Service:
        """The same with ``folders`` in place of the container's."""

        def mapped(word: str) -> str:
            for inside, here in folders.items():
                if word == inside or word.startswith(f"{inside}/"):
                    return f"{here}{word.removeprefix(inside)}"
            return word

        return Service(
            [mapped(word) for word in command or self.command],
            {name: mapped(value) for name, value in self.environment.items()},
            self.volumes,
        )


def services(variables: Mapping[str, str]) -> dict[str, Service]:
    """The services of ``docker-compose.yml``, for these variables of the shell that starts them."""
    read: dict[str, Any] = _filled(yaml.safe_load((ROOT / "docker-compose.yml").read_text()), variables)
    return {
        name: Service(
            list(service.get("command", ())),
            {
                variable: value if value is not None else variables[variable]
                for variable, value in service.get("environment", {}).items()
                if value is not None or variable in variables
            },
            {target: source for source, target, *_ in (each.split(":") for each in service["volumes"])},
        )
        for name, service in read["services"].items()
    }


def passed_variables(service: str) -> set[str]:
    """Names of the variables that a service's process may find."""
    return set(yaml.safe_load(_compose_text())["services"][service]["environment"])


def variables_read() -> set[str]:
    """Names of the variables by which people set the program up, from its source."""
    read: set[str] = set()
    for file in (ROOT / "hms_tune").rglob("*.py"):
        text = file.read_text()
        read |= set(re.findall(r'["\'](HMS_TUNE_[A-Z_]+)["\']', text))
        if file.name == "settings.py":
            read |= {f"HMS_TUNE_{name}" for name in re.findall(r'\b(?:text|path)\("([A-Z_]+)"\)', text)}
        read |= set(re.findall(r'environ\.get\("((?:KAGGLE|WANDB|AWS|HF)_[A-Z_]+)"', text))
    assert {"HMS_TUNE_STORAGE", "HMS_TUNE_HOME", "HMS_TUNE_WEBHOOK", "HMS_TUNE_ACCELERATION"} <= read
    return read


def shown_commands() -> list[list[str]]:
    """What the comment of ``docker-compose.yml`` says to run in a worker's container: its arguments."""
    found = re.findall(r"^# +docker compose run --rm worker (.+)$", _compose_text(), re.MULTILINE)
    return [line.split() for line in found]


def _compose_text() -> str:
    return (ROOT / "docker-compose.yml").read_text()


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(child, variables) for key, child in value.items()}
    if isinstance(value, list):
        return [_filled(child, variables) for child in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, operator, text = match.groups()
        if variables.get(name):
            return variables[name]
        assert operator != ":?", text
        return text or ""

    return _VARIABLE.sub(fill, value)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
