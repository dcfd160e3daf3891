"""Reports of a running attempt on their way to the database.

While the database answers, the attempt waits for each report: its pruning decision is known before the next
epoch. While the database is away, reports queue up in order and the attempt trains on; they are written when
it is back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from hms_tune.database.connection.retry import Patience, through_outages
from hms_tune.machine.background import BackgroundQueue

PROMPT_S = 2.0
"""A database that takes longer than this for a report counts as away."""

MOST_REPORTS = 10_000
"""More than any trial has epochs. With so many waiting, training waits too."""

Report = Callable[[], None]
"""Takes a report, or writes those that are kept. It is called again after an outage, so doing it twice must
leave what doing it once does."""


class ReportQueue:
    """Writes reports one after another, each repeated through outages.

    The first that fails for another reason, or that outlasts the patience, ends the queue: what it raised is
    raised in the trial, and the reports that wait are dropped.

    Parameters
    ----------
    at_rest : what is done once no report has followed for ``rest_s`` seconds
    prompt_s : how long the attempt waits for a report before it takes the database to be away, s
    most : how many reports may wait
    """

    def __init__(
        self,
        patience: Patience,
        *,
        at_rest: Report = lambda: None,
        rest_s: float = 2.0,
        prompt_s: float = PROMPT_S,
        most: int = MOST_REPORTS,
    ) -> None:
        def write(report: Report) -> None:
            through_outages(report, patience=patience)

        self._queue: BackgroundQueue[Report] = BackgroundQueue(
            write, name="reports", most=most, at_rest=(rest_s, at_rest)
        )
        self._prompt_s = prompt_s
        self._is_away = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave at once; :meth:`flush` waits for the reports."""
        self._queue.close(0.0, drop=True)

    @property
    def waiting(self) -> int:
        """How many reports wait for the database."""
        return len(self._queue)

    def write(self, report: Report) -> None:
        """Queue a report, and wait for it while the database answers.

        Raises
        ------
        Exception
            Whatever ended the queue.
        """
        self._is_away = self._is_away and self.waiting > 0
        self._queue.put(report)
        if not self._is_away:
            self._is_away = not self._queue.join(self._prompt_s)

    def flush(self) -> None:
        """Wait until every report is written, for as long as the patience lasts.

        Raises
        ------
        Exception
            Whatever ended the queue.
        """
        self._queue.join()
