"""Carries what a running trial has to say to the database, so that the trial need not wait for it.

While the database answers, the trial waits for each errand: a report is written and its pruning decision
known before the next epoch. When it does not answer, errands queue up in order and the trial trains on;
they are delivered, and decisions taken, when the database is back.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from hms_tune.database.retry import Patience, through_outages

_logger = logging.getLogger(__name__)

PROMPT_S = 2.0
"""A database that takes longer than this for an errand counts as away."""

MOST_ERRANDS = 10_000
"""More than any trial has epochs. Where they are reached, training waits."""

Errand = Callable[[], None]


class Courier:
    """A queue of errands and the thread that runs them, one after another.

    Each errand is an idempotent unit and is repeated through outages. The first that fails for another
    reason, or that outlasts the patience, ends the courier: what it raised is raised in the trial, and what
    is left is dropped.

    Parameters
    ----------
    prompt_s : how long the trial waits for an errand before it takes the database to be away, s
    most : how many errands may wait
    """

    def __init__(self, patience: Patience, *, prompt_s: float = PROMPT_S, most: int = MOST_ERRANDS) -> None:
        self._patience = patience
        self._prompt_s = prompt_s
        self._most = most
        self._errands: deque[Errand] = deque()
        self._changed = threading.Condition()
        self._away = False
        self._closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave at once; :meth:`settle` waits for what is under way."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    @property
    def behind(self) -> int:
        """How many errands wait for the database."""
        with self._changed:
            return len(self._errands)

    def send(self, errand: Errand) -> None:
        """Queue an errand, and wait for it while the database answers.

        Raises
        ------
        Exception
            Whatever ended the courier.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or len(self._errands) < self._most)
            self._errands.append(errand)
            self._changed.notify_all()
            if not self._away:
                self._away = not self._changed.wait_for(self._idle, timeout=self._prompt_s)
            self._raise()

    def settle(self) -> None:
        """Wait until every errand is done, for as long as the patience lasts.

        Raises
        ------
        Exception
            Whatever ended the courier.
        """
        with self._changed:
            self._changed.wait_for(self._idle)
            self._raise()

    def _idle(self) -> bool:
        return self._error is not None or not self._errands

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or bool(self._errands))
                if self._closing:
                    return
                errand = self._errands[0]
            try:
                through_outages(errand, patience=self._patience)
            except Exception as error:  # raised again where the trial runs
                _logger.debug("the courier ends", exc_info=True)
                with self._changed:
                    self._error = error
                    self._errands.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._errands.popleft()
                self._away = self._away and bool(self._errands)
                self._changed.notify_all()
