"""The trial configuration: one fully fixed set of values.

A study file has the same sections and the same keys; there any value may also be a range
(see :mod:`hms_tune.config.ranges`).
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from hms_tune.config.augmentation import AugmentationConfig
from hms_tune.config.input import InputConfig, Raw
from hms_tune.config.section import Section, name_in, named, names_of


class DataConfig(Section):
    """Which rows are learnt from and how patients are split. Shared by all trials of a study."""

    LATER = frozenset({"soft_labels"})

    folds: int = Field(5, ge=2, le=50, description="Number of cross-validation folds, grouped by patient.")
    fold_repeats: int = Field(
        1, ge=1, le=20, description="How often the patients are split anew; each repeat has all its folds."
    )
    train_folds: int | None = Field(
        None, ge=1, description="Train only the first this many folds; all of them when null."
    )
    reshuffle: bool = Field(
        False, description="Each trial configuration shuffles its own splits, instead of sharing them."
    )
    fold_scheme: Literal["group_k_fold", "stratified_group_k_fold"] = Field(
        "group_k_fold", description="scikit-learn's splitter; both keep a patient on one side."
    )
    fold_seed: int = Field(0, ge=0, description="Seed of the held-out patients and of the fold assignment.")
    holdout: float = Field(
        0.1,
        ge=0.0,
        le=0.5,
        description="Share of patients kept outside the whole search for an honest score.",
    )
    rows: Literal["eeg", "vote_vector", "row"] = Field(
        "eeg",
        description="One row per EEG (votes summed), one per distinct vote vector of an EEG, or every row.",
    )
    min_votes: int = Field(1, ge=1, description="Rows with fewer votes are left out.")
    soft_labels: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        description="What rows of few votes learn from: NAME of hms-tune data label; null: their votes.",
    )
    judged_on: Literal["all_rows", "high_votes"] = Field(
        "all_rows", description="Whose KL decides: all validation rows, or those with 10 votes or more."
    )

    @property
    def trained_folds(self) -> int:
        """How many folds a trial trains, over all repeats."""
        return self.train_folds or self.folds * self.fold_repeats

    @model_validator(mode="after")
    def _train_folds_exist(self) -> Self:
        if self.train_folds is not None and self.train_folds > self.folds * self.fold_repeats:
            there = f"folds {self.folds}" + (f" × {self.fold_repeats}" if self.fold_repeats > 1 else "")
            raise ValueError(f"train_folds {self.train_folds} exceeds {there}")
        return self


TraceBackbone = Literal["eegnet", "resnet1d", "conv_attention"]
"""Backbones that read traces, not images."""


class ModelConfig(Section):
    """A backbone and the head on it."""

    LATER = frozenset({"trace_backbone", "frozen_share"})

    backbone: str = Field(
        "efficientnet_b0",
        min_length=1,
        description="Any timm model name; eegnet, resnet1d or conv_attention, which read the traces of a raw "
        "view; or package.module:function, your own (docs/models.md).",
    )
    trace_backbone: TraceBackbone | None = Field(
        None, description="Second branch, which reads the raw view, while backbone sees the other views."
    )
    pretrained: bool | str = Field(
        True,
        description="true: from the model hub, if it is of timm; false: random; a path: a .safetensors file.",
    )
    frozen_layers: int | None = Field(
        None, ge=0, description="Layer groups frozen from the input side (hms-tune model layers BACKBONE)."
    )
    finetuned_layers: int | None = Field(
        None, ge=0, description="Layer groups trained, counted from the head side; the others are frozen."
    )
    frozen_share: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Most of the backbone's parameters that are frozen, as a share, in whole layer groups "
        "from the input side: one range for all backbones.",
    )
    pooling: Literal["avg", "max", "avg_max", "gem"] = Field(
        "avg", description="Global pooling of the features."
    )
    dropout: float = Field(0.0, ge=0.0, le=0.95, description="Dropout before the head's last layer.")
    drop_path: float = Field(0.0, ge=0.0, le=0.9, description="Stochastic depth of the backbone.")
    hidden: int = Field(0, ge=0, le=8192, description="Units of the head's hidden layer; 0: none.")
    activation: Literal["relu", "silu", "gelu", "tanh", "sigmoid"] = Field(
        "relu",
        description="Activation of the head: after the hidden layer, or on the pooled features without one.",
    )

    @property
    def reads_traces(self) -> bool:
        """Whether a part of the network cannot do without a raw view."""
        return self.trace_backbone is not None or self.backbone in get_args(TraceBackbone)

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Self:
        ways = ("frozen_layers", "finetuned_layers", "frozen_share")
        given = [way for way in ways if getattr(self, way) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one")
        return self


class SGD(Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0.0, lt=1.0)
    nesterov: bool = True

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs momentum above 0")
        return self


class Adam(Section):
    """Adam; weight decay is added to the gradient."""

    name: Literal["adam"] = "adam"
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.999, ge=0.0, lt=1.0)


class AdamW(Section):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.999, ge=0.0, lt=1.0)


class TimmOptimizer(Section):
    """Any other optimizer of timm's, asked for by name and with timm's defaults."""

    name: str = Field(pattern=r"^[a-z0-9]+$", description="A name of timm.optim.list_optimizers().")
    momentum: float | None = Field(None, ge=0.0, lt=1.0, description="null: what timm has for it.")
    beta1: float | None = Field(None, ge=0.0, lt=1.0, description="null: what timm has for it.")
    beta2: float | None = Field(None, ge=0.0, lt=1.0, description="null: what timm has for it.")

    @classmethod
    def further_names(cls) -> tuple[str, ...]:
        """The optimizers of timm."""
        from timm.optim import list_optimizers  # type: ignore[attr-defined]  # takes seconds; a mistake's alone

        return tuple(map(str, list_optimizers()))


class ConstantSchedule(Section):
    """The learning rate stays, after an optional linear warm-up."""

    name: Literal["constant"] = "constant"
    warmup: float = Field(0.0, ge=0.0, le=0.9, description="Share of all steps with linear warm-up.")


class CosineSchedule(Section):
    """Linear warm-up, then half a cosine down to ``final`` times the learning rate, once or several times."""

    LATER = frozenset({"restarts"})

    name: Literal["cosine"] = "cosine"
    warmup: float = Field(0.0, ge=0.0, le=0.9, description="Share of all steps with linear warm-up.")
    final: float = Field(0.0, ge=0.0, le=1.0, description="Last learning rate over the largest.")
    restarts: int = Field(
        0, ge=0, le=100, description="How often it begins again at the largest, after equal times."
    )


class OneCycleSchedule(Section):
    """Smith's one-cycle policy: cosine up to the learning rate, cosine down."""

    name: Literal["one_cycle"] = "one_cycle"
    rise: float = Field(0.3, gt=0.0, lt=1.0, description="Share of all steps spent rising.")
    start: float = Field(0.04, gt=0.0, le=1.0, description="First learning rate over the largest.")
    final: float = Field(1e-5, ge=0.0, le=1.0, description="Last learning rate over the largest.")


class CyclicSchedule(Section):
    """Triangular cycles between ``floor`` times the learning rate and the learning rate."""

    name: Literal["cyclic"] = "cyclic"
    cycle_epochs: float = Field(2.0, gt=0.0, description="Epochs of one whole triangle.")
    floor: float = Field(0.1, ge=0.0, le=1.0, description="Lowest learning rate over the largest.")


class PlateauSchedule(Section):
    """The learning rate shrinks when validation KL stops improving."""

    name: Literal["plateau"] = "plateau"
    patience: int = Field(2, ge=0, description="Epochs without improvement before it shrinks.")
    factor: float = Field(0.5, gt=0.0, lt=1.0, description="What it is multiplied by.")
    warmup: float = Field(0.0, ge=0.0, le=0.9, description="Share of all steps with linear warm-up.")


class EarlyStopping(Section):
    """A fold ends when validation KL has not improved for ``patience`` epochs."""

    patience: int = Field(3, ge=1, description="Epochs without improvement.")
    min_delta: float = Field(0.0, ge=0.0, description="The least change that counts as improvement.")


class SecondStage(Section):
    """After the first stage, epochs on the rows that many experts agree to have seen, at a lower rate."""

    epochs: int = Field(3, ge=1, le=1000, description="Most epochs of the second stage.")
    min_votes: int = Field(10, ge=1, description="Rows with fewer votes are left out of the second stage.")
    learning_rate_ratio: float = Field(
        0.1, gt=0.0, le=1.0, description="Largest learning rate of the second stage over that of the first."
    )


def _optimizer_kind(given: Any) -> str:
    name = name_in(given)
    return name if name in ("sgd", "adam", "adamw") else "timm"


Optimizer = Annotated[
    Annotated[
        Annotated[SGD, Tag("sgd")]
        | Annotated[Adam, Tag("adam")]
        | Annotated[AdamW, Tag("adamw")]
        | Annotated[TimmOptimizer, Tag("timm")],
        Discriminator(_optimizer_kind),
    ],
    BeforeValidator(named),
]
LearningRateSchedule = Annotated[
    Annotated[
        ConstantSchedule | CosineSchedule | OneCycleSchedule | CyclicSchedule | PlateauSchedule,
        Field(discriminator="name"),
    ],
    BeforeValidator(named),
]


LossName = Literal["kl", "cross_entropy", "bce"]
RowWeight = Literal["none", "votes", "agreement", "balance"]
Precision = Literal["auto", "float32", "tf32", "bfloat16"]


class TrainingConfig(Section):
    """How one fold is trained."""

    LATER = frozenset({"row_weight", "row_weight_exponent"})

    epochs: int = Field(10, ge=1, le=1000, description="Most epochs of a fold.")
    batch_size: int = Field(32, ge=1, le=4096, description="Windows in a training batch.")
    test_batch_size: int = Field(128, ge=1, le=8192, description="Windows in a validation or test batch.")
    learning_rate: float = Field(1e-3, gt=0.0, le=10.0, description="Largest learning rate of the schedule.")
    weight_decay: float = Field(0.01, ge=0.0, le=10.0, description="Weight decay; never on biases and norms.")
    backbone_lr_ratio: float = Field(
        1.0, gt=0.0, le=10.0, description="Learning rate of the backbone over that of the head."
    )
    layer_decay: float | None = Field(
        None, gt=0.0, le=1.0, description="Learning rate of each layer group over that of the next one up."
    )
    optimizer: Optimizer = Field(
        AdamW(), description="sgd, adam, adamw, or another name of timm.optim.list_optimizers()."
    )
    scheduler: LearningRateSchedule = Field(
        CosineSchedule(), description=f"{names_of(LearningRateSchedule)}."
    )
    loss: LossName = Field("kl", description="Loss on the votes as soft targets.")
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of the target spread over all classes."
    )
    few_votes: int = Field(
        10, ge=1, description="Rows with fewer votes than this count as rows of few votes."
    )
    few_votes_weight: float = Field(
        1.0, ge=0.0, le=1.0, description="Weight of rows of few votes in the loss of the first stage."
    )
    row_weight: RowWeight = Field(
        "none",
        description="What rows count by in the loss of the first stage: votes (over the most), agreement "
        "(1 - entropy of the votes / ln 6), balance (1 / share of their classes in all); none: all alike.",
    )
    row_weight_exponent: float = Field(
        1.0, ge=0.0, le=4.0, description="Exponent of that weight: 0 makes rows alike, more sharpens."
    )
    vote_prior: float = Field(
        0.0,
        ge=0.0,
        le=60.0,
        description="Votes added to each row's, spread evenly: smoothing that is strong where votes are few.",
    )
    second_stage: SecondStage | None = Field(
        None, description="Training continues on rows of many votes; null: one stage."
    )
    grad_clip: float | None = Field(None, gt=0.0, description="Largest gradient norm; null: no clipping.")
    ema_decay: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Decay of the moving average of weights that is validated; null: none.",
    )
    early_stopping: EarlyStopping | None = Field(None, description="When a fold ends early; null: never.")
    precision: Precision = Field(
        "auto",
        description="auto: bfloat16 autocast where the device computes in it, float32 elsewhere; "
        "tf32: float32 with products rounded to 10 bits on GPUs.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Every random draw of the trial derives from it.")

    @property
    def total_epochs(self) -> int:
        """Most epochs of a fold, over both stages."""
        return self.epochs + (self.second_stage.epochs if self.second_stage else 0)

    @model_validator(mode="after")
    def _one_way_to_slow_the_backbone(self) -> Self:
        if self.layer_decay is not None and self.backbone_lr_ratio != 1.0:
            raise ValueError("layer_decay and backbone_lr_ratio exclude each other; keep one")
        return self


class TrialConfig(Section):
    """One fully fixed set of values; its canonical JSON has a hash."""

    data: DataConfig = DataConfig()
    input: InputConfig = InputConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _views_suit_the_model(self) -> Self:
        raw = [isinstance(view, Raw) for view in self.input.views.values()]
        if self.model.reads_traces and not any(raw):
            raise ValueError(
                f"{self.model.trace_backbone or self.model.backbone} reads traces, and no view is raw; set "
                "input.eeg or another view to {name: raw}"
            )
        if self.model.trace_backbone is not None and len(raw) == 1:
            raise ValueError(
                f"{self.model.trace_backbone} reads the only view; give {self.model.backbone} another, or "
                f"set model.backbone to {self.model.trace_backbone} and leave trace_backbone out"
            )
        if self.model.trace_backbone is not None and self.input.layout == "grid":
            raise ValueError("trace_backbone leaves a hole in a grid; use layout side_by_side or channels")
        return self

    def canonical_json(self) -> str:
        """The configuration as JSON with sorted keys and no spaces; equal configurations, equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the canonical JSON's SHA-256."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:16]

    def differences(self, other: TrialConfig) -> dict[str, tuple[Any, Any]]:
        """Dotted keys whose values differ, with this and the other value."""
        mine, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        keys = sorted(mine.keys() | theirs.keys())
        return {key: (mine.get(key), theirs.get(key)) for key in keys if mine.get(key) != theirs.get(key)}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
