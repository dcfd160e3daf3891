"""Threads beside the main one."""

from __future__ import annotations

import logging
import threading

import pytest

from hms_tune.machine.background import BackgroundQueue, Every


def test_a_function_is_called_again_and_again_until_the_block_is_left() -> None:
    called = threading.Semaphore(0)
    with Every(0.001, called.release, name="test", at_once=True) as thread:
        for _ in range(3):
            assert called.acquire(timeout=20.0)
    assert not thread.is_running
    while called.acquire(blocking=False):
        pass
    assert not called.acquire(timeout=0.05)


def test_the_end_of_the_block_wakes_what_sleeps() -> None:
    asleep = threading.Event()

    def action() -> None:
        asleep.set()
        assert thread.sleep(60.0)

    thread = Every(60.0, action, name="test", at_once=True)
    with thread:
        assert asleep.wait(20.0)
    assert not thread.is_running


def test_a_thread_that_fails_ends_loudly(caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()

    def action() -> None:
        failed.set()
        raise ValueError("a bug")

    with caplog.at_level(logging.ERROR), Every(0.0, action, name="presence"):
        assert failed.wait(20.0)
    assert caplog.messages == ["The thread presence ended"]
    assert "ValueError: a bug" in caplog.text


def test_items_are_handled_in_order_and_a_newer_one_of_a_key_replaces_one_that_waits() -> None:
    begun, go = threading.Event(), threading.Event()
    handled = []

    def handle(item: str) -> None:
        begun.set()
        assert go.wait(20.0)
        handled.append(item)

    queue: BackgroundQueue[str] = BackgroundQueue(handle, name="test")
    queue.put("first")
    assert begun.wait(20.0)
    for item, key in (("a 1", "a"), ("b", None), ("a 2", "a"), ("c", None)):
        queue.put(item, key=key)
    assert (len(queue), queue.join(0.01)) == (4, False)
    go.set()
    assert queue.join()
    assert handled == ["first", "a 2", "b", "c"]


def test_an_item_that_is_replaced_while_it_is_handled_is_followed_by_the_newer() -> None:
    begun, go = threading.Event(), threading.Event()
    handled = []

    def handle(item: str) -> None:
        begun.set()
        assert go.wait(20.0)
        handled.append(item)

    queue: BackgroundQueue[str] = BackgroundQueue(handle, name="test")
    queue.put("old", key="k")
    assert begun.wait(20.0)
    queue.put("new", key="k")
    go.set()
    assert queue.join()
    assert handled == ["old", "new"]


def test_an_item_that_cannot_be_handled_now_is_tried_again_and_closing_waits_for_it() -> None:
    tries = []

    def handle(item: str) -> float | None:
        tries.append(item)
        return 0.001 if len(tries) < 3 else None

    queue: BackgroundQueue[str] = BackgroundQueue(handle, name="test")
    queue.put("record")
    assert queue.close(20.0)
    assert tries == ["record"] * 3


def test_closing_can_drop_what_waits() -> None:
    tried = threading.Event()

    def handle(item: str) -> float:
        tried.set()
        return 60.0

    queue: BackgroundQueue[str] = BackgroundQueue(handle, name="test")
    queue.put("checkpoint")
    assert tried.wait(20.0)
    assert queue.close(20.0, drop=True)


def test_a_queue_that_was_never_used_has_no_thread_to_end() -> None:
    queue: BackgroundQueue[str] = BackgroundQueue(lambda item: None, name="test")
    assert queue.close(0.0)
    assert not queue.is_started


def test_what_the_function_raises_is_raised_where_the_items_come_from() -> None:
    def handle(item: str) -> None:
        raise ValueError(item)

    queue: BackgroundQueue[str] = BackgroundQueue(handle, name="test")
    queue.put("broken")
    for again in (queue.join, lambda: queue.put("another")):
        with pytest.raises(ValueError, match="broken"):
            again()
    assert len(queue) == 0
