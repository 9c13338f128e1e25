"""EM statistics, one task a group: responsibilities tile by tile, then moments about the new means.

The responsibilities of one group, [n_g, K_g], are all that is kept between the two passes. The scatter is taken about
the new mean, not corrected from the old one afterwards: in float32 that correction would cancel.
"""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.cpu import threads
from kernels.cpu.component_statistics import scatter_buffers
from kernels.cpu.mixture_log_density import LARGEST_EXPONENT, LOWEST, component_constants
from kernels.cpu.moments import add_scatter
from kernels.cpu.tile import FASTMATH, lanes, load_tile, load_triangle, padded, squared_distance
from kernels.cpu.vector_math import exp
from kernels.types import EMStatistics

NEGLIGIBLE = 1e-17
SMALLEST = 1e-300
"""Responsibilities below it are zero, as those of a component without weight have to be."""


def em_statistics(
    x: Tensor,
    log_weight: Tensor,
    mean: Tensor,
    precision_chol: Tensor,
    *,
    group_offsets: Tensor | None = None,
    component_offsets: Tensor | None = None,
) -> EMStatistics:
    points = np.ascontiguousarray(x.numpy())
    means, factors = np.ascontiguousarray(mean.numpy()), np.ascontiguousarray(precision_chol.numpy())
    log_constant = component_constants(x.shape[1], precision_chol, None)[0] + log_weight.double().numpy()
    rows = [0, len(x)] if group_offsets is None else group_offsets.tolist()
    components = [0, len(mean)] if component_offsets is None else component_offsets.tolist()
    M, D = mean.shape
    counts, sums = np.zeros(M, points.dtype), np.zeros((M, D), points.dtype)
    scatters = np.zeros((M, D, D), points.dtype)
    log_likelihood = np.zeros(len(rows) - 1)
    tasks = []
    for g in range(len(rows) - 1):
        a, b, c, d = rows[g], rows[g + 1], components[g], components[g + 1]
        tasks.append(
            (points[a:b], log_constant[c:d], means[c:d], factors[c:d], counts[c:d], sums[c:d], scatters[c:d],
             log_likelihood[g : g + 1])
        )  # fmt: skip
    threads.run(_group, tasks)
    return EMStatistics(*map(torch.from_numpy, (counts, sums, scatters, log_likelihood)))


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def _group(
    x: np.ndarray,
    log_constant: np.ndarray,
    mean: np.ndarray,
    precision_chol: np.ndarray,
    counts: np.ndarray,
    sums: np.ndarray,
    scatters: np.ndarray,
    log_likelihood: np.ndarray,
) -> None:
    n, D = x.shape
    K, Dp, n_lanes = len(mean), padded(D), lanes(x)
    every_row = np.arange(n)
    tile, work, q = np.zeros((Dp, n_lanes), x.dtype), np.zeros((Dp, n_lanes), x.dtype), np.zeros((1, n_lanes), x.dtype)
    W = np.zeros((K, Dp, Dp), x.dtype)
    for k in range(K):
        load_triangle(precision_chol[k], W[k])

    responsibility = np.empty((K, n))
    joint, scratch = np.empty((K, n_lanes)), np.empty((3, n_lanes))
    for first in range(0, n, n_lanes):
        last = min(n, first + n_lanes)
        load_tile(x, every_row, first, last, tile)
        for k in range(K):
            squared_distance(W[k], mean[k], tile, work, q)
            for j in range(n_lanes):
                joint[k, j] = log_constant[k] - 0.5 * q[0, j]
        log_likelihood[0] += _normalise(joint, last - first, scratch)
        for k in range(K):
            for i in range(first, last):
                responsibility[k, i] = joint[k, i - first]

    rows, product = scatter_buffers(x, D)  # rows: points scaled by the square root of their responsibility
    shift, root = np.empty(D, x.dtype), np.empty(1, x.dtype)  # shift: of the mean
    total, scatter, members = np.empty(D), np.empty((D, D)), np.empty(n, np.int64)
    for k in range(K):
        count = 0.0
        for i in range(n):
            count += responsibility[k, i]
        counts[k] = count
        if count == 0:
            continue
        # Responsibilities below this add up to less than a rounding of the count, even in float64.
        negligible = NEGLIGIBLE * count / n
        n_members = 0
        for i in range(n):
            if responsibility[k, i] > negligible:
                members[n_members] = i
                n_members += 1
        total[:] = 0
        for i in members[:n_members]:
            r = responsibility[k, i]
            for j in range(D):
                total[j] += r * (np.float64(x[i, j]) - mean[k, j])
        for j in range(D):
            sums[k, j] = total[j]
            shift[j] = total[j] / count
        scatter[:] = 0
        for first in range(0, n_members, n_lanes):
            filled = min(n_lanes, n_members - first)
            for p in range(filled):
                i = members[first + p]
                root[0] = math.sqrt(responsibility[k, i])
                for j in range(D):
                    rows[p, j] = root[0] * (x[i, j] - mean[k, j] - shift[j])
            add_scatter(rows, filled, product, scatter)
        for i in range(D):
            for j in range(i + 1):
                scatters[k, i, j] = scatter[i, j]
                scatters[k, j, i] = scatter[i, j]


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def _normalise(joint: np.ndarray, filled: int, scratch: np.ndarray) -> float:
    """Replace the log joint densities [K, LANES] of a tile's points by their responsibilities, zero if all are -inf.

    Returns the sum of their logsumexp over the lanes that are filled; scratch [3, LANES] is overwritten.
    """
    largest, power, total = scratch
    n_lanes = len(largest)
    largest[:] = LOWEST
    total[:] = 0
    for row in joint:
        for j in range(n_lanes):
            largest[j] = max(largest[j], row[j])
    for row in joint:
        for j in range(n_lanes):
            row[j] = max(row[j] - largest[j], -LARGEST_EXPONENT)
        exp(row, power, row)
        for j in range(n_lanes):
            total[j] += row[j]
    log_likelihood = 0.0
    for j in range(filled):
        log_likelihood += largest[j] + math.log(total[j]) if largest[j] > LOWEST else -math.inf
    for j in range(n_lanes):
        total[j] = 1 / total[j] if largest[j] > LOWEST else 0.0
    for row in joint:
        for j in range(n_lanes):
            row[j] = row[j] * total[j] if row[j] > SMALLEST else 0.0
    return log_likelihood
