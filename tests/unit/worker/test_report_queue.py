"""What a trial says reaches the database in order, however long it takes."""

from __future__ import annotations

import threading
import time

import psycopg2
import pytest
from sqlalchemy.exc import OperationalError

from hms_tune.database.connection.retry import Patience
from hms_tune.errors import StorageAwayError
from hms_tune.worker.report_queue import ReportQueue


def away() -> OperationalError:
    return OperationalError("INSERT", None, psycopg2.OperationalError("gone"))


def test_while_the_database_answers_each_report_is_written_when_write_returns() -> None:
    done = []
    with ReportQueue(Patience()) as reports:
        for number in range(5):
            reports.write(lambda number=number: done.append(number))
            assert done == list(range(number + 1))


def test_what_is_kept_is_written_once_no_report_follows() -> None:
    written = threading.Semaphore(0)
    kept: list[int] = []

    def write() -> None:
        kept.clear()
        written.release()

    with ReportQueue(Patience(), at_rest=write, rest_s=0.05) as reports:
        for number in range(2):
            reports.write(lambda number=number: kept.append(number))
            assert written.acquire(timeout=20.0)
            assert kept == []
        assert not written.acquire(timeout=0.2)  # once after each report


def test_while_it_is_away_the_trial_goes_on_and_all_is_delivered_in_order_later() -> None:
    back = threading.Event()
    done = []

    def report(number: int) -> None:
        if not back.is_set():
            raise away()
        done.append(number)

    with ReportQueue(Patience(), prompt_s=0.1) as reports:
        began = time.monotonic()
        for number in range(50):
            reports.write(lambda number=number: report(number))
        assert time.monotonic() - began < 1.0  # only the first is waited for
        assert (done, reports.waiting) == ([], 50)
        back.set()
        reports.flush()
        assert done == list(range(50))
        reports.write(lambda: report(50))
        assert done[-1] == 50  # prompt again


def test_an_error_that_does_not_pass_ends_the_trial_and_drops_what_is_left() -> None:
    entered, go = threading.Event(), threading.Event()
    done = []

    def failing() -> None:
        entered.set()
        go.wait(20.0)
        raise ValueError("the trial is finished")

    with ReportQueue(Patience(), prompt_s=0.01) as reports:
        reports.write(failing)
        reports.write(lambda: done.append("late"))
        assert entered.wait(20.0)
        go.set()
        with pytest.raises(ValueError, match="finished"):
            reports.flush()
        with pytest.raises(ValueError, match="finished"):
            reports.write(lambda: done.append("later"))
    assert done == []


def test_a_full_queue_holds_the_trial_up_until_there_is_room() -> None:
    go = threading.Event()
    with ReportQueue(Patience(), prompt_s=0.01, most=2) as reports:
        reports.write(lambda: go.wait(20.0) and None)
        reports.write(lambda: None)
        sender = threading.Thread(target=lambda: reports.write(lambda: None))
        sender.start()
        sender.join(timeout=0.2)
        assert sender.is_alive()
        go.set()
        sender.join(timeout=20.0)
        assert not sender.is_alive()


def test_patience_that_ends_is_told_to_the_trial() -> None:
    def never() -> None:
        raise away()

    with ReportQueue(Patience(most_s=0.2), prompt_s=0.01) as reports:
        reports.write(never)
        with pytest.raises(StorageAwayError, match="the database was away"):
            reports.flush()
