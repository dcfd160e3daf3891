"""The ways from a store to a batch, and that they give the same numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.gather import StreamedGather
from hms_tune.data.store.prepare import prepare
from hms_tune.data.store.store import Store
from hms_tune.errors import MemoryPlanError
from hms_tune.machine.memory import DeviceMemory
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.images.cache import CachedImages, ImageCache
from hms_tune.training.step.random_counters import counter_generator
from hms_tune.training.workspace import Workspace

CPU = torch.device("cpu")
PLENTY = DeviceMemory(2**34, 2**34)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, competition_writer: Callable[..., Path]) -> Path:
    return competition_writer(tmp_path_factory.mktemp("paths") / "data" / "hms", patients=6)


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return prepare(folder, jobs=1)


def make_config(image: tuple[int, int] = (32, 64), **sections: object) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"folds": 2, "holdout": 0.0, "rows": "vote_vector"},
            "input": {"eeg": {"name": "stft", "n_fft": 256}, "kaggle": {}, "image": image},
            "model": {"backbone": "test_resnet", "pretrained": False},
        }
        | sections
    )


def workspace(store: Store, memory: DeviceMemory = PLENTY) -> Workspace:
    return Workspace(store, CPU, memory=lambda _: memory)


def test_the_example_for_a_training_loop_of_ones_own_gives_every_row_its_image_and_target(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parents[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    page = Path(__file__).parents[3] / "docs" / "speed.md"
    example = re.search(r"```python\n(.+?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert example is not None
    names: dict[str, Any] = {}
    exec(example[1], names)
    data, rows = names["data"], names["rows"]
    images, targets = (torch.cat(parts) for parts in zip(*names["loader"], strict=True))
    assert images.shape == (len(rows), 1, 32, 64)
    order = [int((data.images.clean(rows) == image).all(dim=(1, 2, 3)).nonzero()[0]) for image in images]
    assert sorted(order) == list(range(len(rows)))
    assert torch.equal(targets, torch.from_numpy(data.labels.targets)[rows[order]])


def test_images_in_fewer_bits_are_off_by_no_more_than_stated(store: Store) -> None:
    data = workspace(store).trial_data(make_config(input={"image": [32, 64], "channels": 3}))
    exact = data.images.clean(torch.arange(len(data.labels)))
    assert data.images.cached is not None
    assert data.images.cached.form == "float32"
    assert data.images.cached.images.shape[1] == 1  # three channels that repeat one image are kept once
    cache = ImageCache()

    def kept(form: str) -> CachedImages:
        return cache.get(
            form,
            lambda rows: exact[rows],
            n_rows=len(exact),
            shape=(3, 32, 64),
            form=form,  # type: ignore[arg-type]
            device=CPU,
            most=2**30,
        )

    every = torch.arange(len(exact))
    assert torch.equal(kept("float32").take(every), exact)
    assert (kept("float16").take(every) - exact).abs().max() <= 0.0015
    eight = kept("int8").take(every)
    assert (eight - exact).abs().max() <= 3 / 254 + 1e-6
    assert eight.shape == exact.shape
    assert torch.equal(eight[exact == 0], exact[exact == 0])


def test_several_settings_stay_until_there_is_no_room_and_the_oldest_goes() -> None:
    cache, made = ImageCache(), []

    def get(key: str) -> CachedImages:
        def make(rows: torch.Tensor) -> torch.Tensor:
            made.append(key)
            return torch.ones(len(rows), 1, 2, 2)

        return cache.get(key, make, n_rows=4, shape=(1, 2, 2), form="float32", device=CPU, most=128)

    for key in ("a", "b", "a", "c", "a", "b"):  # 64 bytes each: two of them fit
        get(key)
    assert made == ["a", "b", "c", "b"]
    assert (len(cache), cache.nbytes) == (2, 128)


def test_a_trial_finds_the_images_of_an_earlier_one_with_its_settings(store: Store) -> None:
    space = workspace(store)
    first, second = make_config(), make_config((48, 64))
    one = space.trial_data(first).images.cached
    other = space.trial_data(second).images.cached
    assert one is not None
    assert other is not None
    assert space.trial_data(first).images.cached is one
    assert space.trial_data(second).images.cached is other


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_announced_batches_change_nothing_but_when_signals_are_read(store: Store, shift: float) -> None:
    config = make_config(augmentation={"left_right_swap": 0.5, "window_shift_seconds": shift})
    data = workspace(store).trial_data(config)
    images, targets = data.images, torch.from_numpy(data.labels.targets)
    batches = torch.randperm(len(targets), generator=torch.Generator().manual_seed(1)).split(4)

    def generator(step: int) -> torch.Generator:
        return counter_generator(0, "augmentation", 0, 0, step)

    plain = [images.augmented(rows, targets[rows], generator(step))[0] for step, rows in enumerate(batches)]
    streams = {
        "eeg": StreamedGather(store.eeg, 10_000, CPU),
        "spectrogram": StreamedGather(store.spectrogram, 300, CPU),
    }
    images._source._gathers.update(streams)  # type: ignore[arg-type]
    images.announce(batches, generator)
    ahead = [images.augmented(rows, targets[rows], generator(step))[0] for step, rows in enumerate(batches)]
    assert all(torch.equal(one, other) for one, other in zip(plain, ahead, strict=True))
    assert {name: stream.ahead_of_time for name, stream in streams.items()} == dict.fromkeys(
        streams, len(batches)
    )

    images.cached = None
    images.announce(batches)
    for rows in batches:
        images.clean(rows)
    assert streams["eeg"].ahead_of_time == 2 * len(batches)


def test_a_trial_that_does_not_fit_is_refused_before_anything_is_made(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = workspace(store, DeviceMemory(40 * 2**20, 2**34))
    monkeypatch.setattr(ImageCache, "get", lambda *_, **__: pytest.fail("images were made"))
    config = make_config(training={"batch_size": 1024, "test_batch_size": 1})
    largest = space.plan(config).largest_batch_size
    assert 1 <= largest < 1024
    with pytest.raises(MemoryPlanError, match=f"largest batch size that fits is {largest}"):
        next(CrossValidation(config, space).run())


def test_a_share_of_the_device_is_planned_with_where_slots_share_it(store: Store) -> None:
    memory = DeviceMemory(2**33, 2**34)
    whole, third = (Workspace(store, CPU, share=share, memory=lambda _: memory) for share in (1.0, 1 / 3))
    assert whole.plan(make_config()).available == 2**33
    assert third.plan(make_config()).available == 2**34 // 3


def test_a_plan_is_logged_when_it_changes(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    space = workspace(store)
    small, large = make_config(), make_config(training={"batch_size": 64})
    with caplog.at_level(logging.INFO, logger="hms_tune"):
        for config in (small, small, large):
            space.trial_data(config)
    said = [record.getMessage() for record in caplog.records if "memory on cpu" in record.getMessage()]
    assert len(said) == 2
    assert "at batch size 64" in said[1]
