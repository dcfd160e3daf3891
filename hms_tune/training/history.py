"""What a trial told, fold by fold and epoch by epoch: small enough to keep of every trial."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, overload

from hms_tune.training.events import EpochEnded, Event, FoldEnded, FoldStarted

_DIGITS = 6
"""Significant digits that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One epoch, as :class:`~hms_tune.training.events.EpochEnded`; None where there are no high-vote rows."""

    epoch: int
    stage: int
    train_loss: float
    kl: float
    kl_all_rows: float
    kl_high_vote: float | None
    learning_rate: float
    images: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRecord:
    """One fold. The scores are those of its best epoch, and None until the fold has ended."""

    fold: int
    epochs_planned: int
    train_rows: int
    validation_rows: int
    epochs: tuple[EpochRecord, ...] = ()
    kl: float | None = None
    kl_all_rows: float | None = None
    kl_high_vote: float | None = None
    best_epoch: int | None = None
    stopped_early: bool | None = None

    @property
    def best_kl(self) -> float | None:
        """The fold's KL, or the best so far."""
        return self.kl if self.kl is not None else min((epoch.kl for epoch in self.epochs), default=None)


_CURVES = tuple(each.name for each in fields(EpochRecord))
_SCALARS = tuple(each.name for each in fields(FoldRecord) if each.name != "epochs")


@dataclass(slots=True)
class Recorder:
    """Gathers a trial's events. A resumed trial replays its earlier ones, so the record is whole again."""

    folds: int = 0
    _records: dict[int, FoldRecord] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take in an event; one that was heard before changes nothing."""
        match event:
            case FoldStarted():
                self.folds = event.folds
                self._records[event.fold] = FoldRecord(
                    fold=event.fold,
                    epochs_planned=event.epochs,
                    train_rows=event.train_rows,
                    validation_rows=event.validation_rows,
                )
            case EpochEnded():
                self._add_epoch(event)
            case FoldEnded():
                self._end_fold(event)
            case _:
                pass

    def records(self) -> tuple[FoldRecord, ...]:
        """The folds so far, in order."""
        return tuple(self._records[fold] for fold in sorted(self._records))

    def _add_epoch(self, event: EpochEnded) -> None:
        known = self._records.get(event.fold) or FoldRecord(
            fold=event.fold, epochs_planned=event.epochs, train_rows=0, validation_rows=0
        )
        told = {name: getattr(event, name) for name in _CURVES}
        epoch = EpochRecord(**told | {"kl_high_vote": _finite(event.kl_high_vote)})
        epochs = (*(each for each in known.epochs if each.epoch < epoch.epoch), epoch)
        self._records[event.fold] = replace(known, epochs=epochs)

    def _end_fold(self, event: FoldEnded) -> None:
        known = self._records.get(event.fold)
        if known is not None:
            self._records[event.fold] = replace(
                known,
                kl=event.kl,
                kl_all_rows=event.kl_all_rows,
                kl_high_vote=_finite(event.kl_high_vote),
                best_epoch=event.best_epoch,
                stopped_early=event.stopped_early,
            )


def folds_as_json(folds: tuple[FoldRecord, ...]) -> list[dict[str, Any]]:
    """Plain JSON values, each curve as one list; numbers to six digits."""
    return [
        {name: _short(getattr(record, name)) for name in _SCALARS}
        | {"curves": {name: [_short(getattr(epoch, name)) for epoch in record.epochs] for name in _CURVES}}
        for record in folds
    ]


def folds_from_json(content: list[dict[str, Any]]) -> tuple[FoldRecord, ...]:
    """The inverse of :func:`folds_as_json`, to six digits."""
    return tuple(
        FoldRecord(
            **{name: record[name] for name in _SCALARS},
            epochs=tuple(
                EpochRecord(**dict(zip(_CURVES, values, strict=True)))
                for values in zip(*(record["curves"][name] for name in _CURVES), strict=True)
            ),
        )
        for record in content
    )


class StoredFolds(Sequence[FoldRecord]):
    """The folds of a record as it is stored, read when somebody looks at one: of most trials nobody does.

    Parameters
    ----------
    content : what :func:`folds_as_json` gave, or that as text
    folds, epochs : how many it has; None: they are counted
    """

    __slots__ = ("_content", "_epochs", "_folds", "_records")

    def __init__(
        self, content: str | list[dict[str, Any]], *, folds: int | None = None, epochs: int | None = None
    ) -> None:
        self._content: str | list[dict[str, Any]] | None = content
        self._records: tuple[FoldRecord, ...] = ()
        self._folds = len(self._read()) if folds is None else folds
        self._epochs = epochs

    @property
    def epochs(self) -> int:
        """Epochs over all folds."""
        if self._epochs is None:
            self._epochs = sum(len(fold.epochs) for fold in self._read())
        return self._epochs

    def __len__(self) -> int:
        return self._folds

    @overload
    def __getitem__(self, place: int) -> FoldRecord: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[FoldRecord]: ...
    def __getitem__(self, place: int | slice) -> FoldRecord | Sequence[FoldRecord]:
        return self._read()[place]

    def __eq__(self, other: object) -> bool:
        """Whether the folds are the same."""
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._read())

    def __repr__(self) -> str:
        return f"StoredFolds{self._read()!r}"

    def _read(self) -> tuple[FoldRecord, ...]:
        content, self._content = self._content, None
        if content is not None:
            self._records = folds_from_json(json.loads(content) if isinstance(content, str) else content)
        return self._records


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: Any) -> Any:
    """JSON has no NaN and no infinity; a record of a trial that failed on one may hold either."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
