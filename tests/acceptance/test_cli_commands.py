"""The commands as a user types them: what they print, where, and how they end."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import optuna
import pytest

from hms_tune.cli.main import COMMANDS, main
from hms_tune.config.study_file import StudyFile, load_study_file
from hms_tune.database.connect import Storage
from hms_tune.database.queue.attempt import Result
from hms_tune.database.queue.claim import claim
from hms_tune.database.queue.end import end_attempt
from hms_tune.database.queue.lease import Holder, Lease
from hms_tune.database.queue.start import begin_attempt
from hms_tune.machine.processes import this_process
from hms_tune.search.optuna_private import study_id_of
from hms_tune.trial_state import AttemptState
from hms_tune.worker.open_study import open_search
from hms_tune.worker.presence import Presence, announce
from studies import ONE_TRIAL

STUDIES = Path(__file__).resolve().parents[2] / "studies"
CANARY = "canary{%secret@word"


class Said(NamedTuple):
    """What a command wrote."""

    stdout: str
    stderr: str


Run = Callable[..., Said]


@pytest.fixture(scope="module")
def storage(storage: Storage) -> Storage:
    """The server, with the study ``smoke``, of which two trials are complete."""
    study = open_search(storage, load_study_file(str(STUDIES / "smoke.yaml"))).study
    for value in (0.75, 0.5):
        trial = study.ask()
        trial.suggest_float("model.dropout", 0.0, 0.3)
        study.tell(trial, value)
    return storage


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command with a home, in this process, which has loaded what others take seconds to load.

    Gives what was said, once the exit code is the one that was expected.
    """
    for name in [name for name in os.environ if name.startswith("HMS_TUNE")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(home: Path, *arguments: str, code: int = 0, **variables: str) -> Said:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            for name, value in ({"HMS_TUNE_HOME": str(home)} | variables).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["hms-tune", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        root.handlers[:], root.level = handlers, level
        said = Said(*capfd.readouterr())
        assert int(ended.value.code or 0) == code, said
        return said

    yield run
    root.handlers[:], root.level = handlers, level


def error_of(done: Said) -> str:
    """The one line an error is, the last of all; a worker has said before what it does."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], done.stderr
    assert done.stdout == ""
    return lines[-1]


def test_help_lists_every_command_without_importing_what_they_need() -> None:
    said = imported_by("--help")
    assert [command for command in COMMANDS if command not in said] == []
    assert said.splitlines()[-1] == "[]"


def test_looking_at_studies_imports_neither_torch_nor_pandas_nor_scipy(home: Path, storage: Storage) -> None:
    assert "smoke" in (said := imported_by("study", "list", HMS_TUNE_HOME=str(home)))
    assert said.splitlines()[-1] == "['optuna', 'pydantic']"


def imported_by(*arguments: str, **variables: str) -> str:
    """What a command says, and a last line with the large packages that it loaded."""
    program = f"import sys; sys.argv = ['hms-tune', *{arguments}]\nfrom hms_tune.cli.main import main\n"
    program += "large = {*'torch optuna wandb pandas pydantic scipy.special sklearn timm'.split()}\n"
    program += "try: main()\nfinally: print(sorted(large & set(sys.modules)))"
    environment = os.environ | variables
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_package_is_a_command_of_this_version() -> None:
    import hms_tune

    said = subprocess.run([sys.executable, "-m", "hms_tune", "--version"], capture_output=True, check=True)
    assert said.stdout.decode() == f"hms-tune {hms_tune.__version__}\n"


@pytest.mark.parametrize("arguments", [("nonsense",), ("status",), ("status", "--study", "x", "--nonsense")])
def test_wrong_use_exits_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert "Usage: hms-tune" in run(Path("unused"), *arguments, code=2).stderr


def test_status_agrees_with_optuna(run: Run, home: Path, storage: Storage) -> None:
    status = json.loads(run(home, "status", "--study", "smoke", "--json").stdout)
    trials = optuna.load_study(study_name="smoke", storage=storage.optuna).trials
    assert status["trials"]["complete"] == len(trials) == 2
    assert status["best"]["value"] == 0.5
    assert status["budget_trials"] == 12
    shown = run(home, "status", "--study", str(STUDIES / "smoke.yaml")).stdout
    assert re.search(r"^0\.5000 +1  ", shown, re.MULTILINE)
    assert "2 complete" in shown


def test_a_study_is_listed_shown_paused_and_resumed(run: Run, home: Path, storage: Storage) -> None:
    run(home, "study", "pause", "smoke")
    (listed,) = json.loads(run(home, "study", "list", "--json").stdout)
    assert (listed["study"], listed["state"], listed["best_value"]) == ("smoke", "paused", 0.5)
    assert run(home, "study", "resume", "smoke").stdout == "smoke: idle\n"
    trial = json.loads(run(home, "study", "show", "smoke", "--trial", "1", "--json").stdout)
    assert (trial["trial"], trial["value"], list(trial["params"])) == (1, 0.5, ["model.dropout"])
    assert "no trial 9" in error_of(run(home, "study", "show", "smoke", "--trial", "9", code=2))


def test_a_study_is_reported_on_one_page(run: Run, home: Path, storage: Storage, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert run(home, "study", "report", "--study", "smoke", "--out", str(out)).stdout == f"{out}\n"
    page = out.read_text()
    assert "Trial 1, KL 0.5000" in page
    assert "That is optimistic" in page


def test_enqueue_reads_values_as_a_study_file_does(run: Run, home: Path, storage: Storage) -> None:
    done = run(
        home, "study", "enqueue", "smoke", "--params", "model.dropout=0.1", "training.learning_rate=1e-3"
    )
    assert done.stdout == "smoke: model.dropout=0.1  training.learning_rate=0.001 is tried next\n"
    given = '{"training.learning_rate": 0.002}'
    done = run(home, "study", "enqueue", "smoke", "--params", given)
    assert done.stdout == "smoke: training.learning_rate=0.002 is tried after 1 that wait\n"
    enqueued = json.loads(run(home, "status", "--study", "smoke", "--json").stdout)["enqueued"]
    assert enqueued == [
        {"model.dropout": 0.1, "training.learning_rate": 0.001},
        {"training.learning_rate": 0.002},
    ]
    refused = run(home, "study", "enqueue", "smoke", "--params", "model.dropout=7", code=2)
    assert "model.dropout cannot be 7" in error_of(refused)


def test_what_no_worker_ran_cannot_be_stopped(run: Run, home: Path, storage: Storage) -> None:
    assert "no worker ran a trial 1" in error_of(run(home, "study", "stop-trial", "smoke", "1", code=2))


def test_a_running_trial_is_stopped_and_its_worker_drained(run: Run, home: Path, storage: Storage) -> None:
    study = optuna.load_study(study_name="smoke", storage=storage.optuna)
    holder = Holder("worker-7", "cpu", this_process(), gpus=2.0)
    lease = claim(storage, study_id_of(study), holder, lease_s=600.0)
    assert isinstance(lease, Lease)
    attempt = begin_attempt(storage, study, lease)
    with announce(storage, Presence("worker-7", study_id_of(study), "1", ("cpu",))):
        done = run(home, "study", "stop-trial", "smoke", str(attempt.number))
        assert done.stdout == f"smoke: trial {attempt.number} ends within an epoch\n"
        done = run(home, "study", "drain", "smoke", "--worker", "worker-7", "--now")
        assert done.stdout.startswith("smoke: worker worker-7 on ")
        shown = run(home, "status", "--study", "smoke").stdout
    assert re.search(rf"^trial {attempt.number} .*\nstopping", shown, re.MULTILINE)
    assert re.search(r"^worker-7 .* leaving$", shown, re.MULTILINE)
    assert "of 12 trials" in shown
    assert "GPU-hours used" in shown
    end_attempt(storage, study, attempt, Result(AttemptState.FAILED, reason="over"))


@pytest.mark.slow
def test_deleting_asks_for_yes_and_takes_the_checkpoints(run: Run, home: Path, storage: Storage) -> None:
    open_search(storage, StudyFile.parse(ONE_TRIAL.format(name="gone"), "gone.yaml"))
    checkpoint = home / "artifacts" / "gone" / "trial-0" / "attempt-0" / "checkpoint-000000.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert "--yes" in error_of(run(home, "study", "delete", "gone", code=2))
    assert checkpoint.exists()
    run(home, "study", "delete", "gone", "--yes")
    assert not checkpoint.exists()
    assert "gone" not in optuna.get_all_study_names(storage.optuna)


@pytest.mark.slow
def test_a_stock_study_of_several_objectives_ends_no_command_and_is_left_alone(
    run: Run, home: Path, storage: Storage
) -> None:
    stock = optuna.create_study(
        study_name="pareto", storage=storage.optuna, directions=["minimize", "maximize"]
    )
    stock.tell(stock.ask(), [0.3, 0.4])
    try:
        listed = {each["study"]: each for each in json.loads(run(home, "study", "list", "--json").stdout)}
        assert (listed["smoke"]["state"], listed["smoke"]["best_value"]) == ("idle", 0.5)
        assert (listed["pareto"]["state"], listed["pareto"]["best_value"]) == ("not made by hms-tune", None)
        assert "pareto  not made by hms-tune" in run(home, "status", "--study", "pareto").stdout
        for refused in (("show", "pareto"), ("pause", "pareto"), ("delete", "pareto", "--yes")):
            assert "was not made by hms-tune. It is left alone" in error_of(
                run(home, "study", *refused, code=1)
            )
        assert [trial.values for trial in stock.trials] == [[0.3, 0.4]]
    finally:
        optuna.delete_study(study_name="pareto", storage=storage.optuna)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "--study", "nowhere"), 'no study "nowhere"'),
        (("study", "show", "../etc"), 'no study "../etc"'),
        (("worker", "--study", "a/b"), "is no study name"),
        (("worker", "--study", "missing.yaml"), "no such study file"),
        (("worker", "--study", str(STUDIES / "smoke.yaml")), "no competition folder"),
        (
            ("worker", "--study", str(STUDIES / "smoke.yaml"), "--data", "x", "--storage", "sqlite:///x"),
            "sqlite://",
        ),
        (("worker", "--study", str(STUDIES / "smoke.yaml"), "--data", "x", "--device", "cuda:99"), "cuda:99"),
        (("dashboard", "--host", "0.0.0.0"), "there is no password"),
        (("dashboard", "--proxy", "nobody-here"), "this machine has no user"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, home: Path, storage: Storage, arguments: tuple[str, ...], said: str
) -> None:
    assert said in error_of(run(home, *arguments, code=2))


def test_a_missing_data_folder_is_one_line_and_leaves_nothing(
    run: Run, home: Path, storage: Storage, tmp_path: Path
) -> None:
    root = tmp_path / "absent"
    done = run(home, "worker", "--study", str(STUDIES / "smoke.yaml"), "--data", str(root), code=1)
    assert str(root) in error_of(done)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_database_is_one_line_without_its_password(run: Run, tmp_path: Path) -> None:
    url = f"postgresql://me:{CANARY}@127.0.0.1:1/db"
    done = run(tmp_path, "status", "--study", "smoke", code=1, HMS_TUNE_STORAGE=url)
    error = error_of(done)
    assert error.startswith("error: postgresql://me:***@127.0.0.1:1/db: ")
    assert "canary" not in error
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_every_finding_and_its_hint(
    run: Run, home: Path, storage: Storage, tmp_path: Path, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path / "hms", patients=2)
    found = json.loads(run(home, "doctor", "--data", str(root), "--json").stdout)
    states = {check["name"]: check["state"] for check in found}
    expected = {
        "python",
        "torch",
        "timm",
        "optuna",
        "optuna-dashboard",
        "gpu",
        "database",
        "data",
        "wandb",
        "onnx",
    }
    assert set(states) == expected | {"disk", "for optuna's tools", "artifacts", "model hub"}
    assert (states["database"], states["data"], states["torch"]) == ("ok", "ok", "ok")
    assert all(check["hint"] for check in found if check["state"] != "ok")

    broken = run(home, "doctor", "--data", str(tmp_path / "absent"), "--json", code=1)
    assert [check["name"] for check in json.loads(broken.stdout) if check["state"] == "fail"] == ["data"]


def test_a_study_is_saved_deleted_and_loaded_again(
    run: Run, home: Path, storage: Storage, tmp_path: Path
) -> None:
    before = json.loads(run(home, "study", "show", "smoke", "--json").stdout)
    file = tmp_path / "smoke.zip"
    said = run(home, "study", "save", "smoke", str(file)).stdout
    assert said.startswith(f"{file}: study smoke, ")
    assert f" trials in {len(before)} attempts, " in said
    assert "already. Delete that one first" in error_of(run(home, "study", "load", str(file), code=2))
    run(home, "study", "delete", "smoke", "--yes")
    assert run(home, "study", "load", str(file)).stdout == said.removeprefix(f"{file}: ")
    after = json.loads(run(home, "study", "show", "smoke", "--json").stdout)
    for each in (*before, *after):
        each["attributes"].pop("lease", None)
    assert after == before


def test_the_dashboard_serves_the_study_and_ends_at_a_signal(home: Path, storage: Storage) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hms_tune", "dashboard", "--port", "0"],
        env=os.environ | {"HMS_TUNE_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("Dashboard: ").strip()
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=30) as page:
            assert b"<title>" in page.read()
        with urllib.request.urlopen(address.replace("/dashboard/", "/api/studies"), timeout=30) as answer:
            assert "smoke" in [study["study_name"] for study in json.load(answer)["study_summaries"]]
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
