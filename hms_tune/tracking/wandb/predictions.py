"""A trial's out-of-fold predictions as a table and as charts that W&B draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from hms_tune.data.schema import CLASSES
from hms_tune.training.events import OutOfFold
from hms_tune.training.scores import kl_per_row, reliability


def log_out_of_fold(run: Any, predictions: OutOfFold) -> None:
    """Keep all predictions as a table, and draw confusion, reliability and KL by class."""
    if len(predictions.row) == 0:
        return
    import wandb

    likeliest, voted = predictions.probabilities.argmax(axis=1), predictions.targets.argmax(axis=1)
    kl = kl_per_row(predictions.targets, predictions.probabilities)
    bins = reliability(predictions)
    by_class: list[Any] = [
        [name, float(kl[voted == place].mean())]
        for place, name in enumerate(CLASSES)
        if (voted == place).any()
    ]
    run.log(
        {
            "oof/table": out_of_fold_table(predictions, kl),
            "oof/confusion": wandb.plot.confusion_matrix(
                y_true=voted.tolist(),
                preds=likeliest.tolist(),
                class_names=list(CLASSES),
                title="Out-of-fold: class with most votes, likeliest class",
            ),
            "oof/reliability": wandb.plot.line_series(
                xs=bins.predicted.tolist(),
                ys=[bins.voted.tolist(), bins.predicted.tolist()],
                keys=["share of votes", "as predicted"],
                title="Out-of-fold reliability, all classes",
                xname="predicted probability",
            ),
            "oof/kl_by_class": wandb.plot.bar(
                wandb.Table(columns=["class", "KL"], data=by_class),
                "class",
                "KL",
                title="Out-of-fold KL by class",
            ),
        }
    )


def out_of_fold_table(predictions: OutOfFold, kl: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    """A row for each prediction, worst first: ids, fold, votes, KL, six probabilities, six targets."""
    import wandb

    names = [name.lower() for name in CLASSES]
    columns: list[Any] = ["eeg_id", "patient_id", "fold", "votes", "kl"]
    columns += [f"{name}_probability" for name in names] + [f"{name}_target" for name in names]
    worst = np.argsort(-kl, kind="stable")
    parts = (predictions.eeg_id, predictions.patient_id, predictions.fold, predictions.total_votes)
    rows = zip(
        *(part[worst].tolist() for part in parts),
        kl[worst].round(6).tolist(),
        predictions.probabilities[worst].tolist(),
        predictions.targets[worst].tolist(),
        strict=True,
    )
    data: list[Any] = [[*ids, *probabilities, *targets] for *ids, probabilities, targets in rows]
    return wandb.Table(columns=columns, data=data)
