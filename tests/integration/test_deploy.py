"""The containers' composition is what Docker Compose accepts, and shows nothing to the network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hms_tune.database.connect import MOST_CONNECTIONS, SLOT_CONNECTIONS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("docker-compose") is None, reason="docker-compose is not installed"
)


def compose_config(**variables: str) -> subprocess.CompletedProcess[str]:
    names = {name: value for name, value in os.environ.items() if not name.startswith("HMS_TUNE")}
    return subprocess.run(
        ["docker-compose", "--file", str(ROOT / "docker-compose.yml"), "config"],
        env=names | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    result = compose_config(HMS_TUNE_DB_PASSWORD="canary", HMS_TUNE_STUDY="resnet", HMS_TUNE_DATA="/srv/hms")
    assert result.returncode == 0, result.stderr
    parsed: dict[str, Any] = yaml.safe_load(result.stdout)["services"]
    return parsed


def test_a_password_is_asked_for() -> None:
    result = compose_config()
    assert result.returncode != 0
    assert "set it to the password of the database" in result.stderr


def test_ports_are_open_to_this_machine_only(services: dict[str, Any]) -> None:
    published = [str(port) for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 1
    assert published[0].startswith("127.0.0.1:")
    assert services["dashboard"]["network_mode"] == "host"  # where it serves loopback alone
    assert "--host" not in services["dashboard"]["command"]


def test_the_database_is_checked_and_kept(services: dict[str, Any]) -> None:
    database = services["database"]
    assert "pg_isready" in " ".join(database["healthcheck"]["test"])
    assert str(database["volumes"][0]).startswith("database:/var/lib/postgresql")
    for name in ("dashboard", "worker"):
        assert services[name]["depends_on"]["database"]["condition"] == "service_healthy"


def test_the_database_takes_the_connections_of_as_many_slots_as_it_says(services: dict[str, Any]) -> None:
    (setting,) = (word for word in services["database"]["command"] if word.startswith("max_connections="))
    assert int(setting.partition("=")[2]) >= 33 * (SLOT_CONNECTIONS + MOST_CONNECTIONS + 2)


def test_whoever_runs_it_chooses_the_user_and_what_it_writes_stays() -> None:
    chosen = compose_config(HMS_TUNE_DB_PASSWORD="canary", HMS_TUNE_UID="4711", HMS_TUNE_GID="815")
    found = yaml.safe_load(chosen.stdout)["services"]
    for name in ("dashboard", "worker"):
        service = found[name]
        assert service["user"] == "4711:815"
        assert service["build"]["args"] == {"UID": "4711", "GID": "815"}
        assert service["init"] is True
        mounted = {str(volume).split(":")[1] for volume in service["volumes"]}
        assert {"/artifacts", "/var/lib/hms-tune"} <= mounted
    assert "hub:/var/cache/huggingface" in " ".join(map(str, found["worker"]["volumes"]))
    assert "http.client" in " ".join(found["dashboard"]["healthcheck"]["test"])


def test_a_worker_gets_the_study_the_data_and_the_gpus(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert worker["command"] == ["worker", "resnet", "--data", "/data"]
    assert any(str(volume).startswith("/srv/hms:/data") for volume in worker["volumes"])
    devices = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert "canary" not in " ".join(worker["command"])
