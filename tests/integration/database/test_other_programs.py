"""What `hms-tune database url` prints can be pasted into Optuna's own tools, in every spelling."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from bottle import Bottle
from optuna_dashboard import _cli as stock_dashboard
from postgres_front import front
from roles import Role, a_role
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import OperationalError

from hms_tune.cli import database as database_commands
from hms_tune.cli.doctor import _database as looks_at_the_database
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import open_storage
from hms_tune.database.connection.url import holds_secret
from hms_tune.database.other_programs import address_for_others
from hms_tune.errors import UsageError
from hms_tune.worker.open_study import open_search
from studies import ONE_TRIAL

README = (Path(__file__).parents[3] / "README.md").read_text()

SPELLINGS = [
    pytest.param(lambda url: url, id="as printed"),
    pytest.param(lambda url: url.replace("postgresql+psycopg2://", "postgresql://"), id="postgresql://"),
    pytest.param(lambda url: url.replace("+psycopg2://", "+psycopg://"), id="psycopg 3"),
]


def a_study_at(url: str) -> str:
    """A study with two complete trials."""
    storage = open_storage(url)
    study_file = StudyFile.parse(ONE_TRIAL.format(name="one"), "one.yaml")
    study = open_search(storage, study_file).study
    for value in (0.75, 0.5):
        trial = study.ask()
        trial.suggest_float("model.dropout", 0.1, 0.3)
        study.tell(trial, value)
    storage.close()
    return study_file.study


@pytest.fixture(scope="module")
def role(database_url: str) -> Iterator[Role]:
    """The user of docker-compose.yml, whose name leads PostgreSQL to our tables before Optuna's."""
    with a_role(database_url, "hms_tune", "canary", database="for_others") as role:
        yield role


@pytest.fixture(scope="module")
def study(role: Role) -> str:
    return a_study_at(role.url())


@pytest.fixture
def settings(role: Role, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """HMS_TUNE_STORAGE as the README exports it, on a server here; a file has the password."""
    (exported,) = re.findall(r"^export HMS_TUNE_STORAGE='(.+)'$", README, re.MULTILINE)
    assert exported == "postgresql://hms_tune@db.example.org/hms_tune"
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    passwords.write_text(f"*:*:*:{role.name}:{role.password}\n")
    with front(role.socket, context=None) as door:
        url = exported.replace("db.example.org/hms_tune", f"127.0.0.1:{door.port}/{role.database}")
        monkeypatch.setenv("HMS_TUNE_STORAGE", url)
        monkeypatch.setenv("HMS_TUNE_HOME", str(tmp_path))
        monkeypatch.setenv("PGPASSFILE", str(passwords))
        yield Settings.from_environment()


@pytest.fixture
def printed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    """The address that ``hms-tune database url`` prints."""
    database_commands.url()
    return capsys.readouterr().out.strip()


def test_doctor_prints_the_address_that_database_url_prints(settings: Settings, printed: str) -> None:
    _, found = looks_at_the_database(settings, settings.storage)
    assert (found.name, found.detail) == ("for optuna's tools", printed)


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_stock_optuna_loads_a_study_of_ours(printed: str, study: str, spelled: Callable[[str], str]) -> None:
    url = spelled(printed)
    loaded = optuna.load_study(study_name=study, storage=url)
    frame = loaded.trials_dataframe()
    assert list(frame.filter(regex="^value").iloc[:, 0]) == [0.75, 0.5]
    assert "params_model.dropout" in frame
    assert loaded.best_value == 0.5


def test_the_user_named_like_our_schema_needs_what_the_address_says(role: Role, study: str) -> None:
    plain = role.url().replace("postgresql://", "postgresql+psycopg2://")
    with pytest.raises(optuna.exceptions.StorageInternalError):
        optuna.load_study(study_name=study, storage=plain)


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_the_stock_dashboard_serves_a_study_of_ours(
    printed: str, study: str, spelled: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Bottle] = []
    monkeypatch.setattr(sys, "argv", ["optuna-dashboard", spelled(printed), "--server", "wsgiref"])
    monkeypatch.setattr(stock_dashboard, "run_wsgiref", lambda app, *_: served.append(app))
    stock_dashboard.main()
    request: dict[str, Any] = {"PATH_INFO": "/api/studies"}
    setup_testing_defaults(request)
    answer = b"".join(served[0](request, lambda *_: None))
    assert [each["study_name"] for each in json.loads(answer)["study_summaries"]] == [study]


def test_a_password_is_told_to_the_one_who_asks_and_hidden_where_it_is_shown(
    role: Role, tmp_path: Path
) -> None:
    assert "canary" in address_for_others(role.url(), home=tmp_path)
    hidden = address_for_others(role.url(), home=tmp_path, secrets=False)
    assert "canary" not in hidden
    assert "***" in hidden


def answers(url: str) -> bool:
    try:
        create_engine(url, poolclass=NullPool).connect().close()
    except OperationalError:
        return False
    return True


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hms_tune", "database", *arguments]


def test_the_embedded_server_is_kept_up_and_its_address_holds_no_secret() -> None:
    # A longer path than a socket's may be is reached through a link, which is new at each start.
    with tempfile.TemporaryDirectory(prefix="hms-") as scratch:
        home = Path(scratch) / "a home"
        _is_kept_up(home)


def _is_kept_up(home: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HMS_TUNE_STORAGE"}
    environment |= {"HMS_TUNE_HOME": str(home)}
    with subprocess.Popen(
        command(home, "serve"), env=environment, stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        url = serving.stdout.readline().strip()
        try:
            study = a_study_at(url)
            assert not holds_secret(url)
            for spelled in (url, url.replace("+psycopg2", "")):
                assert len(optuna.load_study(study_name=study, storage=spelled).trials) == 2
            printed = subprocess.run(
                command(home, "url"), env=environment, capture_output=True, text=True, check=True
            )
            assert (printed.stdout.strip(), printed.stderr) == (url, "")
            postmaster = int((home / "postgres/data/postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGKILL)
            while not answers(url):  # it looks every few seconds
                assert serving.poll() is None
                time.sleep(0.1)
            assert len(optuna.load_study(study_name=study, storage=url).trials) == 2
        finally:
            serving.send_signal(signal.SIGTERM)
        assert serving.wait() == 0
    printed = subprocess.run(
        command(home, "url"), env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == url
    assert "hms-tune database serve" in printed.stderr


def test_a_server_of_ones_own_is_not_kept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMS_TUNE_HOME", str(tmp_path))
    monkeypatch.setenv("HMS_TUNE_STORAGE", "postgresql://me@db/x")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(UsageError, match="HMS_TUNE_STORAGE names a server"):
        database_commands.serve()
    assert list(tmp_path.iterdir()) == []
