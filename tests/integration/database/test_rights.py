"""Who may read, reads; nothing is made for that. A right that is missing is named with its GRANT."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_study import STUDY, predictions, run_study
from roles import Role, a_role

from hms_tune.cli import database as database_commands
from hms_tune.cli import status as status_command
from hms_tune.cli import study as study_commands
from hms_tune.cli.bundles import export as export_commands
from hms_tune.cli.doctor import examine
from hms_tune.cli.main import COMMANDS, load
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.queue.claim import claim
from hms_tune.database.queue.lease import Holder, Lease
from hms_tune.database.queue.start import begin_attempt
from hms_tune.database.read_only import open_read_only, open_to_read
from hms_tune.errors import EmptyDatabaseError, StorageAwayError, StorageError
from hms_tune.machine.processes import this_process
from hms_tune.machine.terminal import Terminal
from hms_tune.studies.control import delete_study
from hms_tune.studies.export_best import complete_trials
from hms_tune.tracking.console import ConsoleObserver
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.checkpoint_store.predictions import KeptPredictions
from hms_tune.worker.open_study import open_search
from hms_tune.worker.options import WorkerOptions
from hms_tune.worker.presence import Presence, announce
from hms_tune.worker.worker import Worker

Command = Callable[[str, Path], object]
"""Called with the database's address and a folder."""


def check_with_parent(url: str, out: Path) -> None:
    child = re.sub("search: {.+}", "search: {parent: mine}", STUDY.format(name="child", trials=1))
    (out / "child.yaml").write_text(child)
    study_commands.check_command(str(out / "child.yaml"), storage=url)


def look_with_doctor(url: str, out: Path) -> None:
    (found,) = [each for each in examine(Settings.from_environment(), storage=url) if each.name == "database"]
    assert found.state in ("ok", "warn")


READING: dict[str, Command] = {
    "status": lambda url, _: status_command.status("mine", storage=url),
    "study list": lambda url, _: study_commands.list_command(storage=url),
    "study show": lambda url, _: study_commands.show("mine", storage=url),
    "study show --trial": lambda url, _: study_commands.show("mine", trial=0, storage=url),
    "study report": lambda url, out: study_commands.report("mine", out=out / "page.html", storage=url),
    "study save": lambda url, out: study_commands.save("mine", file=out / "mine.zip", storage=url),
    "study check": check_with_parent,
    "export-best": lambda url, out: export_commands.export_best(
        "mine", data=out, out=out / "bundle", storage=url
    ),
    "export-best --blend": lambda url, out: export_commands.export_best(
        "mine", blend=2, data=out, out=out / "blend", storage=url
    ),
    "train --trial": lambda url, out: export_commands.train(
        "mine", trial=complete_of(url)[0], data=out, out=out / "bundle", storage=url
    ),
    "dashboard": lambda url, _: open_read_only(url).close(),
    "database url": lambda url, _: database_commands.url(storage=url),
    "doctor": look_with_doctor,
}
"""Commands to which the right to SELECT is enough."""

CHANGING: dict[str, Command] = {
    "study pause": lambda url, _: study_commands.pause("mine", storage=url),
    "study resume": lambda url, _: study_commands.resume("mine", storage=url),
    "study stop": lambda url, _: study_commands.stop("mine", storage=url),
    "study stop-trial": lambda url, _: study_commands.stop_trial("busy", 0, storage=url),
    "study drain": lambda url, _: study_commands.drain("busy", worker="worker-7", storage=url),
    "study enqueue": lambda url, _: study_commands.enqueue("spare", ["training.batch_size=16"], storage=url),
    "study confirm": lambda url, _: study_commands.confirm("mine", top=2, seeds=1, storage=url),
    "study delete": lambda url, _: study_commands.delete("spare", yes=True, storage=url),
    "study load": lambda url, out: study_commands.load(out / "carried.zip", storage=url),
    "export-best --confirm": lambda url, out: export_commands.export_best(
        "mine", confirm=True, data=out, out=out / "bundle", storage=url
    ),
}
"""Those that change rows; ``worker`` has a test of its own."""


def complete_of(url: str) -> list[int]:
    storage = open_to_read(url)
    try:
        return complete_trials(storage, "mine")
    finally:
        storage.close()


LOOKER = "rights_looker"


@pytest.fixture(scope="module")
def role(database_url: str) -> Iterator[Role]:
    """The owner of a database, beside whom there is a user who may do nothing yet."""
    with a_role(database_url, LOOKER, "secret"), a_role(database_url, "rights_owner", "secret") as made:
        yield made
        made.ask(f"DROP OWNED BY {LOOKER}")


@pytest.fixture(scope="module")
def storage(role: Role, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """The owner's database, with a study that has run and one of which a worker has a trial."""
    storage = open_storage(role.url())
    run_study(storage, "mine", tmp_path_factory.mktemp("artifacts"))
    with at_work(storage, "busy"):
        role.ask("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        role.ask("GRANT ALL ON SCHEMA public TO rights_owner")
        yield storage
    storage.close()


@contextmanager
def at_work(storage: Storage, name: str) -> Iterator[None]:
    """A study of which a worker has a trial."""
    search = open_search(storage, study_file(name))
    holder = Holder("worker-7", "cpu", this_process())
    lease = claim(storage, search.study_id, holder, lease_s=3600.0)
    assert isinstance(lease, Lease)
    begin_attempt(storage, search.study, lease)
    with announce(storage, Presence("worker-7", search.study_id, "1", ("cpu",))):
        yield


def study_file(name: str) -> StudyFile:
    return StudyFile.parse(STUDY.format(name=name, trials=1), "test")


@pytest.fixture(autouse=True)
def without_rights(role: Role, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    role.ask(f"DROP OWNED BY {LOOKER}")
    yield
    elsewhere = Role(role.server, role.name, role.password, str(role.server.database))
    elsewhere.ask("ALTER DATABASE rights_owner RESET default_transaction_read_only")
    role.ask("UPDATE hms_tune.studies SET state = 'running'")


@pytest.fixture(scope="module")
def complete(storage: Storage) -> list[int]:
    return complete_trials(storage, "mine")


@pytest.fixture(autouse=True)
def without_training(complete: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports read the database and train nothing; predictions of two trials are kept for a blend."""

    class Exports:
        def __init__(self, *_: object, **__: object) -> None: ...

        def compare(self, *_: object) -> None: ...

        def write(self, choice: object, path: Path) -> SimpleNamespace:
            return SimpleNamespace(path=path)

    monkeypatch.setattr(export_commands, "Exports", Exports)
    monkeypatch.setattr(export_commands, "say_exported", lambda *_: None)
    monkeypatch.setattr(export_commands, "say_blend", lambda *_: None)
    monkeypatch.setattr("hms_tune.export.blend.write_blend", lambda *_, **__: None)
    monkeypatch.setattr("hms_tune.worker.worker.Worker", lambda *_, **__: SimpleNamespace(run=lambda: False))
    monkeypatch.setenv("HMS_TUNE_ARTIFACTS", str(tmp_path / "kept"))
    kept = KeptPredictions(open_store(str(tmp_path / "kept")), "mine")
    for number in complete[:2]:
        kept.keep(number, predictions(0.1 * number))


@pytest.fixture(scope="module")
def saved(role: Role, storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a study that the database has no more."""
    file = tmp_path_factory.mktemp("saved") / "carried.zip"
    open_search(storage, study_file("carried"))
    study_commands.save("carried", file=file, storage=role.url())
    delete_study(storage, "carried")
    return file


@pytest.fixture
def carried(storage: Storage, saved: Path, tmp_path: Path) -> Path:
    """The folder with the file, beside a study in the database that may be deleted."""
    open_search(storage, study_file("spare"))
    return Path(shutil.copy(saved, tmp_path)).parent


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


@pytest.mark.parametrize("command", CHANGING)
def test_a_right_to_change_that_a_command_lacks_is_named_by_its_grant_which_fixes_it(
    role: Role, command: str, carried: Path
) -> None:
    url = role.url(name=LOOKER)
    granted(role, the_hint(url))
    with pytest.raises(StorageError, match="permission denied for") as caught:
        CHANGING[command](url, carried)
    hint = str(caught.value.hint)
    for schema in ("hms_tune", "public"):
        assert f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {LOOKER}" in hint
    granted(role, hint)
    CHANGING[command](url, carried)


def test_a_worker_that_lacks_a_right_ends_before_it_joins_the_study(role: Role, tmp_path: Path) -> None:
    url = role.url(name=LOOKER)
    granted(role, the_hint(url))
    options = WorkerOptions(study_file("new"), url, home=tmp_path, data_root=tmp_path, artifacts=tmp_path)
    worker = Worker(options, ConsoleObserver(Terminal(stderr=True)))
    with pytest.raises(StorageError, match="the database user may run no search there") as caught:
        worker._work([("cpu", ("cpu",))])
    granted(role, str(caught.value.hint))
    assert role.ask("SELECT study_name FROM public.studies WHERE study_name = 'new'") == []
    looker = open_storage(url)
    open_search(looker, study_file("new"))
    delete_study(looker, "new")
    looker.close()


def test_every_command_that_takes_a_database_has_its_rights_tested() -> None:
    tested = {key.partition(" --")[0] for key in (*READING, *CHANGING)} | {"worker"}
    assert set(commands_with("storage")) == tested


def commands_with(parameter: str) -> Iterator[str]:
    for name in COMMANDS:
        command = load(name)
        for inner, each in getattr(command, "commands", {"": command}).items():
            if any(given.name == parameter for given in each.params):
                yield f"{name} {inner}".strip()


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
