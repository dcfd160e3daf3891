"""The best trial once more, with its weights kept: from a trial configuration to a bundle."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from hms_tune.config.augmentation import TestTime
from hms_tune.config.settings import DEFAULT_CHECKPOINT_SECONDS
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.store import Store
from hms_tune.errors import BundleError, TrainingError, UsageError
from hms_tune.export.bundle import load_network, seal_bundle
from hms_tune.export.card import model_card
from hms_tune.export.confirmation.race import Ranking
from hms_tune.export.onnx import OnnxCheck, export_onnx
from hms_tune.export.out_of_fold import out_of_fold_table, table_name
from hms_tune.export.place import check_vacant
from hms_tune.export.scores import METRICS, Scores, scores_of
from hms_tune.export.test_time import changes, measurable
from hms_tune.machine.device import resolve_device
from hms_tune.machine.private_folder import private_folder
from hms_tune.training.checkpoint import fold_weights_path, full_weights_path
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import CrossValidationEnded, Event, OutOfFold
from hms_tune.training.optimism.correction import Corrected
from hms_tune.training.refit import Refit, refit_epochs
from hms_tune.training.step.inference import predict_probabilities
from hms_tune.training.trial_data import TrialData
from hms_tune.training.workspace import Workspace

logger = logging.getLogger(__name__)

RefitMode = Literal["none", "full"]

_ONNX_IMAGES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """A finished trial that is worth its weights.

    ``value`` is its KL in the search, ``corrected`` that without what its choice flatters; ``ranking`` how
    the study's candidates stand since they were confirmed.
    """

    study: str
    number: int
    config: TrialConfig
    value: float | None
    ranking: Ranking | None = None
    corrected: Corrected | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A bundle that was just written."""

    path: Path
    scores: Scores
    onnx: OnnxCheck | None
    full: bool


def export_best(
    winner: Winner,
    store: Store,
    out: Path,
    *,
    device: str = "auto",
    refit: RefitMode = "none",
    checkpoint_every_s: float = DEFAULT_CHECKPOINT_SECONDS,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Exported:
    """Train the winner on its folds again, keep the weights, and write a bundle.

    Interrupted, it leaves its checkpoints in ``.<name of out>.partial`` beside ``out``; the same call then
    goes on from there. ``out`` appears whole or not at all.

    Parameters
    ----------
    winner : the trial
    store : the prepared competition folder
    out : the bundle's folder, which must not exist yet
    device : auto, cpu or cuda:N
    refit : ``full`` also trains one network on all rows, for the mean best epoch of the folds
    checkpoint_every_s : so much work is done again, about, after an interruption
    on_event : is told everything that happens in training

    Raises
    ------
    UsageError
        If ``out`` exists or cannot be created.
    """
    check_vacant(out)
    workspace = Workspace(store, resolve_device(device))
    partial = out.with_name(f".{out.name}.partial")
    _make_private(partial)
    ended = _train(winner.config, workspace, partial, refit, checkpoint_every_s, on_event)
    exported = _assemble(winner, workspace, partial, out, ended, refit)
    shutil.rmtree(partial)
    return exported


def _make_private(folder: Path) -> None:
    try:
        private_folder(folder, links=False)
    except OSError as error:
        raise UsageError(
            f"cannot be made: {error.strerror}", where=folder, hint="Remove it, or choose another --out"
        ) from error


def _train(
    config: TrialConfig,
    workspace: Workspace,
    directory: Path,
    refit: RefitMode,
    checkpoint_every_s: float,
    on_event: Callable[[Event], None],
) -> CrossValidationEnded:
    ended = None
    trial = CrossValidation(
        config,
        workspace,
        directory=directory,
        keep_weights=True,
        checkpoint_every_s=checkpoint_every_s,
    )
    for event in trial.run():
        on_event(event)
        if isinstance(event, CrossValidationEnded):
            ended = event
    if ended is None:
        raise TrainingError("cross-validation ended without a result")
    if refit == "full":
        epochs = refit_epochs(config, ended.best_epochs)
        final = Refit(
            config,
            workspace,
            epochs=epochs,
            directory=directory,
            checkpoint_every_s=checkpoint_every_s,
        )
        for event in final.run():
            on_event(event)
    return ended


def _assemble(
    winner: Winner,
    workspace: Workspace,
    partial: Path,
    out: Path,
    ended: CrossValidationEnded,
    refit: RefitMode,
) -> Exported:
    bundle = partial / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    private_folder(bundle)
    data = workspace.trial_data(winner.config)
    weights = [fold_weights_path(partial, fold) for fold in range(len(ended.fold_kl))]
    networks = [load_network(winner.config, path) for path in weights]
    onnx = _onnx(winner.config, networks, data, bundle / "model.onnx")
    scores = _scores(winner, workspace, networks, data, ended)
    for path in [*weights, *([full_weights_path(partial)] if refit == "full" else [])]:
        shutil.copyfile(path, bundle / path.name)
    for test_time in ((), *measurable(winner.config.input)):
        predictions = _changed(networks, winner, data, ended, test_time) if test_time else ended.out_of_fold
        out_of_fold_table(predictions).to_parquet(bundle / table_name(test_time), index=False)
    metrics = scores.as_json() | {"onnx": None if onnx is None else asdict(onnx)}
    (bundle / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    card = model_card(
        study=winner.study,
        trial=winner.number,
        config=winner.config,
        scores=scores,
        data_digest=workspace.store.manifest.digest,
        full=refit == "full",
        onnx=onnx,
        ranking=winner.ranking,
    )
    (bundle / "README.md").write_text(card, encoding="utf-8")
    seal_bundle(bundle, study=winner.study, trial=winner.number, config=winner.config)
    bundle.replace(out)
    return Exported(path=out, scores=scores, onnx=onnx, full=refit == "full")


def _onnx(
    config: TrialConfig, networks: list[torch.nn.Module], data: TrialData, path: Path
) -> OnnxCheck | None:
    """A graph is welcome but never worth the loss of trained weights: without one, say why."""
    rows = torch.arange(min(_ONNX_IMAGES, len(data.labels)))
    try:
        return export_onnx(networks, config.training.loss, data.images.clean(rows).float().cpu(), path)
    except BundleError as error:
        logger.warning("%s", error)
        return None


def _changed(
    networks: list[torch.nn.Module],
    winner: Winner,
    data: TrialData,
    ended: CrossValidationEnded,
    test_time: tuple[TestTime, ...],
) -> OutOfFold:
    """The out-of-fold predictions once more, as means over changes of the signals."""
    known = ended.out_of_fold
    probabilities = np.empty_like(known.probabilities)
    for fold, network in enumerate(networks):
        rows = np.flatnonzero(known.fold == fold)
        parts = [
            predict_probabilities(
                [network],
                partial(data.images.changed, change=change),
                torch.from_numpy(known.row[rows]),
                training=winner.config.training,
                device=data.images.device,
            )
            for change in changes(test_time, [winner.config.input])
        ]
        probabilities[rows] = np.mean(parts, axis=0)
    return replace(known, probabilities=probabilities)


def _scores(
    winner: Winner,
    workspace: Workspace,
    networks: list[torch.nn.Module],
    data: TrialData,
    ended: CrossValidationEnded,
) -> Scores:
    held_out = predict_probabilities(
        [network.to(workspace.device) for network in networks],
        data.images.clean,
        torch.from_numpy(data.held_out_rows),
        training=winner.config.training,
        device=workspace.device,
    )
    return scores_of(
        ended,
        data,
        held_out_probabilities=held_out,
        search_kl=winner.value,
        search_corrected=winner.corrected,
    )
