"""Every defect of a competition folder, in one list, and what the folder holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hms_tune.data.check.agreement import fold_defects, split_defects, submission_defects
from hms_tune.data.check.quality import nan_counts, quality_defects
from hms_tune.data.check.summary import Summary, summarize
from hms_tune.data.files.competition import Competition, structure_defects
from hms_tune.data.files.decoding import check_footer, decode
from hms_tune.data.files.defects import Defect, DefectKind, errors
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.files.signal_files import list_signal_files, missing_files, unexpected_files
from hms_tune.data.files.tables import read_table
from hms_tune.data.files.threads import unordered
from hms_tune.data.schema import SPLITS, Split
from hms_tune.machine.cores import available_cores
from hms_tune.machine.progress import ProgressCallback

MOST_BY_CHANCE = 0.1
"""Share of EEGs that go on after their last label and end where another sampling rate would let them end."""

_NOTHING_CAN_BE_READ = (DefectKind.FOLDER_UNREADABLE, DefectKind.STATEMENT_INVALID)


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Parameters
    ----------
    root : the folder
    quick : whether only tables and footers were read
    summary : what each half holds whose table can be read
    defects : in a fixed order: folders, tables, missing and unexpected files, then file by file
    """

    root: Path
    quick: bool
    summary: dict[Split, Summary]
    defects: list[Defect]

    @property
    def errors(self) -> int:
        """Number of defects that keep the folder from being used."""
        return len(errors(self.defects))

    @property
    def warnings(self) -> int:
        """Number of defects that do not."""
        return len(self.defects) - self.errors

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "root": str(self.root),
            "quick": self.quick,
            "errors": self.errors,
            "warnings": self.warnings,
            "summary": {split: asdict(summary) for split, summary in self.summary.items()},
            "defects": [defect.as_record() for defect in self.defects],
        }


@dataclass(frozen=True, slots=True)
class _Finding:
    """What one file is like: its rows (0 when unreadable), the NaN of its columns, its defects."""

    rows: int
    nans: NDArray[np.int64] | None
    defects: list[Defect]


def check_folder(
    root: Path, *, quick: bool = False, jobs: int | None = None, progress: ProgressCallback | None = None
) -> Report:
    """Read everything a competition folder holds, list what is wrong with it, and count what is there.

    Parameters
    ----------
    root : the competition folder; nothing in it is changed
    quick : read the tables and the files' footers alone, decode no signal
    jobs : files decoded at once; one for each core when None
    progress : told how many of how many files have been read
    """
    root = Path(root)
    defects = structure_defects(root)
    closed = any(defect.kind in _NOTHING_CAN_BE_READ for defect in defects)
    if closed or not root.is_dir():
        return Report(root, quick, {}, defects)
    competition = Competition(root, tuple(split for split in SPLITS if (root / f"{split}.csv").is_file()))
    tables, found = _check_tables(competition)
    defects += found
    files, found = _check_presence(competition, tables)
    defects += found
    findings = _check_files(files, quick, jobs or available_cores(), progress)
    eegs = sum(file.kind == "eeg" and file.split == "train" for file in files)
    defects += _without_chance([defect for finding in findings for defect in finding.defects], eegs)
    if "train" in tables:
        defects += fold_defects(tables["train"], competition.table_path("train"))
    summary = {split: _summarize(tables[split], split, files, findings) for split in tables}
    return Report(root, quick, summary, defects)


def _check_tables(competition: Competition) -> tuple[dict[Split, pd.DataFrame], list[Defect]]:
    """The tables that can be used, and the defects of all."""
    tables: dict[Split, pd.DataFrame] = {}
    defects: list[Defect] = []
    for split in competition.splits:
        table, found = read_table(
            competition.table_path(split), split, votes_per_row=competition.statement.votes_per_row
        )
        defects += found
        if not errors(found):
            tables[split] = table
    if len(tables) == len(SPLITS):
        defects += split_defects(tables["train"], tables["test"], competition.table_path("test"))
    submission = competition.root / "sample_submission.csv"
    if "test" in tables and submission.is_file():
        defects += submission_defects(submission, tables["test"])
    return tables, defects


def _check_presence(
    competition: Competition, tables: dict[Split, pd.DataFrame]
) -> tuple[list[SignalFile], list[Defect]]:
    """The files that are there, and the defects of those that are not and of those that should not be."""
    files: list[SignalFile] = []
    unexpected: list[Defect] = []
    for split, table in tables.items():
        if competition.folder(split, "eeg").is_dir():
            named = list_signal_files(competition, split, table)
            unexpected += unexpected_files(competition, split, named)
            files += named
    missing = missing_files(competition, files)
    gone = {defect.file for defect in missing}
    return [file for file in files if str(file.path) not in gone], missing + unexpected


def _check_files(
    files: list[SignalFile], quick: bool, jobs: int, progress: ProgressCallback | None
) -> list[_Finding]:
    """One finding for each file, in their order."""

    def examine(task: tuple[int, SignalFile]) -> _Finding:
        return _examine(task[1], quick)

    findings: dict[int, _Finding] = {}
    for (number, _), finding in unordered(examine, enumerate(files), jobs=jobs):
        findings[number] = finding
        if progress is not None:
            progress(len(findings), len(files))
    return [findings[number] for number in range(len(files))]


def _examine(file: SignalFile, quick: bool) -> _Finding:
    """Everything about one file; its signal is decoded only when its footer is sound."""
    rows, defects = check_footer(file)
    if quick or errors(defects):
        return _Finding(rows, None, defects)
    values, found = decode(file)
    defects += found
    if errors(found):
        return _Finding(rows, None, defects)
    return _Finding(rows, nan_counts(values), defects + quality_defects(file, values))


def _without_chance(defects: list[Defect], eegs: int) -> list[Defect]:
    """Leave out doubts of the sampling rate where only a few EEGs end as they would at another one."""
    doubts = sum(defect.kind is DefectKind.SAMPLING_RATE for defect in defects)
    if doubts > MOST_BY_CHANCE * eegs:
        return defects
    return [defect for defect in defects if defect.kind is not DefectKind.SAMPLING_RATE]


def _summarize(
    table: pd.DataFrame, split: Split, files: list[SignalFile], findings: list[_Finding]
) -> Summary:
    eegs = [
        finding
        for file, finding in zip(files, findings, strict=True)
        if file.kind == "eeg" and file.split == split and finding.rows
    ]
    decoded = [(finding.nans, finding.rows) for finding in eegs if finding.nans is not None]
    shares = None
    if decoded:
        shares = np.sum([nans for nans, _ in decoded], axis=0) / sum(rows for _, rows in decoded)
    return summarize(table, np.array([finding.rows for finding in eegs], dtype=np.int64), shares)
