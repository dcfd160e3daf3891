"""A connection has this product's settings, whatever the server's and the role's are; and old mix-ups end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import optuna
import psycopg2
import pytest
from optuna.storages import RDBStorage
from postgres_front import front
from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED
from roles import Role, a_role
from sqlalchemy import create_engine, text

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import open_storage
from hms_tune.database.connection.pooler import set_in_each_transaction
from hms_tune.database.connection.retry import Patience, through_outages
from hms_tune.database.connection.url import parse_address
from hms_tune.database.read_only import open_read_only
from hms_tune.errors import StorageError
from hms_tune.studies.status import list_studies
from hms_tune.worker.open_study import open_search
from studies import ONE_TRIAL

OURS = {
    "search_path": "public",
    "client_encoding": "UTF8",
    "transaction_isolation": "read committed",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "idle_in_transaction_session_timeout": "1min",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
}


@pytest.fixture
def role(database_url: str) -> Iterator[Role]:
    """The user of docker-compose.yml, who has the name of our schema, with an empty database."""
    with a_role(database_url, "hms_tune", "secret") as made:
        yield made


def tables_in(role: Role, schema: str) -> set[object]:
    return {name for (name,) in role.ask(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")}


def known(role: Role, setting: str) -> bool:
    """Whether the server has a setting; older ones lack some."""
    return role.ask(f"SELECT current_setting('{setting}', true)") != [(None,)]


def a_study(url: str, name: str = "mine") -> None:
    """Opened twice, as a worker and its slots do: the second time, our schema is there."""
    for _ in range(2):
        storage = open_storage(url)
        open_search(storage, StudyFile.parse(ONE_TRIAL.format(name=name), "test"))
        storage.close()


def test_a_user_called_as_our_schema_searches_and_reads(role: Role) -> None:
    a_study(role.url())
    assert {"studies", "trials", "alembic_version"} <= tables_in(role, "public")
    assert tables_in(role, "hms_tune") & {"alembic_version", "trial_params"} == set()
    reader = open_read_only(role.url())
    assert [each.study for each in list_studies(reader)] == ["mine"]
    reader.close()


def test_settings_of_the_role_the_database_and_the_environment_change_nothing(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    role.ask("CREATE SCHEMA other")
    ours = {name: value for name, value in OURS.items() if known(role, name)}
    for name, value in {
        "search_path": "other",
        "default_transaction_isolation": "serializable",
        "client_encoding": "LATIN1",
        "timezone": "Asia/Tokyo",
        "extra_float_digits": "-10",
        "idle_in_transaction_session_timeout": "0",
        "statement_timeout": "90s",
        "lock_timeout": "90s",
        "idle_session_timeout": "90s",
    }.items():
        if known(role, name):
            role.ask(f"ALTER ROLE hms_tune SET {name} = '{value}'")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    for opening in (open_storage, open_read_only):
        storage = opening(role.url())
        with storage.engine.connect() as connection:
            found = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in ours}
            assert connection.execute(text("SELECT 'Münster – 東京'")).scalar_one() == "Münster – 東京"
        storage.close()
        assert found == ours


def test_behind_a_pooler_a_setting_that_an_older_server_lacks_is_left_out(database_url: str) -> None:
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    set_in_each_transaction(connection, {"later_timeout": "0", "timezone": "Asia/Tokyo"})
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('timezone')")
        assert cursor.fetchone() == ("Asia/Tokyo",)
    connection.close()


def test_a_limit_on_idle_transactions_that_a_person_names_is_kept(role: Role) -> None:
    storage = open_storage(role.url("&options=-cidle_in_transaction_session_timeout=120000"))
    with storage.transaction() as connection:
        shown = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
    storage.close()
    assert shown == "2min"


@pytest.mark.parametrize("given", ["URL", "PGOPTIONS"])
def test_a_search_path_that_a_person_names_is_kept(
    role: Role, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    role.ask("CREATE SCHEMA optuna AUTHORIZATION hms_tune")
    option = "-csearch_path=optuna"
    if given == "PGOPTIONS":
        monkeypatch.setenv("PGOPTIONS", option)
    a_study(role.url(f"&options={option}" if given == "URL" else ""))
    assert "trials" in tables_in(role, "optuna")
    assert tables_in(role, "public") == set()


def test_a_database_that_was_left_broken_is_repaired(role: Role) -> None:
    """Optuna had made its tables in public, then our schema came first on the path, and took one of them."""
    open_storage(role.url()).close()
    role.ask("ALTER TABLE public.alembic_version SET SCHEMA hms_tune")
    for opening in (open_read_only, open_storage):
        opening(role.url()).close()
        assert "alembic_version" in tables_in(role, "public")
        assert "alembic_version" not in tables_in(role, "hms_tune")
    a_study(role.url())


def made_by_optuna_in(role: Role, schema: str) -> str:
    """The tables of a script that uses Optuna alone, in a schema; returns its URL."""
    role.ask(f"CREATE SCHEMA {schema} AUTHORIZATION hms_tune")
    url = role.url(f"&options=-csearch_path={schema}")
    RDBStorage(parse_address(url).render_as_string(hide_password=False)).remove_session()
    return url


def refused(url: str) -> str:
    told = set()
    for opening in (open_storage, open_read_only):
        with pytest.raises(StorageError) as caught:
            opening(url)
        told.add(str(caught.value))
    (one,) = told
    assert "secret" not in one
    return one


def test_empty_tables_of_optunas_in_our_schema_are_explained_and_the_hint_works(role: Role) -> None:
    made_by_optuna_in(role, "hms_tune")
    said = refused(role.url())
    assert "Optuna's tables are in the schema hms_tune, which is hms-tune's own" in said
    role.ask(said.rpartition("start again: ")[2])
    a_study(role.url())


def test_studies_of_optunas_in_our_schema_are_explained_and_the_hint_keeps_them(role: Role) -> None:
    url = made_by_optuna_in(role, "hms_tune")
    kept = RDBStorage(parse_address(url).render_as_string(hide_password=False))
    optuna.create_study(study_name="kept", storage=kept)
    kept.remove_session()
    said = refused(role.url())
    hint, _, option = said.partition("say so in the URL: ")[2].partition(", then ?")
    role.ask(hint)
    a_study(role.url(f"&{option}"))
    storage = open_storage(role.url(f"&{option}"))
    assert [each.study for each in list_studies(storage)] == ["kept", "mine"]
    storage.close()


def test_studies_where_only_the_roles_path_leads_are_explained_and_the_hint_finds_them(role: Role) -> None:
    made_by_optuna_in(role, "theirs")
    role.ask("ALTER ROLE hms_tune SET search_path = theirs")
    said = refused(role.url())
    assert "the studies are in the schema theirs, not in public" in said
    a_study(role.url("&options=-csearch_path=theirs"))
    assert tables_in(role, "public") == set()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("hms_tune", "the schema hms_tune is on the search path, and it is hms-tune's own"),
        ("public,hms_tune", "the schema hms_tune is on the search path, and it is hms-tune's own"),
        ("absent", "no schema of the search path exists"),
    ],
)
def test_a_search_path_that_cannot_serve_is_explained(role: Role, path: str, said: str) -> None:
    open_storage(role.url()).close()
    assert said in refused(role.url(f"&options=-csearch_path={path}"))


def test_a_user_who_may_make_no_tables_is_told_the_grants_and_they_fix_it(
    role: Role, database_url: str
) -> None:
    name = f"poor_{os.getpid()}"
    with a_role(database_url, name, "secret"):
        role.ask("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # everyone had it before PostgreSQL 15
        said = refused(role.url(name=name))
        assert "the database user may not make hms-tune's tables" in said
        grants = said.partition("tables. ")[2]
        assert grants == (
            f"GRANT CREATE ON SCHEMA public TO {name}; GRANT CREATE ON DATABASE hms_tune TO {name}"
        )
        role.ask(grants)
        a_study(role.url(name=name))
        role.ask(f"DROP OWNED BY {name}")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_our_text_is_refused_and_the_hint_makes_one(
    role: Role, encoding: str
) -> None:
    server = create_engine(role.server, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("DROP DATABASE hms_tune WITH (FORCE)"))
        connection.execute(
            text(
                f"CREATE DATABASE hms_tune OWNER hms_tune TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
            )
        )
        said = refused(role.url())
        assert f"the database's encoding is {encoding}" in said
        assert tables_in(role, "public") == set()
        connection.execute(text("DROP DATABASE hms_tune WITH (FORCE)"))
        connection.execute(text(said.partition("one that can: ")[2]))
        connection.execute(text("ALTER DATABASE hms_tune OWNER TO hms_tune"))
    server.dispose()
    a_study(role.url())


@pytest.mark.parametrize("table", ["alembic_version", "studies"])
def test_tables_of_another_program_are_left_alone_and_a_schema_of_its_own_fixes_it(
    role: Role, table: str
) -> None:
    """MLflow keeps the revision of its tables in alembic_version."""
    role.ask(f"CREATE TABLE {table} (version_num varchar(32))")
    role.ask(f"INSERT INTO {table} VALUES ('bd07f7e963c5')")
    said = refused(role.url())
    assert f"another program keeps its tables in the schema public ({table})" in said
    assert tables_in(role, "public") == {table}
    assert tables_in(role, "hms_tune") == set()
    statement, _, option = said.partition("in this one: ")[2].partition(", then ?")
    role.ask(statement)
    role.ask("ALTER SCHEMA optuna OWNER TO hms_tune")
    a_study(role.url(f"&{option}"))
    assert role.ask(f"SELECT version_num FROM {table}") == [("bd07f7e963c5",)]


@pytest.mark.parametrize(
    ("revision", "advice"), [("v9.9.9.a", "pip install -U optuna"), ("v2.6.0.a", "optuna storage upgrade")]
)
def test_tables_of_a_newer_or_an_older_optuna_get_optunas_own_advice(
    role: Role, revision: str, advice: str
) -> None:
    open_storage(role.url()).close()
    role.ask(f"UPDATE alembic_version SET version_num = '{revision}'")
    said = refused(role.url())
    assert "is no longer compatible with the table schema" in said
    assert advice in said


@pytest.mark.slow
def test_the_first_of_several_hosts_that_answers_and_takes_writes_is_used(role: Role) -> None:
    """A machine that is gone says nothing; libpq would wait for it alone."""
    with socket.create_server(("127.0.0.1", 0)) as silent, front(role.socket, context=None) as door:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{door.port}"
        url = f"postgresql://hms_tune:secret@{hosts}/hms_tune?target_session_attrs=read-write"
        storage = open_storage(url)
        assert storage.address == f"postgresql://hms_tune:***@{hosts}/hms_tune"
        storage.close()


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "behind a pooler"])
def test_a_connection_that_breaks_after_its_last_answer_is_not_lost_to_the_pool(
    role: Role, pooled: bool
) -> None:
    storage = open_storage(role.url(), most_connections=2)

    def break_one() -> None:
        with storage.statements() as connection:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            if pooled:  # where the end of autocommit sends a statement
                driver.isolation_level = ISOLATION_LEVEL_READ_COMMITTED
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            role.ask(f"SELECT pg_terminate_backend({pid}, 10000)")

    for _ in range(4):
        # It may begin on the connection that was broken last.
        through_outages(break_one, patience=Patience(most_s=20.0))
        assert storage.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    storage.close()
