"""Small whole studies on synthetic competitions: how far each number that people are shown is from the truth.

    python benchmarks/honesty_studies.py                       # hours; go on with the same line
    python benchmarks/honesty_studies.py --competitions 1 --patients 8 --trials 2 --seeds 1 --epochs 1

Each competition has twice as many patients as the study sees. Half of them are held out of the whole search:
the first ``SHOWN`` of these are the held-out patients that a person would have, the others are the truth. A
study is so many random configurations of ``studies/smoke.yaml``; its leaders are trained again as
``hms-tune study confirm`` does, and its trials blended as ``export-best --blend`` does. A competition that is
done is a line of ``benchmarks/results/honesty_studies.jsonl`` and is not run again. Writes
``benchmarks/results/honesty_studies.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from machine import RESULTS, show, table, write_result
from numpy.typing import NDArray

from hms_tune.config.augmentation import TestTime
from hms_tune.config.study_file import load_study_file
from hms_tune.config.trial import TrialConfig
from hms_tune.data import synthetic
from hms_tune.data.store.prepare import prepare
from hms_tune.export.blend_weights import choose_blend, mix
from hms_tune.export.bundle import load_network
from hms_tune.export.confirmation.race import RowScores, rank
from hms_tune.export.out_of_fold import averaged
from hms_tune.export.test_time import SignalChange, changes, unchanged
from hms_tune.search.random_draws import derived_seed
from hms_tune.search.suggest import suggest
from hms_tune.training.checkpoint import fold_weights_path
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.events import CrossValidationEnded, OutOfFold
from hms_tune.training.scores import difference_interval, kl_per_row, patient_interval
from hms_tune.training.step.inference import predict_probabilities
from hms_tune.training.trial_data import TrialData
from hms_tune.training.workspace import Workspace

SHOWN = 6
"""Held-out patients that the person who searches would have."""

ARMS = ("plain winner", "confirmed winner", "blend", "blend, swapped too")
SWAP: tuple[TestTime, ...] = ("swap",)
RECORDINGS = synthetic.Extent(max_recordings=2, max_seconds=60, test_patients=1)
"""Of each patient: short ones, so that a study takes minutes."""

LINES = RESULTS / "honesty_studies.jsonl"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Extent:
    """How large each study is; what stands in a result's line to tell it from others."""

    patients: int
    trials: int
    top: int
    seeds: int
    epochs: int


class Trained:
    """A configuration's networks, and what they predict out of fold and of the held-out patients."""

    def __init__(self, config: TrialConfig, workspace: Workspace, folder: Path) -> None:
        *_, ended = CrossValidation(config, workspace, directory=folder, keep_weights=True).run()
        assert isinstance(ended, CrossValidationEnded)
        self.config = config
        self.kl = ended.kl
        self.out_of_fold: OutOfFold = ended.out_of_fold
        self._workspace = workspace
        paths = [fold_weights_path(folder, fold) for fold in range(len(ended.fold_kl))]
        self._networks = [load_network(config, path).to(workspace.device) for path in paths]
        self.data: TrialData = workspace.trial_data(config)

    def held_out(self, *, swapped: bool = False) -> Floats:
        """Of all networks together: float64 (n_rows, 6)."""
        asked = changes(SWAP, [self.config.input]) if swapped else [unchanged]
        parts = [self._predicted(self._networks, change) for change in asked]
        return np.asarray(np.mean(parts, axis=0), np.float64)

    def held_out_alone(self) -> Floats:
        """Mean over the networks of the KL of each row: float64 (n_rows,)."""
        rows = self.data.held_out_rows
        each = [self._predicted([network], unchanged) for network in self._networks]
        kl = [kl_per_row(self.data.labels.targets[rows], one) for one in each]
        return np.asarray(np.mean(kl, axis=0), np.float64)

    def _predicted(self, networks: Sequence[torch.nn.Module], change: SignalChange) -> Floats:
        found = predict_probabilities(
            networks,
            partial(self.data.images.changed, change=change),
            torch.from_numpy(self.data.held_out_rows),
            training=self.config.training,
            device=self._workspace.device,
        )
        return found.astype(np.float64)


def study(seed: int, extent: Extent) -> dict[str, Any]:
    """One competition and one study of it: what is stated, and what is true."""
    with tempfile.TemporaryDirectory(prefix="hms-tune-") as scratch:
        folder = Path(scratch)
        synthetic.synthesize(folder / "hms", patients=2 * extent.patients, seed=seed, extent=RECORDINGS)
        workspace = Workspace(prepare(folder / "hms"), torch.device("cpu"))
        configs = draw(seed, extent)
        trials = [Trained(each, workspace, folder / f"{number}") for number, each in enumerate(configs)]
        ranked = sorted(range(len(trials)), key=lambda number: trials[number].kl)
        leaders = ranked[: extent.top]
        runs: dict[int, dict[int, RowScores]] = {number: {} for number in leaders}
        for turn in range(extent.seeds):
            for number in leaders:
                again = Trained(fresh(configs[number], seed, turn), workspace, folder / f"{number}-{turn}")
                runs[number][turn] = RowScores.of(again.out_of_fold, all_rows=True)
        confirmed = rank({number: trials[number].kl for number in leaders}, runs).winner
        assert confirmed is not None
        return measured(seed, extent, trials, ranked[0], confirmed.trial, confirmed.kl)


def draw(seed: int, extent: Extent) -> list[TrialConfig]:
    """Random configurations of the smoke search."""
    space = load_study_file("studies/smoke.yaml").space
    sampler = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = []
    for _ in range(extent.trials):
        drawn = suggest(space, sampler.ask())
        data = drawn.data.model_copy(update={"holdout": 0.5})
        training = drawn.training.model_copy(update={"epochs": extent.epochs})
        found.append(drawn.model_copy(update={"data": data, "training": training}))
    return found


def fresh(config: TrialConfig, seed: int, turn: int) -> TrialConfig:
    """A configuration as a confirmation runs it: another seed, folds of its own."""
    training = config.training.model_copy(update={"seed": derived_seed("confirm", seed, turn) % 2**31})
    return config.model_copy(
        update={"training": training, "data": config.data.model_copy(update={"reshuffle": True})}
    )


def measured(
    seed: int,
    extent: Extent,
    trials: Sequence[Trained],
    best: int,
    confirmed: int,
    confirmed_kl: float | None,
) -> dict[str, Any]:
    """The line of a competition."""
    data = trials[best].data
    rows = data.held_out_rows
    targets, patients = data.labels.targets[rows], data.labels.patient_id[rows]
    shown = np.isin(patients, np.unique(patients)[:SHOWN])
    tables = [averaged(trial.out_of_fold) for trial in trials]
    blending = choose_blend(
        np.stack([each.probabilities for each in tables]), tables[0].targets, tables[0].patient_id
    )
    plain = np.stack([trial.held_out() for trial in trials])
    swapped = np.stack([trial.held_out(swapped=True) for trial in trials])
    arms = (plain[best], plain[confirmed], mix(plain, blending.weights), mix(swapped, blending.weights))
    kl = {name: kl_per_row(targets, arm) for name, arm in zip(ARMS, arms, strict=True)}
    alone = trials[best].held_out_alone()
    out_of_fold = RowScores.of(trials[best].out_of_fold, all_rows=True)
    return {
        "seed": seed,
        **asdict(extent),
        "stated": {"search": trials[best].kl, "confirmed": confirmed_kl, "blend": blending.kl},
        "true_of_folds": float(alone[~shown].mean()),
        "true_of_confirmed_folds": float(trials[confirmed].held_out_alone()[~shown].mean()),
        "out_of_fold_interval": out_of_fold.interval,
        "shown_interval": patient_interval(kl[ARMS[0]][shown], patients[shown]),
        "true": {name: float(values[~shown].mean()) for name, values in kl.items()},
        "gain": {
            name: difference_interval(kl[ARMS[0]][~shown], kl[name][~shown], patients[~shown])
            for name in ARMS[1:]
        },
    }


def done(extent: Extent) -> dict[int, dict[str, Any]]:
    """Competitions that have been run at this size, by their seeds."""
    lines = LINES.read_text(encoding="utf-8").splitlines() if LINES.exists() else []
    found = [json.loads(line) for line in lines]
    return {each["seed"]: each for each in found if asdict(extent).items() <= each.items()}


def report(found: Sequence[dict[str, Any]], extent: Extent) -> list[str]:
    """The page: optimism of each number, coverage of each interval, the arms on the first competitions."""

    def optimism(name: str, truth: Sequence[float]) -> list[str]:
        off = np.array([true - each["stated"][name] for each, true in zip(found, truth, strict=True)])
        return [name, f"{off.mean():+.3f}", f"{off.std(ddof=1):.3f}" if len(off) > 1 else "–"]

    def held(interval: str, truth: Sequence[float]) -> list[str]:
        inside = [
            each[interval][0] <= true <= each[interval][1] for each, true in zip(found, truth, strict=True)
        ]
        return [interval.replace("_", " "), f"{sum(inside)} of {len(inside)}"]

    folds = [each["true_of_folds"] for each in found]
    blends = [each["true"]["blend"] for each in found]
    confirmed = [each["true_of_confirmed_folds"] for each in found]
    plain = [each["true"][ARMS[0]] for each in found]
    gains = []
    for name in ARMS[1:]:
        gain = np.array([each["true"][ARMS[0]] - each["true"][name] for each in found])
        clear = sum(each["gain"][name][0] > 0.0 for each in found)
        worse = sum(each["gain"][name][1] < 0.0 for each in found)
        counts = [f"{(gain > 0).sum()}", f"{(gain < 0).sum()}", f"{clear}", f"{worse}"]
        gains.append([name, f"{gain.mean():+.3f}", f"{np.median(gain):+.3f}", *counts])
    arms = []
    for each in found[:3]:
        cells = [f"{each['true'][ARMS[0]]:.4f}"]
        for name in ARMS[1:]:
            low, high = each["gain"][name]
            cells.append(f"{each['true'][name]:.4f} ({low:+.3f} to {high:+.3f})")
        arms.append([str(each["seed"]), *cells])
    return [
        "# Whole studies on synthetic competitions",
        "",
        f"`python benchmarks/honesty_studies.py --competitions {len(found)} --patients {extent.patients} "
        f"--trials {extent.trials} --top {extent.top} --seeds {extent.seeds} --epochs {extent.epochs}`. The "
        f"truth is the KL of {extent.patients - SHOWN} patients that no part of a study has seen.",
        "",
        "By how much the truth is above what is stated, in the mean, with its standard deviation:",
        "",
        *table(
            ["stated", "truth above it", "std"],
            [optimism("search", folds), optimism("confirmed", confirmed), optimism("blend", blends)],
        ),
        "",
        f"How often an interval that says 95 % holds the truth (`shown` are {SHOWN} held-out patients):",
        "",
        *table(["interval", "holds"], [held("out_of_fold_interval", folds), held("shown_interval", plain)]),
        "",
        f"What is gained over the plain winner on the patients of the truth, in {len(found)} competitions; "
        "clearly: the 95 % interval of that competition is on one side of zero.",
        "",
        *table(["arm", "mean", "median", "better", "worse", "clearly better", "clearly worse"], gains),
        "",
        "The first competitions, one by one; in brackets the interval of the gain over the plain winner:",
        "",
        *table(["competition", *ARMS], arms),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--competitions", type=int, default=40)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args(arguments)
    extent = Extent(given.patients, given.trials, given.top, given.seeds, given.epochs)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for seed in range(given.competitions):
        if seed in done(extent):
            continue
        line = study(seed, extent)
        with LINES.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        show(f"competition {seed}: stated {line['stated']}, true {line['true']}")
    found = done(extent)
    lines = report([found[seed] for seed in range(given.competitions)], extent)
    show("\n".join(lines))
    write_result("honesty_studies", lines)


if __name__ == "__main__":
    main()
