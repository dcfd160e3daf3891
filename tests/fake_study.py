"""A study with something to look at, made in a moment: a real slot and database, a fake for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from slots import a_slot
from stories import EPOCHS, FOLDS, a_fold_end, a_fold_start, an_ending, an_epoch

from hms_tune.config.study_file import StudyFile
from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage
from hms_tune.errors import DataError
from hms_tune.studies.record_writer import Equipment, TrialRecorder
from hms_tune.training.events import Event, OutOfFold
from hms_tune.training.observer import Observer
from hms_tune.training.scores import kl_divergence
from hms_tune.worker.open_study import join_search
from hms_tune.worker.slot_process import run_url

ROWS = 40

STUDY = """
study: {name}
data: {{folds: 2}}
training:
  epochs: 3
  learning_rate: {{low: 1.0e-4, high: 1.0, log: true}}
  batch_size: {{choices: [16, 32]}}
model: {{backbone: test_resnet, pretrained: false}}
search: {{sampler: random, seed: 4, pruner: {{name: median, startup_trials: 2, warmup_epochs: 1}}}}
budget: {{trials: {trials}}}
tracking: {{wandb: {{mode: off}}}}
"""


def predictions(spread: float) -> OutOfFold:
    """Predictions that are the worse the larger ``spread`` is."""
    generator = np.random.default_rng(0)
    targets = generator.dirichlet(np.full(6, 0.3), ROWS).astype(np.float32)
    noise = generator.dirichlet(np.ones(6), ROWS).astype(np.float32)
    weight = min(0.9, 0.1 + spread)
    rows = np.arange(ROWS)
    return OutOfFold(
        row=rows,
        eeg_id=1000 + rows,
        patient_id=rows // 4,
        fold=rows % FOLDS,
        probabilities=(1 - weight) * targets + weight * noise,
        targets=targets,
        total_votes=generator.integers(1, 20, ROWS),
    )


def train(config: TrialConfig, directory: Path) -> Iterator[Event]:
    """The best learning rate is 0.01; beyond 0.3 the data is said to be damaged."""
    distance = abs(float(np.log10(config.training.learning_rate)) + 2.0) / 3.0
    if config.training.learning_rate > 0.3:
        raise DataError("a file is missing", where="train_eegs/1.parquet", hint="Run hms-tune data check")
    out_of_fold = predictions(distance)
    kl = kl_divergence(out_of_fold.targets, out_of_fold.probabilities)
    for fold in range(FOLDS):
        yield a_fold_start(fold)
        for epoch in range(EPOCHS):
            score = kl + 0.02 * fold + 0.1 * (EPOCHS - 1 - epoch)
            rate = config.training.learning_rate
            yield an_epoch(
                fold, epoch, kl=score, train_loss=0.8 * score, learning_rate=rate, images=80, seconds=0.25
            )
        yield a_fold_end(fold, kl=score)
    yield an_ending(
        kl + 0.01,
        kl_all_rows=kl,
        kl_high_vote=kl,
        fold_kl=(kl, kl + 0.02),
        best_epochs=(EPOCHS - 1,) * FOLDS,
        predictions=out_of_fold,
    )


def run_study(
    storage: Storage, name: str, folder: Path, *, trials: int = 14, observers: Sequence[Observer] = ()
) -> None:
    """Run a study of that many trials; some are pruned, a few may fail."""
    search = join_search(storage, StudyFile.parse(STUDY.format(name=name, trials=trials), "studies/a.yaml"))
    place = Equipment("cpu", 0.0, "0123456789abcdef" * 4)
    recorder = TrialRecorder(storage, search.study_id, place, run_url=lambda trial: run_url(observers, trial))
    a_slot(storage, search, train, folder, observers=[*observers, recorder]).run()
    recorder.close()
