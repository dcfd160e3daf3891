"""What leases, the spool and checkpoints cost a trial to which nothing happens.

    python benchmarks/overhead.py                # about five minutes on two CPU cores
    python benchmarks/overhead.py --repeats 1    # a quick look

The smoke study with a backbone that has something to do and nothing to choose, one trial a run. Three arms:

* **off**: ``CrossValidation`` alone, in this process: no database, no lease, no reports, no checkpoints.
* **on**: the slot of a worker with a worker's own settings, on an embedded PostgreSQL: claim, ask, a lease
  that is renewed, every report through the spool, records of the trial, checkpoints on the disk and in the
  store, tell.
* **on, dense** (with ``--dense``): a checkpoint after every epoch and a renewal every two seconds, to show
  what one of them costs.

A run lasts for about two checkpoints at a worker's distance between them, half a minute. Joining the study,
once in a worker's life, is not counted. All arms run in one process on one workspace whose caches are warm,
in rotating order, and train the same trial with the same seed: that their KL agrees to the last bit is
asserted. A ratio compares two runs of the same round. CPU time is this process's and the whole database
server's; on a machine that is shared it says more than the wall clock. The CPU is the harder place for it: on
a GPU the host has time left over.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import DatabaseServer, cpu_seconds, device_name, median, show, table, write_result

TARGET = 0.02
DENSE_LEASE_S = 18.0
"""Renewed every ninth of it."""


@dataclass
class Run:
    """One run of one arm; seconds."""

    wall: float
    cpu: float
    kl: float
    epochs: list[float]
    checkpoints: int = 0


@dataclass
class Told:
    """Observer: what a trial came to."""

    kl: float = float("nan")
    epochs: list[float] = field(default_factory=list)
    checkpoints: int = 0

    def trial_started(self, trial: Any) -> None:
        """Nothing to note."""

    def event(self, trial: Any, event: Any) -> None:
        """Note how long epochs take and how many checkpoints there are."""
        kind = type(event).__name__
        if kind == "EpochEnded":
            self.epochs.append(event.seconds)
        self.checkpoints += kind == "CheckpointWritten"

    def trial_ended(self, trial: Any, state: str, value: float | None, reason: str | None) -> None:
        """Note the score."""
        if state != "complete" or value is None:
            raise RuntimeError(f"trial {trial.trial}: {state} ({reason})")
        self.kl = value

    def close(self) -> None:
        """Nothing is held open."""


class Bench:
    """The trial, the workspace and the database that all arms share."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        import torch

        from hms_tune.config.study_file import StudyFile
        from hms_tune.data.store.prepare import prepare
        from hms_tune.data.synthetic import Extent, synthesize
        from hms_tune.database.connect import open_storage
        from hms_tune.database.embedded.server import start_embedded
        from hms_tune.machine.cores import cpu_threads
        from hms_tune.machine.device import resolve_device
        from hms_tune.training.workspace import Workspace

        device = resolve_device(asked.device)
        if device.type == "cpu":
            torch.set_num_threads(cpu_threads(1))
        root = folder / "competition"
        show(f"writing a synthetic competition of {asked.patients} patients")
        synthesize(root, patients=asked.patients, extent=Extent(test_patients=1, max_seconds=60))
        self.asked = asked
        self.store = prepare(root)
        self.workspace = Workspace(self.store, device)
        self.device = str(device)
        self.folder = folder
        self.storage = open_storage(start_embedded(folder / "postgres"))
        self.server = DatabaseServer(folder / "postgres")
        self.parse = StudyFile.parse
        self.n_runs = 0

    def run(self, arm: str, *, epochs: int) -> Run:
        """One run of an arm."""
        self.n_runs += 1
        name = f"overhead-{self.n_runs}"
        text = STUDY.format(backbone=self.asked.backbone, image=self.asked.image, epochs=epochs)
        study_file = self.parse(f"study: {name}\n{text}", name)
        work = self._off(study_file) if arm == "off" else self._on(study_file, dense="dense" in arm)
        server, cpu, began = self.server.cpu_seconds(), cpu_seconds(), time.perf_counter()
        told = work()
        wall = time.perf_counter() - began
        cpu = cpu_seconds() - cpu + self.server.cpu_seconds() - server
        return Run(wall, cpu, told.kl, told.epochs, told.checkpoints)

    def _off(self, study_file: Any) -> Callable[[], Told]:
        from hms_tune.search.suggest import config_of
        from hms_tune.training.cross_validation import CrossValidation

        config = config_of(study_file.space, {})

        def work() -> Told:
            told = Told()
            for event in CrossValidation(config, self.workspace).run():
                told.event(None, event)
                told.kl = getattr(event, "kl", told.kl)
            return told

        return work

    def _on(self, study_file: Any, *, dense: bool) -> Callable[[], Told]:
        from hms_tune.config.settings import DEFAULT_CHECKPOINT_SECONDS
        from hms_tune.database.queue.lease import LEASE_S, Holder
        from hms_tune.database.queue.study_queue import StudyQueue
        from hms_tune.machine.processes import this_process
        from hms_tune.studies.record_writer import Equipment, TrialRecorder
        from hms_tune.training.cross_validation import CrossValidation
        from hms_tune.worker.attempt import SlotSetup
        from hms_tune.worker.checkpoint_store.checkpoints import Artifacts
        from hms_tune.worker.open_study import join_search
        from hms_tune.worker.slot import Slot

        every_s = 0.0 if dense else DEFAULT_CHECKPOINT_SECONDS

        def train(config: Any, directory: Path) -> Iterator[Any]:
            return CrossValidation(
                config, self.workspace, directory=directory, checkpoint_every_s=every_s
            ).run()

        search = join_search(self.storage, study_file)
        place = Equipment(self.device, 0.0, self.store.manifest.digest)
        holder = Holder("benchmark", "slot", this_process())
        lease_s = DENSE_LEASE_S if dense else LEASE_S
        queue = StudyQueue(self.storage, search.study, search.study_id, holder, lease_s=lease_s)
        artifacts = Artifacts.at(self.folder / "artifacts", self.folder / "scratch", study_file.study)

        def work() -> Told:
            told = Told()
            recorder = TrialRecorder(self.storage, search.study_id, place)
            Slot(SlotSetup(queue, search, train, artifacts, observers=[told, recorder])).run()
            recorder.close()
            return told

        return work


STUDY = """\
data: {{folds: 3, holdout: 0.15, min_votes: 1}}
input: {{eeg: {{name: stft, n_fft: 256}}, image: {image}, channels: 1}}
model: {{backbone: {backbone}, pretrained: false, dropout: 0.1}}
training:
  epochs: {epochs}
  batch_size: 16
  learning_rate: 1.0e-3
  weight_decay: 0.01
  scheduler: {{name: cosine, warmup: 0.1}}
  grad_clip: 1.0
search: {{sampler: random, pruner: none}}
budget: {{trials: 1}}
tracking: {{wandb: {{mode: off}}}}
"""


def report(asked: argparse.Namespace, rounds: list[dict[str, Run]], command: str) -> tuple[list[str], bool]:
    """The result as Markdown, and whether the target is met."""
    import torch

    runs = {arm: [each[arm] for each in rounds] for arm in rounds[0]}
    met = True
    rows = []
    for arm in rounds[0]:
        walls, cpus = ([getattr(run, key) for run in runs[arm]] for key in ("wall", "cpu"))
        row = [arm, f"{median(walls):.2f} s", f"{median(cpus):.2f} s"]
        row.append(f"{median([float(run.checkpoints) for run in runs[arm]]):.0f}")
        if arm == "off":
            rows.append([*row, "", ""])
            continue
        for key in ("wall", "cpu"):
            ratios = [getattr(each[arm], key) / getattr(each["off"], key) - 1.0 for each in rounds]
            row.append(f"{median(ratios):+.1%} [{min(ratios):+.1%}, {max(ratios):+.1%}]")
            met = met and not (arm == "on" and median(ratios) > TARGET)
        rows.append(row)
    epoch = median([seconds for run in runs["off"] for seconds in run.epochs])
    return [
        "# What leases, the spool and checkpoints cost",
        "",
        f"`{command}` on {device_name()}, torch {torch.__version__}, "
        f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}.",
        "",
        f"One trial of {asked.backbone} on images {asked.image} of {asked.patients} synthetic patients, "
        f"3 folds of {asked.epochs} epochs, an epoch taking {epoch:.1f} s; {len(rounds)} rounds of the arms "
        f"in rotating order. Medians; ratios are of the same round, with the smallest and the largest. "
        f"Target: {TARGET:.0%} at most. The KL of all {len(rounds[0]) * len(rounds)} runs is the same to the "
        "last bit.",
        "",
        *table(
            ["arm", "wall", "CPU", "checkpoints", "wall over off", "CPU over off"],
            rows,
        ),
        "",
        "* on: a worker's settings, a checkpoint each 30 s, a lease of 180 s renewed each 20 s",
        f"* on, dense: a checkpoint after each epoch, a lease of {DENSE_LEASE_S:.0f} s renewed each "
        f"{DENSE_LEASE_S / 9:.0f} s",
        "* CPU: user and system time of the process and of the whole PostgreSQL server",
    ], met


def main() -> int:
    """Run the benchmark, write its result; 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="rounds, each of all arms")
    parser.add_argument("--patients", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--backbone", default="resnet18d")
    parser.add_argument("--image", default="[64, 128]")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dense", action="store_true", help="the third arm, too")
    asked = parser.parse_args()
    options = ["--dense"] * asked.dense + [
        f"--{key} {value}"
        for key, value in vars(asked).items()
        if value != parser.get_default(key) and key != "dense"
    ]
    with tempfile.TemporaryDirectory(prefix="hms-tune-overhead-") as folder:
        bench = Bench(asked, Path(folder))
        try:
            rounds = run(bench, asked)
        finally:
            bench.storage.close()
    lines, met = report(asked, rounds, " ".join(["python benchmarks/overhead.py", *options]))
    show("\n".join(["", *lines]))
    show(f"\nwritten to {write_result('overhead', lines).name}; target {'met' if met else 'missed'}")
    return 0 if met else 1


def run(bench: Bench, asked: argparse.Namespace) -> list[dict[str, Run]]:
    """All rounds, after a short run of each way that warms caches."""
    for arm in ("off", "on"):
        show(f"warming up, {arm}: {bench.run(arm, epochs=1).wall:.1f} s")
    arms = ["off", "on", "on, dense"][: 3 if asked.dense else 2]
    rounds: list[dict[str, Run]] = []
    for number in range(asked.repeats):
        done: dict[str, Run] = {}
        for arm in [*arms[number % len(arms) :], *arms[: number % len(arms)]]:
            done[arm] = bench.run(arm, epochs=asked.epochs)
            show(f"round {number + 1}, {arm}: {done[arm].wall:.2f} s, CPU {done[arm].cpu:.2f} s")
        done = {arm: done[arm] for arm in arms}
        if len({each.kl for each in done.values()}) != 1:
            raise RuntimeError(f"the arms differ: { {arm: each.kl for arm, each in done.items()} }")
        rounds.append(done)
    return rounds


if __name__ == "__main__":
    if "GOMP_SPINCOUNT" not in os.environ:  # read when torch is loaded; the commands set it
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "GOMP_SPINCOUNT": "2000"})
    sys.exit(main())
