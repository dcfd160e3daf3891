"""One trial over real files: what it yields, and that nothing can disturb it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hms_tune.config.trial import LossName, TrialConfig
from hms_tune.data.folds import HELD_OUT
from hms_tune.data.store.store import Store
from hms_tune.errors import CheckpointError, DataError, NonFiniteLossError
from hms_tune.training.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import (
    CheckpointWritten,
    CrossValidationEnded,
    EpochEnded,
    EpochScores,
    Event,
    FoldEnded,
    FoldStarted,
)
from hms_tune.training.fold import FoldTraining
from hms_tune.training.fold_difficulty import comparable_estimate
from hms_tune.training.refit import Refit
from hms_tune.training.scores import kl_divergence
from hms_tune.training.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")


def make_config(**training: object) -> TrialConfig:
    """Every part that has a state: average, plateau, momentum, dropout, mixup, shifts, early stopping."""
    return TrialConfig.model_validate(
        {
            "data": {"folds": 2, "holdout": 0.2},
            "input": {"eeg": {"name": "stft", "n_fft": 256}, "image": [32, 64]},
            "augmentation": {
                "left_right_swap": 0.5,
                "time_mask": 0.2,
                "window_shift_seconds": 2.0,
                "channel_drop": 0.5,
                "mixup_alpha": 0.4,
            },
            "model": {"backbone": "test_resnet", "pretrained": False, "dropout": 0.3, "drop_path": 0.1},
            "training": {
                "epochs": 3,
                "batch_size": 4,
                "learning_rate": 3e-3,
                "scheduler": {"name": "plateau", "patience": 0},
                "ema_decay": 0.9,
                "grad_clip": 1.0,
                "early_stopping": {"patience": 2},
                **training,
            },
        }
    )


def timeless(event: Event) -> Event:
    """An event without what the clock and the resumption say."""
    if isinstance(event, EpochEnded):
        return replace(event, seconds=0.0, replayed=False)
    if isinstance(event, FoldStarted | FoldEnded):
        return replace(event, replayed=False)
    return event


def story(events: list[Event]) -> list[str]:
    kept = (FoldStarted, EpochEnded, FoldEnded)
    return [repr(timeless(event)) for event in events if isinstance(event, kept)]


Undisturbed = Callable[[TrialConfig], tuple[Path, list[Event]]]


@pytest.fixture(scope="module")
def undisturbed(one_thread: None, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """By configuration, the folder and events of a trial that nothing interrupts; each is trained once."""
    known: dict[str, tuple[Path, list[Event]]] = {}

    def trained(config: TrialConfig) -> tuple[Path, list[Event]]:
        if config.hash not in known:
            folder = tmp_path_factory.mktemp("whole")
            trial = CrossValidation(config, store, "cpu", directory=folder, keep_weights=True)
            known[config.hash] = folder, list(trial.run())
        return known[config.hash]

    return trained


def test_events_tell_every_fold_and_epoch_in_order(undisturbed: Undisturbed) -> None:
    _, events = undisturbed(make_config(early_stopping=None))
    epoch = [EpochEnded, CheckpointWritten]
    fold = [FoldStarted, *epoch * 3, FoldEnded]
    assert [type(event) for event in events] == [*fold, *fold, CrossValidationEnded]


def test_out_of_fold_predictions_cover_every_row_but_the_held_out_once(
    undisturbed: Undisturbed, store: Store
) -> None:
    workspace = Workspace(store, torch.device("cpu"))
    config = make_config()
    data = workspace.trial_data(config)
    ended = undisturbed(config)[1][-1]
    assert isinstance(ended, CrossValidationEnded)
    out_of_fold = ended.out_of_fold
    expected = np.flatnonzero(data.folds != HELD_OUT)
    assert sorted(out_of_fold.row) == expected.tolist()
    assert 0 < len(expected) < len(data.labels)
    np.testing.assert_allclose(out_of_fold.probabilities.sum(axis=1), 1.0, atol=1e-5)
    for fold, kl in enumerate(ended.fold_kl):
        rows = out_of_fold.fold == fold
        score = kl_divergence(out_of_fold.targets[rows], out_of_fold.probabilities[rows])
        assert score == pytest.approx(kl)
    assert ended.kl == pytest.approx(np.mean(ended.fold_kl))


def test_estimate_is_the_mean_of_finished_folds_and_the_best_epoch_so_far_on_the_scale_of_all_folds(
    undisturbed: Undisturbed, store: Store
) -> None:
    finished: list[float] = []
    config = make_config()
    data = Workspace(store, torch.device("cpu")).trial_data(config)
    prior = [data.prior_kl(fold) for fold in range(config.data.trained_folds)]
    for event in undisturbed(config)[1]:
        if isinstance(event, EpochEnded):
            so_far = float(np.mean([*finished, event.best_kl]))
            assert event.estimate == pytest.approx(comparable_estimate(so_far, event.fold, prior))
            if event.fold == event.folds - 1:
                assert event.estimate == pytest.approx(so_far)
        elif isinstance(event, FoldEnded):
            finished.append(event.kl)


@pytest.mark.parametrize(
    ("optimizer", "stop_after"), [*(("adamw", after) for after in (1, 3, 4)), ("lamb", 2), ("muon", 4)]
)
def test_a_trial_stopped_after_any_epoch_resumes_bit_for_bit(
    undisturbed: Undisturbed, store: Store, tmp_path: Path, optimizer: str, stop_after: int
) -> None:
    config = make_config(optimizer=optimizer, layer_decay=None if optimizer == "adamw" else 0.8)
    folder, events = undisturbed(config)
    seen = 0
    for event in CrossValidation(config, store, "cpu", directory=tmp_path / "cut", keep_weights=True).run():
        seen += isinstance(event, CheckpointWritten)
        if seen == stop_after:
            break
    resumed = list(CrossValidation(config, store, "cpu", directory=tmp_path / "cut", keep_weights=True).run())

    assert sum(getattr(event, "replayed", False) for event in resumed) >= stop_after
    assert story(resumed) == story(events)
    for fold in range(2):
        expected = load_file(folder / f"fold_{fold}.safetensors")
        actual = load_file(tmp_path / "cut" / f"fold_{fold}.safetensors")
        assert expected.keys() == actual.keys()
        assert all(torch.equal(expected[name], actual[name]) for name in expected)
    first, second = events[-1], resumed[-1]
    assert isinstance(first, CrossValidationEnded)
    assert isinstance(second, CrossValidationEnded)
    np.testing.assert_array_equal(first.out_of_fold.probabilities, second.out_of_fold.probabilities)
    assert_equal_epochs(first.out_of_fold.epochs, second.out_of_fold.epochs)


def assert_equal_epochs(first: EpochScores | None, second: EpochScores | None) -> None:
    assert first is not None
    assert second is not None
    for name in EpochScores.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


TWO_STAGES = make_config(
    epochs=6,
    early_stopping={"patience": 1, "min_delta": 10.0},
    second_stage={"epochs": 2, "min_votes": 3, "learning_rate_ratio": 0.1},
    few_votes_weight=0.5,
)


def test_what_each_epoch_came_to_for_each_patient_makes_up_the_score_that_chose_it(
    undisturbed: Undisturbed,
) -> None:
    _, events = undisturbed(TWO_STAGES)
    ended = events[-1]
    assert isinstance(ended, CrossValidationEnded)
    epochs = ended.out_of_fold.epochs
    assert epochs is not None
    assert epochs.kl.shape == (8, len(epochs.patient_id))
    ran = [(event.fold, event.epoch) for event in events if isinstance(event, EpochEnded)]
    for event in (event for event in events if isinstance(event, EpochEnded)):
        mine = epochs.fold == event.fold
        mean = np.average(epochs.kl[event.epoch, mine], weights=epochs.rows[mine])
        assert mean == pytest.approx(event.kl, rel=1e-5)
    for fold, best in enumerate(ended.best_epochs):
        mine = epochs.fold == fold
        assert np.nanargmin(epochs.kl[:, mine] @ epochs.rows[mine]) == best
        finite = np.flatnonzero(np.isfinite(epochs.kl[:, mine]).all(axis=1))
        assert finite.tolist() == [epoch for other, epoch in ran if other == fold]
    assert set(epochs.patient_id) == set(ended.out_of_fold.patient_id)


def test_a_trial_that_an_earlier_version_began_ends_without_them(store: Store, tmp_path: Path) -> None:
    config = make_config()
    for event in CrossValidation(config, store, "cpu", directory=tmp_path).run():
        if isinstance(event, CheckpointWritten):
            break
    state = read_checkpoint(checkpoint_path(tmp_path, 0))
    del state["patient_kl"]
    write_checkpoint(tmp_path, 0, state)
    *_, ended = CrossValidation(config, store, "cpu", directory=tmp_path).run()
    assert isinstance(ended, CrossValidationEnded)
    assert ended.out_of_fold.epochs is None


def test_checkpoints_keep_their_distance_unless_they_are_asked_for(store: Store, tmp_path: Path) -> None:
    config = make_config(early_stopping=None)
    asked = iter([False, True, False, False, False, True])
    trial = CrossValidation(
        config,
        store,
        "cpu",
        directory=tmp_path / "cut",
        checkpoint_every_s=3600.0,
        checkpoint_now=lambda: next(asked),
    )
    events = list(trial.run())
    written = [(event.fold, event.epoch) for event in events if isinstance(event, CheckpointWritten)]
    assert written == [(0, 1), (1, 2)]
    (tmp_path / "cut" / "checkpoint-000005.pt").unlink()
    resumed = list(CrossValidation(config, store, "cpu", directory=tmp_path / "cut").run())
    assert sum(getattr(event, "replayed", False) for event in resumed) == 3  # the fold's start, two epochs
    assert story(resumed) == story(events)


def train_and_die(config: TrialConfig, store: Path, directory: Path) -> None:
    """Train until the second step of the first fold's last epoch, in a process of its own."""
    step = FoldTraining._train_step

    def dies_in_the_middle(self: FoldTraining, stage: Any, epoch: int, number: int, rows: Any) -> Any:
        if (self.fold, epoch, number) == (0, 2, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, stage, epoch, number, rows)

    FoldTraining._train_step = dies_in_the_middle  # type: ignore[method-assign]
    list(CrossValidation(config, Store.open(store), "cpu", directory=directory, keep_weights=True).run())


def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_weights(
    undisturbed: Undisturbed, store: Store, tmp_path: Path
) -> None:
    config = make_config(batch_size=2, early_stopping=None)
    folder, whole = undisturbed(config)
    killed = multiprocessing.get_context("fork").Process(  # which need not load torch again
        target=train_and_die, args=(config, store.path, tmp_path / "killed")
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -9
    resumed = list(
        CrossValidation(config, store, "cpu", directory=tmp_path / "killed", keep_weights=True).run()
    )
    assert sum(isinstance(event, EpochEnded) and event.replayed for event in resumed) == 2
    assert story(resumed) == story(whole)
    for fold in range(2):
        expected = load_file(folder / f"fold_{fold}.safetensors")
        actual = load_file(tmp_path / "killed" / f"fold_{fold}.safetensors")
        assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_checkpoint_of_another_trial_is_refused(store: Store, tmp_path: Path) -> None:
    other = make_config(learning_rate=1e-4)
    next(
        e
        for e in CrossValidation(other, store, "cpu", directory=tmp_path).run()
        if isinstance(e, CheckpointWritten)
    )
    with pytest.raises(CheckpointError, match="another trial"):
        list(CrossValidation(make_config(), store, "cpu", directory=tmp_path).run())


def test_a_loss_that_overflows_ends_the_trial_with_fold_and_epoch(store: Store) -> None:
    config = make_config(optimizer="sgd", learning_rate=10.0, grad_clip=None, epochs=8, ema_decay=None)
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"learning_rate": 1e30})}
    )
    with pytest.raises(NonFiniteLossError, match=r"fold 0, epoch \d"):
        list(CrossValidation(config, store, "cpu").run())


def test_early_stopping_ends_a_fold_after_its_patience(store: Store) -> None:
    config = make_config(epochs=8, early_stopping={"patience": 1, "min_delta": 10.0})
    ended = [e for e in CrossValidation(config, store, "cpu").run() if isinstance(e, FoldEnded)]
    assert [(event.epochs_run, event.stopped_early) for event in ended] == [(2, True), (2, True)]


def test_images_are_the_same_whether_or_not_they_were_cached(store: Store) -> None:
    config = make_config()
    workspace = Workspace(store, torch.device("cpu"))
    images = workspace.trial_data(config).images
    cached = images.clean(torch.tensor([3, 1]))
    images.cached = None
    torch.testing.assert_close(images.clean(torch.tensor([3, 1])), cached, rtol=1e-5, atol=1e-5)


def test_a_second_stage_follows_a_first_that_ends_early(undisturbed: Undisturbed) -> None:
    epochs = [e for e in undisturbed(TWO_STAGES)[1] if isinstance(e, EpochEnded)]
    assert [(e.epoch, e.stage) for e in epochs if e.fold == 0] == [(0, 0), (1, 0), (6, 1)]
    assert {e.epochs for e in epochs} == {8}
    assert epochs[2].learning_rate == pytest.approx(0.1 * epochs[0].learning_rate)


def test_two_stages_resume_bit_for_bit(store: Store, tmp_path: Path) -> None:
    config = make_config(
        epochs=2, second_stage={"epochs": 2, "min_votes": 3}, few_votes_weight=0.3, vote_prior=1
    )
    whole = list(CrossValidation(config, store, "cpu", directory=tmp_path / "whole").run())
    seen = 0
    for event in CrossValidation(config, store, "cpu", directory=tmp_path / "cut").run():
        seen += isinstance(event, CheckpointWritten)
        if seen == 3:
            break
    assert story(list(CrossValidation(config, store, "cpu", directory=tmp_path / "cut").run())) == story(
        whole
    )


def test_repeated_folds_predict_every_row_once_in_each_repeat(store: Store) -> None:
    config = make_config(epochs=1)
    config = config.model_copy(update={"data": config.data.model_copy(update={"fold_repeats": 2})})
    ended = list(CrossValidation(config, store, "cpu").run())[-1]
    assert isinstance(ended, CrossValidationEnded)
    out_of_fold = ended.out_of_fold
    assert sorted(set(out_of_fold.fold)) == [0, 1, 2, 3]
    assert set(np.unique(out_of_fold.row, return_counts=True)[1]) == {2}
    assert set(out_of_fold.row[out_of_fold.fold == 0]) != set(out_of_fold.row[out_of_fold.fold == 2])


def test_the_scale_that_decides_is_the_one_asked_for(store: Store) -> None:
    for judged_on in ("all_rows", "high_votes"):
        config = make_config(epochs=1)
        config = config.model_copy(update={"data": config.data.model_copy(update={"judged_on": judged_on})})
        for event in CrossValidation(config, store, "cpu").run():
            if isinstance(event, EpochEnded | FoldEnded):
                decides = event.kl_all_rows if judged_on == "all_rows" else event.kl_high_vote
                assert event.kl == decides
                assert np.isfinite(event.kl_all_rows)


def test_train_folds_trains_only_the_first_folds(store: Store) -> None:
    config = make_config()
    config = config.model_copy(update={"data": config.data.model_copy(update={"train_folds": 1})})
    ended = list(CrossValidation(config, store, "cpu").run())[-1]
    assert isinstance(ended, CrossValidationEnded)
    assert set(ended.out_of_fold.fold) == {0}


OPTIMIZERS = ("sgd", "adam", "adamw")
LOSSES = get_args(LossName)
TOGETHER = set(zip(OPTIMIZERS, LOSSES, strict=True))


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        pytest.param(*both, marks=() if both in TOGETHER else pytest.mark.slow)
        for both in itertools.product(OPTIMIZERS, LOSSES)
    ],
)
def test_every_optimizer_lowers_every_loss(store: Store, optimizer: str, loss: str) -> None:
    config = make_config(
        optimizer=optimizer,
        loss=loss,
        epochs=6,
        learning_rate=0.02 if optimizer == "sgd" else 3e-3,
        scheduler="constant",
        early_stopping=None,
        ema_decay=None,
    )
    config = TrialConfig.model_validate(
        {
            **config.model_dump(),
            "augmentation": {},
            "data": {"folds": 2, "train_folds": 1},
            "model": {"backbone": "test_resnet", "pretrained": False},
        }
    )
    losses = [e.train_loss for e in CrossValidation(config, store, "cpu").run() if isinstance(e, EpochEnded)]
    assert min(losses[3:]) < losses[0]


def test_refit_trains_on_all_rows_and_resumes_bit_for_bit(store: Store, tmp_path: Path) -> None:
    config, workspace = make_config(), Workspace(store, torch.device("cpu"))
    events = list(Refit(config, workspace, epochs=2, directory=tmp_path / "whole").run())
    started = events[0]
    assert isinstance(started, FoldStarted)
    assert started.train_rows == len(workspace.trial_data(config).labels)
    for event in Refit(config, workspace, epochs=2, directory=tmp_path / "cut").run():
        if isinstance(event, CheckpointWritten):
            break
    list(Refit(config, workspace, epochs=2, directory=tmp_path / "cut").run())
    expected = load_file(tmp_path / "whole" / "full.safetensors")
    actual = load_file(tmp_path / "cut" / "full.safetensors")
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_refits_checkpoints_keep_their_distance(store: Store, tmp_path: Path) -> None:
    refit = Refit(
        make_config(),
        Workspace(store, torch.device("cpu")),
        epochs=2,
        directory=tmp_path,
        checkpoint_every_s=3600.0,
    )
    assert not any(isinstance(event, CheckpointWritten) for event in refit.run())
    assert [path.name for path in tmp_path.iterdir()] == ["full.safetensors"]


def test_too_few_rows_are_an_error_that_names_the_fold(store: Store) -> None:
    config = TrialConfig.model_validate(
        {**make_config().model_dump(), "data": {"folds": 2, "holdout": 0.0, "min_votes": 10_000}}
    )
    with pytest.raises(DataError):
        list(CrossValidation(config, store, "cpu").run())


@pytest.mark.parametrize("helper_epochs", [1, 3], ids=["a fold that was begun elsewhere", "a whole fold"])
def test_a_fold_from_elsewhere_is_taken_in_bit_for_bit(
    undisturbed: Undisturbed, store: Store, tmp_path: Path, helper_epochs: int
) -> None:
    config = make_config(early_stopping=None)
    _, whole = undisturbed(config)
    # One checkpoint after each of the three epochs, and one of the whole fold.
    content = _checkpoint(config, store, tmp_path / "helper", number=4 if helper_epochs == 3 else 1)
    events = []
    directory = tmp_path / "trial"
    for event in CrossValidation(config, store, "cpu", directory=directory).run():
        if isinstance(event, FoldStarted) and event.fold == 1:
            (directory / "shared-1.pt").write_bytes(content)
        events.append(event)
    assert story(events) == story(whole)
    ended, expected = events[-1], whole[-1]
    assert isinstance(ended, CrossValidationEnded)
    assert isinstance(expected, CrossValidationEnded)
    assert ended.kl.hex() == expected.kl.hex()
    np.testing.assert_array_equal(ended.out_of_fold.probabilities, expected.out_of_fold.probabilities)
    assert_equal_epochs(ended.out_of_fold.epochs, expected.out_of_fold.epochs)
    replayed = [event for event in events if isinstance(event, EpochEnded) and event.replayed]
    assert len(replayed) == helper_epochs
    # Whoever resumes the trial finds what was taken in.
    resumed = list(CrossValidation(config, store, "cpu", directory=directory).run())
    assert story(resumed) == story(whole)


def _checkpoint(config: TrialConfig, store: Store, directory: Path, *, number: int) -> bytes:
    """The checkpoint with this number, from 1, of who trains the second fold alone."""
    trial = CrossValidation(config, store, "cpu", directory=directory).run_fold(1)
    written = (event.path for event in trial if isinstance(event, CheckpointWritten))
    return next(path for count, path in enumerate(written, 1) if count == number).read_bytes()


def test_a_fold_of_other_data_is_trained_anew(undisturbed: Undisturbed, store: Store, tmp_path: Path) -> None:
    config, other = make_config(), make_config(learning_rate=1e-3)
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "shared-1.pt").write_bytes(_checkpoint(other, store, tmp_path / "helper", number=3))
    events = list(CrossValidation(config, store, "cpu", directory=tmp_path / "trial").run())
    assert story(events) == story(undisturbed(config)[1])
