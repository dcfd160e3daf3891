import numpy as np
import pytest

from hms_tune.config.trial import DataConfig
from hms_tune.data.fold_report import fold_report, refuse_leaks
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
@pytest.mark.parametrize("draw", range(25))
def test_a_patient_is_never_on_both_sides_of_any_split(scheme: str, draw: int) -> None:
    rng = np.random.default_rng(draw)
    # from one row for each patient to a patient with half of all rows
    n_patients = int(rng.integers(15, 120))
    weight = rng.pareto(0.7, n_patients) + 0.01
    patients = np.concatenate(
        [np.arange(n_patients), rng.choice(n_patients, int(rng.integers(60, 900)), p=weight / weight.sum())]
    )
    config = DataConfig.model_validate(
        {
            "fold_scheme": scheme,
            "folds": int(rng.integers(2, 7)),
            "fold_repeats": int(rng.integers(1, 4)),
            "holdout": float(rng.choice([0.0, 0.1, 0.5])),
            "fold_seed": int(rng.integers(0, 1000)),
        }
    )
    labels = labels_of((1000 + patients).tolist())
    folds = assign_folds(labels, config, shuffle_seed=int(rng.integers(0, 2**31)))
    assert folds.shape == (config.fold_repeats, len(labels))
    for numbers in folds:
        assert set(range(config.folds)) <= set(numbers.tolist()) <= {HELD_OUT, *range(config.folds)}
        sides = {(patient, fold) for patient, fold in zip(patients.tolist(), numbers.tolist(), strict=True)}
        assert len(sides) == n_patients
    refuse_leaks(labels, folds)


def test_a_leak_is_named_with_the_patient_and_both_sides() -> None:
    labels = labels_of([1, 1, 2, 3])
    refuse_leaks(labels, np.array([[0, 0, 1, HELD_OUT]]))
    with pytest.raises(DataError, match=r"patient 1 is in fold 0 and in fold 1 of repeat 1"):
        refuse_leaks(labels, np.array([[0, 0, 1, 1], [0, 1, 1, 0]]))
    with pytest.raises(DataError, match=r"patient 1 is held out and in fold 0 of repeat 0"):
        fold_report(labels, np.array([[HELD_OUT, 0, 1, 1]]))


def test_repeats_shuffle_the_folds_and_keep_the_held_out_patients() -> None:
    folds = assign_folds(MANY, DataConfig(fold_repeats=3, fold_seed=4))
    assert folds.dtype == np.int64
    assert len({tuple(numbers) for numbers in folds.tolist()}) == 3
    assert len({tuple((numbers == HELD_OUT).tolist()) for numbers in folds}) == 1
    single = assign_folds(MANY, DataConfig(fold_seed=4))
    assert single.shape == (1, len(MANY))
    assert single[0].tolist() == folds[0].tolist()


def test_a_trial_of_its_own_seed_has_folds_of_its_own_and_the_same_held_out_patients() -> None:
    shared, own, again = (assign_folds(MANY, DataConfig(), shuffle_seed=seed)[0] for seed in (0, 7, 7))
    assert own.tolist() == again.tolist() != shared.tolist()
    assert (own == HELD_OUT).tolist() == (shared == HELD_OUT).tolist()
    agreement = np.mean(own[own >= 0] == shared[own >= 0])
    assert agreement < 0.45  # one in five by chance, in lumps of patients


def test_the_report_counts_each_fold_and_what_is_held_out() -> None:
    labels = labels_of([1, 1, 2, 2, 2, 3])
    labels.votes[5] = [0, 0, 0, 0, 0, 12]
    report = fold_report(labels, np.array([[0, 0, 1, 1, 1, HELD_OUT]]))
    first, second = report.folds
    assert (first.rows, first.patients, first.eegs) == (2, 1, 2)
    assert (second.repeat, second.fold, second.rows, second.high_vote_rows) == (0, 1, 3, 0)
    assert first.consensus_shares["Seizure"] == first.vote_shares["LPD"] == 0.5
    assert report.held_out is not None
    assert (report.held_out.rows, report.held_out.high_vote_rows, report.held_out.fold) == (1, 1, None)
    assert report.row_ratio == 1.5
    assert report.vote_share_spread["Seizure"] == 0.5


@SCHEMES
def test_folds_do_not_depend_on_the_order_of_the_rows(scheme: str) -> None:
    config = DataConfig.model_validate({"fold_scheme": scheme})
    order = np.random.default_rng(1).permutation(len(MANY))
    assert assign_folds(MANY.take(order), config).tolist() == assign_folds(MANY, config)[:, order].tolist()


def test_another_seed_gives_other_folds_and_the_same_seed_the_same() -> None:
    first, again, other = (assign_folds(MANY, DataConfig(fold_seed=seed)) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_the_held_out_share_is_of_patients() -> None:
    (folds,) = assign_folds(MANY, DataConfig(holdout=0.2))
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
    (folds,) = assign_folds(
        labels, DataConfig.model_validate({"fold_scheme": "stratified_group_k_fold", "holdout": 0.0})
    )
    counts = [np.bincount(labels.votes[folds == fold].argmax(axis=1), minlength=3) for fold in range(5)]
    assert np.ptp(np.array(counts), axis=0).max() <= 6  # one patient's rows


def test_too_few_rows_of_every_class_for_stratified_folds_is_refused() -> None:
    config = DataConfig.model_validate({"fold_scheme": "stratified_group_k_fold", "folds": 3, "holdout": 0.0})
    with pytest.raises(DataError, match="cannot be split into 3 stratified folds"):
        assign_folds(labels_of([1, 2, 3]), config)
