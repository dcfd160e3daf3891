"""How the demo ends: with a page, a sentence on what its scores mean, and three commands that go on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_study import run_study

from hms_tune.cli import demo
from hms_tune.config.study_file import load_study_file
from hms_tune.database.connect import Storage
from hms_tune.export.scores import METRICS, Scores, read_scores
from hms_tune.machine.terminal import Terminal
from hms_tune.studies.trial_record import study_record


@pytest.fixture(scope="module")
def best_value(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The search of a demo that is over; the KL of its best trial."""
    run_study(storage, demo._STUDY, tmp_path_factory.mktemp("artifacts"))
    best = study_record(storage, demo._STUDY).best
    assert best is not None
    assert best.value is not None
    return best.value


@pytest.fixture
def plan(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> demo.Demo:
    """In the folder that a person stands in, with an environment that is not activated."""
    for name in ("VIRTUAL_ENV", "HMS_TUNE_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.Demo, "home", home)
    monkeypatch.setattr(sys, "argv", ["hms-tune", "demo"])
    (tmp_path / "demo").mkdir()
    return demo.Demo(Path("demo"), patients=60, trials=14)


def ending(plan: demo.Demo, search_kl: float, *, held_out_kl: float | None = 1.07) -> str:
    bundle = plan.folder / "bundle"
    bundle.mkdir(exist_ok=True)
    scores = Scores(
        kl=0.8,
        prior_kl=1.3,
        fold_kl=(0.75, 0.85),
        best_epochs=(2, 3),
        rows=100,
        kl_all_rows=0.8,
        high_vote_rows=50,
        kl_high_vote=0.7,
        held_out_rows=12 if held_out_kl else 0,
        held_out_kl=held_out_kl,
        held_out_prior_kl=1.41 if held_out_kl else None,
        held_out_interval=None,
        search_kl=search_kl,
    )
    (bundle / METRICS).write_text(json.dumps(scores.as_json()))
    demo._end(plan, bundle, read_scores(bundle), Terminal(stderr=True))
    return plan.report.read_text()


def test_the_demo_ends_with_the_page_and_says_why_the_held_out_score_is_worse(
    plan: demo.Demo, best_value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ending(plan, best_value)
    assert "<h1>demo</h1>" in page
    assert "1.0700" in page
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"best KL in the search │? ?{best_value:.4f}", said)
    assert re.search(r"KL on held-out patients \(12 EEGs\) │? ?1\.0700", said)
    assert "The held-out KL is the one to expect of new patients" in said
    assert "The search's is the best of 14 trials on patients that did, which flatters it" in said
    for name, place in (("report", plan.report), ("bundle", plan.folder / "bundle")):
        assert f"{name} {place}" in said
        assert place.exists()
    assert f"dashboard HMS_TUNE_HOME={plan.home} hms-tune dashboard" in said


def test_nothing_is_said_of_a_held_out_score_that_is_not_there(
    plan: demo.Demo, best_value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    ending(plan, best_value, held_out_kl=None)
    assert "held-out KL" not in capsys.readouterr().out


def test_three_next_commands_lead_from_the_demo_to_a_study_of_ones_own(
    plan: demo.Demo, best_value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    ending(plan, best_value)
    commands = capsys.readouterr().out.partition("\nnext\n")[2].splitlines()
    activate, download, copy = (line.partition("  # ")[0].strip() for line in commands)
    assert activate.startswith(". ")
    assert activate.endswith("/bin/activate")
    assert download == "hms-tune data download data/hms"
    subprocess.run(f"{activate} && {copy}", shell=True, executable="/bin/sh", check=True)
    own, origin = load_study_file("mine"), load_study_file(demo._COPIED)
    assert (own.study, own.space_hash) == ("mine", origin.space_hash)


def test_a_shell_that_has_hms_tune_is_told_to_check_its_study_instead(
    plan: demo.Demo, best_value: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    ending(plan, best_value)
    commands = capsys.readouterr().out.partition("\nnext\n")[2].splitlines()
    firsts = [line.split()[0] for line in commands]
    assert firsts == ["hms-tune", "sed", "hms-tune"]
    assert "study check mine" in commands[-1]
