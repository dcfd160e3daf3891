"""A primary dies during a trial and its standby takes over: the trial goes on there, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_study import STUDY, train
from plain_server import PlainServer, plain_server, programs_of, versions
from slots import a_slot
from sqlalchemy import create_engine, text

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import open_storage
from hms_tune.training.events import Event
from hms_tune.worker.open_study import join_search
from studies import show_trials

READ_ONLY_S = 2.0
"""For so long only the standby answers, which takes no writes yet."""


@dataclass(frozen=True)
class Pair:
    """A primary, and the standby that has whatever the primary has told to be committed."""

    primary: PlainServer
    standby: PlainServer

    def url(self, query: str) -> str:
        return f"postgresql://postgres@/postgres?host={self.primary.home},{self.standby.home}{query}"

    def fail_over(self) -> threading.Timer:
        """The primary dies; after a while the standby is promoted."""
        self.primary.crash()
        promotion = threading.Timer(READ_ONLY_S, self.standby.promote)
        promotion.start()
        return promotion


@pytest.fixture
def pair() -> Iterator[Pair]:
    folder = programs_of(next(iter(versions())))
    with plain_server(folder) as primary, plain_server(folder) as standby:
        primary.make()
        primary.start()
        standby.copy(primary)
        standby.start()
        engine = create_engine(
            primary.url.replace("postgresql:", "postgresql+psycopg2:"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET synchronous_standby_names = '*'"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield Pair(primary, standby)


@pytest.mark.parametrize(
    "query",
    ["&target_session_attrs=read-write", pytest.param("", marks=pytest.mark.slow)],
    ids=["read-write", "any host"],
)
def test_a_trial_goes_on_at_the_standby_that_was_promoted_under_it(
    pair: Pair, query: str, tmp_path: Path
) -> None:
    """An address that asks for a server to write to meets none for a while, and another reads meanwhile."""
    storage = open_storage(pair.url(query))
    text_ = STUDY.format(name="mine", trials=3).replace("high: 1.0,", "high: 0.1,")
    search = join_search(storage, StudyFile.parse(text_, "test"))
    begun, promotions = [], []

    def training(config: TrialConfig, folder: Path) -> Iterator[Event]:
        begun.append(config)
        for number, event in enumerate(train(config, folder)):
            if len(begun) == 2 and number == 3:
                promotions.append(pair.fail_over())
            yield event

    try:
        assert a_slot(storage, search, training, tmp_path).run() == 3
    finally:
        for promotion in promotions:
            promotion.join()
    assert len(promotions) == 1
    trials = show_trials(storage, "mine")
    assert len(trials) == len(begun) == 3
    assert {trial.state for trial in trials} <= {"complete", "pruned"}
    assert "complete" in {trial.state for trial in trials}
    with storage.connection() as connection:
        ended = text("SELECT count(*), count(DISTINCT trial_id), bool_and(state <> 'lost') FROM attempts")
        connection.execute(text("SET search_path = hms_tune"))
        assert tuple(connection.execute(ended).one()) == (3, 3, True)
    storage.close()
