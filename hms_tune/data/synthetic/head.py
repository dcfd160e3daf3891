"""The head: where the electrodes lie, and how activity of the cortex reaches them.

A unit sphere of three shells (brain, skull, scalp); x points to the right ear, y to the nose, z up. Cortical
activity is a sheet of radial current dipoles just under the skull, as gyral cortex is. The skull blurs it:
neighbouring electrodes see much of the same source, and a bipolar difference sees the slope of its field.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import EEG_COLUMNS

ELECTRODES = EEG_COLUMNS[:19]
"""The 19 scalp electrodes in the order of the EEG files; EKG comes after them."""

# Outer radii and conductivities (relative to brain) of brain, skull and scalp: Rush & Driscoll's radii; their
# 1/80 for the skull is since measured nearer 1/20–1/50.
_RADII = (0.87, 0.92, 1.0)
_CONDUCTIVITIES = (1.0, 1 / 40, 1.0)
_CORTEX_RADIUS = 0.82
_DEGREES = 40
_CORTEX_POINTS = 900


@dataclass(frozen=True, slots=True)
class Head:
    """Electrodes, cortex and the lead field between them.

    Attributes
    ----------
    electrodes : float64 (19, 3), unit vectors in the order of :data:`ELECTRODES`
    cortex : float64 (n_points, 3), unit vectors of the cortical points
    lead_field : float64 (19, n_points), potential at each electrode per unit dipole, arbitrary scale
    """

    electrodes: NDArray[np.float64]
    cortex: NDArray[np.float64]
    lead_field: NDArray[np.float64]

    def patch(self, centre: NDArray[np.float64], width_degrees: float) -> NDArray[np.float64]:
        """Field of a cortical patch whose activity falls off as a Gaussian around ``centre``.

        Parameters
        ----------
        centre : float64 (3,), any length but zero; its direction is used
        width_degrees : standard deviation of the patch, degrees of arc

        Returns
        -------
        float64 (19,), scaled to a peak of 1
        """
        angle = np.degrees(np.arccos(np.clip(self.cortex @ (centre / np.linalg.norm(centre)), -1, 1)))
        weights = np.exp(-0.5 * (angle / width_degrees) ** 2)
        field = self.lead_field @ weights
        return np.asarray(field / np.abs(field).max())


@cache
def head() -> Head:
    """The one head there is; patients differ in gain, not in shape."""
    electrodes = _electrode_positions()
    cortex = _cortex()
    return Head(electrodes, cortex, _lead_field(electrodes, cortex))


def direction(azimuth: float, inclination: float) -> NDArray[np.float64]:
    """Unit vector ``inclination`` degrees from the vertex, ``azimuth`` degrees from the nose to the right."""
    a, i = np.radians(azimuth), np.radians(inclination)
    return np.array([np.sin(i) * np.sin(a), np.sin(i) * np.cos(a), np.cos(i)])


def mirrored(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same place on the other hemisphere."""
    return np.asarray(vector * np.array([-1.0, 1.0, 1.0]))


def _electrode_positions() -> NDArray[np.float64]:
    """The 10–20 system: 10 % of a half circle are 18°; F3, F4, P3, P4 lie halfway between neighbours."""
    place = {"Cz": direction(0, 0), "Fz": direction(0, 36), "Pz": direction(180, 36)}
    ring = (("Fp1", "Fp2"), ("F7", "F8"), ("T3", "T4"), ("T5", "T6"), ("O1", "O2"))
    for step, (left, right) in enumerate(ring):
        azimuth = 18 + 36 * step
        place[left], place[right] = direction(-azimuth, 72), direction(azimuth, 72)
    place["C3"], place["C4"] = direction(-90, 36), direction(90, 36)
    for name, (one, other) in {
        "F3": ("F7", "Fz"), "F4": ("F8", "Fz"), "P3": ("T5", "Pz"), "P4": ("T6", "Pz"),
    }.items():  # fmt: skip
        between = place[one] + place[other]
        place[name] = between / np.linalg.norm(between)
    return np.stack([place[name] for name in ELECTRODES])


def _cortex() -> NDArray[np.float64]:
    """Evenly spread points (a Fibonacci lattice) over the part of the sphere that the brain fills."""
    index = np.arange(_CORTEX_POINTS)
    z = 1 - (index + 0.5) / _CORTEX_POINTS * 1.3  # down to a little below the lowest electrodes
    azimuth = np.degrees(index * np.pi * (3 - np.sqrt(5)))
    return np.stack([direction(a, i) for a, i in zip(azimuth, np.degrees(np.arccos(z)), strict=True)])


def _lead_field(electrodes: NDArray[np.float64], cortex: NDArray[np.float64]) -> NDArray[np.float64]:
    """Surface potential of radial dipoles, summed over Legendre degrees.

    In each shell the potential of degree n is ``A rⁿ + B r⁻⁽ⁿ⁺¹⁾``. From the scalp, where no current leaves,
    the pair is carried inwards through continuity of potential and of radial current; in the brain B must
    equal the dipole's own field, which sets the scale.
    """
    cosine = np.clip(electrodes @ cortex.T, -1, 1)
    before, legendre = np.ones_like(cosine), cosine
    total = np.zeros_like(cosine)
    for n in range(1, _DEGREES + 1):
        total += _surface_gain(n) * legendre
        before, legendre = legendre, ((2 * n + 1) * cosine * legendre - n * before) / (n + 1)
    return total


def _surface_gain(n: int) -> float:
    regular, singular = 1.0, n / (n + 1)
    surface = regular + singular
    for shell in range(len(_RADII) - 2, -1, -1):
        r = _RADII[shell]
        potential = regular * r**n + singular * r ** -(n + 1)
        slope = n * regular * r ** (n - 1) - (n + 1) * singular * r ** -(n + 2)
        slope *= _CONDUCTIVITIES[shell + 1] / _CONDUCTIVITIES[shell]
        regular = ((n + 1) * potential + r * slope) / ((2 * n + 1) * r**n)
        singular = (n * potential - r * slope) / ((2 * n + 1) * r ** -(n + 1))
    return float(surface * n * _CORTEX_RADIUS ** (n - 1) / singular)
