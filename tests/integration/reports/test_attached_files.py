"""Files that somebody attached to a trial, as a visitor of the dashboard gets them."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from hostile import hostile_files
from optuna.artifacts.exceptions import ArtifactNotFound

from hms_tune.database.connect import Storage
from hms_tune.errors import ArtifactError
from hms_tune.reports.dashboard.files import DashboardFiles, attach
from hms_tune.reports.dashboard.serve import dashboard_app
from hms_tune.search.optuna_private import study_id_of, trial_id_of

Get = Callable[[str], tuple[dict[str, str], bytes]]


@pytest.fixture
def study(storage: Storage, study_name: str) -> optuna.Study:
    made = optuna.create_study(study_name=study_name, storage=storage.optuna)
    made.tell(made.ask(), 0.5)
    return made


@pytest.fixture
def get(storage: Storage, tmp_path: Path) -> Get:
    """Asks a writable dashboard without a password; gives the answer's headers and body."""
    application = dashboard_app(storage, tmp_path, writable=True)

    def ask(path: str) -> tuple[dict[str, str], bytes]:
        answered: list[dict[str, str]] = []

        def start(status: str, headers: list[tuple[str, str]], *_rest: Any) -> None:
            assert status.startswith("200"), (status, path)
            assert len({name.lower() for name, _ in headers}) == len(headers)
            answered.append({name.lower(): value for name, value in headers})

        environment: dict[str, Any] = {"PATH_INFO": path, "HTTP_HOST": "localhost"}
        setup_testing_defaults(environment)
        body = b"".join(application(environment, start))
        return answered[0], body

    return ask


def addresses(study: optuna.Study, get: Get) -> dict[str, str]:
    """Where the page says that each file of the study's trial is, by the file's name."""
    number, trial = study_id_of(study), trial_id_of(study.trials[0])
    _, body = get(f"/api/studies/{number}")
    (shown,) = json.loads(body)["trials"]
    return {
        each["filename"]: f"/artifacts/{number}/{trial}/{each['artifact_id']}" for each in shown["artifacts"]
    }


def test_a_file_of_any_type_is_downloaded_and_runs_nothing(
    storage: Storage, study: optuna.Study, tmp_path: Path, get: Get
) -> None:
    hostile = hostile_files(study_id_of(study))
    for name, content in hostile.items():
        attach(storage, DashboardFiles(tmp_path), study_id_of(study), 0, name, content)
    found = addresses(study, get)
    assert found.keys() == hostile.keys()
    for name, path in found.items():
        for spelled in (path, f"{path}/"):
            headers, body = get(spelled)
            assert body == hostile[name]
            assert headers["content-disposition"] == "attachment"
            assert "sandbox" in headers["content-security-policy"].split("; ")
            assert headers["x-content-type-options"] == "nosniff"


def test_no_answer_is_for_another_site(
    storage: Storage, study: optuna.Study, tmp_path: Path, get: Get
) -> None:
    attach(storage, DashboardFiles(tmp_path), study_id_of(study), 0, "a.png", b"x")
    number = study_id_of(study)
    paths = [*addresses(study, get).values(), "/api/studies", f"/csv/{number}", "/dashboard", "/favicon.ico"]
    for path in paths:
        headers, _ = get(path)
        assert "access-control-allow-origin" not in headers
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "content-security-policy" in headers


def test_an_address_cannot_be_computed_from_names_and_is_kept_when_a_file_is_replaced(
    storage: Storage, study_name: str, tmp_path: Path, get: Get
) -> None:
    kept = {}
    for place in ("one", "two"):
        made = optuna.create_study(study_name=f"{study_name}-{place}", storage=storage.optuna)
        made.tell(made.ask(), 0.5)
        for content in (b"old", b"new"):
            attach(storage, DashboardFiles(tmp_path), study_id_of(made), 0, "a.png", content)
        ((_, path),) = addresses(made, get).items()
        assert get(path)[1] == b"new"
        kept[place] = path.rpartition("/")[2]
        assert len(kept[place]) == 36
        assert kept[place][14] == "4"  # drawn, not derived
    assert kept["one"] != kept["two"]


def test_a_link_at_the_name_of_a_file_is_neither_written_nor_read_through(tmp_path: Path) -> None:
    store = DashboardFiles(tmp_path / "shared")
    victim = tmp_path / "victim"
    victim.write_text("a person's")
    (tmp_path / "shared" / "dashboard").mkdir(parents=True)
    (tmp_path / "shared" / "dashboard" / "known").symlink_to(victim)
    with pytest.raises(ArtifactNotFound):
        store.open_reader("known")
    store.write("known", io.BytesIO(b"ours"))
    assert victim.read_text() == "a person's"
    with store.open_reader("known") as file:
        assert file.read() == b"ours"


def test_a_link_in_place_of_the_folder_leads_to_nobodys_files(tmp_path: Path) -> None:
    shared, victims = tmp_path / "shared", tmp_path / "victims"
    shared.mkdir()
    victims.mkdir()
    (victims / "known").write_text("a person's")
    (shared / "dashboard").symlink_to(victims)
    store = DashboardFiles(shared)
    with pytest.raises(ArtifactNotFound):
        store.open_reader("known")
    with pytest.raises(ArtifactNotFound):
        store.remove("known")
    for name in ("known", "new"):
        with pytest.raises(ArtifactError, match=r"shared/dashboard: cannot be written.* no link"):
            store.write(name, io.BytesIO(b"ours"))
    assert {path.name: path.read_text() for path in victims.iterdir()} == {"known": "a person's"}


def test_a_pipe_at_the_name_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    store = DashboardFiles(tmp_path)
    (tmp_path / "dashboard").mkdir()
    os.mkfifo(tmp_path / "dashboard" / "pipe")
    with pytest.raises(ArtifactNotFound):
        store.open_reader("pipe")


def test_the_files_are_closed_to_others(tmp_path: Path) -> None:
    DashboardFiles(tmp_path / "shared").write("a", io.BytesIO(b"x"))
    folder = tmp_path / "shared" / "dashboard"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o600
