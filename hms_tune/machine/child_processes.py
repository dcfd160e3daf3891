"""Processes of this program: each calls one function, and one that cannot is told of in a sentence.

A new interpreter looks for modules in the working folder first: a file beside a notebook that is called as a
module of Python's own (signal, queue, types) would stand for it. These processes do not look there.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from hms_tune.errors import HmsTuneError

_BEGIN = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from hms_tune.machine.child_processes import begin; begin()"
)
_HAS_BEGUN = b"\0has begun"
_HINT = "Rename the file if it is yours, else install it again (pip install --force-reinstall)"


class ChildProcess:
    """A process that calls ``function(*arguments, pipe)``.

    What it says before that is kept; from there on its stderr is this process's. Arguments reach it through a
    pipe, so that none of them is seen among the processes.

    Parameters
    ----------
    function : of a module, by whose name the process finds it
    name : what it is, for messages and among the processes
    environment : variables that it has besides this process's

    Attributes
    ----------
    pipe : this process's end of the line to it
    """

    def __init__(
        self,
        function: Callable[..., None],
        *arguments: object,
        name: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.pipe, theirs = Pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed when it has been read)
        self._kept = b""
        stderr = os.dup(2)
        try:
            self._process = subprocess.Popen(
                [sys.executable, *_flags(), "-P", "-c", _BEGIN, str(theirs.fileno()), str(stderr), name],
                stdin=subprocess.PIPE,
                stderr=self._said,
                pass_fds=(theirs.fileno(), stderr),
                env=None if environment is None else {**os.environ, **environment},
            )
        finally:
            os.close(stderr)
            theirs.close()
        assert self._process.stdin is not None
        with suppress(OSError), self._process.stdin as request:  # it may have ended
            pickle.dump([each or os.getcwd() for each in sys.path], request)
            pickle.dump((function, arguments), request)

    @property
    def exitcode(self) -> int | None:
        """The exit status, or the number of the signal that ended it, below 0; None while it runs."""
        return self._process.poll()

    def join(self) -> None:
        """Wait until it has ended."""
        self._process.wait()

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end; returns whether it came."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            return True
        return False

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def not_begun(self) -> HmsTuneError | None:
        """Why it could not call its function: another start would not mend that. It has ended.

        Returns
        -------
        None if it did call it, or a signal ended it before
        """
        self.join()
        if not self._said.closed:
            with self._said as said:
                self._kept = os.pread(said.fileno(), os.fstat(said.fileno()).st_size, 0)
        code = self._process.returncode
        if code < 0 or self._kept.endswith(_HAS_BEGUN):
            return None
        text = self._kept.decode(errors="replace").strip()
        last = text.splitlines()[-1] if text else f"it ended with exit status {code}, and said nothing"
        files = re.findall(r'^ *File "([^"<]+)", line \d+', text, re.MULTILINE)
        return HmsTuneError(
            f"{self.name} cannot begin: {last}", where=files[-1] if files else None, hint=_HINT
        )


def _flags() -> list[str]:
    """What this interpreter was told to leave aside, for the next to leave it aside as well."""
    flags = {"-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site}
    return [flag for flag, given in flags.items() if given]


def begin() -> None:
    """Be a :class:`ChildProcess`: find the function, and call it."""
    line, stderr = map(int, sys.argv[1:3])
    function, arguments = pickle.load(sys.stdin.buffer)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.set_inheritable(line, False)
    _let_be_heard(stderr)
    function(*arguments, Connection(line))


def _let_be_heard(stderr: int) -> None:
    """Pass on what was said until now, and note for whoever started this that it has begun."""
    sys.stderr.flush()
    os.write(stderr, os.pread(2, os.fstat(2).st_size, 0))
    os.write(2, _HAS_BEGUN)
    os.dup2(stderr, 2)
    os.close(stderr)


@contextmanager
def importing(who: str) -> Iterator[None]:
    """Say in one sentence what the block cannot import: another start would not mend it.

    Raises
    ------
    HmsTuneError
        For whatever a module did when it was imported.
    """
    try:
        yield
    except Exception as error:  # a library of another version raises ValueError, OSError, AttributeError
        what, where = _what_failed(error)
        raise HmsTuneError(f"{who} cannot import {what}", where=where, hint=_HINT) from error


def _what_failed(error: Exception) -> tuple[str, str | None]:
    match error:
        case ImportError():
            return f"{error.name or 'what it needs'}: {error.msg}", error.path
        case SyntaxError():
            return f"{error.filename or 'what it needs'}: {error.msg}", error.filename
        case _:
            frames = traceback.extract_tb(error.__traceback__)
            return f"what it needs: {type(error).__name__}: {error}", frames[-1].filename if frames else None
