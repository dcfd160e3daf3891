"""What Docker would build and run, from ``Dockerfile`` and ``docker-compose.yml`` as they are."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from compose import ROOT, Image, Service, passed_variables, services, shown_commands, variables_read
from packaging.requirements import Requirement
from postgres_front import front
from roles import a_role

from hms_tune.database.connect import Storage
from hms_tune.database.embedded.server import start_embedded
from studies import ONE_TRIAL

PASSWORD = "a-password_of-letters"
STUDY = ONE_TRIAL.replace("epochs: 4", "epochs: 1").replace("{{mode: off}}", "{{mode: auto}}")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image.build(tmp_path_factory.mktemp("image"))


@pytest.mark.slow
def test_the_image_has_the_program_its_studies_and_what_its_extras_need(image: Image, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*image.dockerfile.entrypoint, *arguments],
            env=image.variables(tmp_path, {}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Run a study's trials" in run("--help")
    assert "effnet: " in run("study", "check", "effnet")
    (packages,) = image.environment.glob("lib/python*/site-packages")
    shipped = packages / "hms_tune" / "study_files"
    copied = {path.relative_to(ROOT / "studies") for path in (ROOT / "studies").rglob("*.yaml")}
    assert Path("gallery/two-stages.yaml") in copied
    assert {path.relative_to(shipped) for path in shipped.rglob("*.yaml")} == copied
    (package,) = metadata.distributions(name="hms-tune", path=[str(packages)])
    assert image.extras <= set(package.metadata.get_all("Provides-Extra") or [])
    needed = [Requirement(each) for each in package.requires or []]
    needed = [
        each
        for each in needed
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *image.extras))
    ]
    assert {"torch", "optuna", "onnxruntime"} <= {each.name for each in needed}
    assert [str(each) for each in needed if metadata.version(each.name) not in each.specifier] == []


def test_every_variable_that_the_program_reads_reaches_its_containers() -> None:
    read = variables_read()
    of_files = {"KAGGLE_CONFIG_DIR"}  # names a folder of the host
    wandb = {"WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_ENTITY"}
    s3 = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"}
    assert (read | wandb | s3) - of_files - passed_variables("worker") == set()
    assert read - of_files - {"HMS_TUNE_DATA"} - passed_variables("dashboard") == set()


@dataclass(frozen=True)
class Project:
    """The composition on this machine. ``folders`` has a folder for each of the containers', by its name."""

    image: Image
    services: dict[str, Service]
    database_port: int
    folders: dict[str, Path]
    log: Path

    def start(self, service: str, command: list[str] | None = None) -> subprocess.Popen[str]:
        """A service's process, or another command in its place, with nothing set but what the files say."""
        said = self.services[service]
        here = said.on_this_machine(self.folders, command)
        # Names of containers are known on the containers' network alone.
        given = {
            name: value.replace("@database:5432/", f"@127.0.0.1:{self.database_port}/")
            for name, value in here.environment.items()
        }
        home = self.folders[self.image.dockerfile.workdir]
        environment = self.image.variables(home, given)
        for name in ("HMS_TUNE_HOME", "HF_HOME"):
            environment[name] = str(self.folders.get(environment[name], environment[name]))
        self.write(f"--- {service}: hms-tune {' '.join(command or said.command)}")
        return subprocess.Popen(
            [*self.image.dockerfile.entrypoint, *here.command],
            env=environment,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=self.log.open("a"),
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> None:
        """Wait for a process to end well."""
        said, _ = process.communicate(timeout=240)
        self.write(f"{said}--- exit status {process.returncode}")
        assert process.returncode == 0, self.log.read_text()

    def write(self, text: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{text}\n")


@pytest.fixture
def project(
    image: Image,
    home: Path,
    storage: Storage,
    tmp_path: Path,
    competition_writer: Callable[..., Path],
) -> Iterator[Project]:
    """Composed for a small study in the folder of studies, as a person would."""
    studies = tmp_path / "studies"
    shutil.copytree(ROOT / "studies", studies)
    (studies / "composed.yaml").write_text(STUDY.format(name="composed"))
    data = competition_writer(tmp_path / "data", patients=8, test_recordings=1)
    dashboard_port = free_port()
    variables = {
        "HMS_TUNE_DB_PASSWORD": PASSWORD,
        "HMS_TUNE_STUDY": "composed",
        "HMS_TUNE_DATA": str(data),
        "HMS_TUNE_DASHBOARD_PORT": str(dashboard_port),
    }
    database = services(variables)["database"].environment
    assert set(database) == {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"}
    server = start_embedded(home / "postgres")
    with (
        a_role(
            server,
            database["POSTGRES_USER"],
            database["POSTGRES_PASSWORD"],
            database=database["POSTGRES_DB"],
            attributes="SUPERUSER",  # as the image of PostgreSQL makes it
        ) as role,
        front(role.socket, context=None) as door,
    ):
        composed = services(variables | {"HMS_TUNE_DB_PORT": str(door.port)})
        worker, workdir = composed["worker"], image.dockerfile.workdir
        assert (worker.volumes["/data"], worker.volumes[f"{workdir}/studies"]) == (str(data), "./studies")
        assert worker.volumes["/artifacts"] == composed["dashboard"].volumes["/artifacts"]
        folders = {"/data": data}
        assert worker.volumes["/var/lib/hms-tune"] == composed["dashboard"].volumes["/var/lib/hms-tune"]
        for name in ("/artifacts", "/var/lib/hms-tune", "/var/cache/huggingface", workdir):
            folders[name] = tmp_path / "containers" / name.lstrip("/")
            folders[name].mkdir(parents=True)
        (folders[workdir] / "studies").symlink_to(studies)
        yield Project(image, composed, door.port, folders, tmp_path / "log")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.slow
def test_worker_dashboard_and_export_do_their_work_with_the_shipped_user_and_nothing_else_set(
    project: Project,
) -> None:
    dashboard = project.start("dashboard")
    try:
        assert dashboard.stdout is not None
        address = dashboard.stdout.readline().removeprefix("Dashboard: ").strip()
        project.write(address)
        assert address.startswith("http://127.0.0.1:"), project.log.read_text()
        project.finish(project.start("worker"))
        with urllib.request.urlopen(address.replace("/dashboard/", "/api/studies"), timeout=30) as answer:
            assert [each["study_name"] for each in json.load(answer)["study_summaries"]] == ["composed"]
    finally:
        dashboard.send_signal(signal.SIGTERM)
    project.finish(dashboard)

    (export,) = shown_commands()
    project.finish(project.start("worker", [word.replace("effnet", "composed") for word in export]))
    (bundle,) = (project.folders["/data"] / "bundles").iterdir()
    assert {"metrics.json", "model.onnx"} <= {path.name for path in bundle.iterdir()}
    log = project.log.read_text()
    print(log)  # noqa: T201 - pytest -s shows it
    assert "trial 0  complete" in log
    assert PASSWORD not in log
