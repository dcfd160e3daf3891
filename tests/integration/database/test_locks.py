"""The advisory locks together, as one study's processes hold them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from receiver import receiver

from hms_tune.database import locks
from hms_tune.database.connect import Storage, open_storage
from hms_tune.errors import StorageError
from hms_tune.reports.dashboard.publisher import Publisher, PublisherPlan
from hms_tune.tracking.notify.watch import StudyWatch
from hms_tune.tracking.notify.webhook import Receivers
from studies import write_study


def test_webhooks_go_out_while_a_publisher_is_elected(
    storage: Storage, database_url: str, study_name: str, tmp_path: Path
) -> None:
    written = write_study(storage, study_name, trials=8)
    told: list[list[str]] = []
    with receiver() as webhook:
        watch = StudyWatch(
            storage,
            written.study_id,
            study_name,
            "watcher",
            lambda outlook: None,
            receivers=Receivers(webhook.address),
            events=frozenset({"new_best"}),
        )

        def wait(_seconds: float, calls: list[None] = []) -> bool | None:  # noqa: B006
            calls.append(None)
            if len(calls) == 1:  # not elected yet
                return None
            watch.look()
            told.append(webhook.events())
            return False

        Publisher(PublisherPlan(study_name, database_url, tmp_path, tmp_path)).run(wait)
    assert told == [["new_best"]]


def test_a_stranger_who_holds_the_set_up_lock_stops_nobody_for_whom_all_is_there(
    storage: Storage, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SETUP_S", 1)
    with storage.setup_lock():
        open_storage(database_url).close()  # as every command does; the tables are there
        with (
            pytest.raises(StorageError, match="has held hms-tune's set-up lock for more than 1 s") as error,
            storage.setup_lock(),
        ):
            pass
    assert "pg_terminate_backend" in str(error.value)
    with storage.setup_lock():  # free again
        pass
