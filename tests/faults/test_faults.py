"""Real workers against a real PostgreSQL, and what may happen to both.

``HMS_TUNE_FAULTS_LONG=1`` (``make faults``) runs each at the size that docs/reliability.md states.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import campaign
import history
import pytest
from checker import check
from fleet import Fleet, Orders, put_out_after, told
from proxy import Proxy
from server import OwnServer
from slots import a_slot
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError
from tiny import study_file, tiny_train, undisturbed

from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.connection.retry import Patience, through_outages
from hms_tune.database.queue.attempt import Result
from hms_tune.database.queue.claim import Refusal, claim
from hms_tune.database.queue.end import end_attempt
from hms_tune.database.queue.lease import Holder, Lease
from hms_tune.database.queue.start import begin_attempt
from hms_tune.database.tables import attempts
from hms_tune.errors import StorageAwayError
from hms_tune.machine.processes import this_process
from hms_tune.search.optuna_private import trial_id_of
from hms_tune.training.events import Event
from hms_tune.trial_state import AttemptState
from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
from hms_tune.worker.open_study import join_search, open_search
from hms_tune.worker.slot import Slot
from hms_tune.worker.stop import Stop
from studies import show_trials

LONG = os.environ.get("HMS_TUNE_FAULTS_LONG") == "1"


def holder(name: str) -> Holder:
    return Holder(name, "cpu", this_process())


def facts_of(storage: Storage, name: str, folder: Path) -> tuple[list[history.Fact], dict]:
    """The history of one study, and what its trials should have come to."""
    study_id = storage.optuna.get_study_id_from_name(name)
    trials = storage.optuna.get_all_trials(study_id)
    ids = {trial_id_of(trial) for trial in trials}
    with storage.engine.connect() as connection:
        own = set(
            connection.execute(select(attempts.c.lease_id).where(attempts.c.study_id == study_id)).scalars()
        )
    facts = [fact for fact in history.read(storage.engine) if fact.attempt in ids or fact.lease in own]
    reference = {
        trial_id_of(trial): undisturbed(trial.params["training.learning_rate"])
        for trial in trials
        if trial.state.name == "COMPLETE"
    }
    return facts + told(folder, {trial.number: trial_id_of(trial) for trial in trials}), reference


def test_sigkill_of_workers_ends_each_trial_once_with_the_value_it_would_have_had() -> None:
    plan = campaign.Plan(
        seed=7,
        trials=12,
        kills=8,
        workers=3,
        pauses=1,
        restarts=1,
        cuts=1,
        stalls=1,
        swallowed=4,
        asleep_s=3.0,
        most_s=240.0,
    )
    outcome = campaign.run(plan)
    assert outcome.clean, str(outcome)
    assert outcome.verdict.complete == 12
    assert outcome.faults["kills of a worker"] == 8
    assert outcome.faults["swallowed COMMIT replies"] >= 2


@pytest.mark.slow
def test_promoted_trials_stand_the_same_and_end_with_the_same_values() -> None:
    plan = campaign.Plan(
        seed=5,
        trials=10,
        kills=6,
        workers=3,
        pauses=1,
        restarts=1,
        cuts=1,
        stalls=0,
        swallowed=4,
        asleep_s=3.0,
        most_s=240.0,
        promotion=True,
    )
    outcome = campaign.run(plan)
    assert outcome.clean, str(outcome)
    assert 1 <= outcome.verdict.complete < 10
    assert outcome.faults["kills of a worker"] >= 3


def test_database_outage_training_goes_on_and_no_report_is_lost(
    storage: Storage, proxy: Proxy, fleet: Fleet, tmp_path: Path
) -> None:
    outage_s, workers = (60.0, 4) if LONG else (6.0, 2)
    study = study_file("outage", trials=workers)
    open_search(storage, study)
    orders = Orders(proxy.url, study.to_json(), tmp_path, "", 180.0, outage_s / 6, seed=1)
    for number in range(workers):
        fleet.start(replace(orders, name=f"worker{number}"))
    wait_until(lambda: len(list(tmp_path.glob("*.steps"))) == workers)
    wait_until(lambda: all(path.stat().st_size for path in tmp_path.glob("*.steps")))
    proxy.cut()
    began = time.time()
    time.sleep(outage_s)
    ended = time.time()
    proxy.restore()
    for process in fleet.workers.values():
        process.join(timeout=300.0 + 6 * outage_s)
        assert process.exitcode == 0
    for path in tmp_path.glob("*.steps"):
        during = [line for line in path.read_text().splitlines() if began < float(line.split()[0]) < ended]
        assert len(during) >= 2, path.read_text()
    facts, reference = facts_of(storage, "outage", tmp_path)
    verdict = check(facts, reference, trials=workers)
    assert verdict.violations == ()
    assert (verdict.attempts, verdict.complete, verdict.facts["report"]) == (workers, workers, 6 * workers)


def test_database_outage_longer_than_the_lease_is_a_clean_lease_lost(
    storage: Storage, server: OwnServer, proxy: Proxy, fleet: Fleet, tmp_path: Path
) -> None:
    study = study_file("lost", trials=1)
    open_search(storage, study)
    orders = Orders(proxy.url, study.to_json(), tmp_path, "loser", 3.0, 0.7, seed=1)
    fleet.start(orders)
    wait_until(lambda: any(path.stat().st_size for path in tmp_path.glob("loser.steps")))
    proxy.cut()
    fleet.start(replace(orders, name="heir", url=server.url))
    fleet.workers["heir"].join(timeout=60.0)
    proxy.restore()
    fleet.workers["loser"].join(timeout=60.0)
    assert (fleet.workers["heir"].exitcode, fleet.workers["loser"].exitcode) == (0, 0)
    assert "the lease was lost" in (tmp_path / "loser.log").read_text()
    lost, complete = show_trials(storage, "lost")
    assert (lost.reason, complete.state) == ("lease lost", "complete")
    verdict = check(*facts_of(storage, "lost", tmp_path), trials=1)
    assert verdict.violations == ()


def test_a_commit_whose_answer_was_lost_is_not_done_twice(
    storage: Storage, through_proxy: Storage, proxy: Proxy, tmp_path: Path
) -> None:
    open_search(storage, study_file("commits", trials=5))
    search = join_search(through_proxy, study_file("commits", trials=5))
    for number in range(5):
        token = f"token-{number}"
        proxy.swallow_commits(1)
        lease = through_proxy.through_outages(
            lambda token=token: claim(
                through_proxy, search.study_id, holder("one"), lease_s=60.0, token=token
            )
        )
        assert isinstance(lease, Lease)
        proxy.swallow_commits(number)  # each time another COMMIT of those that an attempt takes
        attempt = through_proxy.through_outages(
            lambda lease=lease: begin_attempt(through_proxy, search.study, lease)
        )
        search.suggest(attempt.optuna_trial)
        proxy.swallow_commits(number + 1)
        result = Result(AttemptState.COMPLETE, value=float(number))
        wrote = through_proxy.through_outages(
            lambda attempt=attempt, result=result: end_attempt(through_proxy, search.study, attempt, result)
        )
        assert wrote == result
        proxy.swallow_commits(0)
    assert proxy.swallowed >= 10
    assert [trial.value for trial in show_trials(storage, "commits")] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert claim(storage, search.study_id, holder("two"), lease_s=60.0) is Refusal.BUDGET_SPENT


FAIL_TWO_OF_FIVE = """
CREATE SEQUENCE faults.turn;
CREATE FUNCTION faults.fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('faults.turn') % 5 < 2 THEN
        IF random() < 0.5 THEN RAISE EXCEPTION 'planted' USING ERRCODE = '40P01'; END IF;
        RAISE EXCEPTION 'planted' USING ERRCODE = '40001';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER fail BEFORE INSERT ON hms_tune.attempts FOR EACH ROW EXECUTE FUNCTION faults.fail();
"""


def test_deadlock_and_serialization_failure_retry_the_whole_transaction(storage: Storage) -> None:
    injected = 1000 if LONG else 40
    search = open_search(storage, study_file("deadlocks", trials=1_000_000))
    with storage.engine.begin() as connection:
        connection.execute(text(FAIL_TWO_OF_FIVE))
    tries: Counter[int] = Counter()
    failed = 0
    try:
        while failed < injected:
            calls = 0

            def work() -> Lease | Refusal:
                nonlocal calls
                calls += 1
                return claim(storage, search.study_id, holder("one"), lease_s=600.0)

            assert isinstance(through_outages(work), Lease)
            tries[calls] += 1
            failed += calls - 1
    finally:
        with storage.engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER fail ON hms_tune.attempts")
    assert max(tries) <= 5
    with storage.engine.connect() as connection:
        granted = connection.execute(
            text("SELECT count(*) FROM hms_tune.attempts WHERE study_id = :study"), {"study": search.study_id}
        ).scalar_one()
    assert granted == sum(tries.values())


def test_of_two_transactions_in_a_real_deadlock_both_succeed(storage: Storage) -> None:
    study_ids = [open_search(storage, study_file(f"knot{side}", trials=1)).study_id for side in "ab"]
    meeting = threading.Barrier(2)
    faults = []

    def work(order: list[int]) -> None:
        def once() -> None:
            try:
                with storage.transaction() as connection:
                    for place, study_id in enumerate(order):
                        connection.execute(
                            text("UPDATE hms_tune.studies SET budget_trials = 2 WHERE study_id = :study"),
                            {"study": study_id},
                        )
                        if place == 0 and not faults:
                            meeting.wait(timeout=20.0)
            except OperationalError as error:
                faults.append(error)
                raise

        through_outages(once)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [study_ids, study_ids[::-1]]))
    assert [getattr(fault, "orig", fault).pgcode for fault in faults] == ["40P01"]


@pytest.mark.parametrize(("budget", "claimants"), [(100, 64), (10_000, 64)] if LONG else [(100, 16)])
def test_two_workers_claim_at_once_and_never_take_one_trial_twice(
    storage: Storage, server: OwnServer, budget: int, claimants: int
) -> None:
    search = open_search(storage, study_file(f"race-{budget}", trials=budget))
    pools = [open_storage(server.url) for _ in range(claimants // 8)]

    def work(number: int) -> int:
        taken = 0
        mine = pools[number % len(pools)]
        while isinstance(claim(mine, search.study_id, holder(f"w{number}"), lease_s=6000.0), Lease):
            taken += 1
        return taken

    with ThreadPoolExecutor(claimants) as executor:
        assert sum(executor.map(work, range(claimants))) == budget
    with storage.engine.connect() as connection:
        counted = connection.execute(
            text("SELECT count(*), count(DISTINCT trial_id) FROM hms_tune.attempts WHERE study_id = :study"),
            {"study": search.study_id},
        ).one()
    assert tuple(counted) == (budget, budget)
    for pool in pools:
        pool.close()


def in_process(storage: Storage, name: str, folder: Path, train: object, stop: Stop | None = None) -> Slot:
    study = study_file(name, trials=2)
    artifacts = Artifacts.at(folder / "store", folder / "scratch", study.study)
    search = join_search(storage, study)
    return a_slot(storage, search, train, artifacts, worker=name, stop=stop or Stop(), poll_s=0.05)  # type: ignore[arg-type]


def test_sigterm_in_a_database_outage_ends_the_worker_within_20_s(
    storage: Storage, through_proxy: Storage, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop = Stop()

    def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
        for number, event in enumerate(tiny_train(0.0)(config, directory)):
            yield event
            if number == 2:
                proxy.cut()
                stop.request()

    open_search(storage, study_file("stopped", trials=2))
    slot = in_process(through_proxy, "stopped", tmp_path, train, stop)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert slot.run() == 0
    assert time.monotonic() - began < 20.0
    assert "nothing could be requeued" in caplog.text


def test_database_outage_beyond_all_patience_ends_the_worker_with_what_to_do(
    storage: Storage, through_proxy: Storage, proxy: Proxy, tmp_path: Path
) -> None:
    through_proxy.optuna.patience = Patience(most_s=1.0)

    def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
        for number, event in enumerate(tiny_train(0.0)(config, directory)):
            yield event
            if number == 2:
                proxy.cut()

    open_search(storage, study_file("patience", trials=2))
    slot = in_process(through_proxy, "patience", tmp_path, train)
    with pytest.raises(StorageAwayError, match="its trial goes on from the last checkpoint"):
        slot.run()
    proxy.restore()


@pytest.mark.slow
def test_host_out_of_memory_or_segfault_sets_the_trial_aside_and_the_search_goes_on(
    storage: Storage, server: OwnServer, fleet: Fleet, tmp_path: Path
) -> None:
    study = study_file("poison", trials=2)
    open_search(storage, study)
    orders = Orders(server.url, study.to_json(), tmp_path, "w", 60.0, 0.01, seed=1, poison=2, most_losses=3)
    deaths = 0
    while deaths < 6:
        fleet.start(orders)
        fleet.workers["w"].join(timeout=60.0)
        if fleet.workers["w"].exitcode == 0:
            break
        assert fleet.workers["w"].exitcode in (-11, 255)  # the server of forks may not tell
        deaths += 1
    assert deaths == 3
    lost = [trial for trial in show_trials(storage, "poison") if trial.state == "lost"]
    complete = [trial for trial in show_trials(storage, "poison") if trial.state == "complete"]
    assert (len(lost), len(complete)) == (3, 1)
    assert [trial.reason for trial in lost] == [
        "lease lost",
        "lease lost",
        "set aside: 3 workers were lost with it",
    ]


def wait_until(condition: object, *, most_s: float = 90.0) -> None:
    end = time.monotonic() + most_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def stamps(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Which files are there, and when each was last written."""
    states = {path: path.stat() for path in folder.rglob("*")}
    return {path: (state.st_ino, state.st_size, state.st_mtime_ns) for path, state in states.items()}


def test_paused_worker_finds_its_lease_lost_and_writes_nothing(
    storage: Storage, server: OwnServer, fleet: Fleet, tmp_path: Path
) -> None:
    study = study_file("paused", trials=1)
    open_search(storage, study)
    url = put_out_after(server.url, 2.0)
    orders = Orders(url, study.to_json(), tmp_path, "loser", 1.5, 0.3, seed=1)
    fleet.start(orders)
    wait_until(lambda: any(path.stat().st_size for path in tmp_path.glob("loser.steps")))
    fleet.signal("loser", signal.SIGSTOP)
    fleet.start(replace(orders, name="heir"))
    fleet.workers["heir"].join(timeout=90.0)
    stored = stamps(tmp_path / "store")
    said = (tmp_path / "loser.diary").read_text()
    fleet.signal("loser", signal.SIGCONT)
    fleet.workers["loser"].join(timeout=90.0)
    assert (fleet.workers["heir"].exitcode, fleet.workers["loser"].exitcode) == (0, 0)
    assert "the lease was lost" in (tmp_path / "loser.log").read_text()
    assert (tmp_path / "loser.diary").read_text() == said  # nothing to whoever tracks it
    assert stamps(tmp_path / "store") == stored  # no checkpoint
    verdict = check(*facts_of(storage, "paused", tmp_path), trials=1)  # nothing to the trial
    assert verdict.violations == ()
    assert [trial.state for trial in show_trials(storage, "paused")] == ["lost", "complete"]
