"""What a fold learns from: rows, targets and weights of each stage."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from hms_tune.config.trial import LossName, TrainingConfig, TrialConfig
from hms_tune.data.labels import Labels
from hms_tune.errors import DataError
from hms_tune.models.losses import make_loss
from hms_tune.training.refit import refit_epochs
from hms_tune.training.stages import learning_targets, learning_weights, make_stages

VOTES = np.array(
    [[2, 0, 0, 0, 0, 1], [0, 12, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0], [5, 0, 0, 0, 0, 15], [1, 0, 0, 0, 0, 0]],
    dtype=np.float64,
)
ROWS = np.arange(len(VOTES))


@pytest.fixture
def labels() -> Labels:
    ids = np.arange(len(VOTES), dtype=np.int64)
    zeros = np.zeros(len(VOTES))
    return Labels(ids, ids, ids, zeros, zeros, VOTES)


def config(**training: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"epochs": 4, "batch_size": 2, **training})


def test_one_stage_learns_from_all_rows(labels: Labels) -> None:
    (stage,) = make_stages(config(), labels, ROWS, where="fold 0")
    assert stage.rows.tolist() == [0, 1, 2, 3, 4]
    assert (stage.first_epoch, stage.end, stage.steps_per_epoch) == (0, 4, 2)


def test_second_stage_keeps_rows_of_many_votes_at_a_lower_rate(labels: Labels) -> None:
    second = {"epochs": 2, "min_votes": 10, "learning_rate_ratio": 0.2}
    first, then = make_stages(config(second_stage=second), labels, ROWS, where="fold 0")
    assert then.rows.tolist() == [1, 3]
    assert (then.first_epoch, then.end, then.learning_rate_ratio) == (4, 6, 0.2)
    assert len(first.rows) == 5


def test_rows_of_weight_zero_are_not_even_read(labels: Labels) -> None:
    (stage,) = make_stages(config(few_votes_weight=0.0), labels, ROWS, where="fold 0")
    assert stage.rows.tolist() == [1, 3]


def test_a_stage_without_rows_is_an_error_with_its_fold_and_hint(labels: Labels) -> None:
    second = {"min_votes": 50}
    with pytest.raises(DataError, match=r"fold 3: there are 0 rows .* Lower training.second_stage.min_votes"):
        make_stages(config(second_stage=second), labels, ROWS, where="fold 3")


def test_vote_prior_smooths_most_where_votes_are_few(labels: Labels) -> None:
    targets = learning_targets(config(vote_prior=6.0), labels)
    np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-6)
    assert targets[1, 1] == pytest.approx(13 / 18)  # 12 votes and one of the prior
    assert targets[4, 0] == pytest.approx(2 / 7)  # one vote and one of the prior
    np.testing.assert_array_equal(learning_targets(config(), labels), labels.targets)


def test_weights_average_one_over_the_rows_learnt_from(labels: Labels) -> None:
    weights = learning_weights(config(few_votes_weight=0.25), labels, ROWS)
    assert weights is not None
    assert weights.mean() == pytest.approx(1.0)
    assert weights[0] / weights[1] == pytest.approx(0.25)
    assert learning_weights(config(), labels, ROWS) is None


def test_rows_count_by_their_votes_agreement_or_the_rarity_of_their_classes(labels: Labels) -> None:
    def weights(**training: object) -> np.ndarray:
        found = learning_weights(config(**training), labels, ROWS)
        assert found is not None
        assert found.mean() == pytest.approx(1.0)
        return found

    by_votes = weights(row_weight="votes", row_weight_exponent=0.5)
    assert by_votes[0] / by_votes[3] == pytest.approx((3 / 20) ** 0.5)
    by_agreement = weights(row_weight="agreement")
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert by_agreement[0] / by_agreement[1] == pytest.approx(1 - entropy / np.log(6))
    balanced = weights(row_weight="balance")
    of_class = labels.targets.mean(axis=0)
    assert balanced[2] / balanced[4] == pytest.approx(of_class[0] / of_class[2])
    both = weights(row_weight="votes", few_votes_weight=0.25)
    assert both[0] / both[1] == pytest.approx(0.25 * 3 / 12)


def test_an_exponent_of_zero_makes_rows_alike(labels: Labels) -> None:
    assert learning_weights(config(row_weight="balance", row_weight_exponent=0.0), labels, ROWS) is None


@pytest.mark.parametrize("name", get_args(LossName))
def test_a_row_of_weight_two_counts_as_two_rows(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, generator=generator)
    targets = torch.rand(2, 6, generator=generator).softmax(dim=1)
    loss = make_loss(name, 0.05)  # type: ignore[arg-type]
    weighted = loss(logits, targets, torch.tensor([4 / 3, 2 / 3]))
    repeated = loss(logits[[0, 0, 1]], targets[[0, 0, 1]])
    torch.testing.assert_close(weighted, repeated)


def test_refit_ends_in_the_stage_where_most_folds_were_at_their_best() -> None:
    two_stages = TrialConfig.model_validate({"training": {"epochs": 10, "second_stage": {"epochs": 4}}})
    assert refit_epochs(two_stages, (3, 11, 12)) == 13
    assert refit_epochs(two_stages, (3, 5, 12)) == 5
    assert refit_epochs(TrialConfig(), (1, 2, 3)) == 3
