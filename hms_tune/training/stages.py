"""What a fold learns from, stage by stage.

Rows with few votes are many but uncertain; rows with many votes are what the leaderboard scores. A first
stage learns from all rows, those of few votes weighted down; an optional second one goes on with the rows of
many votes at a lower learning rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hms_tune.config.trial import RowWeight, TrainingConfig
from hms_tune.data.labels import Labels
from hms_tune.errors import DataError

_LEAST_AGREEMENT = 0.01
"""Of rows whose votes are spread evenly, so that they count a little."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive epochs over the same rows.

    Attributes
    ----------
    number : 0 or 1
    first_epoch, epochs : the stage's place in the fold
    rows : int64 tensor, shape (n_rows,), rows of the labels
    batch_size : windows of a batch, at most ``n_rows``
    learning_rate_ratio : its largest learning rate over the configured one
    """

    number: int
    first_epoch: int
    epochs: int
    rows: Tensor
    batch_size: int
    learning_rate_ratio: float

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; rows of an incomplete one wait for the next epoch's order."""
        return len(self.rows) // self.batch_size

    @property
    def end(self) -> int:
        """One past the stage's last epoch."""
        return self.first_epoch + self.epochs


def make_stages(
    config: TrainingConfig, labels: Labels, train_rows: NDArray[np.int64], *, where: str
) -> tuple[Stage, ...]:
    """The stages of a fold.

    Raises
    ------
    DataError
        If a stage has fewer than two rows.
    """
    votes = labels.total_votes[train_rows]
    learnt = train_rows if config.few_votes_weight > 0.0 else train_rows[votes >= config.few_votes]
    stages = [_stage(config, 0, 0, config.epochs, learnt, 1.0, where)]
    if (second := config.second_stage) is not None:
        rows = train_rows[votes >= second.min_votes]
        ratio = second.learning_rate_ratio
        stages.append(_stage(config, 1, config.epochs, second.epochs, rows, ratio, where))
    return tuple(stages)


def _stage(
    config: TrainingConfig,
    number: int,
    first_epoch: int,
    epochs: int,
    rows: NDArray[np.int64],
    ratio: float,
    where: str,
) -> Stage:
    if len(rows) < 2:
        of_stage = " of many votes for its second stage" if number else ""
        hint = (
            "Lower training.second_stage.min_votes, or add patients"
            if number
            else "Add patients, or lower data.folds, data.holdout, data.min_votes or training.few_votes"
        )
        raise DataError(f"there are {len(rows)} rows{of_stage} to learn from", where=where, hint=hint)
    batch_size = min(config.batch_size, len(rows))
    return Stage(number, first_epoch, epochs, torch.from_numpy(rows), batch_size, ratio)


def learning_targets(config: TrainingConfig, labels: Labels) -> NDArray[np.float32]:
    """What is learnt in place of the plain shares of votes: smoothed most where votes are few.

    ``vote_prior`` votes are added to the experts' behind a row, spread evenly over the classes: the mean of
    a Dirichlet posterior under an even prior of that many votes. A row with a soft label learns that.

    Returns
    -------
    float32 array, shape (n_rows, 6), rows sum to 1
    """
    targets = labels.targets
    if config.vote_prior > 0.0:
        experts = labels.total_votes[:, None].astype(np.float32)
        even = config.vote_prior / targets.shape[1]
        targets = np.asarray((targets * experts + even) / (experts + config.vote_prior), dtype=np.float32)
    if labels.soft is not None:
        targets = np.where(np.isnan(labels.soft), targets, labels.soft)
    return targets


def learning_weights(
    config: TrainingConfig, labels: Labels, train_rows: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Weight of each row in the loss of the first stage, with mean 1 over its rows; None: all alike.

    Returns
    -------
    float32 array, shape (n_rows,)
    """
    few = labels.total_votes < config.few_votes
    even = config.row_weight == "none" or config.row_weight_exponent == 0.0
    if even and (config.few_votes_weight == 1.0 or not few[train_rows].any()):
        return None
    weights = np.where(few, config.few_votes_weight, 1.0)
    if not even:
        weights = weights * _row_weights(config.row_weight, labels, train_rows) ** config.row_weight_exponent
    learnt = weights[train_rows]
    mean = learnt[learnt > 0].mean() if (learnt > 0).any() else np.float32(1.0)
    return np.asarray(weights / mean, dtype=np.float32)


def _row_weights(by: RowWeight, labels: Labels, train_rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight of each row before its exponent, above 0."""
    shares = labels.targets.astype(np.float64)
    match by:
        case "none":
            return np.ones(len(labels))
        case "votes":
            return np.asarray(labels.total_votes / labels.total_votes[train_rows].max(), dtype=np.float64)
        case "agreement":
            entropy = -(shares * np.log(np.where(shares > 0.0, shares, 1.0))).sum(axis=1)
            return np.asarray(np.maximum(1.0 - entropy / math.log(shares.shape[1]), _LEAST_AGREEMENT))
        case "balance":
            of_class = shares[train_rows].mean(axis=0)
            # A class that no row has weighs nothing: no row is weighted by it.
            return np.asarray(shares @ np.where(of_class > 0.0, 1.0 / np.maximum(of_class, 1e-12), 0.0))
