"""What people are told about a study: once over the fleet."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from optuna.trial import TrialState
from receiver import SECRET, Receiver, receiver
from sqlalchemy import select, update

from hms_tune.config.study_sections import HAPPENINGS
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.queries.outbox import Entry, add_entry, take_entry
from hms_tune.database.queue.attempt import Result
from hms_tune.database.queue.claim import claim
from hms_tune.database.queue.end import end_lease_and_trial
from hms_tune.database.queue.lease import Holder, Lease
from hms_tune.database.tables import attempts, now, outbox, seconds_from_now, studies, workers
from hms_tune.machine.processes import leave_mark, remove_mark, this_process
from hms_tune.tracking.notify.watch import STEADY_LOOKS, StudyWatch
from hms_tune.tracking.notify.webhook import Receivers
from hms_tune.tracking.study_outlook import StudyOutlook
from hms_tune.trial_state import AttemptState
from hms_tune.worker.presence import Presence, announce
from studies import Written, write_study


@pytest.fixture
def webhook() -> Iterator[Receiver]:
    with receiver() as kept:
        yield kept


def watching(storage: Storage, written: Written, webhook: Receiver | None, **changes: Any) -> StudyWatch:
    values: dict[str, Any] = {
        "worker_id": "watcher",
        "shown": lambda outlook: None,
        "receivers": Receivers(None if webhook is None else webhook.address),
        "events": frozenset(HAPPENINGS),
    }
    return StudyWatch(storage, written.study_id, written.study_file.study, **(values | changes))


def change(storage: Storage, written: Written, **values: Any) -> None:
    with storage.engine.begin() as connection:
        connection.execute(update(studies).where(studies.c.study_id == written.study_id).values(**values))


def test_the_terminal_is_shown_how_the_study_stands(storage: Storage, study_name: str) -> None:
    written = write_study(storage, study_name, trials=40)
    seen: list[StudyOutlook] = []
    watching(storage, written, None, shown=seen.append).look()
    (outlook,) = seen
    assert (outlook.study, outlook.ended, outlook.budget) == (study_name, 40, 80)
    assert outlook.best_trial == written.best
    assert outlook.left_s == pytest.approx(36_000, rel=0.02)
    with storage.engine.connect() as connection:
        assert connection.execute(select(outbox).where(outbox.c.study_id == written.study_id)).all() == []


def test_a_new_best_is_told_once_though_many_workers_look(
    database_url: str, storage: Storage, study_name: str, webhook: Receiver
) -> None:
    written = write_study(storage, study_name, trials=8)
    opened = [open_storage(database_url) for _ in range(4)]
    watches = [watching(each, written, webhook, worker_id=f"w{i}") for i, each in enumerate(opened)]
    with ThreadPoolExecutor(len(watches)) as pool:
        for _ in range(3):
            list(pool.map(lambda watch: watch.look(), watches))
    for each in opened:
        each.close()
    (message,) = webhook.messages
    assert (message["event"], message["trial"], message["before"]) == ("new_best", written.best, None)
    assert message["text"] == f"{study_name}: new best KL {message['value']:.4f} in trial {written.best}"
    with storage.engine.connect() as connection:
        row = connection.execute(select(outbox).where(outbox.c.study_id == written.study_id)).one()
    assert row.sent_at is not None
    assert row.taken_by in {"w0", "w1", "w2", "w3"}


def test_only_a_better_trial_is_a_new_best(storage: Storage, study_name: str, webhook: Receiver) -> None:
    written = write_study(storage, study_name, trials=8)
    watch = watching(storage, written, webhook)
    watch.look()
    better = storage.optuna.create_new_trial(written.study_id)
    storage.optuna.set_trial_state_values(better, TrialState.COMPLETE, values=[0.25])
    worse = storage.optuna.create_new_trial(written.study_id)
    storage.optuna.set_trial_state_values(worse, TrialState.COMPLETE, values=[0.35])
    watch.look()
    watch.look()
    assert [message["value"] for message in webhook.messages][1:] == [0.25]
    first, second = webhook.messages
    assert second["text"].endswith(f"(was {first['value']:.4f})")


def test_a_study_is_finished_when_its_last_trial_has_ended_and_again_after_it_was_extended(
    storage: Storage, study_name: str, webhook: Receiver
) -> None:
    written = write_study(storage, study_name, trials=8, budget=9)
    watch = watching(storage, written, webhook, events=frozenset({"study_finished", "budget_nearly_spent"}))
    watch.look()
    lease = claim(storage, written.study_id, Holder("w", "cpu", this_process()), lease_s=60.0)
    watch.look()
    assert webhook.events() == []  # 8 of 9 are 89 %
    with storage.engine.begin() as connection:
        assert isinstance(lease, Lease)
        end_lease_and_trial(connection, lease, Result(AttemptState.FAILED, reason="x"), set_aside=False)
    watch.look()
    watch.look()
    assert webhook.events() == ["study_finished"]
    assert "finished after 9 trials in 10:00:" in webhook.messages[0]["text"]
    change(storage, written, budget_trials=10)
    watch.look()
    change(storage, written, budget_trials=8)
    watch.look()
    assert webhook.events() == ["study_finished", "budget_nearly_spent", "study_finished"]
    assert webhook.messages[1]["text"].startswith(f"{study_name}: 90% of 10 trials are used; ")


def test_hours_that_are_over_finish_a_study_once_nothing_runs(
    storage: Storage, study_name: str, webhook: Receiver
) -> None:
    written = write_study(storage, study_name, trials=8)
    change(storage, written, budget_hours=10.5)
    watch = watching(storage, written, webhook, events=frozenset({"study_finished", "budget_nearly_spent"}))
    watch.look()
    assert webhook.events() == ["budget_nearly_spent"]
    assert (webhook.messages[0]["part"], webhook.messages[0]["limit"]) == ("hours", 10.5)
    claim(storage, written.study_id, Holder("w", "cpu", this_process()), lease_s=60.0)
    change(storage, written, budget_hours=9.0)
    watch.look()
    assert webhook.events() == ["budget_nearly_spent"]
    with storage.engine.begin() as connection:
        connection.execute(
            update(attempts)
            .where(attempts.c.study_id == written.study_id)
            .values(ended_at=now(), state=AttemptState.LOST)
        )
    watch.look()
    assert webhook.events() == ["budget_nearly_spent", "study_finished"]


def test_a_worker_that_was_silent_for_its_leases_time_is_lost_and_an_outage_loses_none(
    storage: Storage, study_name: str, webhook: Receiver
) -> None:
    written = write_study(storage, study_name, trials=8)
    watch = watching(storage, written, webhook, events=frozenset({"worker_lost"}), silent_s=120.0)
    with announce(storage, Presence(f"alive-{study_name}", written.study_id, "1", ("cpu",))):
        for name, ago in (("silent", 130.0), ("quiet", 100.0), ("long-gone", 2 * 86_400.0)):
            row = {"host": f"node-{name}", "pid": 1, "version": "1", "devices": "cuda:0", "slots": 1}
            with storage.engine.begin() as connection:
                connection.execute(
                    workers.insert().values(
                        worker_id=f"{name}-{study_name}",
                        study_id=written.study_id,
                        last_seen=seconds_from_now(-ago),
                        **row,
                    )
                )
        for _ in range(STEADY_LOOKS):
            watch.look()
        assert webhook.events() == []
        watch.look()
        watch.look()
    (message,) = webhook.messages
    assert (message["worker"], message["host"]) == (f"silent-{study_name}", "node-silent")
    since = f"{int(message['silent_s']) // 60}:{int(message['silent_s']) % 60:02d}"
    assert 130 <= message["silent_s"] < 600
    assert message["text"] == f"{study_name}: lost the worker on node-silent (cuda:0), last seen {since} ago"


def test_a_worker_of_this_machine_whose_process_is_gone_is_lost_once_it_shows_no_life(
    storage: Storage, study_name: str, webhook: Receiver
) -> None:
    written = write_study(storage, study_name, trials=8)
    here = this_process()
    if here.machine is None:
        pytest.skip("the system does not tell processes apart")
    with storage.engine.begin() as connection:
        connection.execute(
            workers.insert().values(
                worker_id=f"dead-{study_name}",
                study_id=written.study_id,
                host=here.host,
                pid=os.getpid(),
                process_started=(here.started or 0) - 1,
                machine=here.machine,
                version="1",
                devices="cpu",
                slots=1,
            )
        )
    watch = watching(storage, written, webhook, events=frozenset({"worker_lost"}))
    leave_mark(f"dead-{study_name}")
    for _ in range(STEADY_LOOKS + 1):
        watch.look()
    assert webhook.messages == []  # seen a moment ago: on a clone of this machine it lives
    with storage.engine.begin() as connection:
        mine = workers.c.worker_id == f"dead-{study_name}"
        connection.execute(update(workers).where(mine).values(last_seen=seconds_from_now(-21.0)))
    for _ in range(STEADY_LOOKS + 1):
        watch.look()
    remove_mark(f"dead-{study_name}")
    assert [message["worker"] for message in webhook.messages] == [f"dead-{study_name}"]


def test_a_receiver_that_fails_is_warned_of_without_its_secret_and_stops_nothing(
    storage: Storage, study_name: str, webhook: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    written = write_study(storage, study_name, trials=8)
    webhook.answers = [404]
    with caplog.at_level(logging.DEBUG):
        watch = watching(storage, written, webhook)
        watch.look()
        watch.look()
    assert webhook.messages == []
    assert "new best was not told: 127.0.0.1: the webhook answered 404" in caplog.text
    assert SECRET not in caplog.text
    with storage.engine.connect() as connection:
        row = connection.execute(select(outbox).where(outbox.c.study_id == written.study_id)).one()
    assert (row.sent_at, SECRET in str(row)) == (None, False)
    assert row.failure.startswith("127.0.0.1")


def test_what_a_dead_sender_took_is_sent_by_another(
    storage: Storage, study_name: str, webhook: Receiver
) -> None:
    written = write_study(storage, study_name, trials=8)
    with storage.engine.begin() as connection:
        assert add_entry(connection, written.study_id, Entry("new_best", str(written.best), {"value": 0.0}))
    assert take_entry(storage, written.study_id, "dying") is not None
    other = watching(storage, written, webhook, worker_id="other")
    other.look()
    assert webhook.messages == []
    with storage.engine.begin() as connection:
        connection.execute(
            update(outbox)
            .where(outbox.c.study_id == written.study_id)
            .values(taken_at=seconds_from_now(-301.0))
        )
    other.look()
    other.look()
    assert webhook.messages == [{"value": 0.0}]


def test_what_happens_last_is_told_before_the_worker_ends(
    storage: Storage, study_name: str, webhook: Receiver
) -> None:
    written = write_study(storage, study_name, trials=8)
    with watching(storage, written, webhook, events=frozenset({"study_finished"})).running(every_s=3600.0):
        change(storage, written, budget_trials=8)
    assert webhook.events() == ["study_finished"]
