"""Every defect of a competition folder, in one list."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hms_tune.data.defects import Defect
from hms_tune.data.layout import SPLITS, Competition, structure_defects
from hms_tune.data.parallel import available_cores
from hms_tune.data.schema import read_table
from hms_tune.data.signal_files import SignalFile, check_footer, list_signal_files, missing_files, read_signal


def find_defects(
    root: Path, jobs: int | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Defect]:
    """Read everything a competition folder holds and list what is wrong with it.

    Parameters
    ----------
    root : the competition folder
    jobs : files decoded at once; one for each core when None
    progress : told how many of how many files have been read

    Returns
    -------
    Defects in a fixed order: folders, tables, missing files, then file by file
    """
    root = Path(root)
    defects = structure_defects(root)
    if not root.is_dir():
        return defects
    competition = Competition(root, tuple(split for split in SPLITS if (root / f"{split}.csv").is_file()))
    files: list[SignalFile] = []
    for split in competition.splits:
        table, wrong = read_table(competition.table_path(split), split)
        defects += wrong
        if not wrong and competition.folder(split, "eeg").is_dir():
            files += list_signal_files(competition, split, table)
    absent = missing_files(competition, files)
    defects += absent
    gone = {defect.file for defect in absent}
    there = [file for file in files if str(file.path) not in gone]
    with ThreadPoolExecutor(jobs or available_cores()) as pool:
        for done, found in enumerate(pool.map(file_defects, there), start=1):
            defects += found
            if progress is not None:
                progress(done, len(there))
    return defects


def file_defects(file: SignalFile) -> list[Defect]:
    """Every defect of one file; its signal is decoded only when its footer is sound."""
    _, defects = check_footer(file)
    return defects or read_signal(file)[1]
