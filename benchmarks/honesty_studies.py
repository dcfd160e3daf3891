"""Small whole studies on synthetic competitions: how far each number that people are shown is from the truth.

    python benchmarks/honesty_studies.py                       # hours; go on with the same line
    python benchmarks/honesty_studies.py --competitions 1 --patients 8 --truth 6 --trials 2 --epochs 1

A study sees a few of a competition's many patients; all others are held out of the whole search. ``SHOWN`` of
these are the held-out patients that a person would have, the others are the truth: so many that it is known
better than any score. ``STUDIES_OF_ONE`` studies draw their patients from one competition. A study is so many
random configurations of ``studies/smoke.yaml``; its leaders are trained again as ``hms-tune study confirm``
does, and its trials blended as ``export-best --blend`` does. A study that is done is a line of
``benchmarks/results/honesty_studies.jsonl`` and is not run again. Writes
``benchmarks/results/honesty_studies.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
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
from hms_tune.training.events import CrossValidationEnded, EpochScores, OutOfFold
from hms_tune.training.optimism.correction import Corrected, corrected
from hms_tune.training.scores import difference_interval, kl_per_row, patient_interval
from hms_tune.training.step.inference import predict_probabilities
from hms_tune.training.trial_data import TrialData
from hms_tune.training.workspace import Workspace

SHOWN = 6
"""Held-out patients that the person who searches would have."""

STUDIES_OF_ONE = 20
"""Studies that draw their patients from one competition."""

FIRST_COMPETITION = 1
"""Seed of the first studies' competition. Studies of competition 0 showed how wide intervals must be."""

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
    truth: int
    trials: int
    top: int
    seeds: int
    epochs: int


class Trained:
    """A configuration's networks, and what they predict out of fold and of the held-out patients."""

    def __init__(self, config: TrialConfig, workspace: Workspace, folder: Path) -> None:
        *_, ended = CrossValidation(config, workspace, directory=folder, keep_weights=True).run()
        assert isinstance(ended, CrossValidationEnded)
        assert ended.out_of_fold.epochs is not None
        self.config = config
        self.kl = ended.kl
        self.out_of_fold: OutOfFold = ended.out_of_fold
        self.epochs: EpochScores = ended.out_of_fold.epochs
        self._workspace = workspace
        paths = [fold_weights_path(folder, fold) for fold in range(len(ended.fold_kl))]
        self._networks = [load_network(config, path).to(workspace.device) for path in paths]
        self.data: TrialData = workspace.trial_data(config)

    @cached_property
    def held_out(self) -> Floats:
        """By each network: float64 (n_networks, n_rows, 6)."""
        return np.stack([self._predicted([network], unchanged) for network in self._networks])

    def held_out_swapped(self) -> Floats:
        """Of all networks together, the sides exchanged too: float64 (n_rows, 6)."""
        asked = changes(SWAP, [self.config.input])
        parts = [self._predicted(self._networks, change) for change in asked]
        return np.asarray(np.mean(parts, axis=0), np.float64)

    @cached_property
    def held_out_alone(self) -> Floats:
        """Mean over the networks of the KL of each row: float64 (n_rows,)."""
        targets = self.data.labels.targets[self.data.held_out_rows]
        return np.asarray(np.mean([kl_per_row(targets, one) for one in self.held_out], axis=0), np.float64)

    def _predicted(self, networks: Sequence[torch.nn.Module], change: SignalChange) -> Floats:
        images = self.data.images
        found = predict_probabilities(
            networks,
            images.clean if change is unchanged else partial(images.changed, change=change),
            torch.from_numpy(self.data.held_out_rows),
            training=self.config.training,
            device=self._workspace.device,
        )
        return found.astype(np.float64)


def competition(number: int, extent: Extent, scratch: Path) -> Workspace:
    """Synthesize one, unless it is there, and prepare it."""
    patients = extent.patients + SHOWN + extent.truth
    folder = scratch / f"competition-{number}-{patients}" / "hms"
    if not folder.exists():
        seed = FIRST_COMPETITION + number
        synthetic.synthesize(folder, patients=patients, seed=seed, extent=RECORDINGS)
    return Workspace(prepare(folder), torch.device("cpu"))


def study(seed: int, extent: Extent, workspace: Workspace, arrays: Path | None) -> dict[str, Any]:
    """One study of a competition: what is stated, and what is true."""
    with tempfile.TemporaryDirectory(prefix="hms-tune-") as scratch:
        folder = Path(scratch)
        configs = draw(seed, extent)
        trials = [Trained(each, workspace, folder / f"{number}") for number, each in enumerate(configs)]
        ranked = sorted(range(len(trials)), key=lambda number: trials[number].kl)
        runs: dict[int, list[Trained]] = {number: [] for number in ranked[: extent.top]}
        for turn in range(extent.seeds):
            for number, made in runs.items():
                config = fresh(configs[number], seed, turn)
                made.append(Trained(config, workspace, folder / f"{number}-{turn}"))
        if arrays is not None:
            keep(arrays / f"{seed}.npz", seed, trials, runs)
        return measured(seed, extent, trials, ranked, runs)


def draw(seed: int, extent: Extent) -> list[TrialConfig]:
    """Random configurations of the smoke search."""
    space = load_study_file("studies/smoke.yaml").space
    sampler = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = []
    for _ in range(extent.trials):
        drawn = suggest(space, sampler.ask())
        held = extent.truth + SHOWN
        holdout = held / (held + extent.patients)
        data = drawn.data.model_copy(update={"holdout": holdout, "fold_seed": seed})
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
    ranked: Sequence[int],
    runs: Mapping[int, Sequence[Trained]],
) -> dict[str, Any]:
    """The line of a study."""
    best = trials[ranked[0]]
    scores = {
        number: {turn: RowScores.of(each.out_of_fold, all_rows=True) for turn, each in enumerate(made)}
        for number, made in runs.items()
    }
    confirmed = rank({number: trials[number].kl for number in runs}, scores).winner
    assert confirmed is not None
    others = [made for number, made in runs.items() if number != confirmed.trial]
    search = _corrected([[trials[number]] for number in ranked])
    epochs_only = _corrected([[best]])
    again = _corrected([runs[confirmed.trial], *others])
    targets, shown, patients = held_out(best, seed)
    tables = [averaged(trial.out_of_fold) for trial in trials]
    blending = choose_blend(
        np.stack([each.probabilities for each in tables]), tables[0].targets, tables[0].patient_id
    )
    members = [place for place, weight in enumerate(blending.weights) if weight > 0.0]
    weights = [blending.weights[place] for place in members]
    arms = (
        best.held_out.mean(axis=0),
        trials[confirmed.trial].held_out.mean(axis=0),
        mix(np.stack([trials[place].held_out.mean(axis=0) for place in members]), weights),
        mix(np.stack([trials[place].held_out_swapped() for place in members]), weights),
    )
    kl = {name: kl_per_row(targets, arm) for name, arm in zip(ARMS, arms, strict=True)}
    folds = float(best.held_out_alone[~shown].mean())
    confirmed_folds = float(np.mean([run.held_out_alone[~shown].mean() for run in runs[confirmed.trial]]))
    return {
        "seed": seed,
        **asdict(extent),
        "stated": {
            "search": best.kl,
            "search, epochs corrected": epochs_only.kl,
            "search, corrected": search.kl,
            "confirmed": confirmed.kl,
            "confirmed, corrected": again.kl,
            "blend": blending.kl,
        },
        "interval": {
            "search": RowScores.of(best.out_of_fold, all_rows=True).interval,
            "search, epochs corrected": epochs_only.interval,
            "search, corrected": search.interval,
            "confirmed": confirmed.interval,
            "confirmed, corrected": again.interval,
            "blend": blending.interval,
            "shown": patient_interval(kl[ARMS[0]][shown], patients[shown]),
        },
        "true_of_folds": folds,
        "true_of_confirmed_folds": confirmed_folds,
        "true": {name: float(values[~shown].mean()) for name, values in kl.items()},
        "gain": {
            name: difference_interval(kl[ARMS[0]][~shown], kl[name][~shown], patients[~shown])
            for name in ARMS[1:]
        },
    }


def _corrected(candidates: Sequence[Sequence[Trained]]) -> Corrected:
    found = corrected([[run.epochs for run in runs] for runs in candidates])
    assert found is not None
    return found


def held_out(trial: Trained, seed: int) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """Targets of the held-out rows, which of them are of patients that are shown, and whose they are."""
    rows = trial.data.held_out_rows
    patients = trial.data.labels.patient_id[rows]
    shown = np.random.default_rng(seed).permutation(np.unique(patients))[:SHOWN]
    return trial.data.labels.targets[rows], np.isin(patients, shown), patients


def keep(path: Path, seed: int, trials: Sequence[Trained], runs: Mapping[int, Sequence[Trained]]) -> None:
    """Write what was measured of each patient, for other corrections to be tried on."""
    values: dict[str, Any] = {}
    named = {f"{number}": trial for number, trial in enumerate(trials)}
    named |= {f"{number}-{turn}": each for number, made in runs.items() for turn, each in enumerate(made)}
    for name, trial in named.items():
        values |= {f"{name} {each}": getattr(trial.epochs, each) for each in EpochScores.__dataclass_fields__}
        shown = held_out(trial, seed)[1]
        values |= {f"{name} stated": trial.kl, f"{name} true": trial.held_out_alone[~shown].mean()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **values)


def done(extent: Extent) -> dict[int, dict[str, Any]]:
    """Competitions that have been run at this size, by their seeds."""
    lines = LINES.read_text(encoding="utf-8").splitlines() if LINES.exists() else []
    found = [json.loads(line) for line in lines]
    return {each["seed"]: each for each in found if asdict(extent).items() <= each.items()}


def report(found: Sequence[dict[str, Any]], extent: Extent) -> list[str]:
    """The page: optimism of each number, coverage of its interval, the arms on the first competitions."""
    truths = {
        "search": [each["true_of_folds"] for each in found],
        "confirmed": [each["true_of_confirmed_folds"] for each in found],
        "blend": [each["true"]["blend"] for each in found],
        "shown": [each["true"][ARMS[0]] for each in found],
    }
    scores = []
    for name in found[0]["interval"]:
        truth = np.array(truths[name.partition(",")[0]])
        low, high = np.array([each["interval"][name] for each in found]).T
        inside = f"{((low <= truth) & (truth <= high)).sum()} of {len(found)}"
        off = ["–", "–"]
        if name in found[0]["stated"]:
            above = truth - np.array([each["stated"][name] for each in found])
            off = [f"{above.mean():+.3f}", f"{above.std(ddof=1):.3f}" if len(above) > 1 else "–"]
        sides = f"{(truth < low).sum()} below, {(truth > high).sum()} above"
        scores.append([name, *off, inside, sides, f"{np.median(high - low):.2f}"])
    gains = []
    for name in ARMS[1:]:
        gain = np.array([each["true"][ARMS[0]] - each["true"][name] for each in found])
        clear = sum(each["gain"][name][0] > 0.0 for each in found)
        worse = sum(each["gain"][name][1] < 0.0 for each in found)
        counts = [f"{(gain > 0).sum()}", f"{(gain < 0).sum()}", f"{clear}", f"{worse}"]
        gains.append([name, f"{gain.mean():+.3f}", f"{np.median(gain):+.3f}", *counts])
    arms = []
    for each in [each for each in found if each["seed"] % STUDIES_OF_ONE == 0]:
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
        f"truth is the KL of {extent.truth} patients that no part of a study has seen: for a score of the "
        "search or a confirmation that of its networks one by one, as out-of-fold predictions are; for a "
        f"blend and the {SHOWN} held-out patients that are shown that of the averaged networks.",
        "",
        "By how much the truth is above what is stated, in the mean, with its standard deviation; and how "
        "often the interval, which says 95 %, holds the truth:",
        "",
        *table(["stated", "truth above it", "std", "interval holds", "else the truth is", "width"], scores),
        "",
        f"What is gained over the plain winner on the patients of the truth, in {len(found)} studies; "
        "clearly: the 95 % interval of that study is on one side of zero.",
        "",
        *table(["arm", "mean", "median", "better", "worse", "clearly better", "clearly worse"], gains),
        "",
        "The first study of each competition; in brackets the interval of the gain over the plain winner:",
        "",
        *table(["study", *ARMS], arms),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has not been run, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--competitions", type=int, default=40)
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--truth", type=int, default=160)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="for a second process: where it begins")
    parser.add_argument("--scratch", type=Path, help="keep competitions there, for the next process")
    parser.add_argument("--arrays", type=Path, help="also keep what is measured of each patient there")
    given = parser.parse_args(arguments)
    extent = Extent(given.patients, given.truth, given.trials, given.top, given.seeds, given.epochs)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    for number in range(given.first // STUDIES_OF_ONE, 1 + (given.competitions - 1) // STUDIES_OF_ONE):
        seeds = range(number * STUDIES_OF_ONE, min((number + 1) * STUDIES_OF_ONE, given.competitions))
        waiting = [seed for seed in seeds if seed >= given.first and seed not in done(extent)]
        if not waiting:
            continue
        with tempfile.TemporaryDirectory(prefix="hms-tune-") as scratch:
            workspace = competition(number, extent, given.scratch or Path(scratch))
            for seed in waiting:
                if seed in done(extent):  # a second process was faster
                    continue
                line = study(seed, extent, workspace, given.arrays)
                with LINES.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                show(f"study {seed}: stated {line['stated']}, true {line['true_of_folds']}")
    lines = report([each for _, each in sorted(done(extent).items())], extent)
    show("\n".join(lines))
    write_result("honesty_studies", lines)


if __name__ == "__main__":
    main()
