"""A search written down: the learning curves of many drawn configurations, for ``search.py`` to replay.

Configurations are drawn by the product's own random sampler from :data:`SPACE` (the shape of
``studies/effnet.yaml``, on timm's test models) and trained by the product's own loop on a synthetic
competition, every fold to its last epoch, so that any rule can be replayed on what they did.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.data.store.prepare import prepare
from hms_tune.data.synthetic import synthesize
from hms_tune.errors import HmsTuneError
from hms_tune.search.random_draws import CountedRandomSampler
from hms_tune.search.suggest import suggest
from hms_tune.training.fold import FoldTraining
from hms_tune.training.scores import kl_per_row
from hms_tune.training.trial_data import TrialData
from hms_tune.training.workspace import Workspace

Floats = NDArray[np.float64]

SPACE = """
study: tabulated
data: {folds: 5, holdout: 0.5, rows: eeg, min_votes: 1}
input:
  eeg: {choices: [{name: stft, n_fft: 256}, {name: mel, n_fft: 512, n_mels: 64}]}
  image: [16, 32]
  channels: 1
augmentation:
  time_mask: {low: 0.0, high: 0.3, step: 0.1}
  mixup_alpha: {choices: [0.0, {low: 0.1, high: 2.0, log: true}]}
model:
  backbone: {choices: [test_efficientnet, test_resnet]}
  pretrained: false
  frozen_layers: {choices: [0, 1, 2]}
  pooling: {choices: [avg, gem]}
  dropout: {low: 0.0, high: 0.5}
  drop_path: {low: 0.0, high: 0.3}
training:
  epochs: 10
  batch_size: {choices: [32, 64]}
  learning_rate: {low: 1.0e-4, high: 3.0e-2, log: true}
  weight_decay: {low: 1.0e-5, high: 5.0e-2, log: true}
  backbone_lr_ratio: {low: 0.1, high: 1.0, log: true}
  optimizer: {choices: [adamw, sgd]}
  scheduler:
    choices:
      - {name: cosine, warmup: {low: 0.0, high: 0.1}}
      - {name: one_cycle, rise: {low: 0.1, high: 0.4}}
      - {name: plateau, patience: {low: 1, high: 3}, warmup: 0.05}
  label_smoothing: {low: 0.0, high: 0.1}
  grad_clip: 1.0
  ema_decay: {choices: [null, 0.9]}
budget: {trials: 1000}
search: {sampler: random, pruner: none, seed: SEED}
"""
BLOCK = 20


@dataclass(frozen=True)
class Curves:
    """What one configuration did; the arrays are of shape (folds, epochs) but for the last two.

    ``seconds`` are CPU seconds, which neighbours on the machine hardly disturb. ``patient_kl`` is the mean KL
    of each patient at each epoch of the fold that validates it, ``held_out`` the KL of the folds' mean
    prediction on the patients that no fold sees.
    """

    kl: Floats
    seconds: Floats
    patient_kl: Floats
    held_out: float


CURVES = tuple(Curves.__dataclass_fields__)


def tabulate(
    folder: Path, out: Path, *, configurations: int, patients: int, seed: int, minutes: float
) -> None:
    """Write a table of so many configurations, or of those that fit into the time.

    A table that is there already goes on from what it holds.

    Parameters
    ----------
    folder : where the synthetic competition is, or is to be written
    out : the table, ``.npz``
    configurations : how many are drawn; the first of more are the same
    patients, seed : of the synthetic competition; the seed is also that of the draw
    """
    torch.set_num_threads(1)
    if not folder.exists():
        synthesize(folder, patients=patients, seed=seed)
    workspace = Workspace(prepare(folder), torch.device("cpu"))
    text = SPACE.replace("SEED", str(seed))
    study_file = StudyFile.parse(text, "benchmarks/search_table.py")
    study = optuna.create_study(sampler=CountedRandomSampler(seed))
    trials = [study.ask() for _ in range(configurations)]
    configs = [suggest(study_file.space, trial) for trial in trials]
    deadline = time.monotonic() + 60 * minutes
    rows = read(out)
    known = set(rows["params"])
    # Blocks sorted by input: images are made seldom, and what fits into the time is a fair sample.
    blocks = [range(start, min(start + BLOCK, len(configs))) for start in range(0, len(configs), BLOCK)]
    for number in (n for block in blocks for n in sorted(block, key=lambda n: str(configs[n].input))):
        params = json.dumps(trials[number].params)
        if params in known:
            continue
        if time.monotonic() > deadline:
            break
        data = workspace.trial_data(configs[number])
        try:
            curves = train(configs[number], workspace, data)
        except HmsTuneError as error:
            print(number, error, flush=True)  # noqa: T201
            continue
        rows["params"].append(params)
        for name in CURVES:
            rows[name].append(getattr(curves, name))
        write(out, rows, data, text)
        print(f"{len(rows['params'])} of {configurations}", flush=True)  # noqa: T201


def read(out: Path) -> dict[str, list[Any]]:
    """What is known of each configuration of a table; nothing where there is none yet."""
    if not out.exists():
        return {name: [] for name in ("params", *CURVES)}
    with np.load(out) as stored:
        return {name: list(stored[name]) for name in ("params", *CURVES)}


def train(config: TrialConfig, workspace: Workspace, data: TrialData) -> Curves:
    """Train every fold of a configuration to its last epoch."""
    folds, epochs = config.data.trained_folds, config.training.total_epochs
    patients = np.unique(data.labels.patient_id)
    kl, seconds = np.zeros((folds, epochs)), np.zeros((folds, epochs))
    patient_kl = np.full((epochs, len(patients)), np.nan)
    held_out = data.held_out_rows
    blend = np.zeros((len(held_out), data.labels.targets.shape[1]))
    for fold in range(folds):
        train_rows, validation = data.fold_rows(fold)
        learner = workspace.learners.lend(config)
        training = FoldTraining(config, data, learner, fold=fold, train_rows=train_rows)
        index = np.searchsorted(patients, data.labels.patient_id[validation])
        mine = np.unique(index)
        best = training.judged_weights()
        for epoch in range(epochs):
            start = time.process_time()
            training.train_epoch(epoch)
            predictions = training.predict(validation)
            kl[fold, epoch] = data.judge(validation, predictions).kl
            training.epoch_validated(epoch, kl[fold, epoch])
            seconds[fold, epoch] = time.process_time() - start
            per_row = kl_per_row(data.labels.targets[validation], predictions)
            patient_kl[epoch, mine] = (np.bincount(index, per_row) / np.maximum(np.bincount(index), 1))[mine]
            if kl[fold, epoch] == kl[fold, : epoch + 1].min():
                best = training.judged_weights()
        learner.judged_network.load_state_dict(best)
        blend += training.predict(held_out) / folds
    return Curves(kl, seconds, patient_kl, float(kl_per_row(data.labels.targets[held_out], blend).mean()))


def write(out: Path, rows: dict[str, list[Any]], data: TrialData, space: str) -> None:
    """Write what there is of a table, with what is known of its folds before any training."""
    folds = int(data.folds[0].max()) + 1
    prior_kl, validation_rows = [], []
    for fold in range(folds):
        train_rows, validation = data.fold_rows(fold)
        mean = data.labels.targets[train_rows].mean(axis=0)
        targets = data.labels.targets[validation]
        prior_kl.append(kl_per_row(targets, np.broadcast_to(mean, targets.shape)).mean())
        validation_rows.append(len(validation))
    patients, first = np.unique(data.labels.patient_id, return_index=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        space=space,
        params=np.array(rows["params"]),
        kl=np.array(rows["kl"], np.float32),
        seconds=np.array(rows["seconds"], np.float16),
        patient_kl=np.array(rows["patient_kl"], np.float16),
        held_out=np.array(rows["held_out"], np.float32),
        patient_fold=data.folds[0][first].astype(np.int8),
        patient_rows=np.bincount(np.searchsorted(patients, data.labels.patient_id)).astype(np.int16),
        prior_kl=np.array(prior_kl),
        validation_rows=np.array(validation_rows),
    )
    partial.replace(out)
