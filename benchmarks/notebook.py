"""Arm A of ``trials.py``: a search as public HMS notebooks write it.

A ``Dataset`` hands out one item at a time, a ``DataLoader`` with worker processes makes batches, the network
is timm's, the optimizer AdamW under a cosine schedule, mixed precision on a GPU, and Optuna's study keeps its
trials in memory. As in the good ones, spectrogram images wait in RAM as finished float32 arrays: the
notebook is spared reading, filtering, transforming and scaling altogether.

A+ is the same after reading PyTorch's tuning guide: more workers that stay between epochs, pinned memory,
channels_last, cuDNN's search for the fastest convolutions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import optuna
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from hms_tune.training.scores import kl_divergence


@dataclass(frozen=True)
class Habits:
    """How a notebook loads its data and lays out its network."""

    workers: int
    tuned: bool

    def loader(self, dataset: Dataset, batch_size: int, *, shuffle: bool) -> DataLoader:
        """Batches of a dataset; incomplete ones are left out of training."""
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=shuffle,
            num_workers=self.workers,
            persistent_workers=self.tuned,
            pin_memory=torch.cuda.is_available(),
        )


PLAIN = Habits(workers=4, tuned=False)
TUNED = Habits(workers=min(16, 2 * (os.cpu_count() or 1)), tuned=True)


@dataclass
class Competition:
    """Everything in RAM: images float32 (n_rows, 1, height, width), targets float32 (n_rows, 6), and the rows
    that each fold learns from and is judged on."""

    images: np.ndarray
    targets: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]


@dataclass
class Spent:
    """Seconds that the loop waited, by what for, and images it learnt from."""

    data: float = 0.0
    images: int = 0
    kl: list[float] = field(default_factory=list)


class SpectrogramDataset(Dataset):
    """One window at a time."""

    def __init__(self, images: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> None:
        self.images, self.targets, self.rows = images, targets, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        row = self.rows[item]
        return torch.from_numpy(self.images[row]), torch.from_numpy(self.targets[row])


class HMSModel(nn.Module):
    """A timm backbone with pooled features, and a head."""

    def __init__(self, backbone: str, dropout: float) -> None:
        super().__init__()
        self.backbone = timm.create_model(backbone, pretrained=False, in_chans=1, num_classes=0)
        with torch.no_grad():
            width = self.backbone.eval()(torch.zeros(1, 1, 64, 64)).shape[1]
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 6))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 6)."""
        return self.head(self.backbone(images))


class Notebook:
    """The objective of a study, and what it spent."""

    def __init__(
        self, competition: Competition, habits: Habits, *, epochs: int, backbones: list[str], seed: int = 0
    ) -> None:
        self.competition = competition
        self.habits = habits
        self.epochs = epochs
        self.backbones = backbones
        self.seed = seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.spent = Spent()
        torch.backends.cudnn.benchmark = habits.tuned

    def objective(self, trial: optuna.Trial) -> float:
        """Mean over the folds of the best epoch's KL."""
        values = {
            "backbone": trial.suggest_categorical("backbone", self.backbones),
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64]),
            "dropout": trial.suggest_float("dropout", 0.0, 0.9),
        }
        scores = [self.train_fold(fold, values) for fold in range(len(self.competition.folds))]
        kl = float(np.mean(scores))
        self.spent.kl.append(kl)
        return kl

    def train_fold(self, fold: int, values: dict) -> float:
        """Train one network; returns the best of its epochs' KL."""
        torch.manual_seed(1000 * self.seed + fold)
        data, device = self.competition, self.device
        train_rows, valid_rows = data.folds[fold]
        train_set = SpectrogramDataset(data.images, data.targets, train_rows)
        valid_set = SpectrogramDataset(data.images, data.targets, valid_rows)
        train_loader = self.habits.loader(train_set, values["batch_size"], shuffle=True)
        valid_loader = self.habits.loader(valid_set, 2 * values["batch_size"], shuffle=False)
        model = HMSModel(values["backbone"], values["dropout"]).to(device)
        if self.habits.tuned:
            model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=values["learning_rate"], weight_decay=values["weight_decay"]
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * len(train_loader))
        scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        scores = []
        for _ in range(self.epochs):
            self.train_epoch(model, train_loader, optimizer, scheduler, scaler)
            predictions = self.predict(model, valid_loader)
            scores.append(kl_divergence(data.targets[valid_rows], predictions))
        return min(scores)

    def train_epoch(self, model, loader, optimizer, scheduler, scaler) -> float:
        """One pass; returns the mean loss, which notebooks print."""
        model.train()
        losses = []
        for images, targets in self.batches(loader):
            with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
                logits = model(images)
            loss = functional.kl_div(logits.float().log_softmax(dim=1), targets, reduction="batchmean")
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            losses.append(loss.item())
            self.spent.images += len(images)
        return float(np.mean(losses))

    @torch.no_grad()
    def predict(self, model: nn.Module, loader: DataLoader) -> np.ndarray:
        """Class probabilities of a loader's rows."""
        model.eval()
        parts = []
        for images, _ in self.batches(loader):
            with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
                logits = model(images)
            parts.append(logits.float().softmax(dim=1).cpu().numpy())
        return np.concatenate(parts)

    def batches(self, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches on the device; the time until each is there counts as waiting for data."""
        began = time.perf_counter()
        for images, targets in loader:
            layout = torch.channels_last if self.habits.tuned else torch.contiguous_format
            on_device = images.to(self.device, memory_format=layout, non_blocking=self.habits.tuned)
            wanted = targets.to(self.device, non_blocking=self.habits.tuned)
            self.spent.data += time.perf_counter() - began
            yield on_device, wanted
            began = time.perf_counter()
        self.spent.data += time.perf_counter() - began
