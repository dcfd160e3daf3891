"""Requests that optuna-dashboard would stumble over, answered before it or after it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bottle import BaseRequest, HTTPError
from optuna.artifacts.exceptions import ArtifactNotFound

from hms_tune.reports.dashboard.access import (
    READING,
    Application,
    Environment,
    Refusal,
    StartResponse,
    refuse,
)

_PLACE = re.compile(r"[0-9]{1,9}")


class Checked:
    """A WSGI application that asks another only what makes sense.

    What changes something is a JSON object, as the dashboard takes for granted.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        reason = _reason_against(environment)
        if reason is not None:
            return refuse(environment, start_response, Refusal("400 Bad Request", reason))
        try:
            return self._application(environment, start_response)
        except (KeyError, ArtifactNotFound):
            if not environment["PATH_INFO"].startswith("/artifacts/"):
                raise
            return refuse(environment, start_response, Refusal("404 Not Found", "there is no such file"))


def _reason_against(environment: Environment) -> str | None:
    request = BaseRequest(environment)  # the dashboard's own, which keeps what it has read
    if environment["REQUEST_METHOD"] in READING:
        after = request.query.get("after")
        return None if after is None or _PLACE.fullmatch(after) else "after is no number of a trial"
    try:
        body = request.json
    except (HTTPError, RecursionError):
        return "the body is no JSON"
    empty = body is None and environment["REQUEST_METHOD"] == "DELETE"
    return None if empty or isinstance(body, dict) else "the body is no JSON object"
