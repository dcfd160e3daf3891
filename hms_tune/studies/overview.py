"""A study as its pages show it, added up while its trials are read page by page.

What is kept are sums, the leading trials, and of all others as many as a figure can show.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from hms_tune.config.study_file import StudyFile
from hms_tune.database.connect import Storage
from hms_tune.database.queries.data_sets import torch_versions
from hms_tune.database.queries.hours import SlotsAtWork, slots_at_work
from hms_tune.database.queries.outcomes import Outcome, outcomes
from hms_tune.database.queries.totals import failure_reasons
from hms_tune.search.optuna_private import study_id_of
from hms_tune.search.study import stored_study_file
from hms_tune.studies.cost import DeviceUse, Saving, cost_unit
from hms_tune.studies.lookup import load_study
from hms_tune.studies.status import EstimateScale, estimate_scale
from hms_tune.studies.thinning import Front, Sample
from hms_tune.studies.trial_record import TrialRecord, trial_record_at
from hms_tune.trial_state import AttemptState

LEADERS = 10
"""Trials that are read whole: the best."""

MOST_DRAWN = 2000
"""Trials that are kept for figures: with more dots than these, each hides others."""

MOST_WEIGHED = 2000
"""Complete trials that are kept for the importance of parameters."""

_FAILURES = 6
_STRETCHES = 100


@dataclass(slots=True, kw_only=True)
class StudyOverview:
    """A study and what all of its trials come to.

    Attributes
    ----------
    states : how many trials are in each state that any is in
    leaders : the best complete trials, the best first
    drawn : complete trials, and pruned ones that reported something, at even distances
    by_number, by_end, by_cost : complete trials than which none that began earlier, ended earlier, or was
        cheaper is as good
    weighed : Optuna's ids of complete trials, at even distances
    last_number, last_end, costs : of complete trials: the largest number, the last end, the range of costs
    cost, on_gpus : of all trials, in :attr:`unit`
    pruned_in_fold : how many were pruned in each fold, from 1; 0: before any
    failed_because : the commonest reasons, and how many trials failed for each
    scale : what an estimate is held against
    torch : the versions of PyTorch that the workers ran
    """

    name: str
    study_id: int
    study_file: StudyFile
    scale: EstimateScale
    torch: tuple[str, ...] = ()
    failed_because: dict[str, int] = field(default_factory=dict)
    slots: SlotsAtWork | None = None
    leaders: tuple[TrialRecord, ...] = ()
    states: Counter[AttemptState] = field(default_factory=Counter)
    drawn: Sample[Outcome] = field(default_factory=lambda: Sample(MOST_DRAWN))
    weighed: Sample[int] = field(default_factory=lambda: Sample(MOST_WEIGHED))
    by_number: Front[Outcome] = field(default_factory=Front)
    by_end: Front[Outcome] = field(default_factory=Front)
    by_cost: Front[Outcome] = field(default_factory=Front)
    last_number: int = 0
    last_end: datetime | None = None
    costs: tuple[float, float] | None = None
    cost: float = 0.0
    on_gpus: bool = False
    saving: Saving = field(default_factory=Saving)
    pruned_in_fold: Counter[int] = field(default_factory=Counter)
    places: dict[tuple[str, str], DeviceUse] = field(default_factory=dict)
    span: tuple[datetime, datetime] | None = None
    digests: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)

    @property
    def trials(self) -> int:
        """How many there are."""
        return self.states.total()

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the smallest KL."""
        return next(iter(self.leaders), None)

    @property
    def unit(self) -> str:
        """Of costs."""
        return cost_unit(self.on_gpus)

    @property
    def costs_lie_apart(self) -> bool:
        """Whether a few dear trials would press the others of a figure together."""
        least, most = self.costs or (0.0, 0.0)
        return least > 0.0 and most > 8.0 * least

    def dots(self, line: Sequence[Outcome], *, most: int = MOST_DRAWN) -> list[Outcome]:
        """Complete trials for a figure, by number.

        Parameters
        ----------
        line : trials on a line of it, which are all among them
        most : at even distances, at most so many are beside these
        """
        some = [trial for trial in self.drawn.kept if trial.value is not None]
        shown = {trial.attempt: trial for trial in (*some[:: -(-len(some) // most) or 1], *line)}
        return [shown[number] for number in sorted(shown)]

    def add(self, trial: Outcome) -> None:
        """Count a trial."""
        self.states[trial.state] += 1
        self.cost += trial.cost
        self.on_gpus |= trial.gpus > 0.0
        self.saving.add(trial)
        self.digests |= {trial.data_digest} if trial.data_digest else set()
        self.versions |= {trial.version} if trial.version else set()
        if trial.host is not None:
            place = (trial.host, trial.device_name or "unknown device")
            self.places.setdefault(place, DeviceUse(*place)).add(trial)
        if trial.began_at is not None and trial.ended_at is not None:
            first, last = self.span or (trial.began_at, trial.ended_at)
            self.span = min(first, trial.began_at), max(last, trial.ended_at)
        if trial.state is AttemptState.PRUNED:
            self.pruned_in_fold[trial.folds] += 1
            if trial.reported is not None:
                self.drawn.add(trial)
        if trial.value is not None:
            self._add_complete(trial, trial.value)

    def _add_complete(self, trial: Outcome, value: float) -> None:
        self.drawn.add(trial)
        self.weighed.add(trial.optuna_trial_id)
        self.by_number.add(trial.trial, value, trial)
        self.last_number = max(self.last_number, trial.trial)
        if trial.over_at is not None:
            self.by_end.add(trial.over_at.timestamp(), value, trial)
            self.last_end = max(self.last_end or trial.over_at, trial.over_at)
        if trial.began_at is not None:
            self.by_cost.add(trial.cost, value, trial)
            least, most = self.costs or (trial.cost, trial.cost)
            self.costs = min(least, trial.cost), max(most, trial.cost)


def study_overview(storage: Storage, name: str) -> StudyOverview:
    """A study and what all of its trials come to.

    Raises
    ------
    UnknownStudyError
        If there is no such study.
    """
    loaded = load_study(storage, name)
    study_id, study_file = study_id_of(loaded), stored_study_file(loaded)
    found = StudyOverview(
        name=study_file.study,
        study_id=study_id,
        study_file=study_file,
        scale=estimate_scale(storage, name),
    )
    leading: list[tuple[float, int]] = []
    with storage.statements() as connection:
        found.torch = tuple(torch_versions(connection, study_id))
        found.failed_because = failure_reasons(connection, study_id, most=_FAILURES)
        found.slots = slots_at_work(connection, study_id, stretches=_STRETCHES)
        for trial in outcomes(connection, study_id):
            found.add(trial)
            if trial.value is not None:
                insort(leading, (trial.value, trial.attempt))
                del leading[LEADERS:]
    found.leaders = tuple(
        trial_record_at(storage, study_id, attempt, space=study_file.space) for _, attempt in leading
    )
    return found
