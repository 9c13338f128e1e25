"""What split-merge moves propose: companions, peels and whole splits."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from classfit import proposals
from classfit.proposals import aim_of, companions_of, peels, splits, unlearned


def points(n: int, D: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D))


def test_companions_are_the_others_that_are_alike_near_and_far_out(monkeypatch):
    """By scipy's distances, some rows at a time."""
    monkeypatch.setattr(proposals, "ROWS_AT_ONCE", 7)
    x, scale, n, m = points(30), np.diag([2.0, 1.0, 0.5]), 30, proposals.MAX_PEEL
    found = companions_of(torch.from_numpy(x), torch.from_numpy(scale))
    for order, metric in enumerate(("cosine", "euclidean")):
        distance = cdist(x, x, metric)
        np.fill_diagonal(distance, np.inf)
        assert np.array_equal(found[order], distance.argsort(1)[:, :m])
    outlying = np.einsum("ni,ij,nj->n", x, np.linalg.inv(scale + x.T @ x), x)
    for i in range(n):
        furthest = [j for j in (-outlying).argsort() if j != i]
        assert found[2, i].tolist() == furthest[:m]


def companions(n: int) -> np.ndarray:
    return companions_of(torch.from_numpy(points(n)), torch.eye(3, dtype=torch.float64))


def test_peels_part_companions_of_their_anchor_and_never_an_anchor(monkeypatch):
    monkeypatch.setattr(proposals, "PEELS_A_ROUND", 1000)
    sizes, orders, named_first = set(), [0, 0, 0, 0], 0
    rng = np.random.default_rng(5)
    others = [companions(n) for n in (9, 1, 30)]
    weights = [np.arange(n) / (n * (n - 1) / 2) if n > 1 else np.ones(1) for n in (9, 1, 30)]
    # Learned: all others, in an order of its own.
    aims = [unlearned([each])._replace(weight=weight) for each, weight in zip(others, weights, strict=True)]
    for aim, each in zip(aims, others, strict=True):
        for i, row in enumerate(aim.companions[:, : each.shape[2]]):
            row[:] = rng.permutation(np.delete(np.arange(len(aim.weight)), i))[: len(row)]
    found = peels([np.random.default_rng(u) for u in range(3)], others, aims)
    for u, each in enumerate(others):
        for (i, j), named in zip(found.anchors[:, u].tolist(), found.candidates[:, u].tolist(), strict=True):
            parted = [k for k in named if k >= 0]
            sizes.add(len(parted))
            assert i not in parted
            assert j not in parted
            assert len(set(parted)) == len(parted)
            # A first few of one of the four orders, but for the other anchor.
            every = [*each[:, i].tolist(), [k for k in aims[u].companions[i].tolist() if k >= 0]]
            of = [parted == [k for k in order if k != j][: len(parted)] for order in every]
            assert any(of)
            if u == 2 and sum(of) == 1:
                orders[of.index(True)] += 1
                named_first += j in every[of.index(True)]
    assert max(sizes) == proposals.MAX_PEEL
    assert min(orders) > 0
    assert orders[3] > sum(orders[:3])
    # Another anchor from all 30 points is one of the 20 in two thirds of cases, from the companions always.
    assert named_first > 0.7 * sum(orders)
    assert (found.anchors[:, [0, 2], 0] > 0).all(), "of weight 0"


def test_an_aim_is_learned_from_small_components(monkeypatch):
    """By counting pairs, some rows at a time; the companions that were never together are in the order of the angle."""
    monkeypatch.setattr(proposals, "ROWS_AT_ONCE", 7)
    n, m, rng = 60, proposals.MAX_PEEL, np.random.default_rng(1)
    # Components of 30 (large), 22 (larger than what a peel can part), and others.
    labellings = [rng.permutation(np.repeat([0, 1, 2, 3], [30, 22, 5, 3])) for _ in range(6)]
    labellings += [rng.permutation(np.repeat(np.arange(3), [21, 20, 19])), np.zeros(n, np.int64)]
    order = companions(n)
    found = aim_of(labellings, order)
    together, small = np.zeros((n, n)), np.zeros(n)
    for labels in labellings:
        for k in np.unique(labels):
            members = np.flatnonzero(labels == k)
            small[members] += len(members) < n / 4
            if len(members) <= m + 1:
                together[np.ix_(members, members)] += 1
    np.testing.assert_allclose(found.weight, 0.5 / n + 0.5 * small / small.sum())
    for i in range(n):
        angle = order[0, i].tolist()
        place = {j: angle.index(j) if j in angle else m for j in range(n) if j != i}
        ranks = [(-together[i, j], place[j]) for j in found.companions[i].tolist()]
        assert ranks == sorted((-together[i, j], place[j]) for j in place)[:m]


@pytest.mark.parametrize("n", [1, 2, 9, 30])
def test_an_aim_of_points_that_were_never_together_is_the_angle(n):
    order = companions(n)
    m = order.shape[2]
    for aim in (unlearned([order]), aim_of([np.arange(n)], order)):
        np.testing.assert_allclose(aim.weight, 1 / n)
        np.testing.assert_array_equal(aim.companions[:, :m], order[0])
        assert (aim.companions[:, m:] == -1).all()
        for part, whole in zip(aim.rows(slice(1, None)), aim, strict=True):
            np.testing.assert_array_equal(part, whole[1:])


def test_whole_splits_name_all_points_once():
    sizes = [7, 1, 2, 12]
    offsets = torch.tensor([0, *np.cumsum(sizes)])
    found = splits([np.random.default_rng(u) for u in range(4)], offsets)
    for u, n in enumerate(sizes):
        named = [*found.anchors[0, u].tolist(), *(k for k in found.candidates[0, u].tolist() if k >= 0)]
        assert sorted(set(named)) == list(range(n))
        assert len(named) == max(n, 2)
