"""One attempt, from the claim to what is told of it.

::

    ask Optuna for its values  asking.py
    train, event by event      hms_tune.training
    tell Optuna the result     attempts.py
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from hms_tune.config.trial import TrialConfig
from hms_tune.database.connect import Storage
from hms_tune.database.queue.end import CONFIG_HASH_ATTRIBUTE, Attempt, Ending, Result, release, tell
from hms_tune.database.queue.lease import Holder, Lease, LeaseKeeper
from hms_tune.database.queue.start import ask
from hms_tune.database.retry import Patience, passes
from hms_tune.errors import (
    ArtifactError,
    HmsTuneError,
    LeaseLostError,
    MemoryPlanError,
    NonFiniteLossError,
    RankLostError,
    StorageAwayError,
    StorageError,
    TrainingError,
)
from hms_tune.training.events import CrossValidationEnded, Event
from hms_tune.training.observer import Observer, Outcome, TrialInfo
from hms_tune.worker.checkpoint_store.checkpoints import FLUSH_S, STORE_S, Artifacts, Workplace
from hms_tune.worker.following import Following, resumable
from hms_tune.worker.open_study import Search
from hms_tune.worker.report_queue import Courier
from hms_tune.worker.results import OUTCOMES, Story, attributes_of, declined, failure, free_memory, wished
from hms_tune.worker.stop import StepCut, Stop

Train = Callable[[TrialConfig, Path], Iterator[Event]]
"""Runs a trial configuration, with checkpoints in a directory."""

Admit = Callable[[TrialConfig], None]
"""Raises :class:`~hms_tune.errors.MemoryPlanError` where the device has no room for a configuration."""


def admit_all(_config: TrialConfig) -> None:
    """There is room for everything."""


class Runner:
    """Runs the attempts of a slot, one after another.

    Parameters
    ----------
    train : how a configuration is evaluated; tests put a fake here
    admit : refuses a configuration that the device has no room for, before anybody hears of the trial
    look_s : how old its knowledge of the study's wanted state may be, s

    Attributes
    ----------
    fatal : what the slot is to end with, once the attempt was handed back; None: nothing
    """

    def __init__(
        self,
        storage: Storage,
        search: Search,
        holder: Holder,
        *,
        train: Train,
        admit: Admit,
        artifacts: Artifacts,
        observers: Sequence[Observer],
        stop: Stop,
        look_s: float,
    ) -> None:
        self.storage = storage
        self.search = search
        self.holder = holder
        self.train = train
        self.admit = admit
        self.artifacts = artifacts
        self.observers = observers
        self.stop = stop
        self.look_s = look_s
        self.fatal: HmsTuneError | None = None

    def ask(self, lease: Lease) -> Attempt:
        """Make the Optuna trial of a claimed lease; where its sampler fails, the unit goes back first."""
        again = False

        def asking() -> Attempt:
            nonlocal again
            cut_off, again = again, True
            return ask(self.storage, self.search.study, lease, again=cut_off)

        try:
            return self.storage.through_outages(asking)
        except (HmsTuneError, SQLAlchemyError):
            raise
        except Exception:
            # The sampler itself failed. The unit goes back before the error ends this worker.
            self.storage.through_outages(lambda: release(self.storage, lease))
            raise

    def run(self, attempt: Attempt, keeper: LeaseKeeper) -> Result:
        """Run an attempt from its values to its result, with observers told of both."""
        story = Story()
        try:
            result = self._result(attempt, keeper, story)
            if "traceback" in result.attributes:
                free_memory()
            result = self.storage.through_outages(
                lambda: tell(self.storage, self.search.study, attempt, result)
            )
        except (LeaseLostError, StorageAwayError) as error:
            self._tell_observers(story, "lost", error.what)
            raise
        self._tell_observers(story, OUTCOMES[result.ending], result.reason)
        return result

    def _result(self, attempt: Attempt, keeper: LeaseKeeper, story: Story) -> Result:
        try:
            config = self.search.suggest(attempt.trial)
            described = self._describe(attempt, config)
            self.admit(config)
            story.trial = described
            for observer in self.observers:
                observer.trial_started(story.trial)
            return self._train_through(attempt, story.trial, keeper, story)
        except LeaseLostError:
            raise
        except (RankLostError, ArtifactError) as error:
            self.fatal = error
            ending: Ending = "lost" if isinstance(error, RankLostError) else "handed_back"
            return Result(ending, reason=str(error))
        except StepCut:
            return Result("handed_back", reason="handed back: the worker was asked to stop")
        except MemoryPlanError as error:
            return declined(error, redraws=self.search.redraws)
        except UpdateFinishedTrialError:
            # Recovery ends only trials whose lease it ended; otherwise a person did.
            keeper.desired(fresh_s=0.0)
            keeper.check()
            return Result(
                "failed", reason="ended by a person in the dashboard", attributes={"cause": "person"}
            )
        except Exception as error:  # the boundary at which whatever a trial raises becomes its result
            if _is_of_the_storage(error):
                raise
            return failure(error, story.trial, redraws=self.search.redraws)

    def _describe(self, attempt: Attempt, config: TrialConfig) -> TrialInfo:
        """Write what the trial is into Optuna, and say it to the observers."""
        attributes = {
            "worker": f"{self.holder.process.host}:{self.holder.slot}",
            CONFIG_HASH_ATTRIBUTE: config.hash,
        }
        self.storage.optuna.set_trial_user_attrs(attempt.trial_id, attributes)
        return TrialInfo(
            study=self.search.study.study_name,
            number=attempt.number,
            lineage=attempt.lineage,
            config=config,
            params=attempt.trial.params,
            slot=self.holder.slot,
        )

    def _train_through(self, attempt: Attempt, trial: TrialInfo, keeper: LeaseKeeper, story: Story) -> Result:
        reporter = self.search.reporter(attempt.trial)
        with (
            self._workplace(attempt, keeper) as place,
            Courier(self.storage.patience) as courier,
        ):
            following = Following(
                story,
                keeper,
                reporter,
                observers=self.observers,
                uploads=place.uploads,
                courier=courier,
                look_s=self.look_s,
            )
            try:
                result = self._follow(trial, place.directory, following, keeper, story)
            except LeaseLostError:
                raise
            except (Exception, StepCut):
                courier.settle()  # what it reported before it failed counts
                raise
            courier.settle()
            if result.ending == "handed_back":
                place.uploads.flush(most_s=FLUSH_S)
            return result

    def _workplace(self, attempt: Attempt, keeper: LeaseKeeper) -> AbstractContextManager[Workplace]:
        return self.artifacts.workplace(
            attempt.lineage,
            attempt.number,
            allowed=lambda: keeper.certain,
            patience=Patience(most_s=STORE_S, hurried=lambda: self.stop.requested),
        )

    def _follow(
        self, trial: TrialInfo, directory: Path, following: Following, keeper: LeaseKeeper, story: Story
    ) -> Result:
        """Train, event by event, until the trial ends or is to end."""
        events = self.train(trial.config, directory)
        while True:
            with self.stop.step():
                event = next(events, None)
            if event is None:
                break
            following.tell(event)
            if isinstance(event, CrossValidationEnded):
                break
            decided = following.ask(event)
            if decided.prune:
                return Result("pruned", reason="pruned", attributes=attributes_of(story))
            keeper.check()
            if decided.wanted != "running":
                return wished(decided.wanted)
            if self.stop.requested and resumable(event):
                return Result("handed_back", reason="handed back: the worker was asked to stop")
        if story.ended is None:
            raise TrainingError("the trial ended without a result")
        if not math.isfinite(story.ended.kl):
            raise NonFiniteLossError(f"the trial's KL is {story.ended.kl}")
        return Result("complete", value=story.ended.kl, attributes=attributes_of(story))

    def _tell_observers(self, story: Story, outcome: Outcome, reason: str | None) -> None:
        if story.trial is None:
            return
        if outcome != "lost":
            story.tell(self.observers)
        value = story.ended.kl if story.ended else story.last.estimate if story.last else None
        for observer in self.observers:
            observer.trial_ended(story.trial, outcome, value, None if outcome == "complete" else reason)


def _is_of_the_storage(error: Exception) -> bool:
    return isinstance(error, StorageError | SQLAlchemyError) or passes(error)
