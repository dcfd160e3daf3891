"""The montage: which electrodes, which pairs, and their mirror images."""

from __future__ import annotations

from hms_tune.signals.montage import (
    ANODES,
    CATHODES,
    ELECTRODE_PARTNERS,
    ELECTRODES,
    N_SCALP,
    PAIRS,
    REGION_PARTNERS,
    REGIONS,
)


def test_electrodes_are_in_the_order_of_the_files() -> None:
    assert ",".join(ELECTRODES) == "Fp1,F3,C3,P3,F7,T3,T5,O1,Fz,Cz,Pz,Fp2,F4,C4,P4,F8,T4,T6,O2,EKG"
    assert ELECTRODES[N_SCALP] == "EKG"


def test_pairs_follow_the_chains_of_the_competition() -> None:
    written = [f"{anode}-{cathode}" for anode, cathode in PAIRS]
    assert written[:4] == ["Fp1-F7", "F7-T3", "T3-T5", "T5-O1"]
    assert written[4:8] == ["Fp2-F8", "F8-T4", "T4-T6", "T6-O2"]
    assert written[8:12] == ["Fp1-F3", "F3-C3", "C3-P3", "P3-O1"]
    assert written[12:16] == ["Fp2-F4", "F4-C4", "C4-P4", "P4-O2"]
    assert written[16:] == ["Fz-Cz", "Cz-Pz"]
    assert [(ELECTRODES[a], ELECTRODES[c]) for a, c in zip(ANODES, CATHODES, strict=True)] == list(PAIRS)


def test_swapping_electrodes_swaps_the_regions_and_is_its_own_inverse() -> None:
    assert [ELECTRODE_PARTNERS[partner] for partner in ELECTRODE_PARTNERS] == list(range(20))
    assert [ELECTRODES[i] for i in range(20) if ELECTRODE_PARTNERS[i] == i] == ["Fz", "Cz", "Pz", "EKG"]
    mirrored = [(ELECTRODE_PARTNERS[a], ELECTRODE_PARTNERS[c]) for a, c in zip(ANODES, CATHODES, strict=True)]
    pairs = list(zip(ANODES, CATHODES, strict=True))
    for region, partner in enumerate(REGION_PARTNERS):
        assert mirrored[4 * region : 4 * region + 4] == pairs[4 * partner : 4 * partner + 4]
        assert REGIONS[region][1] == REGIONS[partner][1]
    assert mirrored[16:] == pairs[16:]
