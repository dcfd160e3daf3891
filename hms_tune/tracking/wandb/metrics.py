"""What a run holds: curves by fold over epochs, a summary, the network's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hms_tune.training.events import CrossValidationEnded, EpochEnded, Event, FoldEnded, FoldStarted

if TYPE_CHECKING:
    from hms_tune.tracking.wandb.layers import Layer


def define_metrics(run: Any) -> None:
    """Say on which axis a metric is drawn, and that the smallest KL is what counts."""
    run.define_metric("epoch", hidden=True)
    run.define_metric("epochs_trained", hidden=True)
    run.define_metric("estimate", step_metric="epochs_trained", summary="min")


def log_event(run: Any, event: Event, *, done: int = 0) -> None:
    """Write an epoch or a fold.

    Parameters
    ----------
    done : how many epochs, over all folds, the run already holds
    """
    match event:
        case FoldStarted():
            fold = f"fold_{event.fold}"
            run.define_metric(f"{fold}/*", step_metric="epoch")
            run.define_metric(f"{fold}/kl", step_metric="epoch", summary="min")
            run.define_metric(f"{fold}/kl_high_vote", step_metric="epoch", summary="min")
        case EpochEnded():
            row = _epoch(event)
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
