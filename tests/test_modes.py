"""The split of classes at the largest gap."""

import numpy as np
import pytest
import torch

from classfit import density_groups


def test_splits_at_the_middle_of_the_largest_gap():
    groups = density_groups([3.0, -10.0, 14.0, 2.0, 12.0])
    assert (groups.threshold, groups.gap) == (-4.0, 12.0)
    assert groups.high.tolist() == [True, False, True, True, True]


def test_agrees_with_trying_every_split():
    rng = np.random.default_rng(0)
    for G in range(2, 12):
        means = rng.normal(size=G)
        groups = density_groups(torch.from_numpy(means))
        low, high = means[~groups.high], means[groups.high]
        assert high.min() - low.max() == groups.gap
        assert groups.threshold == low.max() + groups.gap / 2
        assert groups.gap == max(np.diff(np.sort(means)))
        order = rng.permutation(G)
        np.testing.assert_array_equal(density_groups(means[order]).high, groups.high[order])


def test_of_equal_gaps_the_uppermost_splits():
    groups = density_groups([0, 1, 2, 3])
    assert (groups.high.tolist(), groups.threshold, groups.gap) == ([False, False, False, True], 2.5, 1.0)


def test_equal_means_have_no_high_class():
    groups = density_groups([5.0, 5.0, 5.0])
    assert (groups.high.tolist(), groups.threshold, groups.gap) == ([False] * 3, 5.0, 0.0)


def test_neighbouring_floats_are_split():
    below = 1.0
    above = np.nextafter(below, 2)
    assert density_groups([below, above, below]).high.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ([1.0], r"at least 2 classes, got \[1\]"),
        ([], r"at least 2 classes, got \[0\]"),
        ([[1.0, 2.0]], r"shape \[G\] .* got \[1, 2\]"),
        ([1.0, np.nan, np.inf], "got 2 non-finite values, the first at 1: nan"),
    ],
)
def test_bad_input(means, message):
    with pytest.raises(ValueError, match=message):
        density_groups(means)
