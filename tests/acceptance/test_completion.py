"""The shell completes commands, their options and their subcommands once its script is installed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def bash(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose ``hms-tune`` is on the path, with a home of their own."""
    command = tmp_path / "bin" / "hms-tune"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m hms_tune "$@"\n')
    command.chmod(0o755)
    (tmp_path / ".bashrc").write_text("alias ll='ls -l'\n")
    return os.environ | {"HOME": str(tmp_path), "PATH": f"{command.parent}:{os.environ['PATH']}"}


def run(environment: dict[str, str], script: str) -> str:
    # Two commands: of one alone bash makes no process of its own, and the parent is asked which shell it is.
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\ntrue"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def completed(environment: dict[str, str], *words: str) -> list[str]:
    """What the installed script offers for the last word."""
    typed = " ".join(map(shlex.quote, words))
    script = f"""
        source ~/.bashrc
        complete -p hms-tune >&2
        COMP_WORDS=({typed}) COMP_CWORD={len(words) - 1}
        _hms_tune_completion hms-tune
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return run(environment, script).split()


def test_completion_is_installed_once_and_bash_completes_by_it(bash: dict[str, str]) -> None:
    assert "bash completion installed" in run(bash, "hms-tune --install-completion")
    first = (Path(bash["HOME"]) / ".bashrc").read_text()
    run(bash, "hms-tune --install-completion")
    lines = (Path(bash["HOME"]) / ".bashrc").read_text().split("\n")
    assert [line for line in lines if line] == [line for line in first.split("\n") if line]
    assert completed(bash, "hms-tune", "st") == ["study", "status"]
    assert completed(bash, "hms-tune", "study", "e") == ["enqueue"]
    assert completed(bash, "hms-tune", "data", "pre") == ["prepare"]
    assert "--slots-per-device" in completed(bash, "hms-tune", "worker", "effnet", "--s")


def test_the_script_is_shown_with_a_function_that_bash_accepts(bash: dict[str, str]) -> None:
    shown = run(bash, "hms-tune --show-completion > script; bash -n script; cat script; rm script")
    assert "complete -o default -F _hms_tune_completion hms-tune" in shown


@pytest.mark.parametrize("group", ["study", "data", "model"])
def test_a_group_of_commands_installs_no_completion_of_its_own(
    bash: dict[str, str],
    group: str,
    hms_tune: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", bash["HOME"])
    code, said = hms_tune(group, "--install-completion", "bash")
    assert (code, "No such option" in said) == (2, True)
    assert (Path(bash["HOME"]) / ".bashrc").read_text() == "alias ll='ls -l'\n"
