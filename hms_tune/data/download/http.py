"""One large file over HTTP, in as many pieces as it takes.

What has arrived is kept in the file itself. Beside it stands what the file is a part of: the server's
validator (ETag or time of change) and its size. A later run, or this one after a broken connection, asks for
the rest by an HTTP range that the server grants only if the file is still the same (RFC 9110, sections 13.1.5
and 14).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from hms_tune.data.download.unzip import size
from hms_tune.errors import DownloadError
from hms_tune.machine.progress import ProgressCallback

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

Ask = Callable[[], "PreparedRequest"]
"""Makes the request for the whole file; its address may differ each time."""

_PIECE_BYTES = 2**16  # as much may be lost when a connection breaks
_TIMEOUT_S = (20.0, 60.0)  # to connect; between two pieces
_ATTEMPTS = 6
_LONGEST_PAUSE_S = 300.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Whole:
    """The file that the part on disk is a part of."""

    validator: str | None
    size: int

    @classmethod
    def read(cls, path: Path) -> _Whole | None:
        try:
            content = json.loads(_note(path).read_text(encoding="utf-8"))
            return cls(content["validator"], int(content["size"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        _note(path).write_text(json.dumps(asdict(self)), encoding="utf-8")


def is_whole(path: Path) -> bool:
    """Whether an earlier run has fetched all of a file."""
    whole = _Whole.read(path)
    return whole is not None and _length(path) == whole.size


def fetch(
    ask: Ask,
    path: Path,
    *,
    before: Callable[[int, int], None],
    sleep: Callable[[float], None],
    progress: ProgressCallback | None = None,
) -> None:
    """Fetch a file, going on from what is there of it.

    Connections that break are tried again, at first after a second, at last after half a minute; six failures
    in a row in which nothing arrives are an error.

    Parameters
    ----------
    ask : makes the request; called anew for every attempt, since addresses expire
    path : the file; what is there of it must come from an earlier call
    before : told the bytes still missing and the bytes of the whole, before they are fetched
    sleep : waits some seconds
    progress : told how many of how many bytes have arrived

    Raises
    ------
    DownloadError
        If ``ask`` or ``before`` raises it, if the server is lost, or if the disk fails.
    """
    import requests

    failures = 0
    while not is_whole(path):
        had = _length(path)
        try:
            _go_on(ask(), path, before, progress)
        except requests.RequestException as error:
            failures = 1 if _length(path) > had else failures + 1
            if failures >= _ATTEMPTS:
                raise _lost(path, error) from error
            pause = _pause(error, failures)
            _logger.info("the connection broke at %s; trying again in %.0f s", size(_length(path)), pause)
            sleep(pause)
        except OSError as error:
            hint = "Free some room or fix the disk, and run the same command again"
            raise DownloadError(error.strerror or str(error), where=path, hint=hint) from error


def _go_on(
    request: PreparedRequest,
    path: Path,
    before: Callable[[int, int], None],
    progress: ProgressCallback | None,
) -> None:
    """Ask for what is missing, and append it; or for all, where the server has another file by now."""
    import requests

    whole, have = _Whole.read(path), _length(path)
    if whole is None or not _is_strong(whole.validator) or have > whole.size:
        whole, have = None, 0
    request = request.copy()
    request.headers["Accept-Encoding"] = "identity"  # ranges count the bytes of the file
    if whole is not None and have:
        request.headers["Range"] = f"bytes={have}-"
        request.headers["If-Range"] = str(whole.validator)
    with requests.Session() as session:
        settings = session.merge_environment_settings(str(request.url), {}, True, None, None)
        with session.send(request, timeout=_TIMEOUT_S, **settings) as response:
            if whole is not None and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                _forget(path)
                raise requests.ConnectionError("the file on the server has changed")
            response.raise_for_status()
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                whole, have = _whole_of(response), 0
                _forget(path)
            elif whole is None or not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                _forget(path)
                raise requests.ConnectionError("the server sent another part than was asked for")
            before(whole.size - have, whole.size)
            path.parent.mkdir(exist_ok=True)
            whole.write(path)
            _receive(response, path, have, whole.size, progress)


def _whole_of(response: Response) -> _Whole:
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        raise DownloadError(
            "the server does not say how long the archive is",
            hint="Download it in the browser, and give it with --from-zip",
        )
    return _Whole(response.headers.get("ETag") or response.headers.get("Last-Modified"), int(length))


def _receive(
    response: Response, path: Path, have: int, total: int, progress: ProgressCallback | None
) -> None:
    import requests

    with path.open("r+b" if have else "wb") as target:
        target.seek(have)
        for piece in response.iter_content(_PIECE_BYTES):
            target.write(piece)
            target.flush()  # what has arrived survives the end of this process
            have += len(piece)
            if progress is not None:
                progress(have, total)
        target.truncate()
        os.fsync(target.fileno())
    if have != total:
        raise requests.ConnectionError(f"{have} of {total} bytes arrived")


def _is_strong(validator: str | None) -> bool:
    """Whether it tells any two files apart, which a weak ETag does not."""
    return validator is not None and not validator.startswith("W/")


def _pause(error: Exception, failures: int) -> float:
    """Seconds to wait: what the server asks for, else twice as long each time."""
    response = getattr(error, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_PAUSE_S) if asked.isdecimal() else float(2 ** (failures - 1))


def _lost(path: Path, error: Exception) -> DownloadError:
    whole, reason = _Whole.read(path), " ".join(str(error).split())[:200]
    arrived = f" after {size(_length(path))} of {size(whole.size)}" if whole else ""
    return DownloadError(
        f"the connection to Kaggle is lost{arrived} ({type(error).__name__}: {reason})",
        hint="Check the network and run the same command again; it goes on from there",
    )


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    _note(path).unlink(missing_ok=True)
