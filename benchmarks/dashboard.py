"""How long a study's page takes in a browser, with and without what hms_tune adds to it.

Needs Chromium and the dev extra. Run on any machine:

    python benchmarks/dashboard.py

fills databases with studies of 100, 1,000 and 5,000 made-up trials, serves each once bare (optuna-dashboard
on Optuna's tables alone) and once as ``hms-tune dashboard`` does (a note on every trial and on the study,
figures, pictures of twelve bests), loads the pages in alternation in a headless browser without a cache, and
prints medians, then what of a page's time is the server's and the browser's, in seconds of a processor, which
other programs on the machine change less than they change the time on the clock.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from optuna.distributions import distribution_to_json
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import text

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage, open_storage
from hms_tune.database.embedded.server import start_embedded
from hms_tune.reports.dashboard.files import DashboardFiles
from hms_tune.reports.dashboard.publish import publish_study
from hms_tune.search.suggest import distributions
from hms_tune.studies.predictions import keep_out_of_fold
from hms_tune.training.events import OutOfFold
from hms_tune.training.history import EpochRecord, FoldRecord, folds_as_json
from hms_tune.worker.open_study import open_search

SIZES = (100, 1000, 5000)
STEPS = 20
BESTS = 12
_JUDGED = 1000
STUDY = """
study: many
model: {backbone: {choices: [resnet18, resnet34]}, pretrained: false, dropout: {low: 0.0, high: 0.5}}
training:
  epochs: 4
  learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
  weight_decay: {low: 1.0e-6, high: 5.0e-2, log: true}
  batch_size: {choices: [16, 32, 64]}
  label_smoothing: {low: 0.0, high: 0.2}
augmentation: {time_mask: {low: 0.0, high: 0.5}, frequency_mask: {low: 0.0, high: 0.5}}
budget: {trials: 100000}
"""

TRIALS = """
INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete)
SELECT n + 1, n, :study, 'COMPLETE', timestamp '2026-01-01' + n * interval '30 s',
       timestamp '2026-01-01' + (n + 1) * interval '30 s'
FROM generate_series(0, :trials - 1) n;
INSERT INTO trial_values (trial_id, objective, value, value_type)
SELECT n + 1, 0, 0.6 + 0.3 * random() + 0.4 / (1 + n / 50.0), 'FINITE' FROM generate_series(0, :trials - 1) n;
INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
SELECT trial_id, step, value + 0.5 / step, 'FINITE' FROM trial_values, generate_series(1, :steps) step;
INSERT INTO trial_user_attributes (trial_id, key, value_json)
SELECT trial_id, key, attribute FROM trial_values, LATERAL (VALUES
  ('lease', trial_id::text), ('trial', (trial_id - 1)::text), ('worker', '"host:cuda0"'),
  ('seconds', '28.5'), ('kl_all_rows', value::text), ('kl_high_vote', value::text),
  ('attempt_state', '"complete"'), ('config_hash', '"0123456789abcdef"'),
  ('fold_kl', '[0.7, 0.7, 0.7, 0.7, 0.7]')) told (key, attribute);
"""

PARAMETER = """
INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
SELECT n + 1, :name, {value}, :distribution FROM generate_series(0, :trials - 1) n
"""

ADDITIONS = """
INSERT INTO hms_tune.trials (trial_id, study_id, state, number, last_optuna_trial_id, ended_at)
SELECT n + 1, :study, 'complete', n, n + 1, now() FROM generate_series(0, :trials - 1) n;
INSERT INTO hms_tune.attempts (lease_id, study_id, trial_id, worker_id, slot, host, pid,
                               optuna_trial_id, number, claimed_at, expires_at, ended_at, state)
SELECT n + 1, :study, n + 1, 'worker', 'cuda' || n % 4, 'host', 1, n + 1, n,
       timestamptz '2026-01-01' + n * interval '30 s', now(),
       timestamptz '2026-01-01' + (n + 1) * interval '30 s', 'complete'
FROM generate_series(0, :trials - 1) n;
INSERT INTO hms_tune.attempt_records
  (study_id, number, folds, closed_at, device, device_name, gpus, note)
SELECT :study, n, CAST(:folds AS jsonb), now(), 'cuda:0', 'a GPU', 1, replace(:note, 'N', n::text)
FROM generate_series(0, :trials - 1) n;
"""

NOTE = "**Complete: KL 0.7N.**\n\n| fold | KL | best epoch | train loss |\n|---|---|---|---|\n" + "".join(
    f"| {fold} | 0.7N{fold} | 3 of 4 | 0.5N |\n" for fold in range(1, 6)
)


def fill(storage: Storage, trials: int, artifacts: Path | None) -> None:
    """Write a study of complete trials into the tables; with artifacts, all that is added as well."""
    study_file = StudyFile.parse(STUDY, "benchmark")
    study = open_search(storage, study_file).study_id
    values = {"study": study, "trials": trials, "steps": STEPS}
    with storage.engine.begin() as connection:
        connection.execute(text("SELECT setseed(0.5)"))
        for statement in filter(str.strip, TRIALS.split(";")):
            connection.execute(text(statement), values)
        for name, space in distributions(study_file.space).items():
            value = (
                f"floor(random() * {len(space.choices)})" if hasattr(space, "choices") else "0.01 * random()"
            )
            drawn = {"name": name, "distribution": distribution_to_json(space), "trials": trials}
            connection.execute(text(PARAMETER.format(value=value)), drawn)
        if artifacts is None:
            return
        told = {"folds": json.dumps(folds_as_json(_folds())), "note": NOTE}
        for statement in filter(str.strip, ADDITIONS.split(";")):
            connection.execute(text(statement), values | told)
    for number in range(0, trials, trials // BESTS):
        keep_out_of_fold(storage, study, number, _predictions())
    publish_study(storage, study_file.study, artifacts)


def _folds() -> tuple[FoldRecord, ...]:
    epochs = tuple(
        EpochRecord(
            epoch=epoch,
            stage=0,
            train_loss=0.812345,
            kl=0.723456,
            kl_all_rows=0.723456,
            kl_high_vote=0.623456,
            learning_rate=0.000123,
            images=13671,
            seconds=1.23456,
        )
        for epoch in range(4)
    )
    return tuple(
        FoldRecord(
            fold=fold,
            epochs_planned=4,
            train_rows=13671,
            validation_rows=3418,
            epochs=epochs,
            kl=0.723456,
            best_epoch=2,
            stopped_early=False,
        )
        for fold in range(5)
    )


def _predictions(rows: int = 600) -> OutOfFold:
    generator = np.random.default_rng(0)
    numbers = np.arange(rows)
    return OutOfFold(
        row=numbers,
        eeg_id=numbers,
        patient_id=numbers // 4,
        fold=numbers % 5,
        probabilities=generator.dirichlet(np.ones(6), rows).astype(np.float32),
        targets=generator.dirichlet(np.ones(6), rows).astype(np.float32),
        total_votes=generator.integers(1, 20, rows),
    )


@dataclass(frozen=True, slots=True)
class Served:
    """A dashboard in a process of its own."""

    name: str
    address: str
    process: multiprocessing.process.BaseProcess


@dataclass(frozen=True, slots=True)
class Load:
    """One load of a page.

    ``seconds`` on the clock until the page shows its history and its best trial; ``server`` and ``browser``
    the processor's seconds meanwhile, of the server's process and of the page's main thread; ``script`` what
    of the latter JavaScript took; ``megabytes`` what was sent.
    """

    seconds: float
    server: float
    browser: float
    script: float
    megabytes: float


def serve(name: str, url: str, artifacts: Path, *, bare: bool) -> Served:
    """Start a server; the dashboard's own cache is warm after the first page."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(url, artifacts, bare, theirs), daemon=True)
    process.start()
    return Served(name, f"{ours.recv()}studies/1", process)


def _serve(url: str, artifacts: Path, bare: bool, told: Connection) -> None:
    """Both behind the product's own server: a thread for each request, so that none waits for another."""
    import optuna_dashboard

    from hms_tune.reports.dashboard.serve import dashboard_app, serve_dashboard

    storage = open_storage(url)
    app: Any = (
        optuna_dashboard.wsgi(storage.optuna, artifact_store=DashboardFiles(artifacts))
        if bare
        else dashboard_app(storage, artifacts)
    )
    serve_dashboard(app, port=0, started=told.send)


def load(browser: Browser, served: Served) -> Load:
    """Load the study's page with nothing cached by the browser."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(300_000)
    told = context.new_cdp_session(page)
    sent: list[float] = []
    told.on("Network.loadingFinished", lambda event: sent.append(event["encodedDataLength"]))
    told.send("Network.enable")
    told.send("Performance.enable", {"timeDomain": "threadTicks"})
    server = psutil.Process(served.process.pid)
    spent, began = sum(server.cpu_times()[:2]), time.perf_counter()
    page.goto(served.address, wait_until="commit")
    page.get_by_text("Best Trial (number=").first.wait_for()
    page.locator("#graph-history .main-svg, .js-plotly-plot .main-svg").first.wait_for()
    seconds = time.perf_counter() - began
    measured = {each["name"]: each["value"] for each in told.send("Performance.getMetrics")["metrics"]}
    took = Load(
        seconds=seconds,
        server=sum(server.cpu_times()[:2]) - spent,
        browser=measured["TaskDuration"],
        script=measured["ScriptDuration"],
        megabytes=sum(sent) / 1e6,
    )
    context.close()
    return took


def measure(
    browser: Browser, server: str, folder: Path, trials: int, repeats: int
) -> tuple[list[Load], list[Load]]:
    """A first load of each, and the median of later ones; bare, then ours."""
    served = []
    for bare in (True, False):
        name = f"{'bare' if bare else 'noted'}_{trials}"
        artifacts = folder / name
        url = _database(server, name)
        storage = open_storage(url)
        fill(storage, trials, None if bare else artifacts)
        storage.close()
        served.append(serve(name, url, artifacts, bare=bare))
    first = [load(browser, each) for each in served]
    later: dict[str, list[Load]] = {each.name: [] for each in served}
    for repeat in range(repeats):
        for each in served if repeat % 2 else reversed(served):
            later[each.name].append(load(browser, each))
    for each in served:
        each.process.kill()
        each.process.join()
    return first, [_median(later[each.name]) for each in served]


def _median(loads: Sequence[Load]) -> Load:
    return Load(*(statistics.median(getattr(each, field.name) for each in loads) for field in fields(Load)))


def times_row(trials: int, first: Sequence[Load], later: Sequence[Load]) -> str:
    """Seconds on the clock."""
    cells = [f"{each.seconds:.2f} s" for each in (*first, *later)]
    added = later[1].seconds / later[0].seconds - 1.0
    return _row([f"{trials:,}", *cells, f"{100 * added:+.0f} %"])


def split_row(trials: int, name: str, load: Load) -> str:
    """Where the seconds go."""
    spent = [f"{each:.2f} s" for each in (load.server, load.browser, load.script)]
    return _row([f"{trials:,}, {name}", *spent, f"{load.megabytes:.2f} MB"])


def verdicts(measured: dict[int, Sequence[Load]]) -> list[str]:
    """What was promised, and whether it holds here."""
    told = []
    for trials, (bare, ours) in measured.items():
        added = 100 * (ours.seconds / bare.seconds - 1.0)
        told.append(_verdict(f"{trials:,} trials: at most 10 % over bare", f"{added:+.0f} %", added <= 10.0))
    ours_at = {trials: loads[1].seconds for trials, loads in measured.items()}
    if _JUDGED in ours_at:
        seconds = ours_at[_JUDGED]
        told.append(_verdict(f"{_JUDGED:,} trials: at most 3 s", f"{seconds:.2f} s", seconds <= 3.0))
    else:
        told.append(f"{_JUDGED:,} trials: at most 3 s: not measured")
    return told


def _verdict(promise: str, found: str, holds: bool) -> str:
    return f"{promise}: {found}, {'holds' if holds else 'DOES NOT HOLD'}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(names: Sequence[str]) -> str:
    return f"{_row(names)}\n|" + "---:|" * len(names)


def _database(server: str, name: str) -> str:
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url

    address = make_url(server).set(drivername="postgresql+psycopg2")
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return address.set(database=name).render_as_string(hide_password=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    folder = Path(tempfile.mkdtemp(prefix="hms-tune-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = start_embedded(folder / "postgres")
    load_1, load_5, _ = os.getloadavg()
    machine = f"{os.cpu_count()} cores, load {load_1:.1f} (5 min: {load_5:.1f}), {STEPS} reports a trial"
    print(f"{machine}, median of {options.repeats} loads\n")  # noqa: T201
    print(_head(["trials", "bare, first", "ours, first", "bare", "ours", "added"]))  # noqa: T201
    measured: dict[int, Sequence[Load]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for trials in options.sizes:
            first, measured[trials] = measure(browser, server, folder, trials, options.repeats)
            print(times_row(trials, first, measured[trials]), flush=True)  # noqa: T201
        browser.close()
    names = ["of these, processor seconds", "server", "page's main thread", "script", "sent"]
    print(f"\n{_head(names)}")  # noqa: T201
    for trials, loads in measured.items():
        for name, each in zip(("bare", "ours"), loads, strict=True):
            print(split_row(trials, name, each))  # noqa: T201
    print("\n" + "\n".join(f"- {told}" for told in verdicts(measured)))  # noqa: T201


if __name__ == "__main__":
    main()
