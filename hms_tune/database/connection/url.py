"""Where the database is, as a person writes it and as it may be printed.

A URL is the only thing a person gives. Passwords come out of password managers, so ``@``, ``%``, ``{`` and
``/`` in them must work whether or not they were percent-encoded. What a URL's query says is libpq's:
``sslmode=verify-full&sslrootcert=/etc/ssl/db.pem`` asks for TLS, ``passfile=`` names a password file. Without
a password in the URL libpq reads ``PGPASSFILE`` or ``~/.pgpass``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from urllib.parse import quote, quote_plus, unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from hms_tune.errors import UsageError

DRIVER = "postgresql+psycopg2"
_SCHEMES = frozenset({"postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"})
SECRET_OPTIONS = frozenset({"password", "sslpassword", "oauth_client_secret"})
"""Connection options that libpq itself does not show; psycopg2 has no way to ask it which they are."""

_EXAMPLE = "Write postgresql://USER:PASSWORD@HOST:5432/DATABASE"


def parse_address(text: str) -> URL:
    """Read a database URL.

    Parameters
    ----------
    text : ``postgresql://user:password@host:port/database?option=value``; ``postgres://``, an explicit
        psycopg driver, and several ``host:port`` with commas between are accepted too

    Returns
    -------
    URL with the ``postgresql+psycopg2`` driver (SQLAlchemy 2.1 would pick psycopg 3 for a bare
    ``postgresql://``)

    Raises
    ------
    UsageError
        If it is no PostgreSQL URL. The text is never repeated: it may hold a password.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        named = f"{scheme}:// is" if separator else "this is"
        raise UsageError(
            f"{named} not a PostgreSQL URL",
            where="--storage",
            hint=f"{_EXAMPLE}, or leave it out on one machine",
        )
    # The last @ ends the credentials, so a password may hold one; make_url would stop at the first.
    credentials, at, location = rest.rpartition("@")
    try:
        url = _location(location)
    except (ArgumentError, ValueError):
        raise UsageError("the database URL cannot be read", where="--storage", hint=_EXAMPLE) from None
    if at:
        user, colon, password = credentials.partition(":")
        url = url.set(username=unquote(user), password=unquote(password) if colon else None)
    return url


def _location(location: str) -> URL:
    """What follows the credentials; several hosts become the query that SQLAlchemy has for them."""
    end = min((at for mark in "/?" if (at := location.find(mark)) >= 0), default=len(location))
    authority, rest = location[:end], location[end:]
    if "," not in authority:
        return make_url(f"{DRIVER}://{location}")
    hosts = [make_url(f"{DRIVER}://{host}") for host in authority.split(",")]
    named = {"host": ",".join(host.host or "" for host in hosts)}
    if any(host.port for host in hosts):
        named["port"] = ",".join(str(host.port or "") for host in hosts)
    url = make_url(f"{DRIVER}://{rest}")
    return url.set(query={**named, **url.query})


def holds_secret(text: str) -> bool:
    """Whether a database URL has a password, or an option that is as secret; also where it cannot be read."""
    try:
        return any(True for _ in _secrets(parse_address(text)))
    except UsageError:
        return "@" in text


def redacted(url: URL) -> str:
    """The URL as it may be printed: ``***`` in place of the password, no query (it may hold secrets too)."""
    host = url.host or _hosts(url.query) or "default host"
    user = f"{url.username}:***@" if url.password else f"{url.username}@" if url.username else ""
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{user}{host}{port}/{url.database or ''}"


def _hosts(query: Mapping[str, str | tuple[str, ...]]) -> str:
    """Hosts that a query names, each with its port."""
    hosts, ports = query.get("host", ""), query.get("port", "")
    if not isinstance(hosts, str):
        return ",".join(hosts)
    if "," not in hosts or not isinstance(ports, str):
        return hosts
    each = zip_longest(hosts.split(","), ports.split(","), fillvalue="")
    return ",".join(f"{host}:{port}" if port else host for host, port in each)


def without_secrets(message: str, url: URL) -> str:
    """A message about a database, of libpq's for example, with ``***`` for each secret of its URL."""
    for secret in _secrets(url):
        for written in {secret, quote(secret, safe=""), quote_plus(secret)}:
            message = message.replace(written, "***")
    return message


def _secrets(url: URL) -> Iterator[str]:
    if url.password:
        yield str(url.password)
    for key, value in url.query.items():
        if key in SECRET_OPTIONS:
            yield from [value] if isinstance(value, str) else value
