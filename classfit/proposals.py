"""What split-merge moves propose: peels, which part a point and a few companions from a component, and whole splits.

Proposals do not depend on the labels, so that `kernels.split_merge` leaves the posterior invariant. What they aim at is
learned from labels of a burn-in, and stays as it is from then on.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from classfit.devices import CPU
from kernels import SplitMergeProposals

__all__ = ["PEELS_A_ROUND", "Aim", "aim_of", "companions_of", "peels", "splits", "unlearned"]

PEELS_A_ROUND = 40
MAX_PEEL = 20
"""Points that a peel may part from the rest, beside its anchor."""
SMALL = 0.25
"""Share of the points of a group: half of the anchors are drawn by how often they were in a component of fewer."""
LEARNED = 0.75
"""Share of peels whose companions were learned; those of the others are of the three orders of `companions_of`."""
NEAR = 0.5
"""Share of peels whose other anchor is one of the companions, so that small components are parted and joined too."""
ROWS_AT_ONCE = 1024


class Aim(NamedTuple):
    """Where peels are tried; N points."""

    weight: np.ndarray
    """[N] probability of each point of a group as the anchor."""
    companions: np.ndarray
    """[N, MAX_PEEL] int32 other points of the group that may be parted together with each, the likeliest first; -1
    beyond the last of a group of fewer points."""

    def rows(self, rows: slice) -> "Aim":
        return Aim(self.weight[rows], self.companions[rows])


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


def unlearned(companions: list[np.ndarray]) -> Aim:
    """Of all groups, before anything is known of them: every point alike, with companions of the same direction."""
    padded = [np.pad(angle, ((0, 0), (0, MAX_PEEL - angle.shape[1])), constant_values=-1) for angle, *_ in companions]
    weight = [np.full(len(angle), 1 / len(angle)) for angle in padded]
    return Aim(np.concatenate(weight), np.concatenate(padded).astype(np.int32))


def aim_of(labellings: list[np.ndarray], companions: np.ndarray) -> Aim:
    """Of one group, learned from some labellings [n] of it; companions as of `companions_of`.

    Anchors: half of them by how often a point was in a small component. Companions: by how often the two were together
    in a component that a peel can part, which has at most MAX_PEEL + 1 points; then, of those that never were, in the
    order of the angle.
    """
    aim = unlearned([companions])
    _, n, m = companions.shape
    often, rows, columns, first = np.zeros(n), [], [], 0
    for labels in labellings:
        size = np.bincount(labels)[labels]
        often += size < SMALL * n
        together = np.flatnonzero(size <= MAX_PEEL + 1)
        rows.append(together)
        columns.append(first + labels[together])
        first += int(labels.max()) + 1
    if often.any():
        aim = aim._replace(weight=0.5 / n + 0.5 * often / often.sum())
    at = np.concatenate(rows), np.concatenate(columns)
    member = csr_array((np.ones(len(at[0]), np.float32), at), shape=(n, first))
    for a in range(0, n, ROWS_AT_ONCE):
        part = np.arange(a, min(a + ROWS_AT_ONCE, n))
        count = (member[part] @ member.T).toarray()
        # Less than one labelling: by which the order of the angle decides between equals.
        count[part[:, None] - a, companions[0, part]] += np.linspace(0.9, 0.1, m, dtype=np.float32)
        count[part - a, part] = -1
        aim.companions[part, :m] = torch.from_numpy(count).topk(m).indices.numpy()
    return aim


def peels(rngs: list[np.random.Generator], companions: list[np.ndarray], aims: list[Aim]) -> SplitMergeProposals:
    """A point with up to MAX_PEEL of its companions, against another point: any, or one of the companions too."""
    P, m = PEELS_A_ROUND, max(others.shape[2] for others in companions)
    anchors = np.zeros((P, len(rngs), 2), np.int64)
    candidates = np.full((P, len(rngs), m), -1)
    uniforms, accept = np.zeros((P, len(rngs), 2, m)), np.empty((P, len(rngs)))
    for u, (rng, others, aim) in enumerate(zip(rngs, companions, aims, strict=True)):
        kinds, n, width = others.shape
        anchors[:, u, 0] = rng.choice(n, size=P, p=aim.weight / aim.weight.sum())
        anchors[:, u, 1] = rng.integers(n, size=P)
        kind, learned = rng.integers(kinds, size=P), rng.random((P, 1)) < LEARNED
        named = np.where(learned, aim.companions[anchors[:, u, 0], :width], others[kind, anchors[:, u, 0]])
        size = np.zeros(P, np.int64)
        if width:
            near = rng.random(P) < NEAR
            anchors[near, u, 1] = named[near, rng.integers(width, size=P)[near]]
            size = rng.integers(1, width + 1, size=P)
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
