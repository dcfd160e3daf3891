"""The sections of a study file beside the trial configuration: search, budget, tracking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from hms_tune.config.section import FUNCTION, Section, is_function, name_in, named


class PrunerSection(Section):
    """What a pruner looks at.

    Attributes
    ----------
    compares_whole_folds : trials report the KL of each fold when it ends, not an estimate after each epoch
    keeps_rungs : each attempt's Optuna trial has the values that the pruner noted at its rungs
    """

    compares_whole_folds: ClassVar[bool] = False
    keeps_rungs: ClassVar[bool] = False


class NoPruner(PrunerSection):
    """Every trial runs to its end."""

    name: Literal["none"] = "none"


class MedianPruner(PrunerSection):
    """A trial ends when its KL is above the median of the others at the same epoch of the same fold."""

    name: Literal["median"] = "median"
    startup_trials: int = Field(5, ge=0, description="Complete trials before the first is pruned.")
    warmup_epochs: int = Field(1, ge=0, description="Epochs of each fold after which nothing is pruned yet.")
    interval_epochs: int = Field(1, ge=1, description="Epochs between two decisions.")
    min_trials: int = Field(1, ge=1, description="Trials that must have reached the epoch.")
    patience: int | None = Field(
        None, ge=1, description="Epochs without improvement before a trial may be pruned."
    )


class PercentilePruner(PrunerSection):
    """As median, but a trial must be among the best ``percentile`` percent."""

    name: Literal["percentile"] = "percentile"
    percentile: float = Field(50.0, ge=0.0, le=100.0, description="Share of trials that go on, in percent.")
    startup_trials: int = Field(5, ge=0, description="Complete trials before the first is pruned.")
    warmup_epochs: int = Field(1, ge=0, description="Epochs of each fold after which nothing is pruned yet.")
    interval_epochs: int = Field(1, ge=1, description="Epochs between two decisions.")
    min_trials: int = Field(1, ge=1, description="Trials that must have reached the epoch.")
    patience: int | None = Field(
        None, ge=1, description="Epochs without improvement before a trial may be pruned."
    )


class SuccessiveHalvingPruner(PrunerSection):
    """At growing numbers of epochs only the best ``1 / reduction_factor`` of the trials go on."""

    keeps_rungs = True

    name: Literal["successive_halving"] = "successive_halving"
    min_epochs: int = Field(1, ge=1, description="Epochs (over all folds) before the first decision.")
    reduction_factor: int = Field(4, ge=2, description="Growth from one decision to the next.")
    min_early_stopping_rate: int = Field(0, ge=0, description="Decisions skipped at the beginning.")
    patience: int | None = Field(
        None, ge=1, description="Epochs without improvement before a trial may be pruned."
    )


class HyperbandPruner(PrunerSection):
    """Several brackets of successive halving, from eager to patient."""

    keeps_rungs = True

    name: Literal["hyperband"] = "hyperband"
    min_epochs: int = Field(1, ge=1, description="Epochs (over all folds) before the first decision.")
    reduction_factor: int = Field(3, ge=2, description="Growth from one decision to the next.")
    patience: int | None = Field(
        None, ge=1, description="Epochs without improvement before a trial may be pruned."
    )


class WilcoxonPruner(PrunerSection):
    """A trial ends when a signed-rank test over its finished folds finds it worse than the best trial.

    With n folds the smallest possible p is 2⁻ⁿ: a threshold of 0.1 needs at least four folds.
    """

    compares_whole_folds = True

    name: Literal["wilcoxon"] = "wilcoxon"
    p_threshold: float = Field(0.1, gt=0.0, lt=1.0, description="A trial is pruned below this p.")
    startup_folds: int = Field(2, ge=2, description="Finished folds before the first decision.")


class OwnPruner(PrunerSection):
    """A function marked with ``hms_tune.pruner``, which makes a pruner of Optuna's interface."""

    name: str = Field(pattern=FUNCTION, description="package.module:function, your own (docs/search.md).")


def _pruner_kind(given: Any) -> str:
    name = name_in(given)
    return "own" if is_function(name) else str(name)


Pruner = Annotated[
    Annotated[
        Annotated[NoPruner, Tag("none")]
        | Annotated[MedianPruner, Tag("median")]
        | Annotated[PercentilePruner, Tag("percentile")]
        | Annotated[SuccessiveHalvingPruner, Tag("successive_halving")]
        | Annotated[HyperbandPruner, Tag("hyperband")]
        | Annotated[WilcoxonPruner, Tag("wilcoxon")]
        | Annotated[OwnPruner, Tag("own")],
        Discriminator(_pruner_kind),
    ],
    BeforeValidator(named),
]


class PromotionScheduler(Section):
    """Trials pause at rungs with a checkpoint; the best of a rung go on to the next, now or later."""

    name: Literal["promotion"] = "promotion"
    reduction_factor: int = Field(4, ge=2, description="One in so many trials goes on from a rung.")
    rungs: tuple[float, ...] = Field(
        (0.04, 0.08, 0.2),
        min_length=1,
        description="What a trial has trained when it pauses, as shares of all its epochs.",
    )

    @field_validator("rungs")
    @classmethod
    def _ascending(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)) or not 0.0 < rungs[0] <= rungs[-1] < 1.0:
            raise ValueError("rungs are shares between 0 and 1, each larger than the one before")
        return rungs


class NoScheduler(Section):
    """A trial runs until it ends or is pruned."""

    name: Literal["none"] = "none"


Scheduler = Annotated[
    Annotated[PromotionScheduler | NoScheduler, Field(discriminator="name")], BeforeValidator(named)
]

_OPEN: Any = None
"""What a file leaves open is chosen by what it says beside it."""

SamplerName = Literal["learning_curves", "random", "grid", "tpe", "gp", "cma_es", "qmc"]
OwnSampler = Annotated[str, Field(pattern=FUNCTION)]


class SearchConfig(Section):
    """How trial configurations are drawn and when a trial is given up."""

    scheduler: Scheduler = Field(
        _OPEN,
        description="Which trial goes on next; null: promotion, unless pruner, grid or cma_es is named.",
    )
    sampler: SamplerName | OwnSampler = Field(
        _OPEN,
        description="How the next configuration is drawn; null: learning_curves, without promotion tpe. Or "
        "package.module:function, your own (docs/search.md).",
    )
    pruner: Pruner = Field(_OPEN, description="When a trial is given up before its end; null: never.")
    start: tuple[str, ...] = Field(
        (), description="Configurations tried first, each as KEY=VALUE KEY=VALUE; what is left out is drawn."
    )
    parent: str | None = Field(
        None,
        description="A study that teaches the sampler: its trials in this space, the winner of which starts.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Every draw of the search derives from it.")
    startup_trials: int | None = Field(
        None, ge=1, description="Random trials before tpe, gp or cma_es begin to model; null: 10 (cma_es: 1)."
    )

    @model_validator(mode="before")
    @classmethod
    def _pruner_in_place_of_promotion(cls, given: Any) -> Any:
        """Choose what the file leaves open."""
        if not isinstance(given, dict):
            return given
        chosen = dict(given)
        if chosen.get("scheduler") is None:
            sampler = chosen.get("sampler")
            learns_from_complete = sampler in ("grid", "cma_es") or is_function(sampler)
            promotes = chosen.get("pruner") is None and not learns_from_complete
            chosen["scheduler"] = "promotion" if promotes else "none"
        if chosen.get("pruner") is None:
            chosen["pruner"] = "none"
        if chosen.get("sampler") is None:
            promotes = named(chosen["scheduler"]) != {"name": "none"}
            chosen["sampler"] = "learning_curves" if promotes else "tpe"
        return chosen

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        promotes = isinstance(self.scheduler, PromotionScheduler)
        if promotes and not isinstance(self.pruner, NoPruner):
            raise ValueError("scheduler promotion pauses trials in place of a pruner; leave one of both out")
        if promotes and (self.sampler == "cma_es" or is_function(self.sampler)):
            raise ValueError(
                f"sampler {self.sampler} learns from complete trials alone; use it with scheduler none"
            )
        if self.parent is not None and not (promotes and self.sampler in ("learning_curves", "tpe", "gp")):
            raise ValueError("parent informs learning_curves, tpe and gp, with promotion; no other sampler")
        if not promotes and self.sampler == "learning_curves":
            raise ValueError("sampler learning_curves needs scheduler promotion; use tpe")
        return self

    @model_validator(mode="after")
    def _only_models_start_up(self) -> Self:
        models_nothing = self.sampler in ("random", "grid", "qmc") or is_function(self.sampler)
        if self.startup_trials is not None and models_nothing:
            why = "models nothing and " if not is_function(self.sampler) else ""
            raise ValueError(f"sampler {self.sampler} {why}takes no startup_trials")
        return self


class BudgetConfig(Section):
    """When the study is over, counted over all its workers."""

    trials: int = Field(
        100, ge=1, le=1_000_000, description="Trials of the study: complete, pruned or failed."
    )
    hours: float | None = Field(
        None, gt=0.0, description="Hours in which a slot was at a trial; null: no limit."
    )
    gpu_hours: float | None = Field(
        None,
        gt=0.0,
        description="GPU-hours of all attempts, also of lost ones; null: no limit. The CPU uses none.",
    )
    checkpoint_gb: float | None = Field(
        None,
        gt=0.0,
        description="Gigabytes of checkpoints; beyond it the worst trials that wait lose theirs.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Draws in a row that promise less gain than the noise over patients; null: no limit.",
    )


class WandbConfig(Section):
    """Weights & Biases: one run per trial, grouped by study."""

    project: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Project of the runs; null: the one that W&B is set to, else hms-tune.",
    )
    entity: str | None = Field(
        None,
        min_length=1,
        description="User or team; null: the one that W&B is set to, else the key's own.",
    )
    tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        (), description="Tags of the runs; none: those that W&B is set to (WANDB_TAGS)."
    )
    notes: str | None = Field(
        None, description="Notes on every run; null: those that W&B is set to (WANDB_NOTES)."
    )
    mode: Literal["auto", "online", "offline", "off"] = Field(
        "auto", description="auto: as W&B is set; online with credentials for its server, offline without."
    )


Happening = Literal["new_best", "study_finished", "worker_lost", "budget_nearly_spent"]
HAPPENINGS: tuple[Happening, ...] = ("new_best", "study_finished", "worker_lost", "budget_nearly_spent")


class NotifyConfig(Section):
    """Who is told when something happens in the study."""

    webhook: str | None = Field(
        None,
        description="Address that gets a POST with JSON; the variable HMS_TUNE_WEBHOOK goes before it.",
    )
    command: tuple[str, ...] | None = Field(
        None, min_length=1, description="Program and its arguments; it gets the JSON on standard input."
    )
    on: tuple[Happening, ...] = Field(HAPPENINGS, description="What is told.")

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Leave out what may hold a secret: who has the webhook can write to the channel."""
        return [(key, value) for key, value in super().__repr_args__() if key not in ("webhook", "command")]


class TrackingConfig(Section):
    """Where progress is sent besides the terminal and the dashboard."""

    wandb: WandbConfig = Field(WandbConfig(), description="Weights & Biases.")
    notify: NotifyConfig = Field(NotifyConfig(), description="Webhook and command.")
