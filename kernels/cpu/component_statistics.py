"""Moments of hard assignments in float64, one task a group."""

from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.cpu import threads
from kernels.cpu.compiled import leaf
from kernels.cpu.moments import add_scatter
from kernels.cpu.tile import lanes, padded
from kernels.types import ComponentStatistics


def component_statistics(
    x: Tensor, labels: Tensor, n_components: int, *, group_offsets: Tensor | None = None
) -> ComponentStatistics:
    points, assigned = np.ascontiguousarray(x.numpy()), np.ascontiguousarray(labels.numpy())
    edges = [0, len(x)] if group_offsets is None else group_offsets.tolist()
    G, D = len(edges) - 1, x.shape[1]
    counts = np.zeros((G, n_components), np.int64)
    means = np.zeros((G, n_components, D))
    scatters = np.zeros((G, n_components, D, D))
    threads.run(
        _group,
        [(points[a:b], assigned[a:b], counts[g], means[g], scatters[g]) for g, (a, b) in enumerate(pairwise(edges))],
    )
    return ComponentStatistics(torch.from_numpy(counts), torch.from_numpy(means), torch.from_numpy(scatters))


@njit(nogil=True, cache=True)
def _group(x: np.ndarray, labels: np.ndarray, counts: np.ndarray, means: np.ndarray, scatters: np.ndarray) -> None:
    n, D = x.shape
    buffers = scatter_buffers(means, D)
    members = np.empty(n, np.int64)
    for k in range(len(counts)):
        counts[k] = members_of(x, labels, k, members, means[k])
        lower_scatter(x, members, counts[k], means[k], *buffers, scatters[k])
        for i in range(D):
            for j in range(i):
                scatters[k, j, i] = scatters[k, i, j]


@njit(nogil=True, cache=True)
def scatter_buffers(x: np.ndarray, D: int) -> tuple[np.ndarray, np.ndarray]:
    """Working memory of `add_scatter` in the dtype of x: a tile of rows, and a product."""
    n_lanes = lanes(x)
    width = (D + n_lanes - 1) // n_lanes * n_lanes
    return np.zeros((n_lanes, width), x.dtype), np.zeros((2 * padded((D + 1) // 2), width), x.dtype)


@leaf()
def members_of(x: np.ndarray, labels: np.ndarray, k: int, members: np.ndarray, mean: np.ndarray) -> int:
    """List the points of label k in `members`, write their mean, return their number."""
    count = 0
    mean[:] = 0
    for i in range(len(x)):
        if labels[i] == k:
            members[count] = i
            count += 1
            for j in range(x.shape[1]):
                mean[j] += x[i, j]
    if count > 0:
        mean /= count
    return count


@leaf()
def lower_scatter(
    x: np.ndarray,
    members: np.ndarray,
    count: int,
    mean: np.ndarray,
    rows: np.ndarray,
    work: np.ndarray,
    scatter: np.ndarray,
) -> None:
    """scatter += sum over the members of (x - mean)(x - mean)', lower triangle only."""
    n_lanes = len(rows)
    for first in range(0, count, n_lanes):
        last = min(count, first + n_lanes)
        for i in range(first, last):
            for j in range(x.shape[1]):
                rows[i - first, j] = x[members[i], j] - mean[j]
        add_scatter(rows, last - first, work, scatter)
