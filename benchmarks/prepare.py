"""How near preparing a competition comes to merely decoding it.

    python benchmarks/prepare.py [--eegs 2000] [--jobs 2] [--repeats 3] [--at DIR]

Writes EEGs whose lengths are spread like the competition's (50 s and more, median 58 s, mean 80 s, the
longest 3,422 s; Kaggle's 17,089 files hold 378.7 h) and 0.65 spectrograms for each, as there. Then times, in
turns, in processes of their own, from the first file to the last:

* decoding every file with ``pyarrow.parquet.read_table`` in as many processes as there are jobs;
* the same with ``ParquetFile.read``, which spares a file of 400 columns a third of the usual call's time;
* that, each process then writing two bytes for every value into a file: the least a store must write;
* ``hms_tune.data.store.prepare.prepare``, with as many jobs.

All count the start of their workers, none the start of what starts these; the decoding arms are
``benchmarks/plain_decoding.py``. Reports the median of each, their ratio, and the largest
resident memory of the whole process tree, and writes ``benchmarks/results/prepare.md``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hms_tune.data.schema import CLASSES, EEG_COLUMNS, SPECTROGRAM_COLUMNS, VOTE_COLUMNS

LONGEST_SECONDS = 3422
SPECTROGRAMS_PER_EEG = 11_138 / 17_089
RESULTS = Path(__file__).with_name("results") / "prepare.md"


def recording_seconds(n_eegs: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths with the competition's median, mean and maximum: 50 s and a log-normal rest, even numbers."""
    rest = 8.0 * np.exp(1.626 * rng.standard_normal(n_eegs))
    seconds = 50 + 2 * np.round(np.minimum(rest, LONGEST_SECONDS - 50) / 2).astype(int)
    seconds[n_eegs // 2] = LONGEST_SECONDS
    return seconds


def write_competition(root: Path, n_eegs: int, jobs: int) -> None:
    """A folder in Kaggle's layout; noise in steps of 0.01 µV, which compresses about as their EEG does."""
    seconds = recording_seconds(n_eegs, np.random.default_rng(0))
    n_spectrograms = round(n_eegs * SPECTROGRAMS_PER_EEG)
    for folder in ("train_eegs", "train_spectrograms"):
        (root / folder).mkdir(parents=True)
    numbers = np.arange(n_eegs)
    spectrogram = 10**6 + numbers % n_spectrograms
    rows = pd.DataFrame({"eeg_id": numbers, "eeg_sub_id": 0, "eeg_label_offset_seconds": 0.0})
    rows = rows.assign(spectrogram_id=spectrogram, spectrogram_sub_id=0, spectrogram_label_offset_seconds=0.0)
    rows = rows.assign(label_id=numbers, patient_id=spectrogram // 6)
    rows["expert_consensus"] = [CLASSES[number % 6] for number in numbers]
    for index, column in enumerate(VOTE_COLUMNS):
        rows[column] = np.where(numbers % 6 == index, 3, 0)
    rows.to_csv(root / "train.csv", index=False)
    frames = dict(zip(spectrogram.tolist(), (300 + (seconds - 50) // 2).tolist(), strict=True))
    parts = [
        (root, numbers[job::jobs], seconds[job::jobs], list(frames.items())[job::jobs]) for job in range(jobs)
    ]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        pool.starmap(_write_part, parts)


def _write_part(root: Path, eegs: np.ndarray, seconds: np.ndarray, frames: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(int(eegs[0]))
    noise = (np.round(rng.normal(0, 30, (20, 2 * 200 * LONGEST_SECONDS)) / 0.01) * 0.01).astype(np.float32)
    for number, length in zip(eegs, seconds * 200, strict=True):
        start = int(rng.integers(0, noise.shape[1] - length + 1))
        values = noise[:, start : start + length] + rng.uniform(-2000, 2000, (20, 1)).astype(np.float32)
        table = pa.table(dict(zip(EEG_COLUMNS, values, strict=True)))
        pq.write_table(table, root / "train_eegs" / f"{number}.parquet")
    power = rng.lognormal(0, 2, (400, max(length for _, length in frames))).astype(np.float32)
    for number, length in frames:
        columns = {"time": 1 + 2 * np.arange(length)} | dict(
            zip(SPECTROGRAM_COLUMNS, power[:, :length], strict=True)
        )
        pq.write_table(pa.table(columns), root / "train_spectrograms" / f"{number}.parquet")


def prepare_all(root: Path, jobs: int) -> float:
    """Seconds to prepare the folder anew."""
    from hms_tune.data.store.prepare import prepare

    began = time.perf_counter()
    prepare(root, store=root.with_name("store"), jobs=jobs)
    return time.perf_counter() - began


WAYS = {
    "decode": "decode with pyarrow's `read_table`",
    "barely-decode": "decode with pyarrow's `ParquetFile.read`",
    "barely-decode-and-write": "the same, and two bytes written for each value",
    "prepare": "`hms-tune data prepare`",
}
"""The arms, by the name under which the table has them."""


def measure(way: str, root: Path, jobs: int) -> float:
    """Seconds that one way takes in a process of its own."""
    with _run(way, root, jobs) as process:
        output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{way} failed")
    return float(output)


def largest_memory(way: str, root: Path, jobs: int) -> int:
    """The largest memory of one way's process tree, bytes; a run of its own, for the watching slows it."""
    with _run(way, root, jobs) as process:
        peak = _Peak(process.pid)
        process.communicate()
        return peak.stop()


def _run(way: str, root: Path, jobs: int) -> subprocess.Popen[str]:
    shutil.rmtree(root.with_name("store"), ignore_errors=True)
    _claim_memory(root)
    if way == "prepare":
        command = [__file__, "--run", "--at", str(root.parent), "--jobs", str(jobs)]
    else:
        command = [str(Path(__file__).with_name("plain_decoding.py")), str(root), "--jobs", str(jobs)]
        command += ["--barely"] if "barely" in way else []
        command += ["--write", str(root.with_name("store"))] if "write" in way else []
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)


def _claim_memory(root: Path) -> None:
    """Touch as much memory as a run needs, so that a virtual machine has it at hand.

    Such a machine may hand its free memory back, and getting it again can cost ten times as much as writing
    into it; without this, the run that is unlucky pays for that.
    """
    np.ones(sum(path.stat().st_size for path in root.rglob("*.parquet")), dtype=np.uint8)


class _Peak:
    """The largest proportional resident memory of a process and its children, looked at 20 times a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._largest, self._stop = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self._largest

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self._largest = max(self._largest, _tree_memory(self._pid))


def _tree_memory(pid: int) -> int:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except (OSError, ProcessLookupError):  # it has ended
        return 0
    own = next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss_Anon:")), 0)
    return own * 1024 + sum(_tree_memory(int(child)) for child in children)


def _ratio(runs: dict[str, list[float]], way: str) -> str:
    """How long preparing takes, as a multiple of a way: of the medians, and of each round."""
    if way == "prepare":
        return "1"
    median = statistics.median(runs["prepare"]) / statistics.median(runs[way])
    rounds = sorted(b / a for a, b in zip(runs[way], runs["prepare"], strict=True))
    return f"**{median:.2f}** ({', '.join(f'{ratio:.2f}' for ratio in rounds)})"


def report(root: Path, jobs: int, runs: dict[str, list[float]], memory: dict[str, int], command: str) -> str:
    """The table, in Markdown."""
    files = [path for folder in ("eegs", "spectrograms") for path in (root / f"train_{folder}").iterdir()]
    size = sum(path.stat().st_size for path in files)
    eegs = len(os.listdir(root / "train_eegs"))
    times = {way: statistics.median(done) for way, done in runs.items()}
    lines = [
        "# Preparing against merely decoding",
        "",
        f"`{command}`",
        "",
        f"{eegs:,} EEGs and {len(files) - eegs:,} spectrograms, {size / 2**30:.2f} GiB of parquet; "
        f"{jobs} jobs; median of {len(runs['decode'])}, in turns, files in the page cache.",
        "",
        "| | seconds | files/s | MiB/s of parquet | largest memory, MiB "
        "| preparing takes so many times as long |",
        "|---|---|---|---|---|---|",
    ]
    for way, seconds in times.items():
        rates = f"{len(files) / seconds:,.0f} | {size / 2**20 / seconds:,.0f}"
        lines.append(
            f"| {WAYS[way]} | {seconds:.1f} | {rates} | {memory[way] / 2**20:,.0f} | {_ratio(runs, way)} |"
        )
    lines += [
        "",
        "The times are of a shared machine; read the ratios: of the medians, and in brackets of each round. "
        "Memory is that of the whole process tree without mapped files.",
        "",
    ]
    return "\n".join(lines)


def compare(root: Path, n_eegs: int, jobs: int, repeats: int) -> None:
    """Write the files unless they are there, time both ways in turns, and write the table."""
    if not (root / "train.csv").is_file():
        write_competition(root, n_eegs, jobs)
    for path in root.rglob("*.parquet"):  # into the page cache
        path.read_bytes()
    runs: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            runs[way].append(measure(way, root, jobs))
            sys.stderr.write(f"{way}: {runs[way][-1]:.1f} s\n")
    command = f"python benchmarks/prepare.py --eegs {n_eegs} --jobs {jobs} --repeats {repeats}"
    memory = {way: largest_memory(way, root, jobs) for way in WAYS}
    text = report(root, jobs, runs, memory, command)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--eegs", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at", type=Path, help="where to write the files; a temporary folder by default")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        sys.stdout.write(f"{prepare_all(options.at / 'hms', options.jobs)}\n")
    elif options.at is not None:
        compare(options.at / "hms", options.eegs, options.jobs, options.repeats)
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder) / "hms", options.eegs, options.jobs, options.repeats)


if __name__ == "__main__":
    main(sys.argv[1:])
