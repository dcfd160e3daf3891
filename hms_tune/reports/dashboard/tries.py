"""How often somebody may guess the password."""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from hms_tune.reports.dashboard.peer import owner_of

MOST = 10
"""Wrong passwords that an address may send before it has to pause."""

PAUSE_S = 60.0
"""How long an address that sent so many is refused, s; also how long a wrong password counts."""

_REMEMBERED = 10_000

_logger = logging.getLogger(__name__)


class Tries:
    """Wrong passwords of each address, of the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def pausing(self, address: str) -> bool:
        """Whether an address has to wait before its next password is looked at."""
        with self._lock:
            return self._counted(address) >= MOST

    def add(self, address: str) -> None:
        """Count a wrong password."""
        with self._lock:
            count = self._counted(address) + 1
            self._wrong[address] = count, self._clock()
            self._wrong.move_to_end(address)
            if len(self._wrong) > _REMEMBERED:
                self._wrong.popitem(last=False)
        if count >= MOST:
            _logger.warning("%d wrong passwords from %s: it is refused for %.0f s", count, address, PAUSE_S)

    def _counted(self, address: str) -> int:
        count, last = self._wrong.get(address, (0, 0.0))
        return count if self._clock() - last < PAUSE_S else 0


_FIRST_PERSON = 1000
"""User ids from here on are people's (login.defs(5)); those below belong to the system and its services."""


def address_of(environment: dict[str, Any]) -> str:
    """Who asks: the peer, or whom a reverse proxy on this machine names. Of IPv6, the network."""
    peer = environment.get("REMOTE_ADDR", "")
    named = environment.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
    try:
        address = ipaddress.ip_address(peer)
        if address.is_loopback and named and _is_proxy(environment):
            address = ipaddress.ip_address(named)
    except ValueError:
        return str(peer)
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


def _is_proxy(environment: dict[str, Any]) -> bool:
    """Whether a service of this machine asks, or this user: other people here may not speak for visitors.

    They could lock a visitor out, or guess with another name each time.
    """
    try:
        port, to = int(environment["REMOTE_PORT"]), int(environment["SERVER_PORT"])
    except (KeyError, ValueError):
        return False
    owner = owner_of(environment["REMOTE_ADDR"], port, to=to)
    return owner is not None and (owner < _FIRST_PERSON or owner == os.getuid())
