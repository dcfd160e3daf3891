"""How a worker answers signals."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest

from hms_tune.config.study_file import StudyFile
from hms_tune.tracking.console import ConsoleObserver
from hms_tune.worker.options import WorkerOptions
from hms_tune.worker.presence import ImageCount
from hms_tune.worker.stop import StepCut, Stop
from hms_tune.worker.supervisor import Supervisor, _SlotProcess
from hms_tune.worker.worker import Worker


class Slots:
    """A supervisor with a slot, that notes what it is asked."""

    has_begun = True

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask_to_stop(self) -> None:
        self.asked.append("stop")

    def kill(self) -> None:
        self.asked.append("kill")


def a_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Worker, Slots]:
    """A worker that runs such slots."""
    file = StudyFile.parse("study: signals\nmodel: {backbone: test_resnet, pretrained: false}\n", "test")
    worker = Worker(WorkerOptions(file, None, folder, folder, folder), ConsoleObserver())
    slots = Slots()
    monkeypatch.setattr(worker, "_supervisor", slots)
    return worker, slots


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_sigterm_sigint_and_usr1_hand_trials_back_and_a_second_signal_exits_at_once(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, slots = a_worker(tmp_path, monkeypatch)

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    inherited = signal.signal(number, signal.SIG_DFL)  # a shell ignores SIGINT for what runs behind
    before = signal.getsignal(number)
    with worker._answering_signals():
        os.kill(os.getpid(), number)
        assert slots.asked == ["stop"]
        with pytest.raises(SystemExit) as left:
            os.kill(os.getpid(), number)
        assert left.value.code == 128 + number
        assert slots.asked == ["stop", "kill"]
    assert signal.getsignal(number) == before
    signal.signal(number, inherited)


def test_a_closed_terminal_asks_to_stop_however_often_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, slots = a_worker(tmp_path, monkeypatch)
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it for what it starts
    with worker._answering_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, inherited)
    assert slots.asked == ["stop"]


def test_a_worker_that_nohup_started_outlives_its_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, slots = a_worker(tmp_path, monkeypatch)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with worker._answering_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert slots.asked == []


def test_a_signal_before_the_slots_start_ends_the_worker_with_more_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = a_worker(tmp_path, monkeypatch)
    monkeypatch.setattr(
        worker, "_supervisor", Supervisor(ConsoleObserver(), ImageCount(), stopping=lambda: False)
    )
    with worker._answering_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        (tmp_path / "went on").touch()
    assert not (tmp_path / "went on").exists()
    assert worker._has_more


def test_a_signal_after_the_last_trial_does_not_make_a_finished_study_one_with_more_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = a_worker(tmp_path, monkeypatch)
    supervisor = Supervisor(ConsoleObserver(), ImageCount(), stopping=lambda: False)
    monkeypatch.setattr(worker, "_supervisor", supervisor)
    with worker._answering_signals():
        supervisor.run([])
        os.kill(os.getpid(), signal.SIGTERM)
        (tmp_path / "went on").touch()  # here the worker asks the database
    assert (tmp_path / "went on").exists()
    assert not worker._has_more


def test_a_worker_says_that_it_stops_before_its_slots_end_their_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker, _ = a_worker(tmp_path, monkeypatch)
    supervisor = Supervisor(ConsoleObserver(), ImageCount(), stopping=lambda: worker._signals > 0)
    monkeypatch.setattr(worker, "_supervisor", supervisor)
    ours, theirs = Pipe()
    process = SimpleNamespace(join=lambda: None, exitcode=0, pipe=ours, not_begun=lambda: None)
    supervisor._slots["cpu"] = _SlotProcess(SimpleNamespace(slot="cpu"), process, 0.0)
    said: list[bool] = []

    def in_a_step(pipe: Connection) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert pipe.recv() == "stop"
        deadline = time.monotonic() + 5.0
        while "Stopping: trials are requeued" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        said.append("Stopping: trials are requeued" in caplog.text)
        pipe.close()

    with caplog.at_level(logging.INFO), worker._answering_signals():
        supervisor.has_begun = True
        slot = threading.Thread(target=in_a_step, args=(theirs,), daemon=True)
        slot.start()
        supervisor.run([])
        slot.join()
    assert said == [True]


def test_a_step_is_cut_only_while_it_computes() -> None:
    stop = Stop()
    stop.cut()  # between steps: nothing happens
    with pytest.raises(StepCut), stop.step():
        stop.cut()
    stop.cut()
    assert not issubclass(StepCut, Exception)
