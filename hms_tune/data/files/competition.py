"""Where everything lies in a competition folder.

::

    train.csv   train_eegs/{eeg_id}.parquet   train_spectrograms/{spectrogram_id}.parquet
    test.csv    test_eegs/{eeg_id}.parquet    test_spectrograms/{spectrogram_id}.parquet

Either half may be absent, and so may a whole spectrogram folder (EEG collected elsewhere has none).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hms_tune.data.files.defects import Defect, DefectKind, refuse
from hms_tune.data.files.statement import Statement
from hms_tune.data.files.tables import read_table
from hms_tune.data.schema import KINDS, SPLITS, Kind, Split
from hms_tune.errors import HmsTuneError


def _get(root: Path) -> str:
    folder = shlex.quote(str(root))
    return (
        f"`hms-tune data download {folder}` fetches the competition, `hms-tune data synth {folder}` "
        "writes a synthetic one."
    )


@dataclass(frozen=True, slots=True)
class Competition:
    """A competition folder that exists. Its tables are read and checked when asked for.

    Parameters
    ----------
    root : the folder
    splits : the halves it has
    """

    root: Path
    splits: tuple[Split, ...]

    @classmethod
    def open(cls, root: Path, *, splits: Sequence[Split] = SPLITS) -> Competition:
        """Find the halves of a competition folder that are wanted and there.

        Raises
        ------
        DataError
            If the folder, its tables or its EEG folders are missing.
        """
        root = Path(root)
        refuse(structure_defects(root, splits))
        return cls(root=root, splits=tuple(split for split in splits if _table(root, split).is_file()))

    def table_path(self, split: Split) -> Path:
        """``train.csv`` or ``test.csv``."""
        return _table(self.root, split)

    def folder(self, split: Split, kind: Kind) -> Path:
        """The folder of one kind of signal file."""
        return self.root / f"{split}_{kind}s"

    def path(self, split: Split, kind: Kind, identifier: int) -> Path:
        """The parquet file of an ``eeg_id`` or ``spectrogram_id``."""
        return self.folder(split, kind) / f"{identifier}.parquet"

    def has_spectrograms(self, split: Split) -> bool:
        """Whether this half comes with spectrograms at all."""
        return self.folder(split, "spectrogram").is_dir()

    @property
    def statement(self) -> Statement:
        """What the folder says of itself."""
        return Statement.of(self.root)

    def table(self, split: Split) -> pd.DataFrame:
        """A validated table: int64 ids and votes, float64 offsets in seconds.

        Raises
        ------
        DataError
            At the first defect of the table; the message says how many more there are.
        """
        table, defects = read_table(self.table_path(split), split, votes_per_row=self.statement.votes_per_row)
        refuse(defects)
        return table


def structure_defects(root: Path, splits: Sequence[Split] = SPLITS) -> list[Defect]:
    """Folders and tables that must be there and are not."""
    if not os.path.exists(root):  # False, too, where a folder above it cannot be entered
        return [
            _absent(
                DefectKind.FOLDER_MISSING, root, "the folder does not exist", f"Check the path. {_get(root)}"
            )
        ]
    if not root.is_dir():
        hint = "Name the folder that holds train.csv or test.csv."
        return [_absent(DefectKind.FOLDER_MISSING, root, "not a folder", hint)]
    if closed := _closed([root]):
        return closed
    present = [split for split in splits if _table(root, split).is_file() or _eegs(root, split).is_dir()]
    if not present:
        names = " nor ".join(f"{split}.csv" for split in splits)
        what = f"neither {names} is there" if len(splits) > 1 else f"{names} is not there"
        inner = next((each for each in sorted(root.iterdir()) if _table(each, splits[0]).is_file()), None)
        hint = f"Check the path. {_get(root)}" if inner is None else f"It is in {inner}: name that folder."
        return [_absent(DefectKind.TABLE_MISSING, root, what, hint)]
    defects = []
    for split in present:
        table, eegs = _table(root, split), _eegs(root, split)
        if not table.is_file():
            what = f"the file is missing, though {split}_eegs is there"
            defects.append(_absent(DefectKind.TABLE_MISSING, table, what, _get(root)))
        elif not eegs.is_dir():
            what = f"the folder is missing, though {split}.csv is there"
            defects.append(_absent(DefectKind.FOLDER_MISSING, eegs, what, _get(root)))
    defects += _closed([root / f"{split}_{kind}s" for split in present for kind in KINDS])
    return defects + _one_sided_spectrograms(root, present) + _statement_defects(root)


def _statement_defects(root: Path) -> list[Defect]:
    try:
        Statement.of(root)
    except HmsTuneError as error:
        hint = error.hint or "Correct the file, or remove it."
        return [Defect(DefectKind.STATEMENT_INVALID, str(error.where), None, error.what, hint)]
    return []


def _closed(folders: Sequence[Path]) -> list[Defect]:
    """Folders that are there and cannot be listed or entered."""
    hint = "Check its permissions; the user who runs this must be allowed to read it."
    return [
        _absent(DefectKind.FOLDER_UNREADABLE, folder, "the folder cannot be read", hint)
        for folder in folders
        if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)
    ]


def _one_sided_spectrograms(root: Path, present: Sequence[Split]) -> list[Defect]:
    """A model that learned from spectrograms cannot predict a half that has none."""
    folders = {split: root / f"{split}_spectrograms" for split in present}
    without = [split for split in present if not folders[split].is_dir()]
    if not without or len(without) == len(folders):
        return []
    what = "the folder is missing, though the other half has its spectrograms"
    hint = f"{_get(root)} Without it, only recipes that read EEG alone can use both halves."
    return [_absent(DefectKind.SPECTROGRAMS_MISSING, folders[without[0]], what, hint)]


def _absent(kind: DefectKind, path: Path, what: str, hint: str) -> Defect:
    return Defect(kind, str(path), None, what, hint)


def _table(root: Path, split: Split) -> Path:
    return root / f"{split}.csv"


def _eegs(root: Path, split: Split) -> Path:
    return root / f"{split}_eegs"
