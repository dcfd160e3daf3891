"""``hms-tune demo``: from synthetic data to a submission, by the functions behind the commands."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from hms_tune.cli.console import log_to, progress_bar
from hms_tune.config.study_file import StudyFile, available_studies, load_study_file
from hms_tune.config.yaml_lines import Source, parse_yaml
from hms_tune.errors import HmsTuneError, UsageError
from hms_tune.machine.progress import duration
from hms_tune.machine.terminal import Terminal
from hms_tune.trial_state import ENDED, TrialState

if TYPE_CHECKING:
    from hms_tune.database.connect import Storage
    from hms_tune.export.scores import Scores

_TEMPLATE = "smoke"
_STUDY = "demo"
_COPIED = "effnet"
"""The study that people are shown how to copy."""

_EPOCHS = 10
"""Twice what shows that everything works, so that the scores are better than chance."""


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo's folder: everything it writes lies here, so that removing it removes the demo."""

    folder: Path
    patients: int
    trials: int

    @property
    def data(self) -> Path:
        """The synthetic competition."""
        return self.folder / "competition"

    @property
    def home(self) -> Path:
        """The embedded database and the checkpoints."""
        return self.folder / "home"

    @property
    def study_path(self) -> Path:
        """The study file."""
        return self.folder / f"{_STUDY}.yaml"

    @property
    def submission(self) -> Path:
        """The predictions of the test half."""
        return self.folder / "submission.csv"

    @property
    def report(self) -> Path:
        """The page on the study."""
        return self.folder / "report.html"

    def enter(self) -> None:
        """Make the folder, or go on in one that an earlier demo of the same size left.

        Raises
        ------
        UsageError
            If the folder holds something else.
        """
        marker = self.folder / "demo.json"
        size = {"patients": self.patients, "trials": self.trials}
        if marker.is_file():
            if json.loads(marker.read_text()) != size:
                raise UsageError(
                    "holds a demo of another size",
                    where=self.folder,
                    hint="Remove it, or choose another --dir",
                )
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UsageError("is not a demo's folder", where=self.folder, hint="Choose another --dir")
        self.folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps(size) + "\n")


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Where everything goes.")] = Path("demo"),
    patients: Annotated[int, typer.Option("--patients", min=20, help="Patients to synthesize.")] = 60,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials of the search.")] = 12,
) -> None:
    """Show the whole product: synthetic data, a search on PostgreSQL, the best trial exported, a submission.

    Needs no data, account or GPU. Run again, it goes on where it was interrupted.
    """
    console = Terminal(stderr=True)
    log_to(console)
    plan = Demo(folder, patients, trials)
    plan.enter()
    _synthesize(plan, console)
    study_file = _study_file(plan)
    _search(plan, study_file, console)
    bundle, scores = _export(plan, study_file, console)
    _predict(plan, bundle, console)
    _end(plan, bundle, scores, console)


def _synthesize(plan: Demo, console: Console) -> None:
    from hms_tune.data.store.prepare import prepare
    from hms_tune.data.synthetic import synthesize

    with _step(console, f"A synthetic competition of {plan.patients} patients"):
        if not plan.data.exists():
            with progress_bar("synthesizing", "stretches", console) as progress:
                synthesize(plan.data, patients=plan.patients, progress=progress)
        with progress_bar("preparing", "files", console) as progress:
            prepare(plan.data, progress=progress)


def _study_file(plan: Demo) -> StudyFile:
    """The study file ``smoke`` with the demo's name, data, budget and epochs, where one can look at it."""
    template = load_study_file(_TEMPLATE)
    content = parse_yaml(template.text, Source(template.source)).plain()
    content |= {"study": _STUDY, "budget": {"trials": plan.trials}}
    content["data"] |= {"root": str(plan.data)}
    content["training"] |= {"epochs": _EPOCHS}
    plan.study_path.write_text(yaml.safe_dump(content, sort_keys=False, default_flow_style=None))
    return load_study_file(plan.study_path)


def _search(plan: Demo, study_file: StudyFile, console: Console) -> None:
    from hms_tune.tracking.console import ConsoleObserver
    from hms_tune.worker.options import WorkerOptions
    from hms_tune.worker.worker import Worker

    with _step(console, f"A search of {plan.trials} trials, on a PostgreSQL of its own"):
        options = WorkerOptions(
            study_file=study_file,
            storage=None,
            home=plan.home,
            data_root=plan.data,
            artifacts=plan.home / "artifacts",
        )
        observer = ConsoleObserver(console)
        Worker(options, observer, show_study=observer.show_study).run()
    _refuse_unfinished(plan)


def _refuse_unfinished(plan: Demo) -> None:
    """Raise an error if trials are left: a worker that is stopped returns as one that is done."""
    trials = _trials(plan)
    left = plan.trials - sum(trials[state] for state in ENDED)
    if left > 0:
        raise HmsTuneError(
            f"stopped with {left} trials left", where=plan.folder, hint="Run the same command to go on"
        )


def _export(plan: Demo, study_file: StudyFile, console: Console) -> tuple[Path, Scores]:
    from hms_tune.data.store.store import Store
    from hms_tune.export.place import BUNDLES, bundle_path, point_to_newest
    from hms_tune.export.scores import read_scores
    from hms_tune.machine.device import resolve_device
    from hms_tune.studies.export_best import best_trial, export_watched
    from hms_tune.studies.record_writer import Equipment
    from hms_tune.tracking.console import ConsoleObserver
    from hms_tune.tracking.observers import trackers

    with _database(plan) as database:
        choice = best_trial(database, _STUDY)
    out = bundle_path(_STUDY, choice.winner.number, plan.folder / BUNDLES)
    with _step(console, f"The best trial, number {choice.winner.number}, once more with its weights kept"):
        if not out.exists():
            store = Store.open(plan.data)
            equipment = Equipment.alone(str(resolve_device("auto")), store.manifest.digest)
            observers = [ConsoleObserver(console), *trackers(study_file, plan.home, equipment=equipment)]
            export_watched(choice, store, out, observers=observers)
    return point_to_newest(out, _STUDY) or out, read_scores(out)


def _predict(plan: Demo, bundle: Path, console: Console) -> None:
    from hms_tune.export.bundle import load_bundle
    from hms_tune.export.predict import predict

    with _step(console, "The test half, predicted"):
        predict(load_bundle(bundle), plan.data, out=plan.submission)


def _end(plan: Demo, bundle: Path, scores: Scores, console: Console) -> None:
    """Write the page on the study, and say what came out, why scores differ, and what to do next."""
    _write_report(plan, bundle, console)
    _tell(plan, bundle, scores)


def _write_report(plan: Demo, bundle: Path, console: Console) -> None:
    from hms_tune.reports.page import write
    from hms_tune.reports.study_page import gather, report_page

    with _step(console, "One page on the study"), _database(plan) as database:
        write(plan.report, report_page(gather(database, _STUDY, bundle=bundle)).encode())


def _trials(plan: Demo) -> dict[TrialState, int]:
    from hms_tune.studies.status import status

    with _database(plan) as database:
        return status(database, _STUDY).trials


@contextmanager
def _database(plan: Demo) -> Iterator[Storage]:
    from hms_tune.database.connect import open_storage, resolve_address

    with closing(open_storage(resolve_address(None, home=plan.home))) as database:
        yield database


def _tell(plan: Demo, bundle: Path, scores: Scores) -> None:
    from hms_tune.studies.text import score_text

    trials = _trials(plan)
    states = [f"{trials[state]} {state}" for state in ENDED if trials[state]]
    table = Table(title="hms_tune demo", show_header=False, title_justify="left")
    table.add_row("trials", ", ".join(states))
    table.add_row("best KL in the search", score_text(scores.search_kl))
    if scores.search_corrected is not None:
        table.add_row("corrected for what its choice flatters", score_text(scores.search_corrected.kl))
    table.add_row("KL of the best trial, retrained", score_text(scores.kl))
    table.add_row("KL of the prior on the same folds", score_text(scores.prior_kl))
    table.add_row(f"KL on held-out patients ({scores.held_out_rows} EEGs)", score_text(scores.held_out_kl))
    table.add_row("KL of the prior there", score_text(scores.held_out_prior_kl))
    console = Terminal()
    console.print(table)
    if scores.held_out_kl is not None:
        console.print(_why_held_out_differs(plan), highlight=False)
    for name, what in (
        ("report", str(plan.report)),
        ("bundle", str(bundle)),
        ("submission", str(plan.submission)),
        ("dashboard", _command(plan, "dashboard")),
        ("all trials", _command(plan, "study", "show", _STUDY)),
    ):
        console.print(f"{name:<12}{what}", markup=False, highlight=False, soft_wrap=True)
    console.print("\nnext")
    commands = _next()
    width = max(len(command) for command, _ in commands)
    for command, what in commands:
        console.print(f"  {command:<{width}}  # {what}", markup=False, highlight=False, soft_wrap=True)


def _why_held_out_differs(plan: Demo) -> str:
    return (
        "The held-out KL is the one to expect of new patients: they chose neither the trial nor its epochs. "
        f"The search's is the best of {plan.trials} trials on patients that did, which flatters it; the two "
        "are of different patients, so compare each with its prior."
    )


def _next() -> list[tuple[str, str]]:
    """Commands that lead from the demo to a search of one's own, as they can be pasted into this shell."""
    own = available_studies()[_COPIED]
    commands = [
        ("hms-tune data download data/hms", "the competition's data (data/README.md)"),
        (f"sed 's/^study: .*/study: mine/' {shlex.quote(str(own))} > mine.yaml", "a study of your own"),
        ("hms-tune study check mine", "what it searches"),
    ]
    environment = Path(sys.prefix)
    if environment != Path(sys.base_prefix) and os.environ.get("VIRTUAL_ENV") != sys.prefix:
        activate = os.path.relpath(environment / "bin" / "activate")
        commands.insert(0, (f". {shlex.quote(activate)}", "hms-tune, in this shell"))
        commands.pop()
    return commands


def _command(plan: Demo, *arguments: str) -> str:
    """A command line that reaches the demo's database, as it can be pasted into this shell."""
    variables = [f"HMS_TUNE_HOME={shlex.quote(str(plan.home))}"]
    if os.environ.get("HMS_TUNE_STORAGE"):
        variables.append("HMS_TUNE_STORAGE=")
    return " ".join([*variables, shlex.quote(sys.argv[0]), *arguments])


@contextmanager
def _step(console: Console, title: str) -> Iterator[None]:
    console.rule(title, align="left")
    start = time.perf_counter()
    yield
    console.print(f"took {duration(time.perf_counter() - start)}", style="dim")
