"""The scores that lie in a bundle, and how its card states them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hms_tune.config.trial import TrialConfig
from hms_tune.errors import BundleError
from hms_tune.export.card import model_card
from hms_tune.export.scores import METRICS, Scores, read_scores
from hms_tune.training.optimism.correction import Corrected

SCORES = Scores(
    kl=0.9,
    prior_kl=1.4,
    fold_kl=(0.8, 1.0),
    best_epochs=(2, 3),
    rows=100,
    kl_all_rows=0.91,
    high_vote_rows=0,
    kl_high_vote=None,
    held_out_rows=20,
    held_out_kl=1.05,
    held_out_prior_kl=1.5,
    held_out_interval=(0.8, 1.4),
    search_kl=0.89,
    corrected=Corrected(1.0, (0.85, 1.2), 30, 1),
    search_corrected=Corrected(1.1, (0.9, 1.3), 30, 8),
)


def test_scores_come_back_from_a_bundle(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(json.dumps(SCORES.as_json()))
    assert read_scores(tmp_path) == SCORES


def test_those_of_an_earlier_version_are_read_and_not_corrected(tmp_path: Path) -> None:
    stored = SCORES.as_json()
    del stored["corrected"], stored["search_corrected"]
    (tmp_path / METRICS).write_text(json.dumps(stored))
    assert read_scores(tmp_path) == replace(SCORES, corrected=None, search_corrected=None)


@pytest.mark.parametrize("damaged", [3, {"kl": 1.0}, {"kl": 1.0, "interval": 5, "patients": 1}])
def test_a_corrected_score_in_another_form_is_said(tmp_path: Path, damaged: object) -> None:
    (tmp_path / METRICS).write_text(json.dumps(SCORES.as_json() | {"corrected": damaged}))
    with pytest.raises(BundleError, match="the scores cannot be read"):
        read_scores(tmp_path)


def test_the_card_states_corrected_scores_with_their_intervals() -> None:
    card = model_card(
        study="effnet",
        trial=4,
        config=TrialConfig(),
        scores=SCORES,
        data_digest="0" * 64,
        full=False,
        onnx=None,
    )
    first = "1.0000 (95 % interval 0.850–1.200 over 30 patients), corrected for the choice of epochs"
    assert f"Mean over folds: {first}." in card
    assert "Held-out patients: 95 % interval 0.800–1.400." in card
    interval = "95 % interval 0.900–1.300 over 30 patients"
    of = "corrected for the choice of epochs and of the best of 8 trials"
    assert f"In the search this trial scored 0.8900; 1.1000 ({interval}), {of}." in card
