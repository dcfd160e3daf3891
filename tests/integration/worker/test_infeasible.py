"""Draws that a device has no room for, against a real PostgreSQL and a real store; the memory is a fake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState
from slots import a_slot
from stories import an_ending

from hms_tune.cli.study_check import check
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.database.connect import Storage
from hms_tune.errors import DataError, MemoryPlanError
from hms_tune.machine.memory import DeviceMemory
from hms_tune.search.memory_check import check_memory, smallest_configs
from hms_tune.search.memory_constraint import MOST_INFEASIBLE
from hms_tune.studies.status import status
from hms_tune.training.events import Event
from hms_tune.training.observer import TrialInfo
from hms_tune.training.workspace import Workspace
from hms_tune.trial_state import AttemptState
from hms_tune.worker.open_study import join_search
from studies import show_trials

MIB = 2**20

STUDY = """
study: {name}
data: {{folds: 2, holdout: 0}}
input: {{image: [32, 64]}}
training: {{epochs: 1, test_batch_size: 4, batch_size: {batch}}}
model: {{backbone: test_resnet, pretrained: false, dropout: {{low: 0.0, high: 0.5}}}}
search: {{sampler: {sampler}, pruner: none}}
budget: {{trials: {trials}}}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Store:
    return prepare(competition_writer(tmp_path_factory.mktemp("infeasible") / "hms", patients=4), jobs=1)


def study_file(
    name: str, batch: str = "{choices: [8, 512]}", *, sampler: str = "random", trials: int = 5
) -> StudyFile:
    text = STUDY.format(name=name, batch=batch, sampler=sampler, trials=trials)
    if sampler == "grid":
        text = text.replace("{low: 0.0, high: 0.5}", "0.0")
    if sampler == "tpe":
        text = text.replace("sampler: tpe", "sampler: tpe, startup_trials: 4")
    return StudyFile.parse(text, "test")


def tiny(store: Store, free: int = 50 * MIB) -> Workspace:
    """A workspace whose device has room for a batch of 8 and not for one of 512."""
    return Workspace(store, torch.device("cpu"), memory=lambda _: DeviceMemory(free, 2**40))


def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
    yield an_ending(1.0 + config.model.dropout)


class Listener:
    """Counts the trials it hears of."""

    def __init__(self) -> None:
        self.started: list[int] = []

    def trial_started(self, trial: TrialInfo) -> None:
        self.started.append(trial.attempt)

    def event(self, trial: TrialInfo, event: Event) -> None: ...

    def trial_ended(
        self, trial: TrialInfo, state: AttemptState, value: float | None, reason: str | None
    ) -> None: ...

    def close(self) -> None: ...


def run(
    storage: Storage, file: StudyFile, workspace: Workspace, folder: Path, listener: Listener | None = None
) -> int:
    def admit(config: TrialConfig) -> None:
        workspace.plan(config).require()

    search = join_search(storage, file)
    return a_slot(storage, search, train, folder, admit=admit, observers=[listener or Listener()]).run()


def test_draws_that_do_not_fit_are_infeasible_and_others_take_their_place(
    storage: Storage, study_name: str, store: Store, tmp_path: Path
) -> None:
    listener = Listener()
    assert run(storage, study_file(study_name), tiny(store), tmp_path, listener) == 5
    current = status(storage, study_name)
    infeasible = [trial for trial in show_trials(storage, study_name) if trial.state == "infeasible"]
    assert current.trials["complete"] == 5
    assert current.attempts["complete"] == 5
    assert (current.attempts["infeasible"], current.attempts["failed"]) == (len(infeasible), 0)
    assert infeasible
    assert {trial.params["training.batch_size"] for trial in infeasible} == {512}
    assert not {trial.attempt for trial in infeasible} & set(listener.started)
    assert infeasible[0].attributes["cause"] == "hyperparameters"
    assert "largest batch size that fits is" in (infeasible[0].reason or "")


def test_a_infeasible_draw_violates_a_constraint_that_the_sampler_reads(
    storage: Storage, study_name: str, store: Store, tmp_path: Path
) -> None:
    run(storage, study_file(study_name, sampler="tpe", trials=6), tiny(store), tmp_path)
    study = optuna.load_study(study_name=study_name, storage=storage.optuna)
    infeasible = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    assert infeasible
    for trial in infeasible:
        assert trial.constraints["memory"] > 0
        assert trial.params["training.batch_size"] == 512


def test_a_cell_of_a_grid_that_does_not_fit_has_had_its_turn(
    storage: Storage, study_name: str, store: Store, tmp_path: Path
) -> None:
    file = study_file(study_name, "{choices: [4, 512, 8, 1024, 256, 128, 2048]}", sampler="grid", trials=50)
    run(storage, file, tiny(store), tmp_path)
    current = status(storage, study_name)
    fitting = current.attempts["complete"]
    assert fitting >= 2
    assert current.attempts["failed"] == 7 - fitting >= 4  # more than the failures in a row that end a worker
    assert current.attempts["infeasible"] == 0


def test_a_slot_gives_up_when_nothing_it_draws_fits(
    storage: Storage, study_name: str, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(MemoryPlanError, match=f"{MOST_INFEASIBLE} draws in a row did not fit"):
        run(storage, study_file(study_name), tiny(store, 10 * MIB), tmp_path)
    current = status(storage, study_name)
    assert current.attempts["infeasible"] == MOST_INFEASIBLE
    assert sum(number for state, number in current.trials.items() if state.uses_budget) == 0


def test_a_study_of_which_nothing_fits_is_refused_before_it_starts(store: Store) -> None:
    file = study_file("any")
    assert [config.training.batch_size for config in smallest_configs(file)] == [8]
    assert check_memory(file, tiny(store).plan).batch_size == 8
    with pytest.raises(MemoryPlanError, match="no batch size of the study fits") as error:
        check_memory(file, tiny(store, 10 * MIB).plan)
    assert "use a larger device" in (error.value.hint or "")
    large = study_file("any", "{choices: [512, 1024]}")
    with pytest.raises(MemoryPlanError, match=r"Let training\.batch_size go down to"):
        check_memory(large, tiny(store).plan)


def test_study_check_plans_the_smallest_trial_on_a_prepared_folder(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "memory.yaml"
    path.write_text(
        STUDY.format(name="memory", batch="{choices: [8, 512]}", sampler="random", trials=5), encoding="utf-8"
    )
    check(str(path), data=store.root, device="cpu")
    assert "memory on cpu" in capsys.readouterr().out
    check(str(path), json=True, data=store.root, device="cpu")
    planned = json.loads(capsys.readouterr().out)["memory"]
    assert planned["batch_size"] == 8
    assert planned["signals"][0]["placement"] == "mapped"


def test_study_check_works_on_a_folder_that_is_not_prepared_and_says_how_to_prepare_it(
    tmp_path: Path, competition_writer: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = competition_writer(tmp_path / "my data", patients=4)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(name="unprepared", batch=8, sampler="random", trials=1))
    check(str(path), data=root, device="cpu")
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == f"warning: the memory of a trial is not planned: {root} is not prepared"
    assert said[-1] == f"hint: hms-tune data prepare '{root}'"
    check(str(path), json=True, data=root, device="cpu")
    assert json.loads(capsys.readouterr().out)["memory"] is None
    path.write_text(path.read_text().replace("folds: 2", "folds: 9"))
    with pytest.raises(DataError, match="4 patients"):
        check(str(path), data=root, device="cpu")
