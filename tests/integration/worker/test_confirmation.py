"""Leading trials are trained again with fresh seeds, as work that any worker claims."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial
from optuna_dashboard import get_note
from slots import a_slot
from stories import a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.cli import study as study_commands
from hms_tune.cli.bundles import export as export_commands
from hms_tune.config.settings import Settings
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage
from hms_tune.database.queries.confirmations import confirmation_progress
from hms_tune.database.queue.confirm import DROPPED
from hms_tune.errors import UsageError
from hms_tune.reports.dashboard.publish import publish_study
from hms_tune.studies.export_best import best_trial
from hms_tune.studies.record_writer import Equipment, TrialRecorder
from hms_tune.studies.status import status
from hms_tune.studies.totals import has_work
from hms_tune.studies.trial_record import study_record
from hms_tune.training.events import Event, OutOfFold
from hms_tune.trial_state import TrialState
from hms_tune.worker.checkpoint_store.open import open_store
from hms_tune.worker.checkpoint_store.predictions import KeptPredictions
from hms_tune.worker.confirmation.judge import RaceJudge
from hms_tune.worker.confirmation.request import SEED, confirmation_file, request_confirmation
from hms_tune.worker.open_study import join_search

FILE = """
study: {name}
data: {{folds: 2, holdout: 0.0}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.0, high: 0.5}}}}
training: {{epochs: 1}}
search: {{sampler: random, pruner: none}}
budget: {{trials: 6}}
tracking: {{wandb: {{mode: off}}}}
"""
PATIENTS, ROWS = 30, 90


@dataclass
class Training:
    """Scores a configuration by its dropout: in the search by luck, later by what it is worth."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def train(self, config: TrialConfig, _directory: Path) -> Iterator[Event]:
        dropout, seed = config.model.dropout, config.training.seed
        self.seen.append((dropout, seed))
        rows = np.arange(ROWS)
        hard = np.random.default_rng(0).gamma(2.0, 1.0, PATIENTS)
        worth = (1.0 - dropout if seed == 0 else dropout) + 0.3
        targets = np.zeros((ROWS, 6), np.float32)
        targets[:, 0] = 1.0
        chance = np.random.default_rng(seed).normal(0.0, 0.02, ROWS)
        right = np.exp(-np.abs(0.3 * hard[rows % PATIENTS] + worth + chance))
        probabilities = np.repeat(((1.0 - right) / 5)[:, None], 6, axis=1)
        probabilities[:, 0] = right
        predictions = OutOfFold(
            row=rows,
            eeg_id=rows,
            patient_id=rows % PATIENTS,
            fold=rows % 2,
            probabilities=probabilities.astype(np.float32),
            targets=targets,
            total_votes=np.full(ROWS, 12),
        )
        kl = float(-np.log(right).mean())
        for fold in range(2):
            yield a_fold_start(fold)
            yield an_epoch(fold, kl=kl)
            yield a_fold_end(fold, kl=kl)
        yield an_ending(kl, predictions=predictions)


def work(storage: Storage, file: StudyFile, folder: Path, training: Training) -> int:
    """A worker of one slot, as :mod:`hms_tune.worker.slot_process` puts it together."""
    search = join_search(storage, file)
    store = open_store(folder)
    kept = KeptPredictions(store, file.study)
    judge = RaceJudge(storage, search.study_id, file, store)

    def keep(trial: object, predictions: OutOfFold) -> None:
        kept.keep(trial.trial, predictions)  # type: ignore[attr-defined]

    records = TrialRecorder(storage, search.study_id, Equipment("cpu", 0.0, "digest"), keep=keep)
    setup = {"before_claim": judge.judge} if search.confirms else {}
    ended = a_slot(storage, search, training.train, folder, observers=[records], **setup).run()
    records.close()
    if search.confirms:
        judge.judge()
    return ended


@pytest.fixture
def searched(storage: Storage, study_name: str, tmp_path: Path) -> StudyFile:
    """A study whose search is over: the larger the dropout, the better its score."""
    file = StudyFile.parse(FILE.format(name=study_name), "test")
    assert work(storage, file, tmp_path / "store", Training()) == 6
    return file


def test_the_winner_is_the_candidate_with_the_best_confirmed_mean(
    storage: Storage, searched: StudyFile, tmp_path: Path
) -> None:
    name = searched.study
    ranked = [trial.trial for trial in study_record(storage, name).ranked]
    asked = request_confirmation(storage, name, top=3, seeds=3)
    assert (asked.candidates, asked.added) == (tuple(ranked[:3]), 9)
    file, training = confirmation_file(storage, name), Training()
    assert file is not None
    assert work(storage, file, tmp_path / "store", training) >= 6

    with storage.transaction() as connection:
        progress = confirmation_progress(connection, name)
    assert progress is not None
    assert progress.is_over
    assert progress.ranking is not None
    # The search had them the wrong way round.
    assert [each.trial for each in progress.ranking.candidates] == ranked[2::-1]
    assert best_trial(storage, name).winner.number == ranked[2]
    assert best_trial(storage, name, number=ranked[0]).winner.number == ranked[0]
    first = progress.ranking.winner
    assert first is not None
    assert (first.place_before, first.runs) == (3, 3)
    assert first.search_interval is not None
    assert first.interval is not None


def test_the_dashboards_note_of_the_search_ranks_the_candidates_before_and_after(
    storage: Storage, searched: StudyFile, tmp_path: Path
) -> None:
    name = searched.study
    ranked = [trial.trial for trial in study_record(storage, name).ranked]
    asked = request_confirmation(storage, name, top=3, seeds=1)
    publish_study(storage, name, tmp_path / "pages")
    assert "0 of 3 runs have ended" in note_of(storage, name)
    file = confirmation_file(storage, name)
    assert file is not None
    work(storage, file, tmp_path / "store", Training())
    publish_study(storage, asked.study, tmp_path / "pages")
    note = note_of(storage, name)
    with storage.transaction() as connection:
        progress = confirmation_progress(connection, name)
    assert progress is not None
    assert progress.ranking is not None
    assert f"in study `{asked.study}`: 3 of 3 runs have ended" in note
    assert f"**Trial {ranked[2]} is the best**, which `hms-tune export-best {name}` takes." in note
    for row in progress.ranking.rows():
        assert f"| {' | '.join(row)} |" in note
    assert "### Confirmation" not in note_of(storage, asked.study)


def note_of(storage: Storage, name: str) -> str:
    return str(get_note(optuna.load_study(study_name=name, storage=storage.optuna.shared)))


def test_rounds_have_one_seed_and_whatever_is_out_of_the_race_is_not_run(
    storage: Storage, searched: StudyFile, tmp_path: Path
) -> None:
    request_confirmation(storage, searched.study, top=3, seeds=4)
    file, training = confirmation_file(storage, searched.study), Training()
    assert file is not None
    work(storage, file, tmp_path / "store", training)
    seeds = [seed for _, seed in training.seen]
    assert seeds[:3] == [seeds[0]] * 3
    assert seeds[3:6] == [seeds[3]] * 3
    assert 0 not in seeds
    assert len(set(seeds)) == 4
    best = min(dropout for dropout, _ in training.seen)
    # After two rounds two are worse than the leader on the same patients.
    assert [dropout for dropout, _ in training.seen[6:]] == [best, best]
    now = status(storage, file.study)
    assert (now.trials[TrialState.COMPLETE], now.trials[TrialState.PRUNED]) == (8, 4)
    assert now.state == "finished"


def test_the_search_keeps_its_best_its_budget_and_what_its_sampler_knows(
    storage: Storage, searched: StudyFile, tmp_path: Path
) -> None:
    before, trials = status(storage, searched.study), study_record(storage, searched.study).trials
    request_confirmation(storage, searched.study, top=2, seeds=2)
    file = confirmation_file(storage, searched.study)
    assert file is not None
    work(storage, file, tmp_path / "store", Training())
    after = status(storage, searched.study)
    assert (after.best, after.trials, after.state) == (before.best, before.trials, before.state)
    assert study_record(storage, searched.study).trials == trials


def test_a_finished_study_accepts_it_and_a_second_request_adds_what_is_new(
    storage: Storage, searched: StudyFile, tmp_path: Path
) -> None:
    name = searched.study
    assert request_confirmation(storage, name, top=2, seeds=2).added == 4
    assert request_confirmation(storage, name, top=2, seeds=2).added == 0
    assert request_confirmation(storage, name, top=3, seeds=2).added == 2
    file = confirmation_file(storage, name)
    assert file is not None
    assert file.budget.trials == 6
    search = join_search(storage, file)
    assert has_work(storage, search.study_id)
    assert best_trial(storage, name).winner.number == study_record(storage, name).ranked[0].trial
    training = Training()
    work(storage, file, tmp_path / "store", training)
    assert not has_work(storage, search.study_id)
    assert {dropout for dropout, _ in training.seen} == {
        trial.params["model.dropout"] for trial in study_record(storage, name).ranked[:3]
    }
    assert all(SEED in trial.params for trial in study_record(storage, file.study).trials)


def test_what_cannot_be_confirmed_is_refused(storage: Storage, searched: StudyFile, study_name: str) -> None:
    request_confirmation(storage, searched.study, top=2, seeds=1)
    with pytest.raises(UsageError, match="it confirms another study itself"):
        request_confirmation(storage, f"{searched.study}-confirm", top=2, seeds=1)
    empty = StudyFile.parse(FILE.format(name=f"{study_name}-empty"), "test")
    join_search(storage, empty)
    with pytest.raises(UsageError, match=r"0 different configurations are complete, and a race needs two"):
        request_confirmation(storage, empty.study, top=2, seeds=1)


def test_leading_trials_that_another_program_left_without_parameters_are_named_when_they_are_left_out(
    storage: Storage, searched: StudyFile, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = searched.study
    ranked = [trial.trial for trial in study_record(storage, name).ranked]
    study = optuna.load_study(study_name=name, storage=storage.optuna.shared)
    for value in (0.01, 0.02):
        study.add_trial(create_trial(value=value))
    study_commands.confirm(name, top=2, seeds=1, storage=database_url)
    said = capsys.readouterr()
    assert f"confirm trials {ranked[0]}, {ranked[1]}, as study" in said.out
    why = "the trial was drawn from another search space: 'model.dropout' does not fit"
    assert said.err == f"{name}: trials 6, 7 are left out: {why}\n"


def test_a_race_that_left_out_trials_keep_from_starting_names_them(storage: Storage, study_name: str) -> None:
    search = join_search(storage, StudyFile.parse(FILE.format(name=study_name), "test"))
    search.study.add_trial(create_trial(value=0.01))
    with pytest.raises(UsageError, match=r"0 different configurations .* trial 0 is left out: .*dropout"):
        request_confirmation(storage, study_name)


def test_complete_trials_without_kept_predictions_are_named_when_a_blend_is_chosen(
    storage: Storage, searched: StudyFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = searched.study
    study = optuna.load_study(study_name=name, storage=storage.optuna.shared)
    study.add_trial(create_trial(value=0.01))
    settings = Settings(home=tmp_path, artifacts=str(tmp_path / "store"))
    assert 6 not in export_commands._blended(storage, name, settings, most=2)
    assert capsys.readouterr().err == f"{name}: trial 6 is left out: no predictions are kept of it\n"


def test_dropped_runs_say_why() -> None:
    assert DROPPED == "dropped: worse than the leader over the same patients"
