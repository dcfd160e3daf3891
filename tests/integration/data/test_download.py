"""Downloads through Kaggle's own client, from servers on this machine that speak its protocol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kaggle_server import Kaggle, serve
from typer.testing import CliRunner

pytest.importorskip("kagglesdk")
from kagglesdk import kaggle_env

from hms_tune.cli.data import app
from hms_tune.data.check.folder import check_folder
from hms_tune.data.download import unzip as archive_module
from hms_tune.data.download.competition import Watch, download
from hms_tune.data.download.kaggle import Credentials, find_credentials
from hms_tune.errors import DownloadError, UsageError

PIECE = 2**16
COMPETITION = "hms-harmful-brain-activity-classification"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> bytes:
    """The archive of a tiny competition, about 3 MB."""
    folder = tmp_path_factory.mktemp("archive")
    root = competition_writer(folder / "hms", patients=6, recordings_per_patient=1, test_recordings=1)
    path = folder / "hms.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, file.relative_to(root))
    return path.read_bytes()


@pytest.fixture
def kaggle(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    """Kaggle, for an account that has an access token in its environment."""
    for name in list(os.environ):
        if name.startswith("KAGGLE_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret")
    with serve(Kaggle(content)) as running:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.TEST, running.api)
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the competition goes; nothing is there."""
    return tmp_path / "data" / "hms"


def beside(root: Path) -> list[str]:
    return sorted(path.name for path in root.parent.iterdir())


def never(_: float) -> None:
    raise AssertionError("nothing to wait for")


def test_a_download_is_whole_and_leaves_nothing_beside_it(kaggle: Kaggle, root: Path) -> None:
    bytes_told: list[tuple[int, int]] = []
    files_told: list[tuple[int, int]] = []
    watch = Watch(lambda *told: bytes_told.append(told), lambda *told: files_told.append(told))
    assert download(root, watch=watch, sleep=never).root == root
    assert check_folder(root).defects == []
    assert beside(root) == ["hms"]
    assert bytes_told[-1] == (len(kaggle.content), len(kaggle.content))
    assert files_told[-1] == (16, 16)
    assert kaggle.asked == [
        {
            "path": "/api/v1/competitions.CompetitionApiService/DownloadDataFiles",
            "authorization": "Bearer secret",
            "body": {"competitionName": COMPETITION},
        }
    ]


def test_credentials_are_never_sent_to_the_storage_nor_shown(kaggle: Kaggle, root: Path) -> None:
    download(root, sleep=never)
    assert kaggle.stored_headers
    assert all("Authorization" not in headers for headers in kaggle.stored_headers)
    assert "secret" not in repr(Credentials("here", token="secret", key="secret"))


def by_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".kaggle").mkdir()
    (home / ".kaggle/access_token").write_text("secret\n")


def by_token_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "token").write_text("secret")
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(home / "token"))


def by_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "ann")
    monkeypatch.setenv("KAGGLE_KEY", "0123")


def by_key_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".kaggle").mkdir()
    (home / ".kaggle/kaggle.json").write_text('{"username": "ann", "key": "0123"}')


def by_configured_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "keys").mkdir()
    (home / "keys/kaggle.json").write_text('{"username": "ann", "key": "0123"}')
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / "keys"))


def by_folder_of_the_desktop(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".config/kaggle").mkdir(parents=True)
    (home / ".config/kaggle/kaggle.json").write_text('{"username": "ann", "key": "0123"}')
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def signed_in(home: Path, expires: datetime, token: str) -> None:
    (home / ".kaggle").mkdir()
    (home / ".kaggle/credentials.json").write_text(
        json.dumps(
            {
                "refresh_token": "renewable",
                "access_token": token,
                "access_token_expiration": expires.isoformat(),
                "username": "ann",
                "scopes": [],
            }
        )
    )


def by_sign_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in(home, datetime.now(UTC) + timedelta(hours=1), "secret")


def by_old_sign_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in(home, datetime.now(UTC) - timedelta(days=1), "stale")


@pytest.mark.parametrize(
    ("give", "authorization"),
    [
        (by_token, "Bearer secret"),
        (by_token_path, "Bearer secret"),
        (by_environment, "Basic YW5uOjAxMjM="),
        (by_key_file, "Basic YW5uOjAxMjM="),
        (by_configured_folder, "Basic YW5uOjAxMjM="),
        (by_folder_of_the_desktop, "Basic YW5uOjAxMjM="),
        (by_sign_in, "Bearer secret"),
        (by_old_sign_in, "Bearer secret"),
    ],
)
def test_credentials_are_found_where_the_client_finds_them(
    kaggle: Kaggle,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    give: Callable[[Path, pytest.MonkeyPatch], None],
    authorization: str,
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    kaggle.accepted = {authorization}
    give(Path.home(), monkeypatch)
    download(root, sleep=never)
    assert kaggle.asked[-1]["authorization"] == authorization


def by_name_in_environment_and_key_in_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".kaggle").mkdir()
    (home / ".kaggle/kaggle.json").write_text('{"username": "bob", "key": "4567"}')
    monkeypatch.setenv("KAGGLE_USERNAME", "ann")


CLIENT = (
    "import json, kaggle; print(json.dumps([kaggle.api.config_values[key] for key in ('username', 'key')]))"
)


@pytest.mark.parametrize(
    "give",
    [
        by_environment,
        by_key_file,
        by_configured_folder,
        by_folder_of_the_desktop,
        by_name_in_environment_and_key_in_file,
    ],
)
def test_the_older_key_is_the_one_that_the_installed_client_takes(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, give: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    give(Path.home(), monkeypatch)
    found = find_credentials()
    done = subprocess.run(
        [sys.executable, "-c", CLIENT], capture_output=True, text=True, check=True, timeout=60
    )
    assert [found.username, found.key] == json.loads(done.stdout.splitlines()[-1])


def refused(root: Path, **options: Any) -> DownloadError:
    """The error of a download that leaves nothing behind."""
    with pytest.raises(DownloadError) as refusal:
        download(root, sleep=never, **options)
    assert not root.parent.exists()
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)
    return refusal.value


def test_without_credentials_it_says_where_to_click(
    kaggle: Kaggle, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    error = refused(root)
    assert error.what == "no Kaggle credentials are found"
    assert 'Click "Generate New Token" on https://www.kaggle.com/settings/api' in str(error)
    assert kaggle.asked == []


@pytest.mark.parametrize("text", ["", "{}", "[]", "username=ann", '{"username": "ann", "key": 5}'])
def test_a_key_file_that_is_none_is_named(
    kaggle: Kaggle, root: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    path = Path.home() / ".kaggle/kaggle.json"
    path.parent.mkdir()
    path.write_text(text)
    assert refused(root).where == str(path)


def test_without_the_client_it_says_how_to_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglesdk", None)
    error = refused(root)
    assert error.what == "Kaggle's client is not installed"
    assert 'pip install "hms-tune[kaggle]"' in str(error)


def test_wrong_credentials_are_named_by_their_place(kaggle: Kaggle, root: Path) -> None:
    kaggle.accepted = set()
    error = refused(root)
    assert (error.what, error.where) == ("Kaggle does not accept the credentials", "KAGGLE_API_TOKEN")


def test_rules_that_are_not_accepted_are_linked(kaggle: Kaggle, root: Path) -> None:
    message = "You must accept this competition's rules before you'll be able to download files."
    kaggle.refusals = [(403, message, {})]
    error = refused(root)
    assert message in error.what
    assert f"https://www.kaggle.com/competitions/{COMPETITION}/rules" in str(error.hint)


@pytest.mark.parametrize(
    ("code", "what"), [(404, "does not have the competition's"), (400, "Kaggle refuses")]
)
def test_other_refusals_end_at_once(kaggle: Kaggle, root: Path, code: int, what: str) -> None:
    kaggle.refusals = [(code, "No", {})]
    assert what in refused(root).what
    assert len(kaggle.asked) == 1


def test_a_busy_kaggle_is_asked_again_when_it_says(kaggle: Kaggle, root: Path) -> None:
    kaggle.refusals = [(503, "Try later", {}), (429, "Slow down", {"Retry-After": "17"})]
    pauses: list[float] = []
    download(root, sleep=pauses.append)
    assert pauses == [1.0, 17.0]


def test_a_broken_connection_goes_on_where_it_broke(kaggle: Kaggle, root: Path) -> None:
    kaggle.breaks = [300_000, 500_000, 100_000]
    pauses: list[float] = []
    download(root, sleep=pauses.append)
    assert check_folder(root, quick=True).defects == []
    assert kaggle.transfers[0][0] is None
    assert all(start.startswith("bytes=") for start, _ in kaggle.transfers[1:])
    twice = sum(sent for _, sent in kaggle.transfers) - len(kaggle.content)
    assert 0 <= twice <= 3 * PIECE
    assert pauses == [1.0, 1.0, 1.0]  # each attempt brought some


def test_a_lost_server_is_an_error_and_the_next_run_goes_on(kaggle: Kaggle, root: Path) -> None:
    kaggle.breaks = [400_000, 0, 0, 0, 0, 0]
    pauses: list[float] = []
    with pytest.raises(DownloadError, match=r"lost after 39\d\.\d kB of \d+\.\d MB .*it goes on from there"):
        download(root, sleep=pauses.append)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert beside(root) == ["hms.partial"]
    fetched = (root.parent / "hms.partial/archive.zip").stat().st_size
    assert fetched > 400_000 - PIECE
    download(root, sleep=never)
    assert kaggle.transfers[-1] == (f"bytes={fetched}-", len(kaggle.content) - fetched)
    assert beside(root) == ["hms"]


def break_off(kaggle: Kaggle, root: Path) -> None:
    """Leave the beginning of an archive behind."""
    kaggle.breaks = [400_000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError):
        download(root, sleep=lambda _: None)


def test_an_archive_that_changed_between_two_runs_is_fetched_anew(
    kaggle: Kaggle, root: Path, content: bytes
) -> None:
    kaggle.content = content[:-1] + b"\x01"
    break_off(kaggle, root)
    kaggle.content = content
    download(root, sleep=never)
    assert kaggle.transfers[-1][1] == len(content)
    assert check_folder(root, quick=True).defects == []


@pytest.mark.parametrize("trait", [{"ranges": False}, {"weak": True}])
def test_a_server_without_ranges_or_without_a_strong_validator_sends_all_again(
    kaggle: Kaggle, root: Path, trait: dict[str, bool]
) -> None:
    vars(kaggle).update(trait)
    break_off(kaggle, root)
    download(root, sleep=never)
    assert kaggle.transfers[-1][1] == len(kaggle.content)
    assert check_folder(root, quick=True).defects == []


def test_an_address_that_expired_is_asked_for_again(kaggle: Kaggle, root: Path) -> None:
    kaggle.storage_refusals = [403]
    download(root, sleep=lambda _: None)
    assert len(kaggle.asked) == 2


def test_a_disk_without_room_is_found_before_the_download(
    kaggle: Kaggle, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 1_000, 4_096  # 4.1 MB

    monkeypatch.setattr(archive_module.os, "statvfs", lambda _: Full)
    error = refused(root)
    assert "MB are to be downloaded, and unpacked they take about" in error.what
    assert error.what.endswith("the disk has 4.1 MB free")


def test_a_damaged_archive_is_not_kept(kaggle: Kaggle, root: Path) -> None:
    kaggle.content = kaggle.content[:-5_000]
    assert "not a whole zip archive" in refused(root).what


KILLED = """
import sys
from pathlib import Path
from kagglesdk import kaggle_env
kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.TEST] = sys.argv[1]
from hms_tune.data.download.competition import download
download(Path(sys.argv[2]))
"""


def test_a_killed_download_goes_on(kaggle: Kaggle, root: Path) -> None:
    kaggle.stall_at = 1_500_000
    process = subprocess.Popen([sys.executable, "-c", KILLED, kaggle.api, str(root)])
    assert kaggle.stalled.wait(60)
    archive = root.parent / "hms.partial/archive.zip"
    while not archive.is_file() or archive.stat().st_size < 2**20:  # what was sent is on its way
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    fetched = archive.stat().st_size
    assert fetched >= 2**20
    kaggle.stall_at = None
    download(root, sleep=never)
    assert kaggle.transfers[-1] == (f"bytes={fetched}-", len(kaggle.content) - fetched)
    assert check_folder(root).defects == []
    assert beside(root) == ["hms"]


def test_a_whole_archive_is_unpacked_without_asking_again(
    kaggle: Kaggle, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hms_tune.data.download.competition.unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            download(root, sleep=never)
    assert beside(root) == ["hms.partial"]
    download(root, sleep=never)
    assert len(kaggle.asked) == 1
    assert beside(root) == ["hms"]


@pytest.fixture
def archive(content: bytes, tmp_path: Path) -> Path:
    """The competition's archive on disk."""
    path = tmp_path / "hms.zip"
    path.write_bytes(content)
    return path


def test_from_zip_unpacks_and_leaves_the_archive(archive: Path, root: Path, content: bytes) -> None:
    download(root, from_zip=archive)
    assert check_folder(root).defects == []
    assert beside(root) == ["hms"]
    assert archive.read_bytes() == content


def test_from_zip_refuses_what_is_no_archive(archive: Path, root: Path) -> None:
    assert refused(root, from_zip=archive.with_name("no.zip")).what == "there is no such archive"
    archive.write_bytes(b"PK")
    assert "not a whole zip archive" in refused(root, from_zip=archive).what
    assert archive.exists()


def test_a_folder_that_is_there_is_replaced_only_by_force(archive: Path, root: Path) -> None:
    root.mkdir(parents=True)
    download(root, from_zip=archive)  # an empty folder is in nobody's way
    (root / "train.csv").write_text("old")
    with pytest.raises(DownloadError, match="there already and is not empty"):
        download(root, from_zip=archive)
    assert (root / "train.csv").read_text() == "old"
    download(root, from_zip=archive, force=True)
    assert check_folder(root, quick=True).defects == []
    assert beside(root) == ["hms"]


def test_force_never_removes_what_is_no_part_of_a_competition(archive: Path, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "thesis.tex").write_text("years of work")
    with pytest.raises(DownloadError, match=r"holds thesis\.tex, which is no part of a competition"):
        download(root, from_zip=archive, force=True)
    with pytest.raises(DownloadError, match="a file is there"):
        download(root / "thesis.tex", from_zip=archive, force=True)
    assert (root / "thesis.tex").read_text() == "years of work"
    assert beside(root) == ["hms"]


def test_a_link_to_a_folder_on_another_disk_is_followed(archive: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    root.parent.mkdir()
    root.symlink_to(tmp_path / "big/hms")
    assert download(root, from_zip=archive).root == tmp_path / "big/hms"
    assert root.is_symlink()
    assert (root / "train.csv").is_file()


def test_the_command_prints_the_folder_and_says_what_is_next(archive: Path, root: Path) -> None:
    run = CliRunner().invoke(app, ["download", str(root), "--from-zip", str(archive)])
    assert (run.exit_code, run.stdout) == (0, f"{root}\n")
    assert run.stderr == f"next: hms-tune data check {root}\n"


def test_the_command_says_that_it_goes_on_after_ctrl_c(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hms_tune.data.download.competition.download", interrupted)
    run = CliRunner().invoke(app, ["download", str(root)])
    assert isinstance(run.exception, DownloadError)
    assert str(run.exception).endswith("Run the same command again; it goes on from there")


def test_a_user_without_a_home_is_told_where_to_put_the_credentials(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match=r"KAGGLE_CONFIG_DIR: this user has no home .* set KAGGLE_API_TOKEN"):
        find_credentials()
