"""Electrodes, bipolar chains and their mirror images.

The chains are the longitudinal ("double banana") montage that the competition's experts and its
host's spectrograms use; electrodes carry the 10–20 system's older names (T3, T4, T5, T6).
"""

from __future__ import annotations

import itertools
from typing import Final

SFREQ: Final = 200.0
"""Sampling rate of the competition's EEG, Hz."""

ELECTRODES: Final[tuple[str, ...]] = (
    *("Fp1", "F3", "C3", "P3", "F7", "T3", "T5", "O1"),
    *("Fz", "Cz", "Pz"),
    *("Fp2", "F4", "C4", "P4", "F8", "T4", "T6", "O2"),
    "EKG",
)
"""Channels in the order of the EEG files; the last one is no electrode of the scalp."""

N_SCALP: Final = 19
"""Scalp electrodes: the first 19 of :data:`ELECTRODES`."""

REGIONS: Final[tuple[str, ...]] = ("LL", "RL", "LP", "RP")
"""Left and right lateral, left and right parasagittal, in the order of the Kaggle spectrogram files."""

CHAINS: Final[dict[str, tuple[str, ...]]] = {
    "LL": ("Fp1", "F7", "T3", "T5", "O1"),
    "RL": ("Fp2", "F8", "T4", "T6", "O2"),
    "LP": ("Fp1", "F3", "C3", "P3", "O1"),
    "RP": ("Fp2", "F4", "C4", "P4", "O2"),
    "midline": ("Fz", "Cz", "Pz"),
}
"""Electrodes of each chain from front to back; neighbours form a bipolar pair."""

PAIRS: Final[tuple[tuple[str, str], ...]] = tuple(
    pair for chain in CHAINS.values() for pair in itertools.pairwise(chain)
)
"""The 18 bipolar pairs (anode, cathode): four in each region, then two on the midline."""

PAIRS_PER_REGION: Final = 4

ANODES: Final[tuple[int, ...]] = tuple(ELECTRODES.index(anode) for anode, _ in PAIRS)
CATHODES: Final[tuple[int, ...]] = tuple(ELECTRODES.index(cathode) for _, cathode in PAIRS)


def _mirrored(electrode: str) -> str:
    """The electrode at the same place of the other hemisphere: odd numbers are left, even ones right."""
    name, digit = electrode[:-1], electrode[-1]
    if not digit.isdigit():
        return electrode
    number = int(digit)
    return f"{name}{number + 1 if number % 2 else number - 1}"


ELECTRODE_PARTNERS: Final[tuple[int, ...]] = tuple(ELECTRODES.index(_mirrored(name)) for name in ELECTRODES)
"""For each channel, the channel that takes its place when the hemispheres are swapped."""

REGION_PARTNERS: Final[tuple[int, ...]] = (1, 0, 3, 2)
"""For each of :data:`REGIONS`, the region of the other hemisphere."""
