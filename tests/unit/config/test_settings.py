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
