import numpy as np
import pytest

from hms_tune.data.schema import CLASSES
from hms_tune.reports.agreement_kinds import kinds_of, leading_class


@pytest.mark.parametrize(
    ("votes", "kind", "name"),
    [
        ([0, 0, 0, 0, 0, 12], "idealized", "Other"),
        ([9, 1, 0, 0, 0, 0], "idealized", "Seizure"),
        ([8, 1, 1, 0, 0, 0], "between", "Seizure"),
        ([0, 0, 0, 5, 0, 5], "proto", "LRDA"),
        ([0, 0, 0, 4, 0, 6], "proto", "LRDA"),
        ([0, 6, 0, 5, 0, 1], "edge", "LPD"),
        ([0, 3, 3, 3, 0, 1], "between", "LPD"),
        ([0, 0, 0, 2, 0, 8], "between", "Other"),
    ],
)
def test_windows_are_told_apart_by_how_experts_agree(votes: list[int], kind: str, name: str) -> None:
    row = np.array([votes], dtype=np.float64)
    assert kinds_of(row).tolist() == [kind]
    assert CLASSES[leading_class(row)[0]] == name
