"""How the next trial configuration is drawn.

Samplers and pruners of Optuna's interface may be users' own: a function from :class:`SearchInput`, marked
with :func:`sampler` or :func:`pruner`; see :mod:`hms_tune.models.own_function`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from hms_tune.config.study_file import StudyFile
from hms_tune.config.study_sections import PromotionScheduler
from hms_tune.errors import ConfigError
from hms_tune.models.own_function import OwnFunctions
from hms_tune.search.list_samplers import GridSampler, QmcSampler
from hms_tune.search.memory_constraint import is_infeasible
from hms_tune.search.promotion.surrogate import Known
from hms_tune.search.promotion_sampler import LearningCurveSampler, PredictedScoreSampler
from hms_tune.search.random_draws import CountedRandomSampler, derived_seed
from hms_tune.search.reports import rungs_of
from hms_tune.search.suggest import distributions

_OwnSampler = TypeVar("_OwnSampler", bound="Callable[[SearchInput], BaseSampler]")
_OwnPruner = TypeVar("_OwnPruner", bound="Callable[[SearchInput], BasePruner]")

_SAMPLERS = OwnFunctions("sampler", where="search.sampler", error=ConfigError)
_PRUNERS = OwnFunctions("pruner", where="search.pruner", error=ConfigError)


@dataclass(frozen=True, slots=True)
class SearchInput:
    """What a sampler or pruner of one's own is made from.

    Attributes
    ----------
    seed : derives from ``search.seed``; a sampler's differs for every slot of every worker
    distributions : Optuna's distribution of every parameter, by its name, conditional ones too
    epochs : the most epochs of a fold; a trial reports at step fold x epochs + epoch, the epoch from 1
    folds : the most folds of a trial
    """

    seed: int
    distributions: dict[str, BaseDistribution]
    epochs: int
    folds: int


def sampler(make: _OwnSampler) -> _OwnSampler:
    """Mark a function as one that makes a sampler of Optuna's interface from a :class:`SearchInput`."""
    return _SAMPLERS.mark(make)


def pruner(make: _OwnPruner) -> _OwnPruner:
    """Mark a function as one that makes a pruner of Optuna's interface from a :class:`SearchInput`."""
    return _PRUNERS.mark(make)


def own_pruner(study_file: StudyFile, name: str) -> BasePruner:
    """The pruner that a user's function makes.

    Raises
    ------
    ConfigError
        If there is no such function, or it makes something else.
    """
    seed = derived_seed(study_file.search.seed, "pruner")
    pruner: BasePruner = _made_by(_PRUNERS, name, study_file, seed, BasePruner)
    return pruner


def _made_by(functions: OwnFunctions, name: str, study_file: StudyFile, seed: int, kind: Any) -> Any:
    make = functions.find(name)
    given = SearchInput(
        seed, distributions(study_file.space), epochs=study_file.max_epochs, folds=study_file.max_folds
    )
    try:
        made = make(given)
    except Exception as error:
        raise ConfigError(
            f"{functions.kind} {name} cannot be made ({type(error).__name__}: {error})",
            where=functions.where,
            hint="It is called with a hms_tune.SearchInput; mend the function",
        ) from error
    if not isinstance(made, kind):
        raise ConfigError(
            f"{name} made {type(made).__name__}, which is no {functions.kind}",
            where=functions.where,
            hint=f"Return an optuna.{functions.kind}s.{kind.__name__}",
        )
    return made


DEFAULT_STARTUP_TRIALS = {"tpe": 10, "gp": 10, "cma_es": 1, "learning_curves": 8}


def make_sampler(study_file: StudyFile, *, worker_seed: int, elsewhere: Sequence[Known] = ()) -> BaseSampler:
    """The sampler of a study for one worker.

    Parameters
    ----------
    worker_seed : different for every slot of every worker
    elsewhere : what is known from a parent study

    Raises
    ------
    ConfigError
        If a grid is asked of a continuous range, or there is no such function of a user's.
    """
    search, space = study_file.search, study_file.space
    startup = search.startup_trials or DEFAULT_STARTUP_TRIALS.get(search.sampler, 0)
    rungs = rungs_of(study_file)
    match search.sampler:
        case "random":
            return CountedRandomSampler(search.seed)
        case "grid" | "qmc" as name:
            return GridSampler(space, search.seed) if name == "grid" else QmcSampler(space, search.seed)
        case "learning_curves":
            return LearningCurveSampler(
                space, search.seed, rungs, startup_trials=startup, elsewhere=elsewhere
            )
        case "tpe" | "gp" | "cma_es" as name:
            start = CountedRandomSampler(search.seed)
            if isinstance(search.scheduler, PromotionScheduler):
                return PredictedScoreSampler(
                    lambda number: _model(name, start, 0, derived_seed(search.seed, "trial", number)),
                    space,
                    search.seed,
                    rungs,
                    startup_trials=startup,
                    elsewhere=elsewhere,
                )
            seed = derived_seed(search.seed, "worker", worker_seed)
            model = _model(name, start, startup, seed)
            return model if name == "cma_es" else StartupSampler(start, model, startup)
        case own:
            seed = derived_seed(search.seed, "worker", worker_seed)
            made: BaseSampler = _made_by(_SAMPLERS, own, study_file, seed, BaseSampler)
            return made


def _model(
    name: Literal["tpe", "gp", "cma_es"], start: BaseSampler, startup_trials: int, seed: int
) -> BaseSampler:
    """One of Optuna's samplers that learn from scores."""
    if name == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # group: conditional parameters are modelled together with those they occur with.
            return TPESampler(
                multivariate=True, group=True, constant_liar=True, n_startup_trials=startup_trials, seed=seed
            )
    made = GPSampler if name == "gp" else CmaEsSampler
    return made(
        seed=seed,
        n_startup_trials=startup_trials,
        independent_sampler=start,
        warn_independent_sampling=False,
    )


class StartupSampler(BaseSampler):
    """One sampler until enough trials have finished, then another.

    Optuna's own start-up draws repeat when a worker with the same seed starts again; those of ``start`` do
    not.
    """

    def __init__(self, start: BaseSampler, model: BaseSampler, startup_trials: int) -> None:
        self._start = start
        self._model = model
        self._startup_trials = startup_trials

    def _current(self, study: optuna.Study) -> BaseSampler:
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        trials = study.get_trials(deepcopy=False, states=states)
        feasible = (trial for trial in trials if not is_infeasible(trial))
        finished = sum(1 for _ in itertools.islice(feasible, self._startup_trials))
        return self._start if finished < self._startup_trials else self._model

    def reseed_rng(self) -> None:
        """Give the model new random numbers; start-up draws never repeat."""
        self._model.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Pass on."""
        self._model.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What is drawn jointly: nothing during start-up."""
        return self._current(study).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw jointly."""
        return self._model.sample_relative(study, trial, search_space) if search_space else {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter."""
        return self._current(study).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass on."""
        self._model.after_trial(study, trial, state, values)
