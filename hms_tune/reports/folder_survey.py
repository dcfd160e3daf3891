"""What the page of a competition folder shows: counts, lengths, agreement, quality, and example windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hms_tune.data.check.folder import Report, check_folder
from hms_tune.data.files.competition import Competition
from hms_tune.data.files.decoding import check_footer
from hms_tune.data.files.defects import refuse
from hms_tune.data.files.signal_files import list_signal_files
from hms_tune.data.labels import HIGH_VOTES
from hms_tune.data.schema import CLASSES, SFREQ, VOTE_COLUMNS, Split
from hms_tune.reports.agreement_kinds import kinds_of, leading_class

SHOWN_KINDS = ("idealized", "proto", "edge")


@dataclass(frozen=True, slots=True)
class Choice:
    """A window worth looking at.

    Parameters
    ----------
    kind : ``idealized``, ``proto``, ``edge``; empty in the test half
    name : its class; empty in the test half
    split, eeg_id, offset : where it is
    """

    kind: str
    name: str
    split: Split
    eeg_id: int
    offset: float


@dataclass(frozen=True, slots=True)
class Survey:
    """A competition folder as its report shows it.

    Parameters
    ----------
    report : what ``data check`` finds
    seconds : float64 (n_eegs,), lengths of all recordings
    eegs_per_patient : int64 (n_patients,)
    raters : int64 (n_rows,), experts of each row of the train half
    kinds : share of the windows with enough experts by kind; None without any
    enough_votes : how many experts are enough: 10, or fewer where no window has as many
    choices : windows to show, class by class
    """

    report: Report
    seconds: NDArray[np.float64]
    eegs_per_patient: NDArray[np.int64]
    raters: NDArray[np.int64]
    kinds: dict[str, float] | None
    enough_votes: int
    choices: list[Choice]


def survey(
    root: Path,
    *,
    quick: bool = False,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Look a folder through.

    Parameters
    ----------
    root : competition folder
    quick : do not decode every signal; the report then has no NaN shares and no odd channels
    jobs, progress : as of :func:`hms_tune.data.check.folder.check_folder`

    Raises
    ------
    DataError
        If the folder has an error; warnings become part of the report.
    """
    report = check_folder(root, quick=quick, jobs=jobs, progress=progress)
    refuse(report.defects)
    competition = Competition.open(root)
    tables = {split: competition.table(split) for split in competition.splits}
    files = [file for split, table in tables.items() for file in list_signal_files(competition, split, table)]
    rows = [check_footer(file)[0] for file in files if file.kind == "eeg"]
    owners = pd.concat([table[["patient_id", "eeg_id"]] for table in tables.values()]).drop_duplicates()
    train = tables.get("train")
    kinds, enough, choices = None, HIGH_VOTES, _of_test(tables["test"]) if train is None else []
    raters = np.empty(0, dtype=np.int64)
    if train is not None:
        raters = train[list(VOTE_COLUMNS)].sum(axis=1).round().to_numpy(np.int64)
        enough = int(min(HIGH_VOTES, raters.max()))
        found = kinds_of(train[list(VOTE_COLUMNS)].to_numpy(np.float64))
        kinds = {kind: float(np.mean(found[raters >= enough] == kind)) for kind in (*SHOWN_KINDS, "between")}
        choices = _choose(train, found, enough)
    return Survey(
        report=report,
        seconds=np.array(rows, dtype=np.float64) / SFREQ,
        eegs_per_patient=np.asarray(owners.groupby("patient_id").size(), dtype=np.int64),
        raters=raters,
        kinds=kinds,
        enough_votes=enough,
        choices=choices,
    )


def _choose(train: pd.DataFrame, kinds: NDArray[np.str_], enough: int) -> list[Choice]:
    """For each class and kind the window with the most experts, a patient shown once where possible.

    A class that no window with enough experts shows (most seizures have three) gives its clearest other one.
    """
    votes = train[list(VOTE_COLUMNS)].to_numpy(np.float64)
    ranked = train.assign(
        kind=kinds, leading=leading_class(votes), raters=votes.sum(axis=1), clear=(votes**2).sum(axis=1)
    )
    ranked["clear"] /= ranked["raters"] ** 2
    ranked = ranked.sort_values(
        ["raters", "clear", "eeg_id", "eeg_label_offset_seconds"], ascending=[False, False, True, True]
    )
    choices: list[Choice] = []
    seen: set[int] = set()
    for number, name in enumerate(CLASSES):
        of_class = ranked[ranked["leading"] == number]
        judged = of_class[of_class["raters"] >= enough]
        for kind in SHOWN_KINDS:
            fitting = judged[judged["kind"] == kind]
            if kind == "idealized" and fitting.empty:
                fitting = of_class[of_class["kind"] == kind]
            if fitting.empty:
                continue
            fresh = fitting[~fitting["patient_id"].isin(list(seen))]
            row = (fitting if fresh.empty else fresh).iloc[0]
            seen.add(int(row["patient_id"]))
            offset = float(row["eeg_label_offset_seconds"])
            choices.append(Choice(kind, name, "train", int(row["eeg_id"]), offset))
    return choices


def _of_test(test: pd.DataFrame) -> list[Choice]:
    return [Choice("", "", "test", int(eeg_id), 0.0) for eeg_id in test["eeg_id"].head(6)]
