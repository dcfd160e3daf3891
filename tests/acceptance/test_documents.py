"""Every command line that README.md and the documents show runs, on small data, in the order shown."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from documents import DOCUMENTS, ROOT, Line, is_complete, lines_of, stray_lines_of, variants
from kaggle_server import Kaggle, serve

from hms_tune.cli import database, demo, status
from hms_tune.config.study_file import load_study_file
from hms_tune.data import synthetic
from hms_tune.database.connect import Storage
from hms_tune.database.queue.attempt import Result
from hms_tune.database.queue.claim import claim
from hms_tune.database.queue.end import end_attempt
from hms_tune.database.queue.lease import Holder, Lease
from hms_tune.database.queue.start import begin_attempt
from hms_tune.export.bundle import load_bundle
from hms_tune.machine.processes import this_process
from hms_tune.reports.dashboard import serve as dashboard
from hms_tune.trial_state import AttemptState
from hms_tune.worker.open_study import open_search
from hms_tune.worker.presence import Presence, announce

pytest.importorskip("kagglesdk")
from kagglesdk import kaggle_env

NOT_RUN = {
    'pip install -e ".[onnx,kaggle]"': "asks the package index",
    'pip install "hms-tune[kaggle]"': "asks the package index",
    'pip install "hms-tune[s3]"': "asks the package index",
    "pip install wandb-workspaces": "asks the package index",
    "kaggle auth login": "asks Kaggle",
    "export HMS_TUNE_STORAGE='postgresql://hms_tune@db.example.org/hms_tune'": "a database elsewhere",
    "export HMS_TUNE_ARTIFACTS=/shared/hms-tune": "a folder that machines share",
    "export HMS_TUNE_STORAGE='postgresql://hms_tune@db.example.org/hms_tune?sslmode=verify-full"
    "&sslrootcert=/etc/ssl/db.pem'": "a database elsewhere; tests/integration/database/test_tls.py has one",
    "export PGPASSFILE=~/.hms-tune.pgpass": "a file of the reader's",
    "ssh -L 8080:127.0.0.1:8080 gpu-1": "a machine elsewhere",
    "python docs/wandb_view.py effnet TEAM": "asks W&B; tests/unit/tracking/test_wandb_view.py makes it",
    "hms-tune study load FILE": "the study is there; tests/acceptance/test_cli_commands.py deletes it first",
    "hms-tune study load effnet.zip": "it is there; tests/acceptance/test_cli_commands.py deletes it first",
    "hms-tune database serve --host login-1 --port 54321 --address-file hms-tune.address": "it never ends; "
    "tests/integration/database/test_fleet_server.py stops it",
    **dict.fromkeys(
        (
            "export HMS_TUNE_DB_PASSWORD=…  HMS_TUNE_DATA=/where/the/competition/lies",
            "docker compose up --build",
        ),
        "an engine; tests/acceptance/test_compose.py runs what it would",
    ),
    **dict.fromkeys(
        (
            "export HMS_TUNE_DATA=/scratch/hms HMS_TUNE_ARTIFACTS=/shared/hms-tune",
            "sbatch deploy/slurm/database.sbatch",
            "sbatch --array=0-15 deploy/slurm/workers.sbatch effnet",
            "sbatch --dependency=afterok:4711 deploy/slurm/export.sbatch effnet",
        ),
        "a cluster; tests/acceptance/test_slurm.py has one",
    ),
    **dict.fromkeys(
        (
            "cp -r deploy/kubernetes/example deploy/kubernetes/mine",
            "cp deploy/kubernetes/mine/secrets.env.example deploy/kubernetes/mine/secrets.env",
            "kubectl create namespace hms-tune",
            "kubectl apply --kustomize deploy/kubernetes/mine",
            "kubectl --namespace hms-tune wait --for=condition=complete --timeout=-1s job/hms-tune-workers",
            "kubectl --namespace hms-tune apply --kustomize deploy/kubernetes/export",
            "kubectl --namespace hms-tune create configmap hms-tune-studies --from-file=studies/mine.yaml",
            "kubectl --namespace hms-tune port-forward service/hms-tune-dashboard 8080:80",
        ),
        "a cluster; tests/integration/test_kubernetes.py renders the files",
    ),
    **dict.fromkeys(
        (
            "export HMS_TUNE_STORAGE='postgresql://hms_tune:PASSWORD@db.example.org/hms_tune?sslmode=require'",
            "sky jobs launch --env STUDY=effnet --secret HMS_TUNE_STORAGE deploy/skypilot.yaml",
            "sky jobs queue",
            "export HMS_TUNE_ARTIFACTS=s3://my-bucket/hms-tune",
        ),
        "machines of a cloud; tests/integration/test_skypilot.py reads the file",
    ),
    **dict.fromkeys(
        (
            "kaggle datasets create -p kaggle-effnet/dataset --dir-mode zip",
            "kaggle kernels push -p kaggle-effnet/inference",
        ),
        "asks Kaggle; tests/acceptance/test_kaggle_notebooks.py runs the notebooks",
    ),
    "hms-tune worker large --ranks-per-trial 4": "four GPUs; "
    "tests/integration/training/test_ranks.py has processes",
    "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint host:29500 "
    "-m hms_tune worker large": "two machines",
    "hms-tune --install-completion": "changes the shell's start-up file; tests/acceptance/test_completion.py",
    "wandb sync HMS_TUNE_HOME/wandb/offline-run-…": "asks Weights & Biases",
    "wandb sync --include-online HMS_TUNE_HOME/wandb/run-…": "asks Weights & Biases",
    "tmux capture-pane -p -e | python docs/terminal_picture.py …": "a terminal to take a picture of",
}
"""Lines that no test can run to their end, and why. Those of ours are parsed all the same."""

BY_NAME = {"make": "takes minutes", "python": "a benchmark, or minutes", "pytest": "a part of this suite"}
"""Programs of which only what they name is looked for."""

PATIENTS = 20
"""Of the competition that lines work on: as few as the demo takes."""

SMALL = synthetic.Extent(max_recordings=1, max_seconds=60, test_patients=2)
"""Of any competition that is synthesized here."""

INSTEAD = {
    "hms-tune worker effnet --data /local/hms": "hms-tune worker effnet",
    "hms-tune data download data/hms --from-zip FILE": "hms-tune data download data/new --from-zip hms.zip",
    "hms-tune data synth ROOT --patients 60": "hms-tune data synth data/sixty --patients 60",
    "hms-tune demo": f"hms-tune demo --patients {PATIENTS} --trials 1",
}
"""Lines that are run as others: with folders that are there, or are not there yet, or smaller."""

STAND_INS = {
    "ROOT": "data/hms",
    "FILE": "studies/effnet.yaml",
    "STUDY": "effnet",
    "NAME": "effnet",
    "mine": "effnet",
    "mine.yaml": "studies/effnet.yaml",
    "BACKBONE": "test_resnet",
    "BUNDLE": "bundles/effnet",
    "N": "1",
    "S": "0",
    "EEG_ID": "1000",
    "cuda:0": "cpu",
}
"""What a word of a command line stands for."""

STAND_INS_OF = {
    "data download": {"ROOT": "data/downloaded"},
    "data synth": {"ROOT": "data/made"},
    "data prepare": {"DIR": "elsewhere"},
    "study report": {"DIR": "bundles/effnet"},
    "blend BUNDLE...": {"DIR": "bundles/blended", "BUNDLE...": "bundles/effnet"},
    "study save": {"FILE": "saved.zip"},
    "study check": {"DIR": "data/hms"},
    "worker NAME": {"DIR": "elsewhere"},
}
"""The same, of one command."""

STUDY = """
study: {name}
data: {{root: data/hms, folds: 2, holdout: 0.2}}
input: {{eeg: {{name: stft, n_fft: 256}}, image: [32, 64], channels: 1}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.0, high: 0.3}}}}
training: {{epochs: 1, batch_size: 16, learning_rate: {{low: 1.0e-4, high: 3.0e-2, log: true}}}}
search: {{sampler: random, pruner: none}}
budget: {{trials: 2}}
tracking: {{wandb: {{mode: off}}, notify: {{command: [cat]}}}}
"""


def every_line() -> list[Line]:
    return [line for document in DOCUMENTS for line in lines_of(document)]


def without_comment(line: Line) -> str:
    return re.sub(r"\s+#.*", "", line.text)


def test_command_lines_stand_where_tests_find_them() -> None:
    stray = {str(document.relative_to(ROOT)): stray_lines_of(document) for document in DOCUMENTS}
    assert {name: lines for name, lines in stray.items() if lines} == {}, "write them in ```console blocks"


def test_what_is_not_run_is_still_shown() -> None:
    shown = {without_comment(line) for line in every_line()}
    assert [text for text in {**NOT_RUN, **INSTEAD} if text not in shown] == []


def what_is_missing(words: list[str]) -> str | None:
    """What a command line of ``make`` or ``python`` names and is not there."""
    if words[0] == "make":
        there = re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return None if there else f"make has no target {words[1]}"
    if words[0] == "pytest" or words[1:3] == ["-m", "pytest"]:
        return None  # tests/unit/test_reliability_document.py looks for what they select
    script = ROOT / words[1]
    if not script.is_file():
        return f"there is no {words[1]}"
    options = [word for word in words[2:] if word.startswith("--")]
    return next((f"no {option}" for option in options if f'"{option}"' not in script.read_text()), None)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_is_run_or_has_a_reason_and_names_what_exists(document: Path) -> None:
    for line in lines_of(document):
        words = line.words
        if words[0] in BY_NAME:
            assert what_is_missing(words) is None, line
        elif words[0] == "hms-tune":
            for text in variants(line.text):
                typed = [stood_in(word, words[1:3]) for word in replace(line, text=text).words]
                assert is_complete(typed[1:]) or line.shown == "inline", f"{line}: something is missing"
        elif words[-5:-2] == ["-m", "hms_tune", "worker"]:
            assert is_complete(words[-3:]), line
        elif line.shown == "block" or len(words) > 2:  # two words, as in `wandb login`, are a name
            assert without_comment(line) in NOT_RUN, f"{line} is neither run nor in NOT_RUN"


def stood_in(word: str, command: list[str], more: dict[str, str] | None = None) -> str:
    return {**STAND_INS, **STAND_INS_OF.get(" ".join(command), {}), **(more or {})}.get(word, word)


@dataclass
class Reader:
    """Somebody who types every line, in the order of the documents, each once."""

    run: Callable[..., tuple[int, str]]
    words: dict[str, str]
    """Further stand-ins."""
    words_of: dict[str, dict[str, str]]
    """The same, of one document."""
    typed: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    def type(self, line: Line) -> None:
        for text in variants(line.text):
            shown = replace(line, text=INSTEAD.get(text, text))
            more = self.words | self.words_of.get(line.document, {})
            words = [stood_in(word, shown.words[1:3], more) for word in shown.words]
            typed = shlex.join(words)
            if typed in self.typed or not is_complete(words[1:]):
                continue
            self.typed.add(typed)
            with pytest.MonkeyPatch.context() as patch:
                for name, value in shown.variables.items():
                    patch.setenv(name, value)
                code, said = self.run(*words[1:])
            if code != 0:
                self.failed.append(f"{line.document}: {text}\n  as {typed}: exit code {code}\n{said}")


@pytest.fixture
def scratch(home: Path, hms_tune: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader works: study files that take seconds, and an account at a Kaggle of this machine."""
    folder = home / "reader"
    for name in ("effnet", "fleet"):
        (folder / "studies").mkdir(parents=True, exist_ok=True)
        (folder / "studies" / f"{name}.yaml").write_text(STUDY.format(name=name))
    (folder / "data").mkdir()
    for name in list(os.environ):
        if name.startswith(("KAGGLE_", "WANDB_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HMS_TUNE_HOME", str(home))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    monkeypatch.chdir(folder)
    return folder


def small_competition(scratch: Path) -> Path:
    """A synthetic competition, and ``hms.zip`` with it."""
    root = scratch / "source"
    synthetic.synthesize(root, patients=PATIENTS, extent=SMALL)
    with zipfile.ZipFile(scratch / "hms.zip", "w") as archive:
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(root))
    return root


def make_everything_small(patch: pytest.MonkeyPatch, competition: Path) -> None:
    """The demo's competition is there already, others have two patients; networks learn for one epoch."""
    whole = synthetic.synthesize

    def synthesize(root: Path, *, patients: int, **options: Any) -> Any:
        if patients == PATIENTS:
            return shutil.copytree(competition, root)
        return whole(root, patients=2, **(options | {"extent": SMALL}))

    patch.setattr(synthetic, "synthesize", synthesize)
    patch.setattr(demo, "_EPOCHS", 1)


def interrupt_what_never_ends(patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C for ``--watch`` once it has shown something, and for a server once it can be used."""

    def ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    serve_it = dashboard.serve_dashboard

    def serve_dashboard(application: Any, *, host: str, started: Callable[[str], None], **_: Any) -> None:
        def opened(address: str) -> None:
            started(address)
            ctrl_c()

        serve_it(application, host=host, port=0, started=opened)

    patch.setattr(database, "keep_up", ctrl_c)
    patch.setattr(status, "time", SimpleNamespace(sleep=ctrl_c))
    patch.setattr(dashboard, "serve_dashboard", serve_dashboard)


@contextlib.contextmanager
def a_trial_that_runs(storage: Storage) -> Iterator[dict[str, str]]:
    """A worker with a trial of the study ``fleet``; gives the words by which a line names them."""
    study = open_search(storage, load_study_file("fleet")).study
    lease = claim(
        storage, study._study_id, Holder("worker-7", "cpu", this_process(), gpus=0.0), lease_s=600.0
    )
    assert isinstance(lease, Lease)
    attempt = begin_attempt(storage, study, lease)
    with announce(storage, Presence("worker-7", study._study_id, "1", ("cpu",))):
        yield {"NAME": "fleet", "N": str(attempt.number), "ID|HOST": "worker-7"}
    end_attempt(storage, study, attempt, Result(AttemptState.FAILED, reason="over"))


@pytest.mark.slow
def test_every_command_line_that_is_shown_runs(
    scratch: Path,
    storage: Storage,
    hms_tune: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    competition = small_competition(scratch)
    make_everything_small(monkeypatch, competition)
    interrupt_what_never_ends(monkeypatch)
    eeg_id = pd.read_csv(competition / "train.csv")["eeg_id"].iloc[0]
    content = (scratch / "hms.zip").read_bytes()
    terminated = signal.getsignal(signal.SIGTERM)
    with serve(Kaggle(content)) as kaggle, a_trial_that_runs(storage) as running:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.TEST, kaggle.api)
        reader = Reader(hms_tune, {"EEG_ID": str(eeg_id)}, {"docs/fleet.md": running})
        for line in every_line():
            if line.words[0] == "hms-tune" and without_comment(line) not in NOT_RUN:
                reader.type(line)
    signal.signal(signal.SIGTERM, terminated)  # the dashboard answers it in its own way
    assert not reader.failed, "\n\n".join(reader.failed)
    assert len(reader.typed) >= 40
    assert os.readlink("bundles/effnet").startswith("effnet-")
    assert len(pd.read_csv("submission.csv")) == 2
    bundle = load_bundle("bundles/effnet")
    assert bundle.predict(np.random.default_rng(0).normal(0, 30, (3, 10_000, 20))).shape == (3, 6)
