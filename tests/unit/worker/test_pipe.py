"""What a slot tells its supervisor."""

from __future__ import annotations

import logging
from multiprocessing import Pipe

from hms_tune.errors import DataError
from hms_tune.worker.pipe import LogLine, PipeLogHandler, PipeObserver, SlotFailed


def test_a_slot_tells_its_supervisor_and_outlives_it() -> None:
    ours, theirs = Pipe()
    observer = PipeObserver(theirs)
    handler = PipeLogHandler(observer)
    handler.emit(logging.LogRecord("hms_tune.x", logging.WARNING, "file", 1, "lost %d", (3,), None))
    observer.send(SlotFailed(DataError("broken", where="train.csv", hint="Fix it")))
    assert ours.recv() == LogLine("hms_tune.x", logging.WARNING, "lost 3")
    failed = ours.recv()
    assert str(failed.error) == "train.csv: broken. Fix it"
    ours.close()
    observer.send(LogLine("hms_tune.x", logging.INFO, "nobody listens"))
