import numpy as np
import pytest

from hms_tune.config.trial import DataConfig
from hms_tune.data.folds import HELD_OUT, assign_folds, held_out_patients
from hms_tune.data.labels import Labels
from hms_tune.errors import DataError


def labels_of(patients: list[int]) -> Labels:
    n = len(patients)
    votes = np.zeros((n, 6))
    votes[np.arange(n), np.arange(n) % 6] = 3
    return Labels(
        eeg_id=np.arange(n, dtype=np.int64),
        spectrogram_id=np.arange(n, dtype=np.int64),
        patient_id=np.array(patients, dtype=np.int64),
        eeg_offset_seconds=np.zeros(n),
        spectrogram_offset_seconds=np.zeros(n),
        votes=votes,
    )


MANY = labels_of(np.random.default_rng(0).integers(0, 60, 900).tolist())
SCHEMES = pytest.mark.parametrize("scheme", ["group_k_fold", "stratified_group_k_fold"])


@SCHEMES
def test_no_patient_is_in_two_folds_or_both_in_a_fold_and_held_out(scheme: str) -> None:
    folds = assign_folds(MANY, DataConfig.model_validate({"fold_scheme": scheme}))
    assert set(folds.tolist()) == {HELD_OUT, 0, 1, 2, 3, 4}
    for patient in np.unique(MANY.patient_id):
        assert len(set(folds[MANY.patient_id == patient].tolist())) == 1


@SCHEMES
def test_folds_do_not_depend_on_the_order_of_the_rows(scheme: str) -> None:
    config = DataConfig.model_validate({"fold_scheme": scheme})
    order = np.random.default_rng(1).permutation(len(MANY))
    assert assign_folds(MANY.take(order), config).tolist() == assign_folds(MANY, config)[order].tolist()


def test_another_seed_gives_other_folds_and_the_same_seed_the_same() -> None:
    first, again, other = (assign_folds(MANY, DataConfig(fold_seed=seed)) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_the_held_out_share_is_of_patients() -> None:
    folds = assign_folds(MANY, DataConfig(holdout=0.2))
    assert len(np.unique(MANY.patient_id[folds == HELD_OUT])) == 12


def test_a_new_patient_moves_at_most_one_other_in_or_out_of_the_held_out() -> None:
    before = set(held_out_patients(np.arange(100), share=0.1, seed=0).tolist())
    after = set(held_out_patients(np.arange(101), share=0.1, seed=0).tolist())
    assert len(before) == len(after) == 10
    assert len(before & after) >= 9


def test_no_holdout_leaves_every_row_in_a_fold() -> None:
    assert HELD_OUT not in assign_folds(MANY, DataConfig(holdout=0.0))


def test_one_patient_for_five_folds_is_one_clear_line() -> None:
    with pytest.raises(DataError) as refusal:
        assign_folds(labels_of([7] * 30), DataConfig(folds=5, holdout=0.0))
    assert str(refusal.value) == (
        "train.csv, column patient_id: 1 patient cannot fill 5 folds. "
        "Lower data.folds or data.holdout, or add patients: a patient is never on both sides."
    )


def test_too_few_patients_after_the_holdout_says_how_many_are_held_out() -> None:
    with pytest.raises(DataError, match=r"4 patients cannot fill 5 folds \(1 of 5 held out\)"):
        assign_folds(labels_of([1, 2, 3, 4, 5]), DataConfig(folds=5, holdout=0.1))


def test_stratified_folds_hold_like_shares_of_each_class() -> None:
    patients = np.repeat(np.arange(60), 6).tolist()
    labels = labels_of(patients)
    labels.votes[:] = np.eye(6)[np.array(patients) % 3] * 3
    folds = assign_folds(
        labels, DataConfig.model_validate({"fold_scheme": "stratified_group_k_fold", "holdout": 0.0})
    )
    counts = [np.bincount(labels.votes[folds == fold].argmax(axis=1), minlength=3) for fold in range(5)]
    assert np.ptp(np.array(counts), axis=0).max() <= 6  # one patient's rows


def test_too_few_rows_of_every_class_for_stratified_folds_is_refused() -> None:
    config = DataConfig.model_validate({"fold_scheme": "stratified_group_k_fold", "folds": 3, "holdout": 0.0})
    with pytest.raises(DataError, match="cannot be split into 3 stratified folds"):
        assign_folds(labels_of([1, 2, 3]), config)
