"""What a run holds: curves by fold and their means over epochs, a summary, the network's layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hms_tune.training.events import CrossValidationEnded, EpochEnded, Event, FoldEnded, FoldStarted
from hms_tune.trial_state import AttemptState

if TYPE_CHECKING:
    from hms_tune.tracking.wandb.layers import Layer

MEANS: dict[str, Callable[[EpochEnded], float]] = {
    "val/kl": lambda epoch: epoch.kl,
    "val/kl_all_rows": lambda epoch: epoch.kl_all_rows,
    "val/kl_high_vote": lambda epoch: epoch.kl_high_vote,
    "train/loss": lambda epoch: epoch.train_loss,
}
"""What is averaged over the folds that trained an epoch, under the names that people search for."""

COMPARED = (AttemptState.COMPLETE, AttemptState.PRUNED, AttemptState.PAUSED)
"""Ends after which a run has a KL to compare with those of others: its trial's, or the estimate of it."""


@dataclass(slots=True)
class Course:
    """What the events of an attempt add up to, those of earlier attempts among them.

    Attributes
    ----------
    seconds : spent on epochs, by all attempts at the trial
    """

    seconds: float = 0.0
    _epochs: dict[int, list[EpochEnded]] = field(default_factory=lambda: defaultdict(list))

    def add(self, ended: EpochEnded) -> dict[str, float]:
        """Take in an epoch; returns its means over folds if no further fold will train it."""
        self.seconds += ended.seconds
        self._epochs[ended.epoch].append(ended)
        return self._means(self._epochs.pop(ended.epoch)) if ended.fold == ended.folds - 1 else {}

    def rest(self) -> Iterator[dict[str, float]]:
        """The means of the epochs that the last fold did not come to."""
        for epoch in sorted(self._epochs):
            yield {"epoch": epoch + 1} | self._means(self._epochs[epoch])

    def _means(self, epochs: list[EpochEnded]) -> dict[str, float]:
        values = {name: [of(each) for each in epochs] for name, of in MEANS.items()}
        known = {name: [each for each in found if not math.isnan(each)] for name, found in values.items()}
        return {name: sum(found) / len(found) for name, found in known.items() if found}


def define_metrics(run: Any) -> None:
    """Say on which axis a metric is drawn, and that the smallest value is what counts."""
    run.define_metric("epoch", hidden=True)
    run.define_metric("epochs_trained", hidden=True)
    run.define_metric("estimate", step_metric="epochs_trained", summary="min")
    for name in MEANS:
        run.define_metric(name, step_metric="epoch", summary="min")


def log_event(run: Any, event: Event, course: Course, *, done: int = 0) -> None:
    """Write an epoch or a fold.

    Parameters
    ----------
    course : of the run's attempt; the event is added to it
    done : how many epochs, over all folds, the run already holds
    """
    match event:
        case FoldStarted():
            fold = f"fold_{event.fold}"
            run.define_metric(f"{fold}/*", step_metric="epoch")
            run.define_metric(f"{fold}/kl", step_metric="epoch", summary="min")
            run.define_metric(f"{fold}/kl_high_vote", step_metric="epoch", summary="min")
        case EpochEnded():
            row = _epoch(event) | course.add(event)
            if row["epochs_trained"] > done:
                run.log(row)
        case FoldEnded():
            run.summary.update(
                {f"fold_kl/{event.fold}": event.kl, f"best_epoch/{event.fold}": event.best_epoch + 1}
            )
        case CrossValidationEnded():
            run.summary.update(
                {"kl": event.kl, "kl_all_rows": event.kl_all_rows, "kl_high_vote": event.kl_high_vote}
            )
        case _:
            pass


def _epoch(event: EpochEnded) -> dict[str, Any]:
    fold = f"fold_{event.fold}"
    return {
        "epoch": event.epoch + 1,
        "epochs_trained": event.fold * event.epochs + event.epoch + 1,
        "estimate": event.estimate,
        f"{fold}/kl": event.kl,
        f"{fold}/kl_all_rows": event.kl_all_rows,
        f"{fold}/kl_high_vote": event.kl_high_vote,
        f"{fold}/best_kl": event.best_kl,
        f"{fold}/train_loss": event.train_loss,
        f"{fold}/learning_rate": event.learning_rate,
        f"{fold}/images_per_second": event.images / event.seconds if event.seconds > 0 else 0.0,
    }


def log_end(run: Any, course: Course, state: AttemptState, value: float | None, reason: str | None) -> None:
    """Write how an attempt ended.

    Where the trial goes on in another run this one gets no ``kl``, which would stand beside that one's.
    """
    if state in COMPARED:
        for row in course.rest():
            run.log(row)
    summary: dict[str, Any] = {"state": state.value, "reason": reason, "train_seconds": course.seconds}
    if state in COMPARED and value is not None:
        summary["kl"] = value
    run.summary.update(summary)


def log_layers(run: Any, layers: tuple[Layer, ...]) -> None:
    """Draw the network as W&B's own hooks would, and write its number of parameters."""
    import wandb

    graph = wandb.Graph("torch")
    for layer in layers:
        graph.add_node(
            id=layer.name,
            name=layer.name,
            class_name=layer.kind,
            parameters=[[name, list(shape)] for name, shape in layer.parameters],
            output_shape=list(layer.output),
            num_parameters=layer.size,
        )
    for before, after in zip(graph.nodes, graph.nodes[1:], strict=False):
        graph.add_edge(before, after)
    run.summary["graph_0"] = graph
    run.summary["parameters"] = sum(layer.size for layer in layers)
