"""The parquet files of a competition folder: which there should be, and which there are."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd

from hms_tune.data.files.competition import Competition
from hms_tune.data.files.defects import Defect, DefectKind
from hms_tune.data.files.footers import RESTORE
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.schema import KINDS, SFREQ, Kind, Split


def list_signal_files(competition: Competition, split: Split, table: pd.DataFrame) -> list[SignalFile]:
    """Every file the table names: EEGs, then spectrograms where there are any, each kind by identifier."""
    kinds: list[Kind] = ["eeg"]
    if competition.has_spectrograms(split):
        kinds.append("spectrogram")
    files = []
    for kind in kinds:
        identifiers = table[f"{kind}_id"].to_numpy(np.int64)
        column = f"{kind}_label_offset_seconds"
        offsets = table[column].to_numpy(np.float64) if column in table else np.zeros(len(table))
        sfreq = competition.statement.sampling_rate if kind == "eeg" else SFREQ
        unique, start = np.unique(identifiers[order := np.lexsort((offsets, identifiers))], return_index=True)
        groups = np.split(offsets[order], start[1:])
        files += [
            SignalFile(
                kind, split, int(id_), competition.path(split, kind, int(id_)), tuple(group.tolist()), sfreq
            )
            for id_, group in zip(unique, groups, strict=True)
        ]
    return files


def missing_files(competition: Competition, files: list[SignalFile]) -> list[Defect]:
    """A defect for every identifier without a file."""
    there = {
        folder: {entry.name for entry in os.scandir(folder)}
        for folder in {file.path.parent for file in files}
    }
    return [
        file.defect(
            DefectKind.FILE_MISSING,
            f"the file is missing, though {competition.table_path(file.split).name} names "
            f"{file.kind}_id {file.identifier}",
            f"{RESTORE}, or remove the rows of that {file.kind}_id.",
        )
        for file in files
        if file.path.name not in there[file.path.parent]
    ]


def unexpected_files(competition: Competition, split: Split, files: list[SignalFile]) -> list[Defect]:
    """A defect for everything in the signal folders of a split that its table does not name."""
    named = {file.path for file in files}
    table = competition.table_path(split).name
    defects = []
    for kind in KINDS:
        folder = competition.folder(split, kind)
        if not folder.is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            if entry not in named:
                what = f"{table} names no such {kind}_id"
                hint = "It is ignored; remove it, or restore the table if rows are missing there."
                defects.append(Defect(DefectKind.FILE_UNEXPECTED, str(entry), None, what, hint))
    return defects
