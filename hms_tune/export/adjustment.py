"""What may be done with predictions afterwards: means over changed signals, and a temperature."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from hms_tune.config.augmentation import TestTime
from hms_tune.export.blend import BLEND, Blend, read_blend_config
from hms_tune.export.blend_weights import groups, mix
from hms_tune.export.bundle import Bundle
from hms_tune.export.out_of_fold import read_out_of_fold
from hms_tune.export.test_time import changes
from hms_tune.training.scores import CLIP, difference_interval, kl_divergence, kl_per_row

TEMPERATURES = (0.25, 4.0)
"""Between which a temperature is looked for."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Test-time augmentation and a temperature; neither unless asked for.

    Attributes
    ----------
    test_time : changes of the signals whose predictions are averaged
    temperature : above 1 predictions become less certain; see :func:`tempered`
    """

    test_time: tuple[TestTime, ...] = ()
    temperature: float = 1.0

    def predict(
        self, model: Bundle | Blend, eeg: Tensor | None, spectrogram: Tensor | None
    ) -> NDArray[np.float32]:
        """Class probabilities of one batch; see :meth:`hms_tune.export.bundle.Bundle.probabilities`."""
        found = [
            model.probabilities(eeg, spectrogram, change) for change in changes(self.test_time, model.inputs)
        ]
        mean = found[0] if len(found) == 1 else np.asarray(np.mean(found, axis=0), np.float32)
        return mean if self.temperature == 1.0 else tempered(mean, self.temperature)


AS_TRAINED = Adjustment()
"""Predictions as they come."""


def tempered(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Probabilities to the power of 1 / temperature, scaled to sum to 1 again.

    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017; on probabilities
    rather than logits, since a mean of several networks has no logits.
    """
    power = np.clip(np.asarray(probabilities, np.float64), CLIP, 1.0) ** (1.0 / temperature)
    return np.asarray(power / power.sum(axis=-1, keepdims=True), np.float32)


def fit_temperature(probabilities: NDArray[np.floating], targets: NDArray[np.floating]) -> float:
    """The temperature with the smallest KL on these rows, within :data:`TEMPERATURES`."""
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(_loss_at(probabilities, targets), bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def tempered_for_others(
    probabilities: NDArray[np.floating], targets: NDArray[np.floating], patient_id: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Each patient's rows with a temperature fitted on other patients: what a fitted one is worth."""
    result = np.empty(probabilities.shape, np.float32)
    for judged in groups(patient_id):
        fitted = fit_temperature(probabilities[~judged], targets[~judged])
        result[judged] = tempered(probabilities[judged], fitted)
    return result


@dataclass(frozen=True, slots=True)
class Effect:
    """What an adjustment does to the out-of-fold KL of a model.

    Attributes
    ----------
    before, after : KL without and with it; a fitted temperature is judged on patients it was not fitted on
    gain : interval of ``before`` − ``after`` over patients; None with fewer than two
    fitted : the temperature that fits best
    """

    before: float
    after: float
    gain: tuple[float, float] | None
    fitted: float

    def __str__(self) -> str:
        """One line."""
        margin = "" if self.gain is None else f", a gain of {self.gain[0]:.4f} to {self.gain[1]:.4f} (95 %)"
        return f"out-of-fold KL {self.before:.4f} without, {self.after:.4f} with{margin}"


def effect(folder: Path, test_time: Collection[TestTime], temperature: float | None) -> Effect:
    """What an adjustment does to the out-of-fold predictions that lie in a bundle or a blend.

    Parameters
    ----------
    test_time : changes of the signals
    temperature : a number, or None for the one that fits best

    Raises
    ------
    BundleError
        If these predictions are not there.
    """
    plain, targets, patients = _predictions(folder, ())
    changed = _predictions(folder, test_time)[0] if test_time else plain
    if temperature is None:
        result: NDArray[np.floating] = tempered_for_others(changed, targets, patients)
    else:
        result = changed if temperature == 1.0 else tempered(changed, temperature)
    before, after = kl_per_row(targets, plain), kl_per_row(targets, result)
    return Effect(
        float(before.mean()),
        float(after.mean()),
        difference_interval(before, after, patients),
        fit_temperature(changed, targets),
    )


def _predictions(
    folder: Path, test_time: Collection[TestTime]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities, targets and patients of all out-of-fold rows."""
    if not (folder / BLEND).exists():
        table = read_out_of_fold(folder, test_time)
        return table.probabilities, table.targets, table.patient_id
    members = read_blend_config(folder).members
    tables = [read_out_of_fold(folder / each.folder, test_time) for each in members]
    mixed = mix(np.stack([each.probabilities for each in tables]), [each.weight for each in members])
    return mixed, tables[0].targets, tables[0].patient_id


def _loss_at(probabilities: NDArray[np.floating], targets: NDArray[np.floating]) -> Callable[[float], float]:
    return lambda log: kl_divergence(targets, tempered(probabilities, float(np.exp(log))))
