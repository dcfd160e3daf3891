"""Messages to people, against a receiver on this machine."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from receiver import SECRET, Receiver, receiver

from hms_tune.config.study_file import StudyFile
from hms_tune.errors import ConfigError, NotificationError
from hms_tune.tracking.notify.webhook import Receivers, compose, deliver

MESSAGE = compose("new_best", "effnet", "effnet: new best KL 0.8123 in trial 12", trial=12, value=0.8123)


@pytest.fixture
def webhook() -> Iterator[Receiver]:
    with receiver() as kept:
        yield kept


def test_a_receiver_gets_one_json_body_that_chats_and_programs_can_read(webhook: Receiver) -> None:
    deliver(Receivers(webhook.address), MESSAGE)
    assert webhook.messages == [
        {
            "event": "new_best",
            "study": "effnet",
            "text": "effnet: new best KL 0.8123 in trial 12",
            "content": "effnet: new best KL 0.8123 in trial 12",
            "trial": 12,
            "value": 0.8123,
        }
    ]


@pytest.mark.parametrize(("answers", "waits"), [([500, 503], [1.0, 4.0]), ([429], [1.0])])
def test_a_receiver_that_is_busy_is_asked_again(
    webhook: Receiver, answers: list[int], waits: list[float]
) -> None:
    webhook.answers, slept = list(answers), []
    deliver(Receivers(webhook.address), MESSAGE, sleep=slept.append)
    assert (len(webhook.messages), slept) == (1, waits)


@pytest.mark.parametrize("status", [404, 403, 302])
def test_a_receiver_that_refuses_is_not_asked_again_and_its_secret_is_not_told(
    webhook: Receiver, status: int
) -> None:
    webhook.answers, slept = [status] * 3, []
    with pytest.raises(NotificationError, match=f"127.0.0.1: the webhook answered {status}") as error:
        deliver(Receivers(webhook.address), MESSAGE, sleep=slept.append)
    assert (len(webhook.answers), slept) == (2, [])
    assert SECRET not in str(error.value) + repr(error.value)
    assert SECRET not in repr(Receivers(webhook.address))


def test_a_receiver_that_is_away_or_never_answers_costs_its_time_out_and_tries() -> None:
    slept: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}"
        start = time.monotonic()
        with pytest.raises(NotificationError, match="cannot be reached") as error:
            deliver(Receivers(address), MESSAGE, timeout_s=0.2, sleep=slept.append)
        assert time.monotonic() - start < 3
    assert slept == [1.0, 4.0]
    assert SECRET not in str(error.value)
    with pytest.raises(NotificationError, match="cannot be reached: Connection refused"):
        deliver(Receivers(address), MESSAGE, sleep=slept.append)


def test_a_command_gets_the_message_on_standard_input_though_the_webhook_fails(
    webhook: Receiver, tmp_path: Path
) -> None:
    webhook.answers = [404]
    told = tmp_path / "told.json"
    with pytest.raises(NotificationError, match="answered 404"):
        deliver(Receivers(webhook.address, ("sh", "-c", f"cat > {told}")), MESSAGE)
    assert json.loads(told.read_text()) == MESSAGE


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("false",), "command false: ended with status 1"),
        (("no-such-program-here", SECRET), "cannot be run: No such file"),
        (("sleep", "30"), "did not end within 0 s"),
    ],
)
def test_a_command_that_fails_is_told_by_its_name_alone(command: tuple[str, ...], said: str) -> None:
    with pytest.raises(NotificationError, match=said) as error:
        deliver(Receivers(None, command), MESSAGE, timeout_s=0.2, sleep=lambda seconds: None)
    assert SECRET not in str(error.value)


def study(notify: str) -> StudyFile:
    return StudyFile.parse(f"study: effnet\ntracking: {{notify: {{{notify}}}}}\n", "effnet.yaml")


def test_a_study_file_says_who_is_told_of_what_and_is_stored_without_the_secret() -> None:
    address = f"https://hooks.example.org:8443/services/{SECRET}"
    file = study(f"webhook: '{address}', command: [notify-send, hms], on: [new_best, worker_lost]")
    config = file.tracking.notify
    assert (config.webhook, config.command) == (address, ("notify-send", "hms"))
    assert config.on == ("new_best", "worker_lost")
    assert SECRET not in repr(file.tracking) + file.to_json()
    stored = StudyFile.from_json(file.to_json())
    assert stored.tracking.notify.webhook == "https://hooks.example.org:8443/***"
    assert stored.to_json() == file.to_json()
    # whoever reads the study from the database cannot send
    assert Receivers.of(stored.tracking.notify) == Receivers(None, None)
    assert (
        Receivers.of(config).described() == "webhook https://hooks.example.org:8443/***, command notify-send"
    )


def test_the_environments_webhook_goes_before_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMS_TUNE_WEBHOOK", "https://other.example.org/x")
    config = study("webhook: 'https://hooks.example.org/y'").tracking.notify
    assert Receivers.of(config).webhook == "https://other.example.org/x"
    monkeypatch.setenv("HMS_TUNE_WEBHOOK", "")
    assert Receivers.of(config).webhook == "https://hooks.example.org/y"
    assert not Receivers.of(study("").tracking.notify)


@pytest.mark.parametrize(
    "webhook", [f"ftp://a/{SECRET}", f"'https://a b/{SECRET}'", f'"https:\\u002f/a/{SECRET}"', f"'{SECRET}'"]
)
def test_an_address_that_cannot_be_used_or_taken_out_of_the_text_is_refused_unprinted(
    webhook: str,
) -> None:
    with pytest.raises(ConfigError, match="must be an http:// or https:// address") as error:
        study(f"webhook: {webhook}")
    assert SECRET not in str(error.value)


SECRET_FILE = """# try https://hooks.example.org/services/IN-A-COMMENT first
study: a  # IN-A-COMMENT
training: {epochs: 1}
tracking:
  notify:  # IN-A-COMMENT
    webhook: "https://hooks.example.org/services/%s"
    command:%s
    on: [new_best]  # IN-A-COMMENT
"""


@pytest.mark.parametrize(
    "command",
    [
        " [curl, -H, 'Authorization: IN-A-COMMAND # x', example.org]",
        "\n    - curl\n    - -H\n    - IN-A-COMMAND\n    - example.org # IN-A-COMMENT",
        "\n      - curl\n      - 'IN-A-COMMAND'\n    # IN-A-COMMENT",
    ],
    ids=["flow", "block", "indented"],
)
def test_what_is_stored_of_a_study_file_holds_no_secret(command: str) -> None:
    file = StudyFile.parse(SECRET_FILE % ("IN-THE-ADDRESS", command), "a.yaml")
    assert file.tracking.notify.command is not None
    assert "IN-A-COMMAND" in " ".join(file.tracking.notify.command)
    stored = file.to_json()
    assert "IN-" not in stored
    assert "IN-" not in repr(file.tracking)
    rebuilt = StudyFile.from_json(stored)
    assert rebuilt.space_hash == file.space_hash
    assert rebuilt.tracking.notify.on == ("new_best",)
    assert rebuilt.tracking.notify.command is None
    assert not Receivers.of(rebuilt.tracking.notify)


def test_what_others_wrote_into_the_database_runs_no_command_and_sends_nothing() -> None:
    """A worker goes on with the stored file of a study that confirms its own; so does whoever loads one."""
    notify = "{webhook: 'https://evil.example.org/x', command: [sh, -c, 'touch owned'], on: [new_best]}"
    text = f"study: a\ntracking: {{notify: {notify}}}\n"
    rebuilt = StudyFile.from_json(json.dumps({"format": 1, "source": "a.yaml", "text": text}))
    assert Receivers.of(rebuilt.tracking.notify) == Receivers(None, None)
    assert rebuilt.tracking.notify.on == ("new_best",)
    assert "evil.example.org/x" not in rebuilt.to_json()


def test_a_number_sign_in_a_value_is_no_comment() -> None:
    file = StudyFile.parse("study: a\ndata: {root: '/data/#1'}  # mine\n", "a.yaml")
    assert json.loads(file.to_json())["text"] == "study: a\ndata: {root: '/data/#1'}\n"


def test_a_command_sees_no_secret_of_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HMS_TUNE_STORAGE", "HMS_TUNE_DASHBOARD_PASSWORD", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    seen = tmp_path / "seen"
    deliver(Receivers(None, ("sh", "-c", f"env > {seen}")), MESSAGE)
    assert "canary" not in seen.read_text()
    assert "TZ=Europe/Berlin" in seen.read_text()
