"""The dashboard with a note on every trial, and without what makes its pages slow.

The dashboard keeps notes as attributes of the study and looks through all of them once for every trial, so
that notes on a thousand trials would slow each page by a quarter. Ours lie in our own table and are added to
the answer that the page asks for. If a person wrote a note in the dashboard, that one is shown.

The page draws a line of the values that each trial reported. A browser works at a thousand lines for longer
than at all the rest, and nobody can tell them apart: only the newest trials and the best keep theirs.

If the browser takes it, the answer is compressed: JSON packs well, and tunnels are slow.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from hms_tune.database.connect import Storage
from hms_tune.database.records import notes_by_number
from hms_tune.database.totals import best_attempt_ids

NEWEST, BEST = 50, 10
"""Of how many trials the page is told what they reported."""

_NO_NOTE = b'"note": {"version": 0, "body": ""}'
_NOTE = b'"note": {"version": 0, "body": %s}'
_NUMBER = b'"number": '
_TRIAL_ID = b'"trial_id": '
_REPORTED = re.compile(rb'"intermediate_values": \[[^]]*\]')
_NO_REPORTS = b'"intermediate_values": []'
_SMALL = 1 << 14
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
            body = self._with_notes(body, int(asked.group(1)))
            kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
            if len(body) > _SMALL and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
                body = gzip.compress(body, compresslevel=1)
                kept += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
            headers = [*kept, ("Content-Length", str(len(body)))]
        start_response(status, headers, *rest)
        return [body]

    def _with_notes(self, body: bytes, study_id: int) -> bytes:
        """The JSON of a study with the notes of its trials, which it replaces by text: it can have megabytes.

        The text that is replaced cannot stand inside a JSON string, where quotes are escaped. If a later
        dashboard writes it otherwise, the JSON stays as it is.
        """
        pieces = body.split(_NO_NOTE)
        numbers = [_integer(piece, _NUMBER) for piece in pieces[:-1]]
        known = [number for number in numbers if number is not None]
        if not known:
            return body
        with self._storage.transaction() as connection:
            notes = notes_by_number(connection, study_id, first=min(known))
            best = frozenset(best_attempt_ids(connection, study_id, most=BEST))
        parts = [pieces[0]]
        for number, before, after in zip(numbers, pieces[:-1], pieces[1:], strict=True):
            note = None if number is None else notes.get(number)
            parts.append(_NO_NOTE if note is None else _NOTE % json.dumps(note).encode())
            # What a trial reported follows its note.
            keeps_reports = (
                number is None or number > max(known) - NEWEST or _integer(before, _TRIAL_ID) in best
            )
            parts.append(after if keeps_reports else _REPORTED.sub(_NO_REPORTS, after, count=1))
        return b"".join(parts)


def _integer(piece: bytes, name: bytes) -> int | None:
    """What the last number of this name in a piece is: the piece ends within the JSON of its trial."""
    start = piece.rfind(name)
    digits = piece[start + len(name) : start + len(name) + 12].partition(b",")[0]
    return int(digits) if start >= 0 and digits.isdigit() else None
