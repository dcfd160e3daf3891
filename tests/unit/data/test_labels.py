import numpy as np
import pandas as pd
import pytest

from hms_tune.data.labels import Labels, make_labels
from hms_tune.data.schema import CLASSES, VOTE_COLUMNS
from hms_tune.errors import DataError


def train_table(rows: list[tuple[int, int, float, list[int]]]) -> pd.DataFrame:
    """Rows of (eeg_id, eeg_sub_id, offset in seconds, six votes)."""
    return pd.DataFrame(
        [
            {
                "eeg_id": eeg_id,
                "eeg_sub_id": sub_id,
                "eeg_label_offset_seconds": offset,
                "spectrogram_id": eeg_id * 10,
                "spectrogram_label_offset_seconds": offset + 100,
                "patient_id": eeg_id // 2,
                **dict(zip(VOTE_COLUMNS, votes, strict=True)),
            }
            for eeg_id, sub_id, offset, votes in rows
        ]
    )


TABLE = train_table(
    [
        (5, 0, 0.0, [3, 0, 0, 0, 0, 0]),
        (5, 1, 4.0, [3, 0, 0, 0, 0, 0]),
        (5, 2, 10.0, [0, 2, 0, 0, 0, 10]),
        (4, 0, 0.0, [0, 0, 1, 0, 0, 0]),
    ]
)


def test_one_row_per_eeg_sums_votes_and_takes_the_middle_window() -> None:
    labels = make_labels(TABLE, rows="eeg", min_votes=1)
    assert labels.eeg_id.tolist() == [4, 5]
    assert labels.votes.tolist() == [[0, 0, 1, 0, 0, 0], [6, 2, 0, 0, 0, 10]]
    assert labels.eeg_offset_seconds.tolist() == [0.0, 4.0]
    assert labels.spectrogram_offset_seconds.tolist() == [100.0, 104.0]
    assert labels.spectrogram_id.tolist() == [40, 50]
    assert labels.patient_id.tolist() == [2, 2]


def test_total_votes_are_the_raters_of_one_window_not_of_all_overlapping_ones() -> None:
    assert make_labels(TABLE, rows="eeg", min_votes=1).total_votes.tolist() == [1, 12]


def test_one_row_per_vote_vector_keeps_each_vector_and_its_middle_window() -> None:
    labels = make_labels(TABLE, rows="vote_vector", min_votes=1)
    assert labels.eeg_id.tolist() == [4, 5, 5]
    assert labels.votes.tolist() == [[0, 0, 1, 0, 0, 0], [3, 0, 0, 0, 0, 0], [0, 2, 0, 0, 0, 10]]
    assert labels.eeg_offset_seconds.tolist() == [0.0, 4.0, 10.0]
    assert labels.total_votes.tolist() == [1, 3, 12]


def test_every_row_keeps_every_window_with_its_own_votes() -> None:
    labels = make_labels(TABLE, rows="row", min_votes=1)
    assert labels.eeg_id.tolist() == [4, 5, 5, 5]
    assert labels.eeg_offset_seconds.tolist() == [0.0, 0.0, 4.0, 10.0]
    assert labels.total_votes.tolist() == [1, 3, 3, 12]


def test_targets_are_vote_shares_as_float32() -> None:
    targets = make_labels(TABLE, rows="eeg", min_votes=1).targets
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets[1], np.array([6, 2, 0, 0, 0, 10]) / 18, rtol=1e-6)


def test_windows_with_fewer_votes_are_left_out_before_summing() -> None:
    labels = make_labels(TABLE, rows="eeg", min_votes=10)
    assert labels.eeg_id.tolist() == [5]
    assert labels.votes.tolist() == [[0, 2, 0, 0, 0, 10]]
    assert labels.eeg_offset_seconds.tolist() == [10.0]


def test_more_votes_than_anyone_gave_is_refused_with_the_most_there_are() -> None:
    with pytest.raises(DataError, match=r"train\.csv: no window has 13 or more votes; the most is 12"):
        make_labels(TABLE, rows="eeg", min_votes=13)


@pytest.mark.parametrize("rows", ["eeg", "vote_vector", "row"])
def test_labels_do_not_depend_on_the_order_of_the_table(rows: str) -> None:
    ordered, shuffled = (
        make_labels(table, rows=rows, min_votes=1)  # type: ignore[arg-type]
        for table in (TABLE, TABLE.sample(frac=1, random_state=3))
    )
    assert ordered.eeg_id.tolist() == shuffled.eeg_id.tolist()
    assert ordered.votes.tolist() == shuffled.votes.tolist()
    assert ordered.eeg_offset_seconds.tolist() == shuffled.eeg_offset_seconds.tolist()


def test_take_keeps_the_rows_asked_for_in_their_order() -> None:
    labels = make_labels(TABLE, rows="vote_vector", min_votes=1).take(np.array([2, 0]))
    assert len(labels) == 2
    assert labels.eeg_id.tolist() == [5, 4]
    assert labels.total_votes.tolist() == [12, 1]


def test_rows_without_votes_have_zero_targets() -> None:
    number = np.array([1], dtype=np.int64)
    labels = Labels(
        number, number, number, np.zeros(1), np.zeros(1), np.zeros((1, len(CLASSES))), split="test"
    )
    assert labels.targets.tolist() == [[0.0] * 6]
    assert labels.take(np.array([0])).split == "test"
