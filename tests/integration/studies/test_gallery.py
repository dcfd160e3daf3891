"""The studies of the gallery: each is a search that can start, and a small trial of each trains."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from hms_tune.config.ranges import Choices, parameters
from hms_tune.config.study_file import StudyFile, available_studies, load_study_file
from hms_tune.config.trial import TraceBackbone, TrialConfig
from hms_tune.data.labels import make_labels
from hms_tune.data.soft_labels import SoftLabels, soft_labels_path
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.search.study_check import check_study
from hms_tune.search.suggest import config_of, fixed_config
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import CrossValidationEnded, EpochEnded

pytestmark = pytest.mark.usefixtures("one_thread")

GALLERY = Path(__file__).resolve().parents[3] / "studies" / "gallery"
FILES = sorted(GALLERY.glob("*.yaml"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)

SMALL = {
    "data.folds": "2",
    "data.train_folds": "1",
    "data.holdout": "0.2",
    "input.image": "[64, 128]",
    "input.channels": "1",
    "model.pretrained": "false",
    "training.epochs": "1",
    "training.batch_size": "4",
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Store:
    """A competition of six patients, with soft labels by a teacher that knew none of them."""
    root = competition_writer(tmp_path_factory.mktemp("gallery") / "root", patients=6)
    store = prepare(root, jobs=1)
    few = make_labels(store.train, rows="vote_vector", min_votes=1)
    rows = np.flatnonzero(few.total_votes < 10)
    SoftLabels(
        teacher="two-stages",
        rows="vote_vector",
        taught_by=np.empty(0, dtype=np.int64),
        eeg_id=few.eeg_id[rows],
        eeg_offset_seconds=few.eeg_offset_seconds[rows],
        probabilities=np.full((len(rows), 6), 1 / 6, dtype=np.float32),
    ).write(soft_labels_path(root, "teacher"))
    return store


def with_all_of_it(study_file: StudyFile) -> TrialConfig:
    """The last of all choices and the upper end of all ranges, where a technique is on; but small."""
    last: dict[str, Any] = {}
    for parameter in parameters(study_file.space):
        node = parameter.node
        last[parameter.name] = node.branches[-1].label if isinstance(node, Choices) else node.high
    config = config_of(study_file.space, last)
    small = dict(SMALL)
    if config.model.backbone not in get_args(TraceBackbone):
        small["model.backbone"] = "test_resnet"
    if config.training.second_stage is not None:
        small["training.second_stage.epochs"] = "1"
    return fixed_config(study_file.space, small, last)


def test_the_table_names_every_study_of_the_gallery_and_no_name_is_taken_twice() -> None:
    page = (GALLERY / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| \[([a-z0-9-]+)\]\(\1\.yaml\)", page, re.MULTILINE)
    assert sorted(named) == [path.stem for path in FILES]
    assert not set(named) & available_studies().keys()


@every_file
def test_a_study_of_the_gallery_is_read_and_begins_with_what_it_is(path: Path) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert (first[:2], second) == ("# ", f"study: {path.stem}")
    assert load_study_file(path).study == path.stem


@pytest.mark.slow
@every_file
def test_a_study_of_the_gallery_can_start(path: Path) -> None:
    check = check_study(load_study_file(path))
    assert len(check.parameters) >= 3
    assert check.notes == ()


@pytest.mark.slow
@every_file
def test_a_small_trial_of_the_gallery_trains(path: Path, own: Store) -> None:
    config = with_all_of_it(load_study_file(path))
    trial = CrossValidation(config, own, "cpu")
    *events, ended = trial.run()
    epochs = [event for event in events if isinstance(event, EpochEnded)]
    assert len(epochs) == config.training.total_epochs
    assert isinstance(ended, CrossValidationEnded)
    assert np.isfinite([ended.kl, *(epoch.train_loss for epoch in epochs)]).all()
