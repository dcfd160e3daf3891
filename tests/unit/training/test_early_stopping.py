"""Patience, and which epoch counts as best."""

from __future__ import annotations

from hms_tune.config.trial import EarlyStopping
from hms_tune.training.early_stopping import BestEpoch


def test_patience_is_used_up_after_that_many_epochs_without_improvement() -> None:
    best = BestEpoch(EarlyStopping(patience=2))
    exhausted = []
    for epoch, kl in enumerate([1.0, 0.8, 0.9, 0.85]):
        best.observe(epoch, kl)
        exhausted.append(best.exhausted)
    assert exhausted == [False, False, False, True]
    assert (best.epoch, best.kl) == (1, 0.8)


def test_small_gains_are_kept_as_best_but_do_not_renew_the_patience() -> None:
    best = BestEpoch(EarlyStopping(patience=2, min_delta=0.1))
    for epoch, kl in enumerate([1.0, 0.95, 0.94]):
        best.observe(epoch, kl)
    assert best.exhausted
    assert (best.epoch, best.kl) == (2, 0.94)


def test_without_a_rule_a_fold_never_ends_early() -> None:
    best = BestEpoch()
    for epoch in range(100):
        best.observe(epoch, 1.0)
    assert not best.exhausted
    assert best.epoch == 0


def test_state_goes_on_where_it_stopped() -> None:
    first = BestEpoch(EarlyStopping(patience=3))
    for epoch, kl in enumerate([1.0, 1.1, 1.2]):
        first.observe(epoch, kl)
    second = BestEpoch(EarlyStopping(patience=3))
    second.load_state_dict(first.state_dict())
    second.observe(3, 1.3)
    assert second.exhausted
