"""Views side by side, as tiles of a grid, or as channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hms_tune.config.image_layout import ModelInput, ViewPlace, rows_of_views, view_places
from hms_tune.config.input import InputConfig
from hms_tune.config.ranges import parameters
from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import ModelConfig, TrialConfig
from hms_tune.errors import ConfigError
from hms_tune.models.network import build_network
from hms_tune.models.traces import OtherViews, TraceReader
from hms_tune.search.suggest import fixed_config, params_from_config
from hms_tune.signals.image import ImageTransform
from hms_tune.training.images.cache import ImageCache
from hms_tune.training.memory.footprint import footprint

VIEWS: dict[str, Any] = {
    "eeg": "mel",
    "detail": {"name": "stft", "window_seconds": 10},
    "more": {
        "scalogram": {"name": "cwt", "window_seconds": 20},
        "far": {"name": "raw", "window_seconds": 25},
    },
}
ORDER = ["eeg", "detail", "far", "scalogram"]
IMAGE = (64, 96)
UNFILTERED = {"highpass_hz": None, "lowpass_hz": None}
"""A filter settles at the edges of the longest window, which is another one where a view is alone."""


def an_input(**settings: Any) -> InputConfig:
    return InputConfig.model_validate(VIEWS | UNFILTERED | {"image": IMAGE} | settings)


def alone(key: str, image: tuple[int, int]) -> InputConfig:
    """One view as a whole image."""
    view = {**VIEWS, **VIEWS["more"]}[key] if key != "kaggle" else None
    kaggle = "kaggle" if view is None else None
    return InputConfig.model_validate(UNFILTERED | {"eeg": view, "kaggle": kaggle, "image": image})


def signals(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 20 * torch.randn(batch, 20, 10_000, generator=generator), torch.randn(
        batch, 400, 300, generator=generator
    )


@pytest.mark.parametrize(
    ("views", "rows"),
    [(1, [1]), (2, [2]), (3, [2, 1]), (4, [2, 2]), (5, [3, 2]), (7, [3, 2, 2]), (10, [4, 3, 3])],
)
def test_a_grid_has_rows_of_about_as_many_views(views: int, rows: list[int]) -> None:
    assert rows_of_views("grid", views) == rows


@pytest.mark.parametrize("layout", ["side_by_side", "grid"])
@pytest.mark.parametrize("views", range(1, 8))
def test_places_cover_an_image_once(layout: Any, views: int) -> None:
    covered = torch.zeros(67, 101, dtype=torch.int64)
    for place in view_places(layout, [1.0 + number % 3 for number in range(views)], (67, 101)):
        assert place.channel == 0
        covered[place.top : place.top + place.height, place.left : place.left + place.width] += 1
    assert (covered == 1).all()


def test_shares_divide_the_width_of_a_row() -> None:
    assert view_places("grid", [3.0, 1.0, 1.0], (50, 80)) == [
        ViewPlace(0, 0, 0, 25, 60),
        ViewPlace(0, 0, 60, 25, 20),
        ViewPlace(0, 25, 0, 25, 80),
    ]


@pytest.mark.parametrize("layout", ["side_by_side", "grid", "channels"])
def test_each_view_stands_in_its_place_as_it_would_alone(layout: str) -> None:
    config = an_input(kaggle="kaggle", layout=layout)
    image = ImageTransform(config)(*signals())
    assert image.shape == (2, *config.for_model.shape)
    assert list(config.places) == [*ORDER, "kaggle"]
    for key, place in config.places.items():
        shown = ImageTransform(alone(key, (place.height, place.width)))
        eeg, spectrogram = signals()
        expected = shown(eeg if shown.needs_eeg else None, spectrogram if shown.needs_spectrogram else None)
        rows = slice(place.top, place.top + place.height)
        found = image[:, place.channel, rows, place.left : place.left + place.width]
        torch.testing.assert_close(found, expected[:, 0], rtol=0, atol=2e-3)


def test_the_network_has_an_input_channel_for_each_view() -> None:
    config = TrialConfig(
        input=an_input(layout="channels"), model=ModelConfig(backbone="test_resnet", pretrained=False)
    )
    assert config.input.for_model.shape == (4, *IMAGE)
    network = build_network(config.model, config.input.for_model)
    assert network(torch.zeros(2, 4, *IMAGE)).shape == (2, 6)
    assert footprint(config, half=False).weights > 0


@pytest.mark.parametrize("layout", ["side_by_side", "grid", "channels"])
def test_traces_are_read_from_wherever_their_view_stands(layout: str) -> None:
    config = an_input(layout=layout)
    place = config.for_model.traces
    assert place is not None
    where = config.places["far"]
    only = alone("far", (where.height, where.width))
    eeg, _ = signals()
    alone_place = only.for_model.traces
    assert alone_place is not None
    expected = TraceReader(alone_place)(ImageTransform(only)(eeg, None))
    torch.testing.assert_close(
        TraceReader(place)(ImageTransform(config)(eeg, None)), expected, atol=2e-3, rtol=0
    )


def test_a_second_branch_takes_the_channel_of_its_view() -> None:
    given = an_input(layout="channels").for_model
    others = OtherViews(given)
    images = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, *IMAGE)
    assert others.left == ModelInput(3, IMAGE)
    assert others(images)[0, :, 0, 0].tolist() == [0.0, 1.0, 3.0]
    model = ModelConfig(backbone="test_resnet", trace_backbone="eegnet", pretrained=False)
    assert build_network(model, given)(torch.zeros(2, 4, *IMAGE)).shape == (2, 6)


def test_cached_images_keep_every_channel_that_differs() -> None:
    images = torch.randn(5, 3, 8, 8)
    for kept in (3, 1):
        made = images if kept == 3 else images[:, :1].expand(-1, 3, -1, -1)
        cached = ImageCache().get(
            "key",
            lambda rows, made=made: made[rows],
            n_rows=5,
            shape=(kept, 8, 8),
            form="float32",
            device=torch.device("cpu"),
            most=10**6,
        )
        assert cached.nbytes == 5 * kept * 64 * 4
        assert torch.equal(cached.take(torch.tensor([4, 1])), made[[4, 1]])


def test_an_input_of_before_is_written_as_before() -> None:
    dumped = InputConfig.model_validate({"eeg": "mel", "kaggle": "kaggle"}).model_dump(mode="json")
    assert "more" not in dumped
    assert "layout" not in dumped
    whole = an_input(layout="grid")
    again = InputConfig.model_validate_json(whole.model_dump_json())
    assert again == whole
    assert hash(again) == hash(whole)


def test_views_lie_in_the_order_of_their_names_however_they_are_given() -> None:
    backwards = dict(reversed(VIEWS["more"].items()))
    assert list(an_input(more=backwards).views) == list(an_input().views) == ORDER


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "channels", "channels": 3}, "layout channels has an input channel for each view"),
        ({"layout": "grid", "image": [32, 96]}, "a tile of 16 rows"),
        ({"more": {"far": "mel"}}, "far shows the same as eeg"),
        ({"more": {"Far": "mel"}}, "'Far' is no name of a view"),
        ({"more": {"kaggle": "mel"}}, "'kaggle' is no name of a view"),
        ({"image": [64, 30]}, "columns"),
    ],
)
def test_views_that_cannot_be_shown_are_refused(settings: dict[str, Any], message: str) -> None:
    if settings == {"layout": "grid", "image": [32, 96]}:
        settings = settings | {"detail": {"name": "stft", "montage": "pairs"}}
    with pytest.raises(ValidationError, match=message):
        an_input(**settings)


def test_a_second_branch_in_a_grid_is_refused() -> None:
    with pytest.raises(ValidationError, match="trace_backbone leaves a hole in a grid"):
        TrialConfig(
            input=an_input(layout="grid"), model=ModelConfig(backbone="resnet18", trace_backbone="eegnet")
        )


def test_settings_of_further_views_are_searched_under_their_names() -> None:
    text = """\
study: many
input:
  more:
    low: {choices: [null, {name: mel, window_seconds: {low: 10, high: 30}}]}
    near: cwt
  layout: {choices: [grid, channels]}
"""
    space = StudyFile.parse(text, "many.yaml").space
    assert [item.name for item in parameters(space)] == [
        "input.more.low",
        "input.more.low.mel.window_seconds",
        "input.layout",
    ]
    with pytest.raises(ConfigError) as caught:
        StudyFile.parse(text.replace("near: cwt", "near: {name: cwt, cycle: 4}"), "many.yaml")
    assert 'many.yaml:5: unknown key "cycle" in input.more.near; nearest: cycles' in str(caught.value)


def test_a_view_of_a_trial_is_changed_and_enqueued_by_its_key() -> None:
    text = """\
study: many
model: {backbone: test_resnet, pretrained: false}
input: {more: {near: {name: mel, window_seconds: {low: 10, high: 30}}}}
"""
    space = StudyFile.parse(text, "many.yaml").space
    config = fixed_config(
        space,
        {"input.more.near.window_seconds": "20", "input.more.far": "cwt"},
        {"input.more.near.window_seconds": 12.0},
    )
    assert [view.name for view in config.input.views.values()] == ["stft", "cwt", "mel"]
    assert params_from_config(space, {"input.more.near.window_seconds": "20"}) == {
        "input.more.near.window_seconds": 20.0
    }
