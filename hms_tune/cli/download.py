"""``hms-tune data download``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from hms_tune.data.download.competition import Watch
from hms_tune.data.download.competition import download as download_competition
from hms_tune.errors import DownloadError


def download(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder to make.")],
    from_zip: Annotated[
        Path | None,
        typer.Option("--from-zip", metavar="FILE", help="Unpack this archive instead of asking Kaggle."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a competition folder once the new one is complete.")
    ] = False,
) -> None:
    """Fetch the competition from Kaggle into ROOT. Safe to interrupt: the same command goes on.

    Needs the kaggle extra, credentials, and that you accepted the competition's rules on its page.
    """
    try:
        with _Bars() as watch:
            competition = download_competition(root, from_zip=from_zip, force=force, watch=watch)
    except KeyboardInterrupt:
        mend = "Run the same command again; it goes on from there"
        raise DownloadError("the download was interrupted", where=root, mend=mend) from None
    typer.echo(str(competition.root))
    typer.echo(f"next: hms-tune data check {root}", err=True)


class _Bars:
    """A bar for the archive's bytes, then one for its files, on stderr where that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._what = ""

    def __enter__(self) -> Watch:
        return Watch(self._fetching, self._unpacking)

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _fetching(self, done: int, total: int) -> None:
        self._show("downloading", (DownloadColumn(), TransferSpeedColumn()), done, total)

    def _unpacking(self, done: int, total: int) -> None:
        self._show("unpacking", (MofNCompleteColumn(), TextColumn("files")), done, total)

    def _show(self, what: str, columns: tuple[ProgressColumn, ...], done: int, total: int) -> None:
        if not self._console.is_terminal:
            return
        if self._bar is None or what != self._what:
            self._stop()
            parts = (TextColumn(what), BarColumn(), *columns, TimeRemainingColumn())
            self._bar, self._what = Progress(*parts, console=self._console, transient=True), what
            # what an earlier run fetched is no part of this one's speed
            self._bar.add_task(what, total=total, completed=done)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
