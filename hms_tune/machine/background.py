"""Threads beside the main one: work that is repeated, and work that is queued."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Every:
    """Calls a function every so many seconds, from a thread, until its block is left.

    A function that raises is called no more, and the log says why with the traceback.

    Parameters
    ----------
    seconds : between the end of one call and the begin of the next
    at_once : call it at the block's begin too
    join_s : how long the end of the block waits for a call in progress, s
    """

    def __init__(
        self,
        seconds: float,
        action: Callable[[], object],
        *,
        name: str,
        at_once: bool = False,
        join_s: float = 10.0,
    ) -> None:
        self._seconds = seconds
        self._action = action
        self._at_once = at_once
        self._join_s = join_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join(timeout=self._join_s)

    @property
    def is_running(self) -> bool:
        """Whether the thread lives: after the block, whether a call outlasted ``join_s``."""
        return self._thread.is_alive()

    def sleep(self, seconds: float) -> bool:
        """Sleep, but only until the block is left; returns whether it is."""
        return self._closing.wait(seconds)

    def _run(self) -> None:
        try:
            if self._at_once:
                self._action()
            while not self.sleep(self._seconds):
                self._action()
        except Exception:
            _logger.exception("The thread %s ended", self._thread.name)


class BackgroundQueue(Generic[T]):
    """Hands items to a function, one after another, on a thread that starts with the first item.

    What the function raises ends the queue: items that wait are dropped, and :meth:`put` and :meth:`join`
    raise it where the items come from.

    Parameters
    ----------
    handle : handles an item; None when that is done, else after how many seconds to try the item again
    most : how many items may wait before :meth:`put` does
    at_rest : an item that is added once none was put for so many seconds; None: none is
    """

    def __init__(
        self,
        handle: Callable[[T], float | None],
        *,
        name: str,
        most: float = float("inf"),
        at_rest: tuple[float, T] | None = None,
    ) -> None:
        self._handle = handle
        self._at_rest = at_rest
        self._name = name
        self._most = most
        self._items: OrderedDict[Hashable, T] = OrderedDict()
        self._changed = threading.Condition()
        self._closing = False
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """How many items are not handled yet."""
        with self._changed:
            return len(self._items)

    @property
    def is_started(self) -> bool:
        """Whether there was ever an item."""
        return self._thread is not None

    def put(self, item: T, *, key: Hashable = None) -> None:
        """Add an item. It replaces an earlier one of the same key that was not handled yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or len(self._items) < self._most)
            self._raise_error()
            self._items[object() if key is None else key] = item
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every item is handled; returns whether that is so."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._error is not None or not self._items, timeout)
            self._raise_error()
        return done

    def close(self, timeout: float, *, drop: bool = False) -> bool:
        """End the thread once every item is handled; returns whether it ended within ``timeout`` seconds.

        Parameters
        ----------
        drop : do not handle the items that wait
        """
        with self._changed:
            self._closing = True
            if drop:
                self._items.clear()
            self._changed.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        at_rest = self._at_rest
        while True:
            with self._changed:
                came = self._changed.wait_for(lambda: self._items or self._closing, at_rest and at_rest[0])
                if at_rest is not None and not came:
                    self._items[object()] = at_rest[1]
                at_rest = self._at_rest if came else None
                if not self._items:
                    return
                key, item = next(iter(self._items.items()))
            try:
                again_s = self._handle(item)
            except Exception as error:  # raised again where the items come from
                _logger.debug("The thread %s ends", self._name, exc_info=True)
                with self._changed:
                    self._error = error
                    self._items.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                if again_s is None and self._items.get(key) is item:
                    del self._items[key]
                self._changed.notify_all()
                if again_s is not None:
                    self._changed.wait_for(lambda: not self._items, again_s)  # ended by close(drop=True)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
