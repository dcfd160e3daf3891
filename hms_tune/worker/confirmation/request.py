"""A study of its own for the leading trials of another: whole configurations, each with a fresh seed.

Claims, leases, checkpoints, recovery and exit statuses are those of any study. The study that was searched
keeps its trials, its best and what its sampler knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hms_tune.config.study_file import STUDY_NAME, StudyFile
from hms_tune.config.yaml_lines import Source, parse_yaml
from hms_tune.database.connect import Storage
from hms_tune.database.queries.confirmations import as_confirmation, confirmation_of
from hms_tune.database.queue.claim import Budget, register_study
from hms_tune.database.queue.confirm import enqueue_confirmation
from hms_tune.errors import ConfigError, UsageError
from hms_tune.search.random_draws import derived_seed
from hms_tune.search.study import create_or_load, stored_study_file
from hms_tune.search.suggest import config_of
from hms_tune.studies.lookup import find_study, load_study
from hms_tune.studies.trial_record import study_record

SEED = "training.seed"
"""The parameter by which runs of a candidate differ."""

TOP, SEEDS = 5, 3
"""How many candidates run, and how often, unless somebody says otherwise."""

_SUFFIX = "-confirm"
_MOST_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Requested:
    """What a person asked for: the confirming study, its candidates, and how many runs were added.

    ``left_out``: trials that score as well and cannot be trained again, with the reason.
    """

    study: str
    candidates: tuple[int, ...]
    added: int
    left_out: Mapping[int, str]


def request_confirmation(storage: Storage, name: str, *, top: int = TOP, seeds: int = SEEDS) -> Requested:
    """Let the fleet train the leading trials of a study again. Asked again for more, it adds what is new.

    Parameters
    ----------
    top : how many of the best trials, each configuration once
    seeds : how often each is trained; the seeds of a round are the same for all

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    UsageError
        If fewer than two trials are complete, or the study cannot be confirmed.
    """
    searched = stored_study_file(load_study(storage, name))
    searched_id = find_study(storage, name)
    with storage.transaction() as connection:
        known = confirmation_of(connection, name)
        if as_confirmation(connection, searched_id) is not None:
            raise UsageError("it confirms another study itself", where=f"study {name}")
    candidates, left_out = _leading(storage, name, top)
    rounds = [derived_seed(name, "confirmation", number) % (_MOST_SEED + 1) for number in range(seeds)]
    runs = [{**params, SEED: seed} for seed in rounds for params in candidates.values()]
    file = confirming_file(searched, trials=len(runs))
    with storage.setup_lock():
        if known is None and _is_there(storage, file.study):
            raise UsageError(
                f'a study "{file.study}" is there that does not confirm this one',
                where=f"study {name}",
                hint=f"Delete it first: hms-tune study delete {file.study}",
            )
        create_or_load(storage.optuna.shared, file)
        study_id = register_study(storage, file.study, Budget(len(runs)))
        kept = {} if known is None else known.candidates
        added = enqueue_confirmation(storage, study_id, (searched_id, name), kept | candidates, runs)
    return Requested(file.study, tuple(candidates), added, left_out)


def _leading(storage: Storage, name: str, top: int) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """Parameters of the best complete trials by number, the best first, each configuration once.

    Beside them why others, which other programs or an earlier space left there, are none of them.
    """
    record = study_record(storage, name)
    found: dict[int, dict[str, Any]] = {}
    left_out: dict[int, str] = {}
    for trial in record.ranked:
        params = without_seed(trial.params)
        if len(found) == top:
            break
        if params in found.values():
            continue
        try:
            config_of(record.study_file.space, trial.params)
        except ConfigError as error:
            left_out[trial.trial] = error.what
            continue
        found[trial.trial] = params
    if len(found) < 2:
        others = "".join(f"; trial {number} is left out: {why}" for number, why in left_out.items())
        raise UsageError(
            f"{len(found)} different configurations are complete, and a race needs two{others}",
            where=f"study {name}",
            hint="Wait, or run more workers",
        )
    return found, left_out


def _is_there(storage: Storage, name: str) -> bool:
    try:
        storage.optuna.get_study_id_from_name(name)
    except KeyError:
        return False
    return True


def confirming_file(searched: StudyFile, *, trials: int) -> StudyFile:
    """The study file of a confirmation: the same space, any seed, and folds that are drawn anew for each run.

    Raises
    ------
    UsageError
        If the training section is a choice, which has no single seed.
    """
    content = parse_yaml(searched.text, Source(searched.source)).plain()
    training, data = content.get("training") or {}, content.get("data") or {}
    if not isinstance(training, dict) or "choices" in training or not isinstance(data, dict):
        raise UsageError(
            "its training section is a choice, which has no seed of its own", where=f"study {searched.study}"
        )
    content |= {
        "study": f"{searched.study[: 63 - len(_SUFFIX)]}{_SUFFIX}",
        "training": training | {"seed": {"low": 0, "high": _MOST_SEED}},
        "data": data | {"reshuffle": True},
        "search": {"scheduler": "none", "sampler": "random", "pruner": "none"},
        "budget": {"trials": trials},
    }
    assert STUDY_NAME.fullmatch(content["study"])
    return StudyFile.parse(json.dumps(content, indent=2), f"confirmation of {searched.study}")


def without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a candidate from others."""
    return {name: value for name, value in params.items() if name != SEED}


def confirmation_file(storage: Storage, name: str) -> StudyFile | None:
    """The study file by which the confirmation of a study runs; None: nobody has asked for one."""
    with storage.transaction() as connection:
        known = confirmation_of(connection, name)
    return None if known is None else stored_study_file(load_study(storage, known.study))
