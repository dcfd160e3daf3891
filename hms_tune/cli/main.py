"""``hms-tune``: the commands, each loaded when it is called.

Listing the commands must not import torch; a command's module is imported only to run it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hms_tune.cli.options import StudyCommand
from hms_tune.errors import HmsTuneError
from hms_tune.machine.terminal import guard_streams
from hms_tune.version import __version__

# name: (module, attribute, help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("demo", "demo", "Show the whole product on this machine, from synthetic data to a submission."),
    "data": ("data", "app", "Download, check, synthesize and prepare a competition folder."),
    "study": ("study", "app", "Check, list, show, steer and delete studies."),
    "model": ("model", "app", "Backbones and their layers."),
    "worker": ("worker", "worker", "Run a study's trials until its budget is spent or it is stopped."),
    "status": ("status", "status", "Show how a study stands."),
    "dashboard": ("dashboard", "dashboard", "Open the studies in a browser."),
    "database": ("database", "app", "Print the database's address; keep this machine's own server up."),
    "export-best": ("bundles.export", "export_best", "Retrain the best trial and write its bundle."),
    "train": (
        "bundles.export",
        "train",
        "Train one configuration, outside of a search, and write its bundle.",
    ),
    "predict": ("bundles.predict", "predict", "Predict a competition folder with a bundle."),
    "kaggle": (
        "bundles.predict",
        "kaggle",
        "Write a data set and notebooks that predict and train on Kaggle.",
    ),
    "blend": ("bundles.predict", "blend", "Blend bundles, with a score of patients that had no part in it."),
    "doctor": ("doctor", "doctor", "Say what is installed, reachable and writable, and how to fix it."),
}


class _Commands(TyperGroup):
    """Shows the commands without loading any, and loads the one that is run, or completed by a shell."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the first word names, whole."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest


app = typer.Typer(
    name="hms-tune",
    cls=_Commands,
    help="Find the best hyperparameters for models that classify harmful brain activity in EEG.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hms-tune {__version__}")
        raise typer.Exit


@app.callback()
def hms_tune_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find the best hyperparameters for models that classify harmful brain activity in EEG."""


def load(name: str) -> Any:
    """A command, or a group of commands, from its module."""
    module, attribute, _ = COMMANDS[name]
    target: Any = getattr(importlib.import_module(f"hms_tune.cli.{module}"), attribute)
    if isinstance(target, typer.Typer):
        return typer.main.get_group(target)  # get_command would give it a shell completion of its own
    single = typer.Typer(add_completion=False)
    single.command(name, cls=StudyCommand)(target)
    return typer.main.get_command(single)


def _show(name: str, help_text: str) -> None:
    @app.command(name, help=help_text)
    def shown() -> None: ...


for _name, (_module, _attribute, _help) in COMMANDS.items():
    _show(_name, _help)


def main() -> None:
    """Run the command line. An error that the user can put right is one line, without a traceback."""
    # Torch reads it when it is loaded, here and in the slots. Threads that spin while they wait slow down
    # everything else on the machine (docs/decisions/0011).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    guard_streams()
    try:
        app(prog_name="hms-tune")
    except HmsTuneError as error:
        _fail(error)
    except BrokenPipeError:  # the reader of a pipe has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        told = _of_the_database(error)
        if told is None:
            raise
        _fail(told)


def _of_the_database(error: Exception) -> HmsTuneError | None:
    """The error of a database that went away in the middle of a command."""
    if type(error).__module__.split(".")[0] not in ("sqlalchemy", "optuna", "psycopg2"):
        return None
    from hms_tune.database.connection.retry import as_storage_error

    return as_storage_error(error)


def _fail(error: HmsTuneError) -> None:
    text = " ".join(str(error).split())
    typer.echo(f"error: {text}", err=True)
    sys.exit(error.exit_code)
