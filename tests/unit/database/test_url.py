"""Database addresses: what is understood, what is refused, what is printed."""

from __future__ import annotations

import pytest

from hms_tune.database.connection.url import parse_address, redacted
from hms_tune.errors import UsageError


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg", "POSTGRESQL"]
)
def test_every_postgresql_scheme_becomes_psycopg2(scheme: str) -> None:
    url = parse_address(f"{scheme}://me:pw@db.example:6432/hms?sslmode=require")
    assert url.render_as_string(hide_password=False) == (
        "postgresql+psycopg2://me:pw@db.example:6432/hms?sslmode=require"
    )


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("p%40ss%7Bword", "p@ss{word"),
        ("p@ss{word}", "p@ss{word}"),
        ("100%", "100%"),
        ("a:b/c?d", "a:b/c?d"),
        ("", ""),
    ],
)
def test_passwords_work_encoded_or_not(written: str, password: str) -> None:
    url = parse_address(f"postgresql://me:{written}@db.example/hms")
    assert (url.username, url.password, url.host, url.database) == ("me", password, "db.example", "hms")
    again = parse_address(url.render_as_string(hide_password=False))
    assert again == url


def test_a_local_socket_and_no_user_are_understood() -> None:
    url = parse_address("postgresql:///hms?host=/run/postgresql")
    assert (url.username, url.password, url.database, url.query["host"]) == (
        None,
        None,
        "hms",
        "/run/postgresql",
    )
    assert redacted(url) == "postgresql:///run/postgresql/hms"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sqlite:///secret.db", "sqlite:// is not a PostgreSQL URL"),
        ("mysql://me:secret@db/x", "mysql:// is not a PostgreSQL URL"),
        ("secret", "this is not a PostgreSQL URL"),
        ("postgresql://me:secret@db:port/x", "cannot be read"),
    ],
)
def test_anything_else_is_refused_without_repeating_it(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.hint is not None


def test_what_is_printed_holds_no_password_and_no_options() -> None:
    url = parse_address("postgresql://me:canary@db.example:5432/hms?sslpassword=canary")
    assert redacted(url) == "postgresql://me:***@db.example:5432/hms"
    assert redacted(parse_address("postgresql://me@db/hms")) == "postgresql://me@db/hms"


@pytest.mark.parametrize(
    ("hosts", "host", "port"),
    [
        ("one,two", "one,two", None),
        ("one:5432,two:6432", "one,two", "5432,6432"),
        ("one,two:6432", "one,two", ",6432"),
        ("[::1]:1,[::2]:2", "::1,::2", "1,2"),
    ],
)
def test_several_hosts_are_read_as_libpq_reads_them(hosts: str, host: str, port: str | None) -> None:
    url = parse_address(f"postgresql://me:p@ss,word@{hosts}/hms?target_session_attrs=read-write")
    assert (url.username, url.password, url.database) == ("me", "p@ss,word", "hms")
    assert (url.query["host"], url.query.get("port")) == (host, port)
    assert url.query["target_session_attrs"] == "read-write"
    assert parse_address(url.render_as_string(hide_password=False)) == url
    assert "word" not in redacted(url)
