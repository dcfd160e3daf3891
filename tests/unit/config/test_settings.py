"""Settings from the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hms_tune.config.settings import Settings
from hms_tune.errors import UsageError


def test_everything_has_a_default() -> None:
    settings = Settings.from_environment({})
    assert settings.storage is None
    assert settings.home.name == "hms-tune"
    assert settings.lease_seconds == 180.0


def test_variables_are_read_and_empty_ones_count_as_unset() -> None:
    settings = Settings.from_environment(
        {
            "HMS_TUNE_STORAGE": "postgresql://me:secret@db/hms",
            "HMS_TUNE_HOME": "/srv/home",
            "HMS_TUNE_STUDIES": "",
            "HMS_TUNE_DATA": "/srv/data",
            "HMS_TUNE_ARTIFACTS": "s3://bucket/hms",
            "HMS_TUNE_LEASE_SECONDS": "15",
        }
    )
    assert settings.home == Path("/srv/home")
    assert settings.studies is None
    assert settings.data == Path("/srv/data")
    assert settings.artifacts == "s3://bucket/hms"
    assert settings.lease_seconds == 15.0


def test_the_password_is_not_shown() -> None:
    settings = Settings.from_environment({"HMS_TUNE_STORAGE": "postgresql://me:secret@db/hms"})
    assert settings.storage == "postgresql://me:secret@db/hms"
    assert "secret" not in f"{settings} {settings!r}"


@pytest.mark.parametrize("text", ["0", "-5", "soon", "nan", "inf"])
def test_an_impossible_lease_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="HMS_TUNE_LEASE_SECONDS"):
        Settings.from_environment({"HMS_TUNE_LEASE_SECONDS": text})


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a chosen user id: no HOME, no line in /etc/passwd."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match=r"HMS_TUNE_HOME: this user has no home folder\. Set it"):
        Settings.from_environment({})
    assert Settings.from_environment({"HMS_TUNE_HOME": "/srv"}).home == Path("/srv")


@pytest.mark.parametrize("name", ["HOME", "STUDIES", "DATA", "ARTIFACTS"])
def test_a_path_in_a_home_that_is_not_known_is_refused_with_its_variable(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.from_environment({f"HMS_TUNE_{name}": "~no-such-user/x"})
    assert str(caught.value) == (
        f"HMS_TUNE_{name}: there is no home folder ~no-such-user for ~no-such-user/x. "
        "Give the whole path, from /"
    )
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match=rf"HMS_TUNE_{name}: this user has no home folder for ~/x\. Give"):
        Settings.from_environment({"HMS_TUNE_HOME": "/srv", f"HMS_TUNE_{name}": "~/x"})


def test_a_folder_of_artifacts_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert Settings.from_environment({"HMS_TUNE_ARTIFACTS": "~/x"}).artifacts == "/home/ann/x"
