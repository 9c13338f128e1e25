"""Fused mixture density: whiten a tile of points by one component after another, with a running logsumexp a point.

A panel of PANEL tiles (512 points in float32) shares each component's factor while that is in the first-level cache.
Memory beyond inputs and outputs: one panel and one factor a thread, whatever N and M.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.cpu import threads
from kernels.cpu.tile import FASTMATH, lanes, load_tile, load_triangle, padded, squared_distance
from kernels.cpu.vector_math import exp, log1p

LARGEST = 1e300
LOWEST = -1.7e308
"""Stands for minus infinity where a difference is taken."""
LARGEST_EXPONENT = 700.0
"""A term e^-700 of the largest changes no sum."""
PANEL = 8
"""Tiles in a panel: at D = 64 in float32 a panel is 128 KiB, well inside the second-level cache."""


def mixture_log_density(
    x: Tensor,
    log_weight: Tensor,
    location: Tensor,
    precision_chol: Tensor,
    df: Tensor | None = None,
    component_offsets: Tensor | None = None,
    *,
    group_offsets: Tensor | None = None,
) -> Tensor:
    log_constant, half_df = component_constants(x.shape[1], precision_chol, df)
    log_constant += log_weight.double().numpy()
    arrays = (
        np.ascontiguousarray(x.numpy()),
        log_constant,
        half_df,
        np.ascontiguousarray(location.numpy()),
        np.ascontiguousarray(precision_chol.numpy()),
    )
    N, panel = len(x), PANEL * lanes(arrays[0])
    offsets = np.array([0, len(location)]) if component_offsets is None else component_offsets.numpy()
    if group_offsets is None:
        out = np.empty((N, len(offsets) - 1), arrays[0].dtype)
        threads.run(_panels, [(*arrays, offsets, a, b, out) for a, b in threads.split(N, panel)])
        return torch.from_numpy(out if component_offsets is not None else out[:, 0])
    # Each group's points against its own components: one column, and offsets that name one group only.
    out = np.empty((N, 1), arrays[0].dtype)
    edges = group_offsets.tolist()
    tasks = []
    for g, (a, b) in enumerate(pairwise(edges)):
        tasks += [(*arrays, offsets[g : g + 2], a + c, a + d, out) for c, d in threads.split(b - a, panel)]
    threads.run(_panels, tasks)
    return torch.from_numpy(out[:, 0])


def component_constants(D: int, precision_chol: Tensor, df: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """[M] float64 log normaliser of each component, and half its degrees of freedom (inf for a Gaussian)."""
    log_det = np.log(np.diagonal(precision_chol.numpy(), axis1=1, axis2=2).astype(np.float64)).sum(1)
    if df is None:
        return log_det - 0.5 * D * math.log(2 * math.pi), np.full_like(log_det, math.inf)
    half_df = 0.5 * df.double()
    log_constant = torch.lgamma(half_df + 0.5 * D) - torch.lgamma(half_df) - 0.5 * D * torch.log(2 * math.pi * half_df)
    return log_det + log_constant.numpy(), half_df.numpy()


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def log_densities(
    q: np.ndarray, log_constant: float, half_df: float, half_dimension: float, scratch: np.ndarray, out: np.ndarray
) -> None:
    """Log-density of a component at each whitened squared distance q [1, LANES] of a tile.

    scratch [3, LANES] is overwritten; scratch and out [LANES] are float64.
    """
    if half_df == math.inf:
        for j in range(len(out)):
            out[j] = log_constant - 0.5 * q[0, j]
        return
    ratio, scale = scratch[0], 0.5 / half_df
    for j in range(len(out)):
        ratio[j] = min(scale * q[0, j], LARGEST)
    log1p(ratio, scratch[1], scratch[2])
    for j in range(len(out)):
        value = log_constant - (half_df + half_dimension) * scratch[2, j]
        out[j] = value if q[0, j] < math.inf else -math.inf


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def _add_term(values: np.ndarray, largest: np.ndarray, total: np.ndarray, scratch: np.ndarray) -> None:
    """One more term of each lane's logsumexp = largest + log(total), with one exponential whichever is larger."""
    for j in range(len(values)):
        scratch[0, j] = max(-abs(values[j] - largest[j]), -LARGEST_EXPONENT)
    exp(scratch[0], scratch[1], scratch[2])
    for j in range(len(values)):
        rises = values[j] > largest[j]
        total[j] = total[j] * scratch[2, j] + 1 if rises else total[j] + scratch[2, j]
        largest[j] = values[j] if rises else largest[j]


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def _panels(
    x: np.ndarray,
    log_constant: np.ndarray,
    half_df: np.ndarray,
    location: np.ndarray,
    precision_chol: np.ndarray,
    component_offsets: np.ndarray,
    start: int,
    stop: int,
    out: np.ndarray,
) -> None:
    """out[start:stop, g] for the components of each group g that `component_offsets` names."""
    D = x.shape[1]
    Dp, n_lanes = padded(D), lanes(x)
    rows = np.arange(start, stop)
    tiles = np.zeros((PANEL, Dp, n_lanes), x.dtype)
    W, work, q = np.zeros((Dp, Dp), x.dtype), np.zeros((Dp, n_lanes), x.dtype), np.empty((1, n_lanes), x.dtype)
    values, scratch = np.empty(n_lanes), np.empty((3, n_lanes))
    largest, total = np.empty((PANEL, n_lanes)), np.empty((PANEL, n_lanes))
    for panel in range(0, stop - start, PANEL * n_lanes):
        n_tiles = min(PANEL, (stop - start - panel + n_lanes - 1) // n_lanes)
        for p in range(n_tiles):
            load_tile(x, rows, panel + p * n_lanes, stop - start, tiles[p])
        for g in range(len(component_offsets) - 1):
            largest[:] = LOWEST
            total[:] = 0
            for m in range(component_offsets[g], component_offsets[g + 1]):
                if log_constant[m] == -math.inf:
                    continue
                load_triangle(precision_chol[m], W)
                for p in range(n_tiles):
                    squared_distance(W, location[m], tiles[p], work, q)
                    log_densities(q, log_constant[m], half_df[m], 0.5 * D, scratch, values)
                    _add_term(values, largest[p], total[p], scratch)
            for p in range(n_tiles):
                first = start + panel + p * n_lanes
                for j in range(min(n_lanes, stop - first)):
                    found = largest[p, j] > LOWEST
                    out[first + j, g] = largest[p, j] + math.log(total[p, j]) if found else -math.inf
