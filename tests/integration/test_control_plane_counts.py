"""What a trial asks of the database beside stock Optuna, as counts; times are the benchmark's affair.

The bounds are what holds today, rounded up. They are to fall with every change that spares something.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hms_tune.database.embedded import cluster

MOST_STATEMENTS = 0.25
"""Statements of a trial of twenty reports over stock Optuna's, which come to 253."""

MOST_TRANSACTIONS = 0.85
"""The same for transactions, of which stock Optuna has 56."""

MOST_CONNECTIONS = 2.0
"""Connections of a slot, at the most."""

WORKERS, TRIALS, IN_STUDY = 2, 8, 20


class Cell(NamedTuple):
    """What an arm came to, and the most connections that there were after its workers had joined."""

    told: dict[str, Any]
    connections: int


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cell]]:
    """What the benchmark's arms came to, in a study whose pruner has trials to judge by."""
    folder = tmp_path_factory.mktemp("control_plane")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        patch.setattr(cluster, "CONNECTIONS", cluster.CONNECTIONS)  # the benchmark raises it
        import control_plane
        import control_plane_fleet

        server = control_plane.Server(folder)
        found = {}
        for arm in ("stock", "ours"):
            task = control_plane.Task(
                stock=arm == "stock",
                url=server.url,
                name=arm,
                sampler="random",
                workers=WORKERS,
                trials=TRIALS,
                in_study=IN_STUDY,
                trial_s=0.0,
                folder=str(folder / arm),
                by_caller=False,
            )
            # What the benchmark leaves to a process that loads a commit's code; this one has loaded it.
            most: list[int] = []
            told = control_plane_fleet.cell(task, lambda _, most=most: most.append(server.most_connections()))
            found[arm] = Cell(told, connections=most[-1])
        server.close()
        yield found
        for name in [name for name in sys.modules if name.startswith("control_plane")]:
            del sys.modules[name]


def _ratio(cells: dict[str, Cell], what: str) -> float:
    a_trial = {arm: cell.told[what] / cell.told["trials"] for arm, cell in cells.items()}
    return float(a_trial["ours"] / a_trial["stock"])


def test_each_arm_runs_every_trial_to_its_end(cells: dict[str, Cell]) -> None:
    assert {arm: cell.told["trials"] for arm, cell in cells.items()} == {"stock": TRIALS, "ours": TRIALS}


def test_a_trial_asks_a_quarter_of_the_statements_of_stock_optuna(cells: dict[str, Cell]) -> None:
    assert _ratio(cells, "statements") <= MOST_STATEMENTS


def test_a_trial_takes_a_bounded_multiple_of_the_transactions_of_stock_optuna(cells: dict[str, Cell]) -> None:
    assert _ratio(cells, "transactions") <= MOST_TRANSACTIONS


def test_a_slot_holds_at_most_two_connections(cells: dict[str, Cell]) -> None:
    assert cells["ours"].connections / WORKERS <= MOST_CONNECTIONS
