"""What makes training fast changes no result: frozen prefixes, shared networks, compiled steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hms_tune.config.acceleration import AccelerationSettings
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.store import Store
from hms_tune.machine.memory import DeviceMemory
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import CheckpointWritten, CrossValidationEnded, EpochEnded
from hms_tune.training.step.features import FeatureCache
from hms_tune.training.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def make_config(frozen: int, **training: object) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"folds": 2},
            "input": {"eeg": {"name": "stft", "n_fft": 256}, "image": [32, 64]},
            "model": {
                "backbone": "test_resnet",
                "pretrained": False,
                "frozen_layers": frozen,
                "dropout": 0.3,
                "drop_path": 0.1,
            },
            "training": {"epochs": 2, "batch_size": 4, "learning_rate": 3e-3, **training},
        }
    )


def run(workspace: Workspace, config: TrialConfig) -> tuple[list[float], CrossValidationEnded]:
    events = list(CrossValidation(config, workspace).run())
    ended = events[-1]
    assert isinstance(ended, CrossValidationEnded)
    return [
        each for event in events if isinstance(event, EpochEnded) for each in (event.train_loss, event.kl)
    ], ended


@pytest.mark.parametrize("ema_decay", [None, 0.8])
def test_a_frozen_prefix_computed_once_gives_the_same_curves(
    store: Store, monkeypatch: pytest.MonkeyPatch, ema_decay: float | None
) -> None:
    config = make_config(frozen=2, few_votes_weight=0.5, ema_decay=ema_decay)
    asked: list[bool] = []
    get = FeatureCache.get

    def counted(*arguments: object) -> object:
        features = get(*arguments)  # type: ignore[arg-type]
        asked.append(features is not None)
        return features

    monkeypatch.setattr(FeatureCache, "get", counted)
    cut, cut_ended = run(Workspace(store, CPU), config)
    assert asked == [True, True]
    monkeypatch.setattr(FeatureCache, "get", lambda *_: None)
    whole, whole_ended = run(Workspace(store, CPU), config)
    np.testing.assert_allclose(cut, whole, rtol=1e-5)
    np.testing.assert_allclose(
        cut_ended.out_of_fold.probabilities, whole_ended.out_of_fold.probabilities, atol=1e-6
    )


def test_features_are_kept_only_in_the_room_that_the_plan_leaves(store: Store) -> None:
    config = make_config(frozen=2, epochs=1)
    free = [2**34]
    workspace = Workspace(store, CPU, memory=lambda _: DeviceMemory(free[0], 2**34))
    kept, _ = run(workspace, config)
    plan = workspace.plan(config)
    assert plan.features is not None
    assert workspace.learners.features.nbytes == plan.features.nbytes
    # What the trial cannot do without, and a little: its images and features have no room.
    free[0] = round((plan.required - plan.reserve) / 0.95) + 2**16 - workspace.learners.features.nbytes
    whole, _ = run(workspace, config)
    assert workspace.learners.features.nbytes == 0
    np.testing.assert_allclose(whole, kept, rtol=1e-5)
    free[0] = 2**34
    run(workspace, config)
    assert workspace.learners.features.nbytes == plan.features.nbytes
    workspace.trial_data(make_config(frozen=0))
    assert workspace.learners.features.nbytes == 0


def test_images_that_vary_are_never_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureCache, "get", lambda *_: pytest.fail("the prefix was computed"))
    config = make_config(frozen=2, epochs=1)
    varied = config.model_copy(
        update={"augmentation": config.augmentation.model_copy(update={"time_mask": 0.2})}
    )
    run(Workspace(store, CPU), varied)


def test_a_trial_with_a_frozen_prefix_resumes_bit_for_bit(store: Store, tmp_path: Path) -> None:
    config = make_config(frozen=2, epochs=3)
    whole = list(CrossValidation(config, store, "cpu", directory=tmp_path / "whole").run())[-1]
    for event in CrossValidation(config, store, "cpu", directory=tmp_path / "cut").run():
        if isinstance(event, CheckpointWritten) and (event.fold, event.epoch) == (1, 0):
            break
    resumed = list(CrossValidation(config, store, "cpu", directory=tmp_path / "cut").run())[-1]
    assert isinstance(whole, CrossValidationEnded)
    assert isinstance(resumed, CrossValidationEnded)
    assert resumed.fold_kl == whole.fold_kl
    np.testing.assert_array_equal(resumed.out_of_fold.probabilities, whole.out_of_fold.probabilities)


def test_trials_one_after_another_in_a_slot_end_as_each_would_alone(store: Store) -> None:
    configs = [make_config(0), make_config(0, learning_rate=1e-3, weight_decay=0.1), make_config(0, epochs=1)]
    workspace = Workspace(store, CPU)
    together = [run(workspace, config)[1].fold_kl for config in configs]
    assert together == [run(Workspace(store, CPU), config)[1].fold_kl for config in configs]


def test_compiled_steps_learn_what_plain_ones_do(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # kernels take minutes
    config = make_config(0, epochs=1)
    config = config.model_copy(update={"data": config.data.model_copy(update={"train_folds": 1})})
    plain, _ = run(Workspace(store, CPU), config)
    settings = AccelerationSettings("compiled", tmp_path / "steps.json")
    compiled, _ = run(Workspace(store, CPU, settings), config)
    np.testing.assert_allclose(compiled, plain, rtol=1e-5)
