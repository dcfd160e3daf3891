"""The race between candidates, on predictions whose truth is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hms_tune.export.confirmation.race import Ranking, RowScores, rank
from hms_tune.training.events import EpochScores, OutOfFold
from hms_tune.training.optimism.correction import corrected
from hms_tune.training.scores import kl_per_row

PATIENTS, ROWS = 40, 160


def scores(level: float, seed: int, *, noise: float = 0.05) -> RowScores:
    """A run: how hard its patients are (the same in every run), how good the candidate is, and chance."""
    patient = np.repeat(np.arange(PATIENTS), ROWS // PATIENTS)
    hard = np.random.default_rng(0).gamma(2.0, 0.4, PATIENTS)[patient]
    chance = np.random.default_rng(seed).normal(0.0, noise, ROWS)
    return RowScores(np.arange(ROWS), patient, np.abs(hard + level + chance))


def test_the_best_confirmed_mean_wins_whatever_the_search_said() -> None:
    runs = {7: {1: scores(0.2, 1), 2: scores(0.2, 2)}, 3: {1: scores(0.0, 3), 2: scores(0.0, 4)}}
    ranking = rank({7: 0.50, 3: 0.60}, runs)
    assert ranking.winner is not None
    assert (ranking.winner.trial, ranking.winner.place_before, ranking.winner.runs) == (3, 2, 2)
    assert ranking.winner.kl == pytest.approx(np.mean([runs[3][1].score, runs[3][2].score]))
    assert [each.trial for each in ranking.candidates] == [3, 7]


def test_a_candidate_that_is_worse_on_the_same_patients_is_dropped_though_the_intervals_overlap() -> None:
    runs = {3: {1: scores(0.0, 3), 2: scores(0.0, 4)}, 7: {1: scores(0.1, 1), 2: scores(0.1, 2)}}
    leader, worse = rank({3: 0.5, 7: 0.6}, runs).candidates
    assert leader.interval is not None
    assert worse.interval is not None
    assert worse.behind is not None
    assert worse.interval[0] < leader.interval[1]
    assert 0.05 < worse.behind[0] < 0.1 < worse.behind[1] < 0.15
    assert (leader.dropped, worse.dropped) == (False, True)


def test_a_single_round_drops_nobody() -> None:
    worse = rank({3: 0.5, 7: 0.6}, {3: {1: scores(0.0, 3)}, 7: {1: scores(0.5, 1)}}).candidates[1]
    assert worse.behind is not None
    assert worse.behind[0] > 0.0
    assert not worse.dropped


def test_rounds_that_only_one_has_run_have_no_part_in_the_difference() -> None:
    runs = {
        3: {1: scores(0.0, 3), 2: scores(0.0, 4), 5: scores(9.0, 9)},
        7: {1: scores(0.1, 1), 2: scores(0.1, 2)},
    }
    leader, other = rank({3: 0.5, 7: 0.6}, runs).candidates
    assert (leader.trial, other.trial) == (7, 3)
    assert other.behind is not None
    assert other.behind[1] < 0.0
    assert not other.dropped


def test_of_two_equals_one_is_dropped_in_five_of_a_hundred_races() -> None:
    dropped = 0
    for repeat in range(200):
        runs = {t: {r: scores(0.0, 1000 * repeat + 10 * t + r) for r in (1, 2)} for t in (1, 2)}
        dropped += any(each.dropped for each in rank({1: 0.5, 2: 0.5}, runs).candidates)
    assert dropped / 200 == pytest.approx(0.05, abs=0.03)


def test_those_that_have_not_run_come_last_and_nobody_wins_before_the_first_run() -> None:
    assert rank({3: 0.5, 7: 0.6}, {3: {}, 7: {}}).winner is None
    ranking = rank({3: 0.5, 7: 0.6}, {7: {1: scores(0.0, 1)}, 3: {}})
    assert [each.trial for each in ranking.candidates] == [7, 3]
    assert ranking.candidates[1].kl is None


def test_repeated_folds_are_averaged_and_rows_of_few_votes_left_out_where_those_of_many_decide() -> None:
    targets = np.tile([0.5, 0.5, 0, 0, 0, 0], (4, 1)).astype(np.float32)
    guesses = np.full((4, 6), 1 / 6, np.float32)
    guesses[3] = targets[3]
    predictions = OutOfFold(
        row=np.array([1, 0, 2, 1]),
        eeg_id=np.array([11, 10, 12, 11]),
        patient_id=np.array([5, 4, 6, 5]),
        fold=np.array([0, 0, 0, 2]),
        probabilities=guesses,
        targets=targets,
        total_votes=np.array([12, 15, 3, 12]),
    )
    found = RowScores.of(predictions, all_rows=False)
    each = kl_per_row(targets, guesses)
    assert found.row.tolist() == [0, 1]
    assert found.patient_id.tolist() == [4, 5]
    np.testing.assert_allclose(found.kl, [each[1], (each[0] + each[3]) / 2])
    assert RowScores.of(replace(predictions), all_rows=True).row.tolist() == [0, 1, 2]


def with_epochs(level: float, seed: int) -> RowScores:
    """A run of four epochs, equally good but for chance; the best is chosen in each of two folds."""
    run, chance = scores(level, seed), np.random.default_rng(seed).normal(0.0, 0.3, (4, PATIENTS))
    by_patient = run.kl.reshape(PATIENTS, -1).mean(axis=1)
    kl = np.abs(by_patient + chance).astype(np.float32)
    patients = np.arange(PATIENTS)
    rows = np.full(PATIENTS, ROWS // PATIENTS)
    return replace(run, epochs=EpochScores(fold=patients % 2, patient_id=patients, rows=rows, kl=kl))


def test_the_leader_is_corrected_for_the_choice_among_all_and_each_for_that_of_its_epochs() -> None:
    runs = {3: {1: with_epochs(0.0, 3), 2: with_epochs(0.0, 4)}, 7: {1: with_epochs(0.5, 1)}}
    ranking = rank({3: 0.5, 7: 0.6}, runs, before={3: with_epochs(0.0, 8)})
    leader, other = ranking.candidates
    assert leader.corrected is not None
    assert other.corrected is not None
    assert leader.search_corrected is not None
    assert (leader.corrected.candidates, other.corrected.candidates) == (2, 1)
    epochs = [[each.epochs for each in made.values() if each.epochs is not None] for made in runs.values()]
    assert leader.corrected == corrected(epochs)
    cells = ranking.rows()[0]
    low, high = leader.corrected.interval or (0.0, 0.0)
    assert cells[4] == f"{leader.kl:.4f}, corrected {leader.corrected.kl:.4f} ({low:.3f}–{high:.3f})"
    assert cells[3].startswith(f"0.5000, corrected {leader.search_corrected.kl:.4f} (")
    assert Ranking.from_json(json.loads(json.dumps(ranking.as_json()))) == ranking


def test_a_run_of_an_earlier_version_leaves_its_candidate_and_the_leader_uncorrected() -> None:
    runs = {3: {1: with_epochs(0.0, 3), 2: with_epochs(0.0, 4)}, 7: {1: scores(0.5, 1)}}
    leader, other = rank({3: 0.5, 7: 0.6}, runs).candidates
    assert leader.corrected is None
    assert other.corrected is None


def test_a_ranking_comes_back_from_json_also_that_of_an_earlier_version() -> None:
    ranking = rank({3: 0.5, 7: 0.6}, {3: {1: scores(0.0, 3)}, 7: {}}, before={3: scores(0.0, 8)})
    stored = json.loads(json.dumps(ranking.as_json()))
    assert Ranking.from_json(stored) == ranking
    for each in stored:
        del each["corrected"], each["search_corrected"]
    assert Ranking.from_json(stored) == ranking
