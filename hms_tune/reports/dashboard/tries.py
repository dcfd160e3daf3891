"""How often somebody may guess the password."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from hms_tune.reports.dashboard.peer import Address, owner_of, plain_address

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


def address_of(environment: dict[str, Any], *, proxy: int | None = None) -> str:
    """Who asks: of IPv6, the network; of this machine, the user too, who then locks out nobody else.

    Parameters
    ----------
    proxy : user id of a reverse proxy on this machine, which names its visitors; nobody else is believed
    """
    peer = str(environment.get("REMOTE_ADDR", ""))
    try:
        address = plain_address(peer)
        if not address.is_loopback:
            return _network(address)
        owner = user_of_peer(environment)
        named = environment.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
        if named and owner is not None and owner == proxy:
            return _network(plain_address(named))
    except ValueError:
        return peer
    return str(address) if owner is None else f"{address}, user {owner}"


def user_of_peer(environment: dict[str, Any]) -> int | None:
    """The user of this machine who asks; None where that cannot be told."""
    try:
        their = plain_address(environment["REMOTE_ADDR"]), int(environment["REMOTE_PORT"])
        our = plain_address(environment["SERVER_ADDR"]), int(environment["SERVER_PORT"])
    except (KeyError, ValueError):
        return None
    return owner_of(their, our)


def _network(address: Address) -> str:
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
