"""What a trial asks of a study does not grow with the study, and says the same as reading all of it."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from fake_study import STUDY, train
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial
from slots import a_slot
from sqlalchemy import event, update

from hms_tune.cli.views.trials import sorted_trials
from hms_tune.config.study_file import StudyFile
from hms_tune.database import ended_trials, trial_reader
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.queue import promote
from hms_tune.database.queue.claim import claim
from hms_tune.database.queue.lease import Holder, Lease, LeaseKeeper
from hms_tune.database.queue.start import begin_attempt
from hms_tune.database.tables import attempts, rungs, seconds_from_now, trials
from hms_tune.machine.processes import this_process
from hms_tune.search.optuna_private import study_id_of
from hms_tune.search.promotion.progress import TrialProgress
from hms_tune.search.promotion.rule import Promotion
from hms_tune.studies.control import stop_trial
from hms_tune.studies.status import attempt_list, attempts_shown, estimate_scale, show_trials
from hms_tune.trial_state import TrialState
from hms_tune.worker.open_study import join_search
from studies import write_study

RUNGS = (2, 6, 20)


def test_ended_trials_read_at_once_are_those_read_one_by_one(storage: Storage, study_name: str) -> None:
    study_id = write_study(storage, study_name, trials=12).study_id
    with storage.statements() as connection:
        one_by_one = trial_reader.read_trials(connection, study_id, states=None, included=(), after=-1)
    at_once, unfinished, newest = ended_trials.read_ended(storage.optuna._rows, study_id)
    assert copy.deepcopy(at_once) == at_once == one_by_one
    assert [(each.number, each.state, each.values, each.params) for each in at_once] == [
        (each.number, each.state, each.values, each.params) for each in one_by_one
    ]
    for one, other in zip(at_once, one_by_one, strict=True):
        assert one.distributions == other.distributions
        assert list(one.intermediate_values.items()) == list(other.intermediate_values.items())
        assert (one.user_attrs, one.system_attrs) == (other.user_attrs, other.system_attrs)
        assert (one.datetime_start, one.datetime_complete) == (other.datetime_start, other.datetime_complete)
    assert (unfinished, newest) == (set(), one_by_one[-1]._trial_id)


def test_a_trial_without_a_parameter_stays_without_it_if_another_ends_before_that_is_read(
    storage: Storage, study_name: str
) -> None:
    """Then as many trials have the parameter as there were; a sampler met a placeholder for its value."""
    study = optuna.create_study(study_name=study_name, storage=storage.optuna)
    x = {"x": FloatDistribution(0.0, 1.0)}
    study.add_trial(create_trial(value=1.0, params={"x": 0.5}, distributions=x))
    study.add_trial(create_trial(value=2.0))
    ended, _, _ = ended_trials.read_ended(storage.optuna._rows, study_id_of(study))
    study.add_trial(create_trial(value=3.0, params={"x": 0.7}, distributions=x))
    assert [trial.params for trial in ended] == [{"x": 0.5}, {}]
    assert [trial.distributions for trial in ended] == [x, {}]


@pytest.fixture
def asked(storage: Storage) -> Iterator[list[str]]:
    """Every statement on the storage's connections."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(storage.engine, "before_cursor_execute", note)
    yield statements
    event.remove(storage.engine, "before_cursor_execute", note)


@pytest.mark.parametrize("rule", ["pruner: none", "scheduler: {name: promotion, rungs: [0.5]}"])
def test_a_slot_whose_search_learns_nothing_reads_no_ended_trial(
    storage: Storage, study_name: str, tmp_path: Path, asked: list[str], rule: str
) -> None:
    written = STUDY.format(name=study_name, trials=3)
    study = StudyFile.parse(re.sub(r"pruner: \{.*?\}", rule, written), "test")
    search = join_search(storage, study)
    asked.clear()
    a_slot(storage, search, train, tmp_path / "store").run()
    assert any("INSERT INTO trials" in statement for statement in asked)
    assert [statement for statement in asked if "WITH ended AS MATERIALIZED" in statement] == []


@pytest.mark.parametrize("seed", range(4))
def test_the_trial_that_is_promoted_by_the_tables_is_the_one_that_the_rule_names(
    storage: Storage, study_name: str, seed: int
) -> None:
    study_id = write_study(storage, study_name, trials=4).study_id
    drawn, rule = random.Random(seed), Promotion(RUNGS, 3)
    with storage.transaction() as connection:
        for _ in range(60):
            state = drawn.choice(["paused", "paused", "complete", "pruned", "running"])
            reached = len(RUNGS) if state == "complete" else drawn.randint(1, len(RUNGS) - 1)
            estimates = [round(drawn.uniform(0.5, 1.0), 2) for _ in range(reached)]  # some are equal
            trial_id = connection.execute(
                trials.insert()
                .values(
                    study_id=study_id,
                    state=TrialState(state),
                    ended_at=seconds_from_now(0) if state in ("complete", "pruned") else None,
                    rung=RUNGS[reached - 1],
                    estimate=estimates[-1],
                )
                .returning(trials.c.trial_id)
            ).scalar_one()
            for step, estimate in zip(RUNGS, estimates, strict=False):
                row = {"trial_id": trial_id, "study_id": study_id, "step": step, "estimate": estimate}
                connection.execute(rungs.insert().values(**row))
        known: list[TrialProgress] = promote._progress(connection, study_id)
        most = 60
        hopeless = set(rule.hopeless(known, most))
        left = [each for each in known if each.number not in hopeless or each.state != "paused"]
        chosen = promote.promoted(connection, study_id, rule, most=most, ending=False)
        assert chosen == rule.next(left)
        given_up = {each.number for each in known if each.state == "paused"} - {
            each.number for each in promote._progress(connection, study_id) if each.state == "paused"
        }
        assert given_up - {chosen} == hopeless
        assert hopeless
        connection.rollback()


def test_reports_are_written_together_renew_the_lease_and_bring_back_what_people_request(
    storage: Storage, study_name: str, asked: list[str]
) -> None:
    study = StudyFile.parse(STUDY.format(name=study_name, trials=1), "t")
    search = join_search(storage, study)
    lease = claim(storage, search.study_id, Holder("worker", "cpu", this_process()), lease_s=60.0)
    assert isinstance(lease, Lease)
    attempt = begin_attempt(storage, search.study, lease)
    keeper = LeaseKeeper(storage, lease, lease_s=60.0)
    with storage.transaction() as connection:
        connection.execute(update(attempts).values(expires_at=seconds_from_now(1)).where(_is(lease)))
    stop_trial(storage, study_name, attempt.number)
    assert not keeper.certain
    with storage.optuna.keeping_reports(attempt.optuna_trial_id, keeper.renewal):
        asked.clear()
        attempt.optuna_trial.report(0.5, 1)
        attempt.optuna_trial.report(0.75, 2)
        assert not asked
        storage.optuna.write_reports(attempt.optuna_trial_id)
        assert keeper.certain
        assert keeper.requested() == "trial stopped"
        assert len(asked) == 1
        with storage.transaction() as connection:
            connection.execute(update(attempts).values(token="another's").where(_is(lease)))
        attempt.optuna_trial.report(0.25, 3)
        storage.optuna.write_reports(attempt.optuna_trial_id)
    assert keeper.lost
    assert storage.optuna.get_trial(attempt.optuna_trial_id).intermediate_values == {1: 0.5, 2: 0.75}


def _is(lease: Lease) -> Any:
    return attempts.c.lease_id == lease.lease_id


def test_a_page_of_a_study_reads_no_attempt_of_another_page(
    storage: Storage, study_name: str, asked: list[str]
) -> None:
    write_study(storage, study_name, trials=12)
    asked.clear()
    scale = estimate_scale(storage, study_name)
    keys = sorted_trials(attempt_list(storage, scale), "trial", largest_first=True)
    page = [key.optuna_trial_id for key in keys][:3]
    shown = list(attempts_shown(storage, page, scale))
    statements = len(asked)
    whole = show_trials(storage, study_name)
    assert [each.trial for each in shown] == [11, 10, 9]
    assert shown == whole[:-4:-1]
    keyed = [(key.trial, key.state, key.value, key.seconds) for key in reversed(keys)]
    values = [each.estimate.value if each.estimate else each.value for each in whole]
    assert keyed == [
        (each.trial, each.state, value, each.seconds) for each, value in zip(whole, values, strict=True)
    ]
    assert statements == 10


@pytest.mark.parametrize("many", [3, 30])
def test_joining_a_study_and_all_that_a_sampler_asks_takes_as_many_statements_however_long_it_is(
    database_url: str, study_name: str, asked: list[str], many: int
) -> None:
    opened = open_storage(database_url)
    write_study(opened, study_name, trials=many)
    opened.close()
    opened = open_storage(database_url)
    note = asked.append
    event.listen(opened.engine, "before_cursor_execute", lambda _c, _cursor, statement, *_r: note(statement))
    study = StudyFile.parse(STUDY.format(name=study_name, trials=1), "t")
    study_id = opened.optuna.get_study_id_from_name(study.study)
    asked.clear()
    ended = opened.optuna.shared.get_all_trials(study_id, deepcopy=False, states=(OptunaState.COMPLETE,))
    assert len(asked) == 2
    assert all(trial.intermediate_values for trial in ended)
    assert len(asked) == 3
    assert all(trial.params and trial.distributions and trial.user_attrs for trial in ended)
    assert all(trial.system_attrs is not None for trial in ended)
    assert len(asked) == 6
    opened.close()
