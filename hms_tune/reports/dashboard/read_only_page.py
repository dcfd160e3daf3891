"""The dashboard's page without what a reader cannot do.

The page of optuna-dashboard knows of no reader: it shows pencils, an upload and buttons that delete to
everyone. The gatekeeper refuses what they ask for; here they are hidden, by a style laid into the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]

_CHANGES = ", ".join(
    [
        *(
            f'button:has(> [data-testid="{icon}Icon"]), button:has(> span > [data-testid="{icon}Icon"])'
            for icon in ("Edit", "AddBox", "Delete", "DriveFileRenameOutline")
        ),
        '.MuiCard-root:has(> .MuiCardActionArea-root [data-testid="UploadFileIcon"])',
        *(
            f'[aria-label="{label}"]'
            for label in ("delete artifact", "delete study", "rename study", "skip trial")
        ),
    ]
)
_STYLE = f"<style>{_CHANGES} {{ display: none !important; }}</style></head>".encode()
_OF_THE_FILE = {"content-length", "last-modified", "etag"}


class ReadOnlyPage:
    """A WSGI application around the dashboard's, for people who may not change anything."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        path = environ.get("PATH_INFO", "").rstrip("/")
        if environ.get("REQUEST_METHOD") != "GET" or not f"{path}/".startswith("/dashboard/"):
            return self._app(environ, start_response)
        # A page that the browser has may be that of a writable dashboard at this address.
        asked = {name: value for name, value in environ.items() if name != "HTTP_IF_MODIFIED_SINCE"}
        answer: list[Any] = []

        def begin(status: str, headers: list[tuple[str, str]], *rest: Any) -> None:
            answer[:] = [status, headers, rest]

        parts = self._app(asked, begin)
        try:
            body = b"".join(parts).replace(b"</head>", _STYLE, 1)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        status, headers, rest = answer
        kept = [(name, value) for name, value in headers if name.lower() not in _OF_THE_FILE]
        kept += [("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response(status, kept, *rest)
        return [body]
