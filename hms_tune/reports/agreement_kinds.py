"""Idealized, proto and edge cases: how experts agree on a window.

Jing et al., "Interrater reliability of expert electroencephalographers identifying seizures and rhythmic and
periodic patterns in EEGs", Neurology 100(17), 2023, tell the three kinds apart; here with fixed limits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hms_tune.data.schema import CLASSES

IDEALIZED_SHARE = 0.8
"""More than this share of the votes for one class."""

HALF = (0.35, 0.65)
"""What counts as about half of the votes."""

_OTHER = CLASSES.index("Other")


def kinds_of(votes: NDArray[np.floating]) -> NDArray[np.str_]:
    """The kind of each window: ``idealized``, ``proto``, ``edge`` or ``between``.

    Parameters
    ----------
    votes : float64 (n, 6), each row with at least one vote
    """
    shares = votes / votes.sum(axis=1, keepdims=True)
    named = np.sort(np.delete(shares, _OTHER, axis=1), axis=1)[:, ::-1]
    other = shares[:, _OTHER]
    kinds = np.full(len(votes), "between", dtype="<U9")
    kinds[_half(named[:, 0]) & _half(named[:, 1])] = "edge"
    kinds[_half(named[:, 0]) & _half(other)] = "proto"
    kinds[shares.max(axis=1) > IDEALIZED_SHARE] = "idealized"
    return kinds


def leading_class(votes: NDArray[np.floating]) -> NDArray[np.int64]:
    """The most-voted class of each window; of a proto case the pattern that half of the experts see."""
    leading: NDArray[np.int64] = votes.argmax(axis=1)
    proto = kinds_of(votes) == "proto"
    leading[proto] = np.delete(votes, _OTHER, axis=1)[proto].argmax(axis=1)
    return leading


def _half(share: NDArray[np.floating]) -> NDArray[np.bool_]:
    return (share >= HALF[0]) & (share <= HALF[1])
