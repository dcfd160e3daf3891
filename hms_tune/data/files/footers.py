"""What the footer of a parquet file tells without decoding a sample: its columns and its length."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from hms_tune.data.files.defects import Defect, DefectKind
from hms_tune.data.files.signal_file import SignalFile
from hms_tune.data.files.statement import STATEMENT
from hms_tune.data.files.synonyms import DISPENSABLE, LOSSLESS, meant_by
from hms_tune.data.resample import resampled_rows
from hms_tune.data.schema import (
    EEG_COLUMNS,
    FRAME_SECONDS,
    SFREQ,
    SPECTROGRAM_COLUMNS,
    TIME_COLUMN,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
    Kind,
    Split,
    window_start,
)

LONGEST_SECONDS = 24 * 3600
"""The longest recording that is read: it takes a few GB of memory."""

RESTORE = "Restore the file from its source"
"""How most hints begin."""


def _signals(names: tuple[str, ...]) -> list[pa.Field]:
    return [pa.field(name, pa.float32()) for name in names]


def _spectrogram(time: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(TIME_COLUMN, time), *_signals(SPECTROGRAM_COLUMNS)])


_USUAL: dict[tuple[Kind, Split], list[pa.Schema]] = {
    ("eeg", "train"): [pa.schema(_signals(EEG_COLUMNS))],
    ("eeg", "test"): [pa.schema(_signals(EEG_COLUMNS))],
    ("spectrogram", "train"): [_spectrogram(pa.int64()), _spectrogram(pa.int16())],
    ("spectrogram", "test"): [_spectrogram(pa.int16()), _spectrogram(pa.int64())],
}
"""What the columns of the competition's own files are like."""


def footer_defects(file: SignalFile, parquet: pq.ParquetFile) -> list[Defect]:
    """Every defect of a readable file that can be seen without decoding its signal."""
    columns = [] if is_usual(file, parquet) else _column_defects(file, parquet.schema_arrow)
    return columns + length_defects(file, resampled_rows(parquet.metadata.num_rows, file.sfreq))


_last_usual: dict[tuple[Kind, Split], pq.ParquetSchema] = {}


def is_usual(file: SignalFile, parquet: pq.ParquetFile) -> bool:
    """Whether the columns are exactly those of the competition's files; looking at each takes far longer.

    Nor are 400 columns compared in Arrow's form where they equal those of the file before in Parquet's own,
    which takes a tenth of the time.
    """
    key = file.kind, file.split
    schema, last = parquet.schema, _last_usual.get(key)
    if last is not None and schema.equals(last):
        return True
    usual = any(parquet.schema_arrow.equals(usual) for usual in _USUAL[key])
    if usual:
        _last_usual[key] = schema
    return usual


def length_defects(file: SignalFile, rows: int) -> list[Defect]:
    """Whether a file that has so many rows at 200 Hz is as long as its labels ask for."""
    if rows == 0:
        return [file.defect(DefectKind.ROWS_MISSING, "the file has no rows", f"{RESTORE}.")]
    most = LONGEST_SECONDS * SFREQ if file.kind == "eeg" else LONGEST_SECONDS // FRAME_SECONDS
    if rows > most:
        what = f"the file has {rows:,} rows, more than the {most:,} of {LONGEST_SECONDS // 3600} hours"
        return [file.defect(DefectKind.FILE_UNREADABLE, what, "Cut the recording into shorter ones.")]
    return _eeg_length_defects(file, rows) if file.kind == "eeg" else _spectrogram_length_defects(file, rows)


def _column_defects(file: SignalFile, schema: pa.Schema) -> list[Defect]:
    wanted = file.columns if file.kind == "eeg" else (TIME_COLUMN, *file.columns)
    defects = _synonym_defects(file, meant := meant_by(file.kind, schema.names))
    schema = pa.schema([field.with_name(meant.get(field.name, field.name)) for field in schema])
    names, known = list(schema.names), set(schema.names)
    missing = [name for name in wanted if name not in known]
    if missing == [DISPENSABLE]:
        hint = "It is read as NaN; recipes use the scalp's electrodes."
        defects.append(file.defect(DefectKind.CHANNEL_ABSENT, "the column is missing", hint, DISPENSABLE))
    elif missing:
        what = "the column is missing" + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        hint = f"{RESTORE}; it must hold {wanted[0]} … {wanted[-1]}."
        defects.append(file.defect(DefectKind.COLUMN_MISSING, what, hint, missing[0]))
    if len(known) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        defects.append(
            file.defect(DefectKind.COLUMN_REPEATED, "the column stands twice", f"{RESTORE}.", again)
        )
        return defects
    defects += _type_defects(file, schema, known)
    extra = [name for name in names if name not in wanted and not name.startswith("__index_level_")]
    if extra:
        what = "the column is not one of the competition's" + (
            f", nor are {len(extra) - 1} more" if len(extra) > 1 else ""
        )
        hint = "It is ignored; remove it, unless it stands for one that is missing."
        defects.append(file.defect(DefectKind.COLUMN_EXTRA, what, hint, extra[0]))
    there = [name for name in wanted if name in known]
    displaced = [name for name in names if name in wanted]
    if there != displaced:
        name, instead = next(pair for pair in zip(displaced, there, strict=True) if pair[0] != pair[1])
        what = f"the column stands where {instead} should"
        hint = "Columns are found by name; make sure that each holds what its name says."
        defects.append(file.defect(DefectKind.COLUMN_ORDER, what, hint, name))
    return defects


def _synonym_defects(file: SignalFile, meant: dict[str, str]) -> list[Defect]:
    if not meant:
        return []
    pairs = ", ".join(f"{name} for {known}" for name, known in list(meant.items())[:4])
    what = f"columns are taken for the competition's: {pairs}"
    what += f" and {len(meant) - 4} more" if len(meant) > 4 else ""
    hint = "Make sure that they are these; rename them if you like."
    return [file.defect(DefectKind.COLUMN_SYNONYM, what, hint, next(iter(meant)))]


def _type_defects(file: SignalFile, schema: pa.Schema, known: set[str]) -> list[Defect]:
    types = {name: schema.field(name).type for name in file.columns if name in known}
    wrong = [
        name for name, type_ in types.items() if not pa.types.is_floating(type_) and type_ not in LOSSLESS
    ]
    coarse = [name for name, type_ in types.items() if name not in wrong and type_ != pa.float32()]
    defects = []
    for kind, names in ((DefectKind.COLUMN_TYPE, wrong), (DefectKind.COLUMN_PRECISION, coarse)):
        if names:
            what = f"the type is {types[names[0]]}, not float32"
            what += f" (so in {len(names)} columns)" if len(names) > 1 else ""
            defects.append(file.defect(kind, what, f"{RESTORE}, or convert the column to float32.", names[0]))
    return defects


def _eeg_length_defects(file: SignalFile, rows: int) -> list[Defect]:
    if rows < WINDOW_SAMPLES:
        what = (
            f"the EEG has {rows} rows ({rows / SFREQ:g} s), fewer than {WINDOW_SAMPLES} ({WINDOW_SECONDS} s)"
        )
        return [_short(file, rows, DefectKind.EEG_TOO_SHORT, what, "remove the rows")]
    rate = _faster_rate(file, rows)
    if file.split == "test" and rows > WINDOW_SAMPLES:
        what = f"the test EEG has {rows} rows, not {WINDOW_SAMPLES}"
        what += "" if rate is None else f": is it sampled at {rate} Hz?"
        hint = f"Its first {WINDOW_SECONDS} s are predicted, at {SFREQ} Hz unless {STATEMENT} says otherwise"
        hint += "." if rate is None else f" (sampling_rate: {rate})."
        return [file.defect(DefectKind.TEST_LENGTH, what, hint)]
    if rate is not None:
        labelled = file.offsets[-1] + WINDOW_SECONDS
        what = f"the EEG has {rows} rows, and its labels end at {labelled:g} s: is it sampled at {rate} Hz?"
        hint = f"It is read as {SFREQ} Hz; if it is not, write sampling_rate: {rate} into {STATEMENT} there."
        return [file.defect(DefectKind.SAMPLING_RATE, what, hint)]
    beyond = [offset for offset in file.offsets if window_start(offset) + WINDOW_SAMPLES > rows]
    if not beyond:
        return []
    what = (
        f"a labelled window ends at {beyond[-1] + WINDOW_SECONDS:g} s, but the EEG ends at {rows / SFREQ:g} s"
    )
    what += f" ({len(beyond)} such windows)" if len(beyond) > 1 else ""
    return [_short(file, rows, DefectKind.WINDOW_BEYOND_EEG, what, "correct eeg_label_offset_seconds")]


def _short(file: SignalFile, rows: int, kind: DefectKind, what: str, else_: str) -> Defect:
    """The defect of an EEG that ends before its labels do, or would at the rate at which it is read."""
    hint = f"{RESTORE}, or {else_} of eeg_id {file.identifier}; "
    if file.sfreq != SFREQ:
        hint += f"it is read as {file.sfreq} Hz, which {STATEMENT} states."
    elif (rate := _slower_rate(file, rows)) is None:
        hint += f"where EEG is not sampled at {SFREQ} Hz, write its sampling_rate into {STATEMENT}."
    else:
        what += f": is it sampled at {rate} Hz?"
        state = f"If it is, write sampling_rate: {rate} into {STATEMENT} there"
        hint = f"{state}; else {hint[0].lower()}{hint[1:-2]}."
    return file.defect(kind, what, hint)


_SLOWER, _FASTER = (64, 100, 125, 128, 160), (250, 256, 400, 500, 512, 1000, 1024, 2000, 2048)
"""At which EEG is sampled, beside 200 Hz, Hz."""


def _slower_rate(file: SignalFile, rows: int) -> int | None:
    """A rate at which an EEG that is too short would end within a second of its last label."""
    labelled = file.offsets[-1] + WINDOW_SECONDS
    rate = min(_SLOWER, key=lambda rate: abs(rows - labelled * rate))
    return rate if abs(rows - labelled * rate) <= rate else None


def _faster_rate(file: SignalFile, rows: int) -> int | None:
    """A rate at which an EEG would end where its last label does, as the competition's do."""
    if file.sfreq != SFREQ:
        return None
    labelled = file.offsets[-1] + WINDOW_SECONDS
    return next((rate for rate in _FASTER if rows == round(labelled * rate)), None)


def _spectrogram_length_defects(file: SignalFile, rows: int) -> list[Defect]:
    last = file.offsets[-1]
    if last // FRAME_SECONDS >= rows:
        what = f"a label starts at {last:g} s, but the spectrogram ends at {rows * FRAME_SECONDS} s"
        hint = f"{RESTORE}, or correct the offset."
        return [file.defect(DefectKind.WINDOW_BEYOND_SPECTROGRAM, what, hint, TIME_COLUMN)]
    if file.split == "test" and rows != WINDOW_FRAMES:
        what = f"the test spectrogram has {rows} frames, not {WINDOW_FRAMES}"
        hint = f"Its first {WINDOW_FRAMES} frames are used, with NaN where it has none."
        return [file.defect(DefectKind.TEST_LENGTH, what, hint)]
    cut = [offset for offset in file.offsets if offset // FRAME_SECONDS + WINDOW_FRAMES > rows]
    if not cut:
        return []
    ends = (cut[-1] // FRAME_SECONDS + WINDOW_FRAMES) * FRAME_SECONDS
    what = f"a labelled window ends at {ends:g} s, but the spectrogram ends at {rows * FRAME_SECONDS} s"
    what += f" ({len(cut)} such windows)" if len(cut) > 1 else ""
    hint = "What is missing is filled with NaN; restore the file, or correct the offset."
    return [file.defect(DefectKind.WINDOW_CUT, what, hint, TIME_COLUMN)]
