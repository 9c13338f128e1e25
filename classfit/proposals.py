"""What split-merge moves propose: peels, which part a point and a few companions from a component, and whole splits.

Proposals do not depend on the labels, so that `kernels.split_merge` leaves the posterior invariant.
"""

import numpy as np
import torch
from torch import Tensor

from classfit.devices import CPU
from kernels import SplitMergeProposals

__all__ = ["PEELS_A_ROUND", "companions_of", "peels", "splits"]

PEELS_A_ROUND = 40
MAX_PEEL = 20
"""Points that a peel may part from the rest, beside its anchor."""
ROWS_AT_ONCE = 1024


def companions_of(centred: Tensor, scale: Tensor) -> np.ndarray:
    """Of one group, as `Problem` says; centred [n, D] the points less the prior mean, scale [D, D] of the prior."""
    n = len(centred)
    m = min(MAX_PEEL, n - 1)
    direction = torch.nn.functional.normalize(centred)
    near = []
    # A few rows at a time: all distances of a large group would not fit into memory.
    for a in range(0, n, ROWS_AT_ONCE):
        rows = torch.arange(a, min(a + ROWS_AT_ONCE, n), device=CPU)
        distances = torch.stack([-direction[rows] @ direction.T, torch.cdist(centred[rows], centred)])
        distances[:, rows - a, rows] = torch.inf
        near.append(distances.topk(m, largest=False).indices)
    # The scale matrix of one component that holds all points says what is far out.
    chol = torch.linalg.cholesky(scale + centred.T @ centred)
    outlying = torch.linalg.solve_triangular(chol, centred.T, upper=False).square().sum(0)
    furthest = outlying.topk(m + 1).indices.expand(n, m + 1)
    others = furthest != torch.arange(n, device=CPU)[:, None]
    others[others.all(1), -1] = False
    return torch.cat([*torch.cat(near, 1), furthest[others].view(n, m)]).view(3, n, m).numpy()


def peels(
    rngs: list[np.random.Generator], companions: list[np.ndarray], weights: list[np.ndarray]
) -> SplitMergeProposals:
    """A point, drawn by its weight, with up to MAX_PEEL of its companions, against another random point."""
    P, m = PEELS_A_ROUND, max(others.shape[2] for others in companions)
    anchors = np.zeros((P, len(rngs), 2), np.int64)
    candidates = np.full((P, len(rngs), m), -1)
    uniforms, accept = np.zeros((P, len(rngs), 2, m)), np.empty((P, len(rngs)))
    for u, (rng, others, weight) in enumerate(zip(rngs, companions, weights, strict=True)):
        kinds, n, width = others.shape
        anchors[:, u, 0] = rng.choice(n, size=P, p=weight / weight.sum())
        anchors[:, u, 1] = rng.integers(n, size=P)
        size = rng.integers(1, width + 1, size=P) if width else np.zeros(P, np.int64)
        named = others[rng.integers(kinds, size=P), anchors[:, u, 0]]
        usable = (np.arange(width) < size[:, None]) & (named != anchors[:, u, 1:])
        candidates[:, u, :width] = np.where(usable, named, -1)
        uniforms[:, u, :, :width], accept[:, u] = rng.random((P, 2, width)), rng.random(P)
    launch = np.ones(candidates.shape, np.bool_)
    return SplitMergeProposals(*(torch.from_numpy(field) for field in (anchors, candidates, launch, uniforms, accept)))


def splits(rngs: list[np.random.Generator], offsets: Tensor) -> SplitMergeProposals:
    """One of Jain & Neal's proposals a unit: two random anchors, all other points on random sides, two scans."""
    sizes = offsets.diff().tolist()
    C = max(sizes)
    anchors = np.zeros((1, len(rngs), 2), np.int64)
    candidates = np.full((1, len(rngs), C), -1)
    launch, uniforms = np.zeros((1, len(rngs), C), np.bool_), np.zeros((1, len(rngs), 2, C))
    accept = np.empty((1, len(rngs)))
    for u, (rng, n) in enumerate(zip(rngs, sizes, strict=True)):
        points = rng.permutation(n)
        if n > 1:
            anchors[0, u], candidates[0, u, : n - 2] = points[:2], points[2:]
        launch[0, u, :n], uniforms[0, u, :, :n], accept[0, u] = rng.random(n) < 0.5, rng.random((2, n)), rng.random()
    return SplitMergeProposals(*(torch.from_numpy(field) for field in (anchors, candidates, launch, uniforms, accept)))
