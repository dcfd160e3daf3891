"""The dashboard with a note on every trial, and without what makes its pages slow.

The dashboard keeps notes as attributes of the study and reads all of them for every trial: notes on a
thousand trials would make each page a quarter slower. Our notes lie in our own table, and
:class:`TrialNotes` writes them into the answer to the page's request. A note that a person wrote stays.

The page draws a line of the values that each trial reported. A browser takes longer for a thousand such
lines than for the rest of the page, and nobody can tell them apart: the newest and the best trials alone
keep theirs.

The answer is compressed, since a dashboard is often opened through a tunnel.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import select

from hms_tune.database.connect import Storage
from hms_tune.database.tables import trial_records
from hms_tune.studies.totals import best_ids

NEWEST, BEST = 50, 10
"""How many trials keep their reported values: the newest, and the best."""

_NO_NOTE = b'"note": {"version": 0, "body": ""}'
_NOTE = b'"note": {"version": 0, "body": %s}'
_NUMBER = b'"number": '
_TRIAL_ID = b'"trial_id": '
_REPORTED = re.compile(rb'"intermediate_values": \[[^]]*\]')
_UNTOLD = b'"intermediate_values": []'
_LITTLE = 1 << 14
"""Bytes below which nothing is gained by compressing."""
_STUDY = re.compile(r"/api/studies/(\d+)/?")

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]


class TrialNotes:
    """A WSGI application around the dashboard's."""

    def __init__(self, app: Application, storage: Storage) -> None:
        self._app = app
        self._storage = storage

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        asked = _STUDY.fullmatch(environ.get("PATH_INFO", ""))
        if asked is None or environ.get("REQUEST_METHOD") != "GET":
            return self._app(environ, start_response)
        answer: list[Any] = []

        def begin(status: str, headers: list[tuple[str, str]], *rest: Any) -> None:
            answer[:] = [status, headers, rest]

        parts = self._app(environ, begin)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        status, headers, rest = answer
        if status.startswith("200"):
            body = self._noted(body, int(asked.group(1)))
            kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
            if len(body) > _LITTLE and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
                body = gzip.compress(body, compresslevel=1)
                kept += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
            headers = [*kept, ("Content-Length", str(len(body)))]
        start_response(status, headers, *rest)
        return [body]

    def _noted(self, body: bytes, study_id: int) -> bytes:
        """Write notes into a study's JSON without parsing it: at a thousand trials it has megabytes.

        The patterns hold quotes, which JSON escapes inside strings, so they match structure alone. If another
        version of the dashboard writes JSON in another way, nothing matches and nothing is changed.
        """
        pieces = body.split(_NO_NOTE)
        numbers = [_integer(piece, _NUMBER) for piece in pieces[:-1]]
        known = [number for number in numbers if number is not None]
        if not known:
            return body
        notes = self._notes(study_id, first=min(known))
        best = self._best(study_id)
        noted = [pieces[0]]
        for number, before, after in zip(numbers, pieces[:-1], pieces[1:], strict=True):
            note = None if number is None else notes.get(number)
            noted.append(_NO_NOTE if note is None else _NOTE % json.dumps(note).encode())
            # What a trial reported follows its note.
            is_told = number is None or number > max(known) - NEWEST or _integer(before, _TRIAL_ID) in best
            noted.append(after if is_told else _REPORTED.sub(_UNTOLD, after, count=1))
        return b"".join(noted)

    def _notes(self, study_id: int, *, first: int) -> dict[int, str]:
        wanted = select(trial_records.c.number, trial_records.c.note).where(
            trial_records.c.study_id == study_id,
            trial_records.c.number >= first,
            trial_records.c.note.is_not(None),
        )
        with self._storage.engine.connect() as connection:
            return {row.number: row.note for row in connection.execute(wanted)}

    def _best(self, study_id: int) -> frozenset[int]:
        with self._storage.engine.connect() as connection:
            return frozenset(best_ids(connection, study_id, most=BEST))


def _integer(piece: bytes, name: bytes) -> int | None:
    """The last number of this name in a piece of JSON, which ends inside the trial it belongs to."""
    start = piece.rfind(name)
    digits = piece[start + len(name) : start + len(name) + 12].partition(b",")[0]
    return int(digits) if start >= 0 and digits.isdigit() else None
