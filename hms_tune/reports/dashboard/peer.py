"""Which user of this machine is at the other end of a connection from this machine."""

from __future__ import annotations

import ipaddress
import pwd
import struct
from pathlib import Path

from hms_tune.errors import UsageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
End = tuple[Address, int]
"""Of a TCP connection: address and port."""

_TABLES = Path("/proc/net")
_ESTABLISHED = "01"
"""Another state has no owner any more, and 0 stands for that, which is root's number."""


def plain_address(written: str) -> Address:
    """An address; one of IPv4 that is written as IPv6 is one of IPv4.

    Raises
    ------
    ValueError
        If it is none.
    """
    address = ipaddress.ip_address(written)
    return getattr(address, "ipv4_mapped", None) or address


def owner_of(their: End, our: End) -> int | None:
    """The user id whose process opened a TCP connection from this machine to us.

    None where no such connection is found, or more than one.

    Parameters
    ----------
    their : the end that asked
    our : the end that was asked

    Notes
    -----
    Linux tells it in ``/proc/net/tcp`` and ``tcp6`` (proc_pid_net(5)): each connection within the machine is
    there twice, and the line that begins with their end is theirs.
    """
    found = []
    for name, ends in (("tcp", _as_4(their, our)), ("tcp6", _as_6(their, our))):
        if ends is None:
            continue
        try:
            lines = (_TABLES / name).read_text().splitlines()
        except OSError:
            continue
        for line in lines[1:]:
            fields = line.split()
            if (fields[1], fields[2]) == ends and fields[3] == _ESTABLISHED:
                found.append(int(fields[7]))
    return found[0] if len(found) == 1 else None


def user_id(name: str) -> int:
    """The number of a user of this machine, given by name or number.

    Raises
    ------
    UsageError
        If there is no such user.
    """
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise UsageError(
            f'this machine has no user "{name}"',
            where="--proxy",
            hint="Name the user as whom the proxy runs: ps -eo user,comm | grep nginx",
        ) from None


def _as_4(*ends: End) -> tuple[str, ...] | None:
    """As the table of IPv4 has them; None of IPv6."""
    if any(address.version == 6 for address, _ in ends):
        return None
    return tuple(_written(address, port) for address, port in ends)


def _as_6(*ends: End) -> tuple[str, ...]:
    """As the table of IPv6 has them."""
    return tuple(
        _written(address if address.version == 6 else ipaddress.IPv6Address(f"::ffff:{address}"), port)
        for address, port in ends
    )


def _written(address: Address, port: int) -> str:
    words = struct.unpack(f"={len(address.packed) // 4}I", address.packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
