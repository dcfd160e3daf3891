"""Options that several commands share."""

from __future__ import annotations

import sys

import pytest

from hms_tune.cli.main import main
from hms_tune.database.connection.url import holds_secret


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://me@db/x", False),
        ("postgresql:///?service=fleet&passfile=/home/me/.pgpass", False),
        ("postgresql://me:p@ss@db/x", True),
        ("postgresql://db/x?sslpassword=canary", True),
        ("postgresql://me@db/x?password=canary", True),
        ("mysql://me:canary@db/x", True),
        ("sqlite:///x", False),
    ],
)
def test_an_address_with_a_password_is_known(url: str, secret: bool) -> None:
    assert holds_secret(url) is secret


@pytest.mark.parametrize("option", ["--storage=", "--storage"])
@pytest.mark.parametrize("command", ["status --study smoke", "study list", "worker --study smoke", "doctor"])
def test_a_password_on_the_command_line_is_refused_with_what_to_set_instead(
    command: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "postgresql://me:canary@127.0.0.1:1/db"
    given = [f"{option}{url}"] if option.endswith("=") else [option, url]
    monkeypatch.setattr(sys, "argv", ["hms-tune", *command.split(), *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --storage: a password stands on the command line: ")
    assert "HMS_TUNE_STORAGE" in said
    assert "PGPASSFILE" in said
    assert "canary" not in said


def test_the_dashboards_password_is_refused_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hms-tune", "dashboard", "--password", "canary"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Set HMS_TUNE_DASHBOARD_PASSWORD" in said
    assert "canary" not in said
