"""What a trial says reaches the database in order, however long it takes."""

from __future__ import annotations

import threading
import time

import psycopg2
import pytest
from sqlalchemy.exc import OperationalError

from hms_tune.database.retry import Patience
from hms_tune.errors import StorageAwayError
from hms_tune.worker.report_queue import Courier


def away() -> OperationalError:
    return OperationalError("INSERT", None, psycopg2.OperationalError("gone"))


def test_while_the_database_answers_each_errand_is_done_when_send_returns() -> None:
    done = []
    with Courier(Patience()) as courier:
        for number in range(5):
            courier.send(lambda number=number: done.append(number))
            assert done == list(range(number + 1))


def test_while_it_is_away_the_trial_goes_on_and_all_is_delivered_in_order_later() -> None:
    back = threading.Event()
    done = []

    def errand(number: int) -> None:
        if not back.is_set():
            raise away()
        done.append(number)

    with Courier(Patience(), prompt_s=0.1) as courier:
        began = time.monotonic()
        for number in range(50):
            courier.send(lambda number=number: errand(number))
        assert time.monotonic() - began < 1.0  # only the first is waited for
        assert (done, courier.behind) == ([], 50)
        back.set()
        courier.settle()
        assert done == list(range(50))
        courier.send(lambda: errand(50))
        assert done[-1] == 50  # prompt again


def test_an_error_that_does_not_pass_ends_the_trial_and_drops_what_is_left() -> None:
    entered, go = threading.Event(), threading.Event()
    done = []

    def failing() -> None:
        entered.set()
        go.wait(20.0)
        raise ValueError("the trial is finished")

    with Courier(Patience(), prompt_s=0.01) as courier:
        courier.send(failing)
        courier.send(lambda: done.append("late"))
        assert entered.wait(20.0)
        go.set()
        with pytest.raises(ValueError, match="finished"):
            courier.settle()
        with pytest.raises(ValueError, match="finished"):
            courier.send(lambda: done.append("later"))
    assert done == []


def test_a_full_queue_holds_the_trial_up_until_there_is_room() -> None:
    go = threading.Event()
    with Courier(Patience(), prompt_s=0.01, most=2) as courier:
        courier.send(lambda: go.wait(20.0) and None)
        courier.send(lambda: None)
        sender = threading.Thread(target=lambda: courier.send(lambda: None))
        sender.start()
        sender.join(timeout=0.2)
        assert sender.is_alive()
        go.set()
        sender.join(timeout=20.0)
        assert not sender.is_alive()


def test_patience_that_ends_is_told_to_the_trial() -> None:
    def never() -> None:
        raise away()

    with Courier(Patience(most_s=0.2), prompt_s=0.01) as courier:
        courier.send(never)
        with pytest.raises(StorageAwayError, match="the database was away"):
            courier.settle()
