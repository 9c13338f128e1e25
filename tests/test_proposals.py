"""What split-merge moves propose: companions, peels and whole splits."""

import numpy as np
import torch
from scipy.spatial.distance import cdist

from classfit import proposals
from classfit.proposals import companions_of, peels, splits


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


def test_peels_part_companions_of_their_anchor_and_never_an_anchor():
    others = [companions_of(torch.from_numpy(points(n)), torch.eye(3, dtype=torch.float64)) for n in (9, 1, 30)]
    weights = [np.arange(n) / (n * (n - 1) / 2) if n > 1 else np.ones(1) for n in (9, 1, 30)]
    found = peels([np.random.default_rng(u) for u in range(3)], others, weights)
    sizes = set()
    for u, companions in enumerate(others):
        for (i, j), named in zip(found.anchors[:, u].tolist(), found.candidates[:, u].tolist(), strict=True):
            parted = [k for k in named if k >= 0]
            sizes.add(len(parted))
            assert i not in parted
            assert j not in parted
            assert len(set(parted)) == len(parted)
            # A first few of one of the three orders, but for the other anchor.
            assert any(parted == [k for k in order if k != j][: len(parted)] for order in companions[:, i].tolist())
    assert max(sizes) == proposals.MAX_PEEL
    assert (found.anchors[:, [0, 2], 0] > 0).all(), "of weight 0"


def test_whole_splits_name_all_points_once():
    sizes = [7, 1, 2, 12]
    offsets = torch.tensor([0, *np.cumsum(sizes)])
    found = splits([np.random.default_rng(u) for u in range(4)], offsets)
    for u, n in enumerate(sizes):
        named = [*found.anchors[0, u].tolist(), *(k for k in found.candidates[0, u].tolist() if k >= 0)]
        assert sorted(set(named)) == list(range(n))
        assert len(named) == max(n, 2)
