"""Processes start alike wherever they are started, and say at once what keeps them from starting."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from child_targets import tell_folder, tell_line, wait

from hms_tune.config.study_file import StudyFile
from hms_tune.data.store import decoder
from hms_tune.data.store.prepare import prepare
from hms_tune.errors import HmsTuneError
from hms_tune.machine.child_processes import ChildProcess, importing
from hms_tune.tracking.console import ConsoleObserver
from hms_tune.training.distributed.group import RankPlace
from hms_tune.worker.options import SlotPlan, WorkerOptions
from hms_tune.worker.presence import ImageCount
from hms_tune.worker.ranks import RankProcesses
from hms_tune.worker.slot_count.choose import NoRoomError
from hms_tune.worker.slot_count.measure import DeviceProbes
from hms_tune.worker.supervisor import Supervisor


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with names of Python's own modules."""
    for name in ("signal", "queue", "types", "random", "pickle", "struct"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the {name}.py of the working folder')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path


def half_an_installation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let new processes find a package of ours that cannot be imported; gives what they say of it."""
    package = folder / "hms_tune"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('half of it is missing')\n")
    monkeypatch.syspath_prepend(str(folder))
    return (
        rf"^{package}/__init__\.py: {{}} cannot begin: ImportError: half of it is missing\. Rename the file"
    )


def a_starter_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let a module that each interpreter imports by itself end the process."""
    (folder / "sitecustomize.py").write_text("import sys\nsys.exit('no start today')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return rf"^{folder}/sitecustomize\.py: {{}} cannot begin: SystemExit: no start today\. "


def a_starter_that_ends_in_silence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, as if all were well."""
    (folder / "sitecustomize.py").write_text("import os\nos._exit(0)\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return r"^{} cannot begin: it ended with exit status 0, and said nothing\. "


FAULTS = [half_an_installation, a_starter_that_fails, a_starter_that_ends_in_silence]
Fault = Callable[[Path, pytest.MonkeyPatch], str]


def a_plan(folder: Path, devices: tuple[str, ...] = ("cpu",)) -> SlotPlan:
    file = StudyFile.parse("study: starts\nmodel: {backbone: test_resnet, pretrained: false}\n", "test")
    options = WorkerOptions(file, None, folder, folder, folder)
    return SlotPlan(options, "postgresql://nowhere", "worker", "cpu", devices, 1.0, 0.0, None, None)


def test_a_process_of_a_slot_imports_nothing_from_the_working_folder(notebooks: Path) -> None:
    process = ChildProcess(tell_folder, name="slot cpu")
    assert process.pipe.recv() == str(notebooks)
    process.join()
    assert (process.exitcode, process.not_begun()) == (0, None)
    assert "PYTHONSAFEPATH" not in os.environ


def test_a_decoder_imports_nothing_from_the_working_folder(
    notebooks: Path, tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]
) -> None:
    root = competition_writer(tmp_path_factory.mktemp("data") / "hms", patients=8)
    assert len(prepare(root, jobs=2).recordings) == 18


def test_a_process_that_has_begun_speaks_for_itself_and_reads_no_input(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.stderr.write('a warning\\n')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = ChildProcess(tell_line, "x" * 300_000, name="slot cpu")
    assert process.pipe.recv() == ("x" * 300_000, "")
    assert process.not_begun() is None
    assert process.exitcode == 3
    said = capfd.readouterr().err.splitlines()
    assert [line[:12] for line in said] == ["a warning", "heard: xxxxx"]


def test_a_process_that_a_signal_ends_may_be_started_again() -> None:
    process = ChildProcess(wait, name="slot cpu")
    assert process.pipe.recv() == "waits"
    assert not process.ends_within(0.0)
    process.kill()
    assert process.ends_within(60.0)
    assert (process.exitcode, process.not_begun()) == (-signal.SIGKILL, None)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_slot_that_cannot_begin_ends_the_worker_at_its_first_death_with_what_it_said(
    fault: Fault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = fault(tmp_path, monkeypatch)
    supervisor = Supervisor(ConsoleObserver(), ImageCount(), stopping=lambda: False)
    with caplog.at_level(logging.DEBUG):
        supervisor.run([a_plan(tmp_path)])
    (error,) = supervisor.errors
    assert isinstance(error, HmsTuneError)
    with pytest.raises(HmsTuneError, match=told.format("slot cpu")):
        raise error
    assert caplog.records == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_further_rank_a_probe_and_a_decoder_that_cannot_begin_say_so_too(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = fault(tmp_path, monkeypatch)
    ranks = RankProcesses(a_plan(tmp_path), [(RankPlace(1, 2, tmp_path), "cpu")])
    ranks.wait()
    assert ranks.failed
    assert ranks.error is not None
    with pytest.raises(HmsTuneError, match=told.format("rank 1 of slot cpu")):
        raise ranks.error
    probes = DeviceProbes(None)  # type: ignore[arg-type]
    with probes, pytest.raises(HmsTuneError, match=told.format("a probe")) as raised:
        probes.device_name()
    assert not isinstance(raised.value, NoRoomError)
    process = decoder.DecoderProcess(tmp_path, None)
    with pytest.raises(HmsTuneError, match=told.format("a decoder")):
        process.write([])
    process.close()


def test_what_a_module_does_when_it_is_imported_is_told_whatever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hms_of_another_version.py").write_text("raise ValueError('dtype size changed')\n")
    (tmp_path / "hms_damaged.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    other = (
        r"hms_of_another_version.py: slot cpu cannot import what it needs: ValueError: dtype size changed\. "
    )
    with pytest.raises(HmsTuneError, match=other), importing("slot cpu"):
        import hms_of_another_version  # noqa: F401
    damaged = r"hms_damaged.py: slot cpu cannot import .*hms_damaged.py: invalid syntax\. Rename"
    with pytest.raises(HmsTuneError, match=damaged), importing("slot cpu"):
        import hms_damaged  # noqa: F401
