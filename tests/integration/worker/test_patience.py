"""A study that ends when a further trial promises less than the noise over patients."""

from __future__ import annotations

from pathlib import Path

import pytest
from promoted import Training, a_study
from slots import a_slot

from hms_tune.cli.views.status import status_view
from hms_tune.cli.views.tables import out
from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.errors import ConfigError
from hms_tune.reports.study_page import gather, report_page
from hms_tune.studies.status import status
from hms_tune.studies.totals import study_totals
from hms_tune.trial_state import TrialState
from hms_tune.worker.open_study import join_search


def a_search(name: str, patience: str = "") -> StudyFile:
    return a_study(name, trials=40, sampler="learning_curves, startup_trials: 3", more=patience)


def test_a_study_ends_when_so_many_draws_in_a_row_promise_less_than_the_noise(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    search = join_search(storage, a_search(study_name, ", patience: 4"))
    a_slot(storage, search, Training(rows=60).train, tmp_path / "store").run()
    shown = status(storage, study_name)
    ended = shown.trials[TrialState.COMPLETE] + shown.trials[TrialState.PRUNED]
    assert ended == sum(shown.trials.values())  # nothing waits and nothing is left half trained
    assert 5 <= ended < 40
    assert shown.trials[TrialState.COMPLETE] >= 1
    assert shown.patience.draws == 4
    assert shown.patience.gain is not None
    assert shown.patience.noise is not None
    assert shown.patience.gain < shown.patience.noise
    with storage.transaction() as connection:
        assert study_totals(connection, search.study_id).is_finished
    console = out()
    with console.capture() as capture:
        console.print(status_view(shown))
    told = f"noise over patients {shown.patience.noise:.4f}; less than it 4 times in a row, of 4"
    assert told in " ".join(capture.get().split())
    assert told in report_page(gather(storage, study_name))


def test_without_patience_status_still_says_what_a_further_trial_promises(
    storage: Storage, study_name: str, tmp_path: Path
) -> None:
    file = a_study(study_name, trials=10, sampler="learning_curves, startup_trials: 3")
    a_slot(storage, join_search(storage, file), Training(rows=60).train, tmp_path / "store").run()
    shown = status(storage, study_name)
    assert shown.trials[TrialState.COMPLETE] + shown.trials[TrialState.PRUNED] == 10
    assert shown.patience.most is None
    assert shown.patience.gain is not None


def test_patience_is_refused_where_the_sampler_expects_nothing(study_name: str) -> None:
    with pytest.raises(ConfigError, match="patience needs a sampler"):
        a_study(study_name, more=", patience: 4")
