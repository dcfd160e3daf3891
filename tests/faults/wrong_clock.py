"""A process whose own clock is wrong."""

from __future__ import annotations

import datetime
import os
import sys
import time
from typing import Any

_real_datetime = datetime.datetime


def set_wrong(seconds: float, zone: str | None) -> None:
    """Move this process's wall clock by so many seconds, and itself to another time zone.

    Whatever a module asks, or has imported by name, is moved: ``time.time``, ``time.time_ns``,
    ``time.localtime``, ``time.gmtime``, ``datetime.now``, ``datetime.utcnow``. Clocks that only count stay:
    no clock that is set wrong moves them.
    """
    if zone is not None:
        os.environ["TZ"] = zone
        time.tzset()
    if seconds:
        _replace(time.time, lambda real=time.time: real() + seconds)
        _replace(time.time_ns, lambda real=time.time_ns: real() + round(seconds * 1e9))
        for function in (time.localtime, time.gmtime):
            _replace(function, _at_present(function))
        _replace(_real_datetime, _shifted(datetime.timedelta(seconds=seconds)))


def _at_present(function: Any) -> Any:
    return lambda moment=None: function(time.time() if moment is None else moment)


def _replace(old: Any, new: Any) -> None:
    """In every module that is loaded, under whatever name it has it."""
    for module in list(sys.modules.values()):
        if module is None or module.__name__ == __name__:
            continue
        for name, value in list(vars(module).items()):
            if value is old:
                setattr(module, name, new)


def _shifted(by: datetime.timedelta) -> type:
    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, _real_datetime)

    class Shifted(_real_datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return _real_datetime.now(tz) + by

        @classmethod
        def utcnow(cls) -> Any:
            return _real_datetime.now(datetime.UTC).replace(tzinfo=None) + by

    return Shifted
