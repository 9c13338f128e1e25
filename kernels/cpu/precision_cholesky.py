"""Inverse Cholesky factors of many matrices, a few a task."""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.cpu import threads
from kernels.cpu.moments import factor_lower, factor_scratch
from kernels.types import PrecisionCholesky


def precision_cholesky(covariance: Tensor) -> PrecisionCholesky:
    matrices = np.ascontiguousarray(covariance.numpy())
    factors, log_det = np.empty(matrices.shape, matrices.dtype), np.empty(len(matrices))
    threads.run(_factors, [(matrices, a, b, factors, log_det) for a, b in threads.split(len(matrices), 1)])
    return PrecisionCholesky(torch.from_numpy(factors), torch.from_numpy(log_det))


@njit(nogil=True, cache=True)
def _factors(matrices: np.ndarray, start: int, stop: int, factors: np.ndarray, log_det: np.ndarray) -> None:
    D = matrices.shape[1]
    S, scratch = np.empty((D, D)), factor_scratch(D)
    for m in range(start, stop):
        for i in range(D):
            for j in range(i + 1):
                S[i, j] = matrices[m, i, j]
        log_det[m] = factor_lower(S, scratch)
        singular = math.isnan(log_det[m])
        for i in range(D):
            for j in range(D):
                factors[m, i, j] = math.nan if singular else scratch.W[i, j]
