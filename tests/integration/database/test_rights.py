"""Who may read, reads; nothing is made for that. A right that is missing is named with its GRANT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_study import run_study
from roles import Role, a_role

from hms_tune.cli import status as status_command
from hms_tune.cli import study as study_commands
from hms_tune.cli.doctor import examine
from hms_tune.config.settings import Settings
from hms_tune.database.connect import open_storage
from hms_tune.database.read_only import open_read_only, open_to_read
from hms_tune.errors import EmptyDatabaseError, StorageAwayError, StorageError

READING: dict[str, Callable[[str, Path], None]] = {
    "status": lambda url, _: status_command.status("mine", storage=url),
    "study list": lambda url, _: study_commands.list_command(storage=url),
    "study show": lambda url, _: study_commands.show("mine", storage=url),
    "study show --trial": lambda url, _: study_commands.show("mine", trial=0, storage=url),
    "study report": lambda url, out: study_commands.report("mine", out=out / "page.html", storage=url),
    "study save": lambda url, out: study_commands.save("mine", file=out / "mine.zip", storage=url),
}
LOOKER = "rights_looker"


@pytest.fixture(scope="module")
def role(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    """A database with a study, and a user beside its owner who may do nothing yet."""
    with a_role(database_url, LOOKER, "secret"), a_role(database_url, "rights_owner", "secret") as made:
        storage = open_storage(made.url())
        run_study(storage, "mine", tmp_path_factory.mktemp("artifacts"))
        storage.close()
        made.ask("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        made.ask("GRANT ALL ON SCHEMA public TO rights_owner")  # before PostgreSQL 15 it is not the owner's
        yield made
        made.ask(f"DROP OWNED BY {LOOKER}")


@pytest.fixture(autouse=True)
def without_rights(role: Role, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    role.ask(f"DROP OWNED BY {LOOKER}")
    yield
    elsewhere = Role(role.server, role.name, role.password, str(role.server.database))
    elsewhere.ask("ALTER DATABASE rights_owner RESET default_transaction_read_only")


def granted(role: Role, statements: str) -> None:
    for statement in statements.split("; "):
        role.ask(statement)


def the_hint(url: str, opening: Callable[[str], object] = open_to_read) -> str:
    with pytest.raises(StorageError) as caught:
        opening(url)
    assert caught.value.hint is not None
    return caught.value.hint


@pytest.mark.parametrize("command", READING)
def test_a_user_who_may_only_read_uses_every_command_that_reads(
    role: Role, command: str, tmp_path: Path
) -> None:
    url = role.url(name=LOOKER)
    granted(role, the_hint(url))
    READING[command](url, tmp_path)


@pytest.mark.parametrize("command", READING)
def test_commands_that_read_work_on_a_standby(role: Role, command: str, tmp_path: Path) -> None:
    role.ask("ALTER DATABASE rights_owner SET default_transaction_read_only = on")
    READING[command](role.url(), tmp_path)
    open_read_only(role.url()).close()


def test_the_right_to_read_is_named_by_its_grants(role: Role) -> None:
    assert the_hint(role.url(name=LOOKER)) == (
        f"GRANT USAGE ON SCHEMA hms_tune TO {LOOKER}; GRANT USAGE ON SCHEMA public TO {LOOKER}; "
        f"GRANT SELECT ON ALL TABLES IN SCHEMA hms_tune TO {LOOKER}; "
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {LOOKER}"
    )


def test_a_right_to_change_that_a_command_lacks_is_named_by_its_grant_which_fixes_it(role: Role) -> None:
    url = role.url(name=LOOKER)
    granted(role, the_hint(url))
    with pytest.raises(StorageError, match="permission denied for table studies") as caught:
        study_commands.pause("mine", storage=url)
    hint = str(caught.value.hint)
    assert f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA hms_tune TO {LOOKER}" in hint
    granted(role, hint)
    study_commands.pause("mine", storage=url)
    study_commands.resume("mine", storage=url)


def test_a_command_that_changes_is_told_what_a_standby_is(role: Role) -> None:
    role.ask("ALTER DATABASE rights_owner SET default_transaction_read_only = on")
    with pytest.raises(Exception, match="read-only transaction") as caught:
        study_commands.pause("mine", storage=role.url())
    from hms_tune.database.connection.retry import as_storage_error

    told = as_storage_error(caught.value) if not isinstance(caught.value, StorageError) else caught.value  # type: ignore[arg-type]
    assert isinstance(told, StorageAwayError)
    assert "leads to a standby" in str(told.hint)


def test_reading_an_empty_database_makes_nothing(
    role: Role, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    role.ask("CREATE DATABASE rights_empty OWNER rights_owner")
    url = role.url().replace("/rights_owner?", "/rights_empty?")
    empty = Role(role.server, role.name, role.password, "rights_empty")
    try:
        study_commands.list_command(storage=url)
        assert capsys.readouterr().out == "no studies yet\n"
        with pytest.raises(EmptyDatabaseError, match="The first worker makes its tables"):
            status_command.status("mine", storage=url)
        with pytest.raises(EmptyDatabaseError, match="The first worker makes its tables"):
            study_commands.save("mine", file=tmp_path / "mine.zip", storage=url)
        (found,) = [
            each for each in examine(Settings.from_environment(), storage=url) if each.name == "database"
        ]
        assert found.state == "ok"
        assert empty.ask("SELECT tablename FROM pg_tables WHERE schemaname IN ('public', 'hms_tune')") == []
    finally:
        role.ask("DROP DATABASE rights_empty WITH (FORCE)")


def test_doctor_names_what_a_reader_lacks_to_search(role: Role) -> None:
    url = role.url(name=LOOKER)
    granted(role, the_hint(url))
    (found,) = [each for each in examine(Settings.from_environment(), storage=url) if each.name == "database"]
    assert found.state == "warn"
    assert "may run no search there" in found.detail
    assert f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {LOOKER}" in str(
        found.hint
    )
