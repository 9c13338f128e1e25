"""Scatter matrices and their factors in float64: what EM and Gibbs sweeps rebuild components from."""

import math

import numpy as np
from numba import njit

from kernels.cpu.tile import FASTMATH, ROWS, multiply_columns


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def add_scatter(rows: np.ndarray, n: int, work: np.ndarray, scatter: np.ndarray) -> None:
    """scatter += sum_{j < n} a_j a_j', a_j the rows of `rows`; lower triangle only.

    rows [LANES, C] is zero past column D; its width C is a multiple of LANES. work [Dp, C] is overwritten; scatter is
    [D, D] float64, whatever the dtype of rows.
    """
    D, n_lanes = len(scatter), rows.shape[0]
    for column in range(0, D, n_lanes):
        for i in range(column, len(work), ROWS):
            multiply_columns(rows, i, n, rows, work, column)
        for i in range(column, D):
            for j in range(column, min(i + 1, column + n_lanes)):
                scatter[i, j] += work[i, j]


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def precision_cholesky(S: np.ndarray, U: np.ndarray, W: np.ndarray) -> float:
    """W = inverse of the lower Cholesky factor of S; returns log det S, or nan if S is not positive definite.

    S [D, D] float64, lower triangle read and kept; U [D, D] is overwritten with the factor's transpose, so that every
    inner loop runs along a row. W's entries above the diagonal are left alone.
    """
    D = len(S)
    for i in range(D):
        for j in range(i, D):
            U[i, j] = S[j, i]
    log_det = 0.0
    for k in range(D):
        pivot = U[k, k]
        if not (pivot > 0 and pivot < math.inf):
            return math.nan
        log_det += math.log(pivot)
        inverse_root = 1 / math.sqrt(pivot)
        for j in range(k, D):
            U[k, j] *= inverse_root
        for i in range(k + 1, D):
            factor = U[k, i]
            for j in range(i, D):
                U[i, j] -= factor * U[k, j]
    # Forward substitution, W = U'^-1, one row of W at a time.
    for i in range(D):
        inverse_pivot = 1 / U[i, i]
        for j in range(i):
            W[i, j] = 0
        W[i, i] = inverse_pivot
        for k in range(i):
            factor = U[k, i] * inverse_pivot
            for j in range(k + 1):
                W[i, j] -= factor * W[k, j]
    return log_det
