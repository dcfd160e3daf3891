"""Views of an image: what may stand together, and how they share its width."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hms_tune.config.input import PANELS, STFT, InputConfig, Raw
from hms_tune.config.ranges import parameters, resolve
from hms_tune.config.study_file import StudyFile
from hms_tune.errors import ConfigError
from hms_tune.signals.montage import ANODES, REGIONS


def test_without_settings_there_is_one_view_of_the_whole_window() -> None:
    config = InputConfig()
    assert config.views == {"eeg": STFT()}
    assert (config.needs_eeg, config.needs_spectrogram, config.window_seconds) == (True, False, 50.0)


def test_a_recipe_is_named_in_short_or_with_its_settings() -> None:
    short = InputConfig.model_validate({"eeg": "raw", "kaggle": "kaggle"})
    assert short == InputConfig.model_validate({"eeg": {"name": "raw"}, "kaggle": {"name": "kaggle"}})
    assert isinstance(short.eeg, Raw)


@pytest.mark.parametrize("width", [64, 97, 256, 511])
def test_widths_follow_the_shares_and_add_up(width: int) -> None:
    views = {"eeg": {"name": "stft", "share": 2}, "detail": {"name": "cwt", "share": 0.5}, "kaggle": "kaggle"}
    places = InputConfig.model_validate({**views, "image": [64, width]}).places
    widths = {key: place.width for key, place in places.items()}
    assert list(widths) == ["eeg", "detail", "kaggle"]
    assert sum(widths.values()) == width
    assert [part / width for part in widths.values()] == pytest.approx(
        [2 / 3.5, 0.5 / 3.5, 1 / 3.5], abs=0.02
    )


def test_panels_are_those_of_the_montage() -> None:
    expected = {"chains": len(REGIONS), "lateral_pairs": 4 * len(REGIONS), "pairs": len(ANODES)}
    assert expected == PANELS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eeg": None}, "eeg, detail and kaggle are all null"),
        ({"detail": "stft"}, "detail shows the same as eeg"),
        ({"eeg": {"name": "stft", "low_hz": 30}}, "high_hz 20.0 must exceed low_hz 30.0"),
        ({"eeg": {"name": "cwt", "low_hz": 0}}, "greater than or equal to 0.2"),
        (
            {"eeg": {"name": "stft", "montage": "pairs"}, "image": [16, 64]},
            "16 rows cannot show the 18 panels",
        ),
        (
            {"eeg": {"name": "raw", "lines": 9}, "image": [128, 64]},
            "has 8 for each trace of eeg, and lines is 9",
        ),
        ({"eeg": {"name": "raw", "montage": "chains"}}, "lateral_pairs"),
        ({"kaggle": {"name": "kaggle", "share": 0.01}}, "share leaves kaggle 3 of the image's 256 columns"),
        ({"eeg": {"name": "multitaper", "tapers": 5}}, "tapers 5 exceeds twice half_bandwidth 2.0"),
        ({"eeg": {"name": "multitaper", "step_seconds": 5}}, "step_seconds 5.0 exceeds taper_seconds 4.0"),
        (
            {"eeg": {"name": "multitaper", "taper_seconds": 9, "window_seconds": 8}},
            "taper_seconds 9.0 exceeds window_seconds 8.0",
        ),
        ({"highpass_hz": 10, "lowpass_hz": 5}, "lowpass_hz 5.0 must exceed highpass_hz 10.0"),
        ({"image": [8, 64]}, "image sides must lie in 16–2048 pixels, got [8, 64]"),
    ],
)
def test_what_cannot_be_shown_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        InputConfig.model_validate(settings)
    assert message in str(caught.value)


TEXT = """\
study: views
input:
  eeg: {choices: [raw, {name: multitaper, step_seconds: {low: 0.5, high: 2.0}}]}
  detail: {choices: [null, {name: cwt, window_seconds: 10, cycles: {low: 4, high: 9}}]}
  kaggle: {choices: [null, kaggle]}
"""


def test_every_setting_of_a_recipe_can_be_searched() -> None:
    space = StudyFile.parse(TEXT, "views.yaml").space
    assert [item.name for item in parameters(space)] == [
        "input.eeg",
        "input.eeg.multitaper.step_seconds",
        "input.detail",
        "input.detail.cwt.cycles",
        "input.kaggle",
    ]
    drawn = {"input.eeg": "raw", "input.detail": "cwt", "input.detail.cwt.cycles": 5, "input.kaggle": None}
    config = InputConfig.model_validate(resolve(space, lambda name, _: drawn[name])["input"])
    assert [view.name for view in config.views.values()] == ["raw", "cwt"]
    assert [place.width for place in config.places.values()] == [128, 128]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: cwt,", "name: ctw,", 'input.detail.ctw: unknown name "ctw"; nearest: cwt'),
        ("cycles:", "cycle:", 'unknown key "cycle" in input.detail.cwt; nearest: cycles'),
        ("[null, kaggle]", "[{}]", "needs name: kaggle"),
        ("[null, kaggle]", "[keggle]", 'unknown name "keggle"; nearest: kaggle'),
        ("high: 2.0}", "high: 5.0}", "step_seconds 5.0 exceeds taper_seconds 4.0"),
    ],
)
def test_a_mistake_in_a_view_is_named(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        StudyFile.parse(TEXT.replace(old, new), "views.yaml")
    assert message in str(caught.value)
