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
from kernels.cpu.mixture_log_density import component_constants
from kernels.cpu.moments import add_scatter
from kernels.cpu.tile import FASTMATH, lanes, load_tile, load_triangle, padded, whiten
from kernels.types import EMStatistics

NEGLIGIBLE = 1e-17


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
    tile, work, y = np.zeros((Dp, n_lanes), x.dtype), np.zeros((Dp, n_lanes), x.dtype), np.zeros((Dp, n_lanes), x.dtype)
    q = np.zeros(n_lanes, x.dtype)
    W = np.zeros((K, Dp, Dp), x.dtype)
    for k in range(K):
        load_triangle(precision_chol[k], W[k])

    responsibility = np.empty((n, K))
    for first in range(0, n, n_lanes):
        last = min(n, first + n_lanes)
        load_tile(x, every_row, first, last, tile)
        for k in range(K):
            whiten(W[k], mean[k], tile, work, y, q)
            for i in range(first, last):
                responsibility[i, k] = log_constant[k] - 0.5 * q[i - first]
        for i in range(first, last):
            log_likelihood[0] += _normalise(responsibility[i])

    rows, product = scatter_buffers(x, D)  # rows: points scaled by the square root of their responsibility
    new_mean, root = np.empty(D, x.dtype), np.empty(1, x.dtype)
    total, scatter, members = np.empty(D), np.empty((D, D)), np.empty(n, np.int64)
    for k in range(K):
        count = 0.0
        for i in range(n):
            count += responsibility[i, k]
        counts[k] = count
        if count == 0:
            continue
        # Responsibilities below this add up to less than a rounding of the count, even in float64.
        negligible = NEGLIGIBLE * count / n
        n_members = 0
        for i in range(n):
            if responsibility[i, k] > negligible:
                members[n_members] = i
                n_members += 1
        total[:] = 0
        for i in members[:n_members]:
            r = responsibility[i, k]
            for j in range(D):
                total[j] += r * (np.float64(x[i, j]) - mean[k, j])
        for j in range(D):
            sums[k, j] = total[j]
            new_mean[j] = mean[k, j] + total[j] / count
        scatter[:] = 0
        for first in range(0, n_members, n_lanes):
            filled = min(n_lanes, n_members - first)
            for p in range(filled):
                i = members[first + p]
                root[0] = math.sqrt(responsibility[i, k])
                for j in range(D):
                    rows[p, j] = root[0] * (x[i, j] - new_mean[j])
            add_scatter(rows, filled, product, scatter)
        for i in range(D):
            for j in range(i + 1):
                scatters[k, i, j] = scatter[i, j]
                scatters[k, j, i] = scatter[i, j]


@njit(nogil=True, cache=True)
def _normalise(values: np.ndarray) -> float:
    """Replace log joint densities by responsibilities; return their logsumexp (-inf: all zero)."""
    largest = -math.inf
    for k in range(len(values)):
        largest = max(largest, values[k])
    if largest == -math.inf:
        for k in range(len(values)):
            values[k] = 0
        return -math.inf
    total = 0.0
    for k in range(len(values)):
        difference = values[k] - largest
        values[k] = math.exp(difference) if difference > -745 else 0.0
        total += values[k]
    for k in range(len(values)):
        values[k] /= total
    return largest + math.log(total)
