"""Scatter matrices and their factors in float64: what EM and Gibbs sweeps rebuild components from."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from kernels.cpu.compiled import leaf
from kernels.cpu.tile import FASTMATH, ROWS, lanes, multiply_columns, multiply_tall, padded


@leaf(fastmath=FASTMATH)
def add_scatter(rows: np.ndarray, n: int, work: np.ndarray, scatter: np.ndarray) -> None:
    """scatter += sum_{j < n} a_j a_j', a_j the rows of `rows`; lower triangle only.

    rows [LANES, C] is zero past column D; its width C is a multiple of LANES. work [Dp, C] is overwritten, Dp a
    multiple of 2 ROWS; scatter is [D, D] float64, whatever the dtype of rows. Tall blocks waste less above the
    diagonal.
    """
    D, width = len(scatter), rows.shape[0] // 2
    for column in range(0, D, width):
        for i in range(column, len(work), 2 * ROWS):
            multiply_tall(rows, i, n, rows, work, column)
        for i in range(column, D):
            for j in range(column, min(i + 1, column + width)):
                scatter[i, j] += work[i, j]


class FactorScratch(NamedTuple):
    """Memory of `factor_lower`, zero where it has not been written; width C is a multiple of LANES."""

    U: np.ndarray
    """[Dp, C] transpose of the Cholesky factor."""
    W: np.ndarray
    """[Dp, C] inverse of the factor, lower triangular: the result."""
    product: np.ndarray
    """[Dp, C]"""


@njit(nogil=True, cache=True)
def factor_scratch(D: int) -> FactorScratch:
    n_lanes = lanes(np.empty(0))
    Dp, width = padded(D), (D + n_lanes - 1) // n_lanes * n_lanes
    return FactorScratch(np.zeros((Dp, width)), np.zeros((Dp, width)), np.zeros((Dp, width)))


@leaf(fastmath=FASTMATH)
def factor_lower(S: np.ndarray, scratch: FactorScratch) -> float:
    """scratch.W = inverse of the lower Cholesky factor of S; returns log det S, or nan if S is not positive definite.

    S [D, D] float64, lower triangle read and kept. ROWS pivots at a time: what the rows before them contribute is one
    product of the inner loop, the little that is left goes row by row. The factor is kept transposed, so that every
    loop runs along a row. At D = 64 this takes a fifth of the time of the plain loops.
    """
    U, W, product = scratch
    D, n_lanes = len(S), lanes(U)
    log_det = 0.0
    for k in range(0, D, ROWS):
        end = min(k + ROWS, D)
        for column in range(k // n_lanes * n_lanes, D, n_lanes):
            multiply_columns(U, k, k, U, product, column)
        for i in range(k, end):
            for j in range(i, D):
                U[i, j] = S[j, i] - product[i, j]
        for i in range(k, end):
            pivot = U[i, i]
            if not (pivot > 0 and pivot < math.inf):
                return math.nan
            log_det += math.log(pivot)
            inverse_root = 1 / math.sqrt(pivot)
            for j in range(i, D):
                U[i, j] *= inverse_root
            for r in range(i + 1, end):
                factor = U[i, r]
                for j in range(r, D):
                    U[r, j] -= factor * U[i, j]
    # Forward substitution, W = U'^-1.
    for k in range(0, D, ROWS):
        for column in range(0, k, n_lanes):
            multiply_columns(U, k, k, W, product, column)
        for i in range(k, min(k + ROWS, D)):
            inverse_pivot = 1 / U[i, i]
            for j in range(k):
                W[i, j] = -inverse_pivot * product[i, j]
            for j in range(k, i):
                W[i, j] = 0
            for r in range(k, i):
                factor = U[r, i] * inverse_pivot
                for j in range(r + 1):
                    W[i, j] -= factor * W[r, j]
            W[i, i] = inverse_pivot
    return log_det
