"""The parts of the service that need no database."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import psycopg2
import pytest
from optuna.exceptions import StorageInternalError
from packaging.requirements import Requirement
from sqlalchemy.exc import IntegrityError, OperationalError

from hms_tune.cli.doctor import database_check, package_check
from hms_tune.database.queue.end import Result
from hms_tune.database.retry import Patience, as_storage_error, passes, through_outages
from hms_tune.errors import DataError, StorageError, UsageError
from hms_tune.machine.cores import cpu_threads, usable_cores
from hms_tune.machine.processes import ProcessIdentity, this_process
from hms_tune.reports.dashboard.access import is_loopback
from hms_tune.reports.dashboard.serve import check_exposure
from hms_tune.worker.devices import gpu_share, slot_devices
from hms_tune.worker.pipe import LogLine, PipeLogHandler, PipeObserver, SlotFailed
from hms_tune.worker.stop import StepCut, Stop


def test_a_process_is_known_dead_only_where_that_can_be_seen() -> None:
    me = this_process()
    assert me.pid == os.getpid()
    assert not me.is_known_dead(me)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    identity = dataclasses.replace(me, pid=child.pid, started=int(started))
    assert not identity.is_known_dead(me)
    assert dataclasses.replace(identity, started=int(started) - 1).is_known_dead(
        me
    )  # the number was used again
    child.kill()
    child.wait()
    assert identity.is_known_dead(me)
    assert not dataclasses.replace(identity, machine="another").is_known_dead(me)
    assert not ProcessIdentity("host", child.pid, None, None).is_known_dead(me)


def operational(pgcode: str | None) -> OperationalError:
    class Coded(psycopg2.OperationalError):
        pass

    original = Coded("gone")
    wrapped = OperationalError("SELECT 1", None, original)
    if pgcode is not None:
        wrapped.orig = type("Coded", (psycopg2.OperationalError,), {"pgcode": pgcode})("gone")
    return wrapped


@pytest.mark.parametrize(
    ("pgcode", "passing"),
    [(None, True), ("40001", True), ("40P01", True), ("57P01", True), ("53300", True), ("28P01", False)],
)
def test_only_faults_that_pass_are_tried_again(pgcode: str | None, passing: bool) -> None:
    error = operational(pgcode)
    assert passes(error) is passing
    wrapped = StorageInternalError("Optuna's words")
    wrapped.__cause__ = error
    assert passes(wrapped) is passing
    assert (as_storage_error(error) is not None) is passing
    assert not passes(IntegrityError("INSERT", None, Exception("duplicate")))
    assert not passes(StorageInternalError("without a cause"))


def test_work_is_repeated_until_the_fault_has_passed() -> None:
    faults = [operational(None), operational("40001")]

    def work() -> str:
        if faults:
            raise faults.pop()
        return "done"

    assert through_outages(work) == "done"
    assert faults == []


def test_a_database_that_stays_away_is_a_storage_error() -> None:
    def work() -> None:
        raise operational(None)

    with pytest.raises(StorageError, match="the database was away"):
        through_outages(work, patience=Patience(most_s=0.2))


def test_other_errors_are_not_tried_again() -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        through_outages(work)
    assert len(calls) == 1


def test_a_step_is_cut_only_while_it_computes() -> None:
    stop = Stop()
    stop.cut()  # between steps: nothing happens
    with pytest.raises(StepCut), stop.step():
        stop.cut()
    stop.cut()
    assert not issubclass(StepCut, Exception)


def test_a_complete_result_has_a_finite_value_and_no_other_has_one() -> None:
    assert Result("complete", value=0.5).value == 0.5
    for ending, value in (("complete", None), ("complete", float("inf")), ("pruned", 0.5)):
        with pytest.raises(ValueError, match="a complete trial has"):
            Result(ending, value=value)  # type: ignore[arg-type]


def test_the_cpu_is_one_slot_or_several() -> None:
    assert slot_devices("cpu", 1) == (("cpu", "cpu"),)
    assert slot_devices("cpu", 2) == (("cpu-0", "cpu"), ("cpu-1", "cpu"))
    for device, slots in (("cuda:99", 1), ("tpu", 1), ("cpu,cpu", 1), ("cpu", 0)):
        with pytest.raises(UsageError):
            slot_devices(device, slots)


def test_each_device_has_slots_of_its_own_number() -> None:
    assert slot_devices("cpu", {"cpu": 2}) == (("cpu-0", "cpu"), ("cpu-1", "cpu"))


def test_slots_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [cpu_threads(1), cpu_threads(10_000)] == [usable_cores(), 1]
    assert usable_cores() <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cpu_threads(1) == 3


def test_hardware_threads_of_a_core_count_once_and_a_container_counts_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3, 4, 5, 6, 7})
    for number in range(8):
        folder = tmp_path / f"devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    assert usable_cores(tmp_path) == 4
    share = tmp_path / "fs/cgroup/cpu.max"
    share.parent.mkdir(parents=True)
    for text, cores in (("max 100000", 4), ("250000 100000", 3), ("20000 100000", 1), ("900000 100000", 4)):
        share.write_text(text)
        assert usable_cores(tmp_path) == cores
    assert usable_cores(tmp_path / "nothing there") == 8


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("x.y", False),
    ],
)
def test_without_a_password_the_dashboard_is_for_this_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    check_exposure(host, "a long password")
    if loopback:
        check_exposure(host, None)
    else:
        with pytest.raises(UsageError, match="ssh -L"):
            check_exposure(host, None)


@pytest.mark.parametrize(
    ("host", "encrypted", "state"),
    [
        ("/run/postgresql", False, "ok"),
        ("localhost", False, "ok"),
        ("db.example.org", True, "ok"),
        ("db.example.org", False, "warn"),
    ],
)
def test_doctor_warns_of_a_database_elsewhere_without_tls(host: str, encrypted: bool, state: str) -> None:
    check = database_check("PostgreSQL", host=host, encrypted=encrypted)
    assert (check.state, "sslmode" in (check.mend or "")) == (state, state == "warn")


@pytest.mark.parametrize(
    ("requirement", "state", "detail"),
    [
        ("optuna>=5.0", "ok", "5."),
        ("optuna>=99", "fail", "needs >=99"),
        ("no-such-package>=1", "fail", "not installed"),
    ],
)
def test_doctor_checks_packages_against_what_this_one_needs(
    requirement: str, state: str, detail: str
) -> None:
    check = package_check(Requirement(requirement))
    assert (check.state, detail in check.detail) == (state, True)
    assert check.mend == (None if state == "ok" else f"Run pip install '{requirement}'")


def test_slots_that_share_a_gpu_have_a_part_of_it_each() -> None:
    assert gpu_share("cuda:0", ["cuda:0", "cuda:1", "cuda:0"]) == 0.5
    assert gpu_share("cuda:1", ["cuda:0", "cuda:1", "cuda:0"]) == 1.0
    assert gpu_share("cpu", ["cpu", "cpu"]) == 0.0


def test_a_slot_tells_its_supervisor_and_outlives_it() -> None:
    ours, theirs = Pipe()
    observer = PipeObserver(theirs)
    handler = PipeLogHandler(observer)
    handler.emit(logging.LogRecord("hms_tune.x", logging.WARNING, "file", 1, "lost %d", (3,), None))
    observer.send(SlotFailed(DataError("broken", where="train.csv", mend="Mend it")))
    assert ours.recv() == LogLine("hms_tune.x", logging.WARNING, "lost 3")
    failed = ours.recv()
    assert str(failed.error) == "train.csv: broken. Mend it"
    ours.close()
    observer.send(LogLine("hms_tune.x", logging.INFO, "nobody listens"))
