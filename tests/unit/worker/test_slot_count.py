"""How many slots a device gets, decided on made-up measurements."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from hms_tune.cli.worker import parse_slots
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.errors import TrainingError, UsageError
from hms_tune.search.typical_config import largest_config, middle_config
from hms_tune.worker.slot_count.choose import Measured, NoRoomError, Work, fill, slots_that_pay


class Fake:
    """Probes whose speeds are given; ``fits`` of them fit the memory."""

    def __init__(self, rates: list[float], *, memory: float = 0.1, fits: int = 99) -> None:
        self.rates, self.memory, self.fits = rates, memory, fits
        self.added = self.closed = 0
        self.fault: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.closed += 1

    def device_name(self) -> str:
        if self.fault is not None:
            raise self.fault
        return "Fake 9000"

    def add(self) -> None:
        if self.added == self.fits:
            raise NoRoomError("out of memory")
        self.added += 1

    def measure(self) -> Measured:
        return Measured(self.added, self.rates[self.added - 1], self.memory * self.added)


WORK = Work(TrialConfig(), TrialConfig(), "digest")


@pytest.mark.parametrize(
    ("rates", "options", "most", "slots", "tried"),
    [
        ([100, 109], {}, 9, 1, 2),
        ([100, 111, 112], {}, 9, 2, 3),
        ([100, 180, 230, 250, 400], {}, 9, 3, 4),  # it does not look beyond the first that does not pay
        ([100, 200, 300], {}, 2, 2, 2),
        ([100, 200, 300], {"fits": 2}, 9, 2, 2),
        ([100, 200, 300], {"memory": 0.4}, 9, 2, 2),  # a third would not fit, and is not started
        ([100, 50], {}, 9, 1, 2),
    ],
)
def test_slots_are_added_while_one_more_pays_and_fits(
    rates: list[float], options: dict[str, float], most: int, slots: int, tried: int
) -> None:
    fake = Fake(rates, **options)  # type: ignore[arg-type]
    assert slots_that_pay(fake, WORK, most=most, memory=None) == slots
    assert (fake.added, fake.closed) == (tried, 1)


def test_what_was_found_is_remembered_for_the_same_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = tmp_path / "home" / "slots.json"
    caplog.set_level(logging.INFO)
    first = Fake([100, 150, 151])
    assert slots_that_pay(first, WORK, most=9, memory=memory) == 2
    assert "2 slots (1 at once 100 images/s in 10% of the memory, 2 at once 150" in caplog.text
    again = Fake([])
    assert slots_that_pay(again, WORK, most=9, memory=memory) == 2
    assert again.added == 0
    faster = TrialConfig.model_validate({"training": {"learning_rate": 0.5, "weight_decay": 0.0}})
    assert slots_that_pay(Fake([]), Work(faster, faster, "digest"), most=9, memory=memory) == 2
    larger = TrialConfig.model_validate({"training": {"batch_size": 256}})
    assert slots_that_pay(Fake([100, 100]), Work(larger, larger, "digest"), most=9, memory=memory) == 1
    memory.write_text('{"spoilt": [1]}')
    assert slots_that_pay(Fake([100, 100]), WORK, most=9, memory=memory) == 1


def test_a_device_that_cannot_be_measured_has_one_slot_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = Fake([])
    fake.fault = TrainingError("a probe was silent")
    assert slots_that_pay(fake, WORK, most=9, memory=None) == 1
    assert "a probe was silent" in caplog.text
    with pytest.raises(NoRoomError):
        fill(Fake([100], fits=0), most=9)
    assert slots_that_pay(Fake([100]), WORK, most=1, memory=None) == 1


def test_the_middle_and_the_largest_configuration_of_a_study() -> None:
    text = """
study: sizes
input: {image: {choices: [[64, 128], [32, 64]]}}
model:
  backbone: {choices: [resnet18, resnet50, resnet34]}
  pretrained: false
  frozen_layers: {choices: [4, 0, {low: 1, high: 6}]}
  dropout: {low: 0.0, high: 0.4, step: 0.1}
training:
  batch_size: {choices: [16, 64, 32]}
  learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
  epochs: {low: 2, high: 9}
"""
    space = StudyFile.parse(text, "sizes.yaml").space
    middle = middle_config(space)
    assert middle.model.backbone == "resnet50"
    assert middle.model.dropout == pytest.approx(0.2)
    assert middle.training.learning_rate == pytest.approx(1e-3)
    assert middle.training.epochs in (5, 6)
    largest = largest_config(space)
    assert largest.input.image == (64, 128)
    assert (largest.model.backbone, largest.model.frozen_layers) == ("resnet50", 0)
    assert largest.training.batch_size == 64


def test_the_largest_configuration_of_branches_is_that_of_the_largest_backbone_least_frozen() -> None:
    text = """
study: branches
model:
  choices:
    - {backbone: resnet18, pretrained: false, frozen_layers: {low: 1, high: 6}}
    - {backbone: {choices: [resnet34, resnet50]}, pretrained: false, frozen_share: {low: 0.25, high: 0.75}}
    - {backbone: resnet34, pretrained: false, finetuned_layers: {low: 1, high: 6}}
"""
    largest = largest_config(StudyFile.parse(text, "branches.yaml").space)
    assert (largest.model.backbone, largest.model.frozen_share) == ("resnet50", 0.25)


def test_the_largest_configuration_shows_every_view_in_a_channel_of_its_own() -> None:
    text = """
study: layouts
input:
  eeg: mel
  detail: {choices: [{name: cwt, window_seconds: 10}, null]}
  kaggle: {choices: [kaggle, null]}
  layout: {choices: [channels, side_by_side, grid]}
model: {backbone: resnet18, pretrained: false}
"""
    largest = largest_config(StudyFile.parse(text, "layouts.yaml").space)
    assert (largest.input.layout, list(largest.input.views)) == ("channels", ["eeg", "detail", "kaggle"])
    assert largest.input.for_model.channels == 3


def test_the_largest_configuration_is_of_the_section_with_the_largest_image() -> None:
    text = """
study: inputs
input:
  choices:
    - {eeg: mel, image: {choices: [[64, 128], [256, 512]]}}
    - {eeg: stft, image: [128, 256], layout: {choices: [grid, channels]}}
model: {backbone: resnet18, pretrained: false}
training:
  choices:
    - {batch_size: {low: 8, high: 64, log: true}}
    - {batch_size: 32, loss: bce}
"""
    largest = largest_config(StudyFile.parse(text, "inputs.yaml").space)
    assert (largest.input.image, largest.training.batch_size) == ((256, 512), 64)


def test_a_layout_that_the_model_forbids_is_not_the_largest() -> None:
    text = """
study: two-branches
input:
  eeg: {name: raw}
  detail: {name: mel, window_seconds: 10}
  layout: {choices: [side_by_side, grid]}
model: {backbone: resnet18, trace_backbone: eegnet, pretrained: false}
"""
    largest = largest_config(StudyFile.parse(text, "two-branches.yaml").space)
    assert largest.input.layout == "side_by_side"


@pytest.mark.parametrize(
    ("text", "slots"), [("auto", "auto"), ("3", 3), ("0", None), ("-1", None), ("many", None)]
)
def test_slots_are_a_number_or_auto(text: str, slots: int | str | None) -> None:
    if slots is not None:
        assert parse_slots(text) == slots
        return
    with pytest.raises(UsageError, match="no number of slots"):
        parse_slots(text)
