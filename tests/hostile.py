"""Files as somebody might attach them to a trial to harm who looks at it."""

from __future__ import annotations

SCRIPT = b"<script>fetch('/api/studies/%d', {method: 'DELETE'}); document.title = 'ran'</script>"
"""Deletes a study, if it runs in the dashboard's origin."""


def hostile_files(study_id: int) -> dict[str, bytes]:
    """Content by name: every type that a browser may run, also in disguise."""
    script = SCRIPT % study_id
    return {
        "page.html": script,
        "page.xhtml": b'<html xmlns="http://www.w3.org/1999/xhtml">' + script + b"</html>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg">' + script + b"</svg>",
        "feed.xml": b'<?xml version="1.0"?><a xmlns="http://www.w3.org/1999/xhtml">' + script + b"</a>",
        "paper.pdf": b"%PDF-1.4",
        "code.js": script[8:-9],
        "page.mht": b"Content-Type: text/html\n\n" + script,
        "without-a-type": script,
        "picture.png": script,
        "table.csv": script,
    }
