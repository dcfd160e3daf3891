"""The dashboard with a note on every trial.

The dashboard keeps notes as attributes of the study and looks through all of them once for every trial, so
that notes on a thousand trials would slow each page by a quarter. Ours lie in our own table and are added to
the answer that the page asks for. If a person wrote a note in the dashboard, that one is shown.

If the browser takes it, the answer is compressed: JSON packs well, and tunnels are slow.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hms_tune.database.connect import Storage
from hms_tune.database.queries.records import notes_by_number
from hms_tune.database.queries.studies import is_ours
from hms_tune.reports.dashboard.page_trials import PageTrials

_NO_NOTE = re.compile(rb'"note": \{"version": 0, "body": ""\}')
_NOTE = b'"note": {"version": 0, "body": %s}'
_NUMBER = b'"number": '
_SMALL = 1 << 14
"""Bytes below which nothing is gained by compressing."""
_STUDY = re.compile(r"/api/studies/(\d+)/?")

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]


class TrialNotes:
    """A WSGI application around the dashboard's.

    Parameters
    ----------
    trials : where the dashboard's own reads trials
    """

    def __init__(self, app: Application, storage: Storage, trials: PageTrials) -> None:
        self._app = app
        self._storage = storage
        self._trials = trials

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ.get("REQUEST_METHOD") != "GET":
            return self._app(environ, start_response)
        with self._trials.for_a_page():
            return self._page(environ, start_response)

    def _page(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        asked = _STUDY.fullmatch(environ.get("PATH_INFO", ""))
        if asked is None:
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
            noted = self._with_notes(body, int(asked.group(1)))
            kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
            if len(body) > _SMALL and "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
                body = b"".join(_compressed(noted))
                kept += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
            else:
                body = b"".join(noted)
            headers = [*kept, ("Content-Length", str(len(body)))]
        start_response(status, headers, *rest)
        return [body]

    def _with_notes(self, body: bytes, study_id: int) -> Iterator[bytes | memoryview]:
        """The JSON of a study with the notes of its trials, which it replaces by text: it can have megabytes.

        The text that is replaced cannot stand inside a JSON string, where quotes are escaped. If a later
        dashboard writes it otherwise, the JSON stays as it is.
        """
        places = [match.span() for match in _NO_NOTE.finditer(body)]
        before = [0, *(end for _, end in places)]
        numbers = [_number(body[start:end]) for start, (end, _) in zip(before, places, strict=False)]
        known = [number for number in numbers if number is not None]
        notes: dict[int, str] = {}
        if known:
            with self._storage.transaction() as connection:
                if is_ours(connection, study_id):
                    notes = notes_by_number(connection, study_id, first=min(known))
        text = memoryview(body)
        for start, (place, end), number in zip(before, places, numbers, strict=False):
            note = None if number is None else notes.get(number)
            yield text[start:place]
            yield text[place:end] if note is None else _NOTE % json.dumps(note).encode()
        yield text[before[-1] :]


def _number(piece: bytes) -> int | None:
    """The last number in a piece of JSON, which ends inside the trial that has it."""
    start = piece.rfind(_NUMBER)
    digits = piece[start + len(_NUMBER) : start + len(_NUMBER) + 12].partition(b",")[0]
    return int(digits) if start >= 0 and digits.isdigit() else None


def _compressed(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """The same in gzip's format."""
    stream = zlib.compressobj(level=1, wbits=zlib.MAX_WBITS | 16)
    for part in parts:
        yield stream.compress(part)
    yield stream.flush()
