"""Where each file's slice lies in its array: known from the footers, before any signal is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hms_tune.data.files.decoding import check_footer, collect_footers
from hms_tune.data.files.defects import refuse
from hms_tune.data.files.footers import length_defects
from hms_tune.data.schema import ARRAYS, Kind
from hms_tune.data.store.journal import Key, Source, Written


@dataclass(frozen=True, slots=True)
class Place:
    """A file and the slice that is kept for it.

    Parameters
    ----------
    source : the file
    start, rows : the slice of the array of its kind
    older : its slice in an older store, where that holds the file as it is now
    """

    source: Source
    start: int
    rows: int
    older: Written | None = None


def place_files(
    sources: Sequence[Source], older: Mapping[Key, Written], unfinished: Iterable[Written], *, jobs: int
) -> list[Place]:
    """Lay the files end to end in their order.

    Parameters
    ----------
    sources : the files, in the order in which they shall lie
    older : slices of an older store
    unfinished : slices that an interrupted run wrote
    jobs : footers read at once

    Raises
    ------
    DataError
        At the first file whose footer shows a defect.
    """
    begun = {written.key: written for written in unfinished}

    def look(source: Source) -> tuple[int, Written | None]:
        known = [entries.get(source.key) for entries in (older, begun)]
        of_older, of_begun = (entry if entry and entry.is_of(source) else None for entry in known)
        if written := of_older or of_begun:
            rows, defects = written.rows, length_defects(source.file, written.rows)  # labels may have changed
        else:
            rows, defects = check_footer(source.file)
            collect_footers()
        refuse(defects)
        return rows, of_older

    next_row = dict.fromkeys(ARRAYS, 0)
    places = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for source, (rows, written) in zip(sources, pool.map(look, sources), strict=True):
                kind = source.file.kind
                places.append(Place(source, next_row[kind], rows, written))
                next_row[kind] += rows
        finally:
            pool.shutdown(cancel_futures=True)
    return places


def rows_of_arrays(places: Iterable[Place]) -> dict[Kind, int]:
    """The length of each array of the store."""
    rows = dict.fromkeys(ARRAYS, 0)
    for place in places:
        rows[place.source.file.kind] += place.rows
    return rows
