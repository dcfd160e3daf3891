"""The rows of a trial as a ``Dataset`` and a ``DataLoader``, for training loops other than ours.

Both ways give the same batches::

    rows = TrialRows(workspace.trial_data(config))
    for images, targets, weights in indexed(rows, order.split(32)): ...
    for images, targets, weights in loader(rows, order.split(32)): ...

The first is what our own loop does: indices into tensors that lie on the device. The second asks row by row
where a loop insists on it, and batch by batch where it lets ``DataLoader`` ask for whole batches at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hms_tune.training.trial_data import TrialData


class Batch(NamedTuple):
    """One batch on the device of its data.

    ``inputs`` are float32 images ``(batch, channels, height, width)``, or the signals: a dict of ``eeg``
    ``(batch, 20, 10000)`` and ``spectrogram`` ``(batch, 400, 300)``, of those the input needs. ``targets`` is
    float32 ``(batch, 6)``, ``weights`` float32 ``(batch,)``.
    """

    inputs: Any
    targets: Tensor
    weights: Tensor


class TrialRows(Dataset[Batch]):
    """A map-style data set of the rows of a trial: clean input, target and weight of each.

    Parameters
    ----------
    data : the trial's data
    rows : int64 tensor, which rows of its labels; all by default
    weights : float32 tensor, one for each row of the labels; ones by default
    give : the images that a network sees, or the signals that they are made from
    """

    def __init__(
        self,
        data: TrialData,
        rows: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        give: Literal["images", "signals"] = "images",
    ) -> None:
        n_rows = len(data.labels)
        self._data = data
        self._rows = torch.arange(n_rows) if rows is None else rows.cpu()
        self._give = give
        device = data.images.device
        self._targets = torch.from_numpy(data.labels.targets).to(device)
        self._weights = (torch.ones(n_rows) if weights is None else weights).to(device)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Batch:
        """One row, without a batch dimension."""
        batch = self.batch(torch.tensor([place]))
        inputs = batch.inputs
        one = {key: each[0] for key, each in inputs.items()} if isinstance(inputs, dict) else inputs[0]
        return Batch(one, batch.targets[0], batch.weights[0])

    def __getitems__(self, places: Sequence[int]) -> Batch:
        """Many rows at once, already a batch; ``DataLoader`` asks for this where there is one."""
        return self.batch(torch.as_tensor(places))

    def batch(self, places: Tensor) -> Batch:
        """The rows at some places, gathered together."""
        rows = self._rows[places.cpu()]
        images = self._data.images
        inputs = images.clean(rows) if self._give == "images" else images.signals(rows)
        on_device = rows.to(images.device, non_blocking=True)
        return Batch(inputs, self._targets[on_device], self._weights[on_device])


def indexed(rows: TrialRows, batches: Iterable[Tensor]) -> Iterator[Batch]:
    """Batches by index, without Python for single rows.

    Parameters
    ----------
    rows : the data set
    batches : int64 tensors, places in the data set
    """
    for places in batches:
        yield rows.batch(places)


def loader(rows: TrialRows, batches: Sequence[Tensor], *, workers: int = 0) -> DataLoader[Batch]:
    """Batches by a ``DataLoader``.

    Parameters
    ----------
    rows : the data set; on the CPU where there are workers
    batches : int64 tensors, places in the data set
    workers : processes that load
    """
    return DataLoader(
        rows,
        batch_sampler=[places.tolist() for places in batches],
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def _as_it_is(batch: Any) -> Batch:
    return cast("Batch", batch)
