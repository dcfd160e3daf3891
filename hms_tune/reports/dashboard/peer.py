"""Which user of this machine is at the other end of a connection from this machine."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

_TABLES = ("tcp", "tcp6")
_ESTABLISHED = "01"
"""Another state has no owner any more, and 0 stands for that, which is root's number."""


def owner_of(address: str, port: int, *, to: int) -> int | None:
    """The user id whose process opened a TCP connection from a loopback address; None where none is found.

    Parameters
    ----------
    address, port : the end of the connection that asked
    to : the port that it asked

    Notes
    -----
    Linux tells it in ``/proc/net/tcp`` (proc_pid_net(5)).
    """
    ends = {_written(each, port) for each in _forms(address)}
    for name in _TABLES:
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()
        except OSError:
            continue
        for line in lines[1:]:
            fields = line.split()
            if fields[1] in ends and fields[2].endswith(f":{to:04X}") and fields[3] == _ESTABLISHED:
                return int(fields[7])
    return None


def _forms(address: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
    given = ipaddress.ip_address(address)
    if given.version == 4:
        return given, ipaddress.IPv6Address(f"::ffff:{given}")
    return (given,)


def _written(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    words = struct.unpack(f"={len(address.packed) // 4}I", address.packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
