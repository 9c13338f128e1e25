"""Density bins, F1 and the choice of points for a budget."""

import numpy as np
import pytest
from sklearn.metrics import f1_score
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE

from paper_repro.density_bins import choose, density_bins, weighted_f1


def test_bins_are_equal_and_in_order():
    values = np.random.default_rng(0).normal(size=103)
    bins = density_bins(values, 10)
    counts = np.bincount(bins)
    assert counts.max() - counts.min() <= 1
    for b in range(9):
        assert values[bins == b].max() <= values[bins == b + 1].min()
    assert density_bins(np.zeros(4), 2).tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"n_bins must be in 1..103, got 104"):
        density_bins(values, 104)
    values[7] = np.nan
    with pytest.raises(ValueError, match="log_density must be finite, got nan at 7"):
        density_bins(values, 10)


def test_f1_is_scikit_learns():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(5, size=200), rng.integers(-1, 6, size=200)
    expected = f1_score(labels, predicted, labels=np.arange(5), average="weighted")
    assert weighted_f1(labels, predicted) == pytest.approx(expected, rel=PEER_RELATIVE)
    assert weighted_f1(labels, labels) == 1
    assert weighted_f1(labels, np.full(200, -1)) == 0


def test_a_budget_is_spent_evenly():
    rng = np.random.default_rng(2)
    bins, labels = np.repeat(np.arange(4), 50), rng.integers(5, size=200)
    rows = choose(bins, labels, 20, seed=0)
    assert len(set(rows.tolist())) == 80
    for b in range(4):
        own = rows[bins[rows] == b]
        assert len(own) == 20
        for g in range(5):
            share = (labels[bins == b] == g).sum() * 20 / 50
            assert abs((labels[own] == g).sum() - share) < 1 + PEER_RELATIVE
    np.testing.assert_array_equal(rows, choose(bins, labels, 20, seed=0))
    np.testing.assert_array_equal(choose(bins, labels, 70, seed=0), np.arange(200))
    with pytest.raises(ValueError, match="n_per_bin must be at least 1, got 0"):
        choose(bins, labels, 0, seed=0)


def test_each_point_of_a_bin_is_equally_likely():
    bins, labels, n = np.zeros(17, dtype=np.int64), np.arange(17) % 3, 2000
    chosen = np.zeros(17)
    for seed in range(n):
        chosen[choose(bins, labels, 5, seed=seed)] += 1
    expected = 5 / 17
    assert np.abs(chosen / n - expected).max() < MONTE_CARLO_SIGMAS * np.sqrt(expected * (1 - expected) / n)
