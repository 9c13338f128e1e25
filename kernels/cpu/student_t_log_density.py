"""Component log-densities: every point under every Student-t, a tile of points at a time."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.cpu import threads
from kernels.cpu.mixture_log_density import component_constants, log_densities
from kernels.cpu.tile import FASTMATH, lanes, load_tile, load_triangle, padded, squared_distance


def student_t_log_density(x: Tensor, location: Tensor, precision_chol: Tensor, df: Tensor | None) -> Tensor:
    points = np.ascontiguousarray(x.numpy())
    out = np.empty((len(points), len(location)), points.dtype)
    components = (
        *component_constants(x.shape[1], precision_chol, df),
        np.ascontiguousarray(location.numpy()),
        np.ascontiguousarray(precision_chol.numpy()),
    )
    threads.run(_tiles, [(points, *components, a, b, out) for a, b in threads.split(len(points), lanes(points))])
    return torch.from_numpy(out)


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def _tiles(
    x: np.ndarray,
    log_constant: np.ndarray,
    half_df: np.ndarray,
    location: np.ndarray,
    precision_chol: np.ndarray,
    start: int,
    stop: int,
    out: np.ndarray,
) -> None:
    D = x.shape[1]
    Dp, n_lanes = padded(D), lanes(x)
    rows = np.arange(start, stop)
    tile, work, q = np.zeros((Dp, n_lanes), x.dtype), np.zeros((Dp, n_lanes), x.dtype), np.empty((1, n_lanes), x.dtype)
    W, values, scratch = np.zeros((Dp, Dp), x.dtype), np.empty(n_lanes), np.empty((3, n_lanes))
    for first in range(start, stop, n_lanes):
        load_tile(x, rows, first - start, stop - start, tile)
        for m in range(len(location)):
            load_triangle(precision_chol[m], W)
            squared_distance(W, location[m], tile, work, q)
            log_densities(q, log_constant[m], half_df[m], 0.5 * D, scratch, values)
            for j in range(min(n_lanes, stop - first)):
                out[first + j, m] = values[j]
