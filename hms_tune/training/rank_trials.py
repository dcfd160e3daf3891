"""Trials that several ranks run in step.

The first rank iterates over a trial's events as if it were alone. Before each event it says "step", and the
others take the same step; what it decides between two events (prune, stop, go on) needs no more than its next
word. A trial that fails everywhere alike fails; a rank that is gone ends the group.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hms_tune.config.trial import TrialConfig
from hms_tune.errors import RankLostError
from hms_tune.training.cross_validation import CrossValidation
from hms_tune.training.distributed.group import RankGroup
from hms_tune.training.events import Event

_STEP, _END, _LEAVE = "step", "end", "leave"

_PATIENCE_S = 10.0
"""How soon the first rank must have failed like this one, before this one leaves and thereby wakes it up."""


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """What the other ranks must know of a trial. They give its directory in events, and never look inside."""

    config: TrialConfig
    directory: Path | None
    keep_weights: bool

    def to_json(self) -> str:
        """As one word."""
        return json.dumps(
            {
                "config": self.config.canonical_json(),
                "directory": None if self.directory is None else str(self.directory),
                "keep_weights": self.keep_weights,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> TrialRequest:
        """From :meth:`to_json`."""
        values = json.loads(text)
        directory = values["directory"]
        return cls(
            TrialConfig.model_validate_json(values["config"]),
            None if directory is None else Path(directory),
            values["keep_weights"],
        )


def lead_trial(group: RankGroup, trial: CrossValidation) -> Iterator[Event]:
    """The events of a trial that all ranks run; for the first rank.

    The caller may stop iterating at any event, and the others stop there too.

    Raises
    ------
    RankLostError
        If another rank is gone, silent, or failed where this one did not. The group is of no use any more.
    HmsTuneError
        As :meth:`~hms_tune.training.cross_validation.CrossValidation.run` does.
    """
    group.say(TrialRequest(trial.config, trial.directory, trial.keep_weights).to_json())
    _expect_success(group.reports())
    events = trial.run()
    broken = False
    try:
        while True:
            group.say(_STEP)
            try:
                event = next(events, None)
            except RankLostError as error:
                raise _with_reasons(error, group) from error
            except Exception:
                # The others failed as well, or took the step: either way they wait for the next word.
                group.reports()
                raise
            _expect_success(group.reports())
            if event is None:
                return
            yield event
    except RankLostError:
        broken = True
        raise
    finally:
        if not broken:
            group.say(_END)


def dismiss(group: RankGroup) -> None:
    """Let the other ranks end; for the first rank, when there are no more trials."""
    with suppress(RankLostError):
        group.say(_LEAVE)


def follow_trials(group: RankGroup, start: Callable[[TrialRequest], CrossValidation]) -> None:
    """Run what the first rank says, until it dismisses this one.

    Raises
    ------
    RankLostError
        If another rank is gone.
    """
    events: Iterator[Event] = iter(())
    problem = ""
    while (word := group.hear(patience_s=_PATIENCE_S if problem else math.inf)) != _LEAVE:
        if word is None:
            raise RankLostError(problem)
        problem = ""
        if word == _END:
            events = iter(())
            continue
        try:
            if word == _STEP:
                next(events, None)
            else:
                events = start(TrialRequest.from_json(word)).run()
        except RankLostError as error:
            group.report(str(error))
            raise
        except Exception as error:  # noqa: BLE001 - the first rank judges what it means
            problem = f"{type(error).__name__}: {error}"
            events = iter(())
        group.report(problem)


def _expect_success(reports: dict[int, str]) -> None:
    """Refuse to go on when another rank failed and this one did not."""
    for rank, problem in reports.items():
        if problem:
            raise RankLostError(f"rank {rank} failed alone: {problem}")


def _with_reasons(error: RankLostError, group: RankGroup) -> RankLostError:
    """Add what the others said before they left."""
    said: list[str] = []
    with suppress(RankLostError):  # a supervisor may have said so too
        said = group.last_words()
    return RankLostError("; ".join([error.what, *said]), hint=error.hint)
