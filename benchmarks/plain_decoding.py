"""Decoding parquet files with pyarrow in several processes, and nothing else: what preparing is held to.

    python benchmarks/plain_decoding.py FOLDER --jobs 2 [--barely] [--write FOLDER]

Prints the seconds from the start of the first worker to the last file. It imports nothing but pyarrow, and
so do its workers. Decodes with ``read_table``, the usual call, or ``--barely`` with ``ParquetFile.read``,
which does without the machinery of data sets. With ``--write`` each worker also writes two bytes for every
value: the least that a store must write.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq


def decode(path: str, barely: bool, written: str | None) -> None:
    """Decode a file; with ``written``, a folder, also write as many bytes as a store has of it."""
    if barely:
        with pq.ParquetFile(path) as parquet:
            table = parquet.read(use_threads=False)
    else:
        table = pq.read_table(path, use_threads=False)
    if written is not None:
        with open(f"{written}/{os.getpid()}", "ab") as stream:
            stream.write(bytes(2 * table.num_rows * table.num_columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--barely", action="store_true")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    written = None
    if options.write is not None:
        options.write.mkdir(exist_ok=True)
        written = str(options.write)
    began = time.perf_counter()
    paths = [str(path) for path in options.folder.rglob("*.parquet")]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(functools.partial(decode, barely=options.barely, written=written), paths, chunksize=8))
        seconds = time.perf_counter() - began
    sys.stdout.write(f"{seconds}\n")


if __name__ == "__main__":
    main()
