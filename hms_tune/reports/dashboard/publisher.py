"""The process beside a worker that keeps a study's dashboard page up to date.

A process of its own, so that a figure that takes seconds, or a crash while drawing one, delays no trial.
Every worker has one, and one of all of a study's is elected to write; if it dies, another is after a while.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from hms_tune.database.locks import PUBLISHER_S, dismiss_publisher, elect_publisher, publishers_term
from hms_tune.database.queries.records import RecordsEnded, records_ended
from hms_tune.errors import ArtifactError, StorageError
from hms_tune.machine.background import Every
from hms_tune.machine.stop_signals import leave_signals_to_the_worker

if TYPE_CHECKING:
    from hms_tune.database.connect import Storage, Transaction
    from hms_tune.database.queries.confirmations import Confirmation

_logger = logging.getLogger(__name__)

LOOK_S = 10.0
"""How often the publisher asks whether anything is new."""

LEAST_S = 30.0
"""Shortest time between two publications."""

REST = 9.0
"""A publication that took a second is followed by at least this many of rest."""

FINISH_S = 40.0
"""How long a worker whose study is done waits for the last publication."""

FINISH = "finish\n"


@dataclass(frozen=True, slots=True)
class PublisherPlan:
    """What the process needs. It holds a password, and so comes through standard input, unseen by others."""

    study: str
    storage_url: str = field(repr=False)
    artifacts: Path
    data_root: Path

    def to_line(self) -> str:
        """As one line of JSON."""
        return json.dumps({each.name: str(getattr(self, each.name)) for each in fields(self)}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> PublisherPlan:
        """The inverse of :meth:`to_line`."""
        told = json.loads(line)
        return cls(told["study"], told["storage_url"], Path(told["artifacts"]), Path(told["data_root"]))


@contextmanager
def publishing(plan: PublisherPlan, *, is_stopping: Callable[[], bool]) -> Iterator[None]:
    """Keep the study's page up to date during the block, and once more at its end.

    Parameters
    ----------
    is_stopping : if it returns true, the end waits for no last publication
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "hms_tune.reports.dashboard.publisher"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    listener = threading.Thread(target=_pass_on, args=(process,), name="publisher", daemon=True)
    listener.start()
    _tell(process, plan.to_line())
    try:
        yield
    finally:
        _tell(process, FINISH)
        until = time.monotonic() + FINISH_S
        while process.poll() is None and not is_stopping() and time.monotonic() < until:
            time.sleep(0.1)
        if process.returncode:
            _logger.warning("The dashboard's notes and figures may be old: their writer died")
        process.kill()
        process.wait()
        listener.join()


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # it died
        process.stdin.write(line)
        process.stdin.flush()


def _pass_on(process: subprocess.Popen[str]) -> None:
    """Write into the worker's log what the process says."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            _logger.warning("%s", line.rstrip())


def main() -> None:
    """Publish until told to finish, or until the worker is gone."""
    leave_signals_to_the_worker()
    with suppress(OSError):
        os.nice(10)
    logging.basicConfig(level=logging.CRITICAL)
    # Not buffered: select would not see a line that has been read ahead.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as lines:

        def told(seconds: float) -> bool | None:
            """True: finish with a last publication, False: leave at once, None: go on."""
            if not select.select([lines], [], [], seconds)[0]:
                return None
            return lines.readline().decode() == FINISH

        Publisher(PublisherPlan.from_line(lines.readline().decode())).run(told)


def _news(connection: Transaction, study_id: int) -> tuple[RecordsEnded, Confirmation | None]:
    """What changes with everything that is to be published."""
    # Loaded by the one that writes alone, too: it brings scipy along.
    from hms_tune.database.queries.confirmations import as_confirmation

    return records_ended(connection, study_id), as_confirmation(connection, study_id)


class Publisher:
    """Publishes a study while it is elected, when something is new, and not too often."""

    def __init__(self, plan: PublisherPlan) -> None:
        self._plan = plan
        self._process = uuid.uuid4().hex
        self._published: tuple[RecordsEnded, Confirmation | None] | None = None
        self._rest_until = 0.0
        self._said: str | None = None

    def run(self, wait: Callable[[float], bool | None]) -> None:
        """Publish what is new until told to stop. After an outage or an error, try again later."""
        while True:
            told = wait(LOOK_S)
            if told is False:
                return
            try:
                self._elected_run(wait, last=told is True)
            except Exception as error:  # an outage, or a figure that cannot be drawn: later, or never
                _logger.debug("nothing was published", exc_info=True)
                self._say(error)
            else:
                return
            if told is True:
                return

    def _say(self, error: Exception) -> None:
        """Tell the worker, once, of a database or a folder that cannot be used."""
        from hms_tune.database.connection.retry import as_storage_error

        away = error if isinstance(error, StorageError | ArtifactError) else as_storage_error(error)
        if away is None or away.what == self._said:
            return
        self._said = away.what
        place = f"{away.where}: " if isinstance(away, ArtifactError) else ""
        print(  # noqa: T201 - the worker reads it
            f"The dashboard's notes and figures wait: {place}{away.what}. "
            f"It is tried again every {LOOK_S:.0f} s. {away.hint or ''}".strip(),
            flush=True,
        )

    def _elected_run(self, wait: Callable[[float], bool | None], *, last: bool) -> None:
        """Wait to be elected, then publish until told to stop. Returns when this process is to end."""
        from hms_tune.database.connect import open_storage

        storage = open_storage(self._plan.storage_url)

        def is_elected() -> bool:
            with storage.statements() as connection:
                return elect_publisher(connection, study_id, self._process)

        try:
            study_id = int(storage.optuna.get_study_id_from_name(self._plan.study))
            told: bool | None = True if last else None
            while True:
                if is_elected() or (told and self._outlived(storage, study_id) and is_elected()):
                    with storage.statements() as connection:
                        news = _news(connection, study_id)
                    if news != self._published and (told or time.monotonic() >= self._rest_until):
                        with Every(PUBLISHER_S / 3, is_elected, name="election"):  # figures take their time
                            self._publish(storage)
                        self._published = news
                self._said = None
                if told is not None:
                    return
                told = wait(LOOK_S)
                if told is False:
                    return
        finally:
            with suppress(Exception), storage.statements() as connection:
                dismiss_publisher(connection, study_id, self._process)
            storage.close()

    def _outlived(self, storage: Storage, study_id: int) -> bool:
        """Wait for a sign of the elected process; without one its term ends, and it is gone."""
        with storage.statements() as connection:
            holder, until, over = publishers_term(connection, study_id)
        now_holder, now_until = holder, until
        while not over and (now_holder, now_until) == (holder, until):
            time.sleep(1.0)
            with storage.statements() as connection:
                now_holder, now_until, over = publishers_term(connection, study_id)
        return over and (now_holder, now_until) == (holder, until)

    def _publish(self, storage: object) -> None:
        # Loaded by the one that writes alone: figures bring matplotlib along.
        from hms_tune.database.connect import Storage
        from hms_tune.reports.dashboard.publish import publish_study

        assert isinstance(storage, Storage)
        began = time.monotonic()
        publish_study(storage, self._plan.study, self._plan.artifacts, data_root=self._plan.data_root)
        took = time.monotonic() - began
        self._rest_until = time.monotonic() + max(LEAST_S, REST * took)


if __name__ == "__main__":
    main()
