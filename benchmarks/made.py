"""Made inputs at the paper's shapes. Seeds are constants: every run times the same numbers."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CONDITION = 10.0
"""Condition number of the covariances. It decides the rounding errors, not the time."""


class MixtureInputs(NamedTuple):
    """N points of a mixture of M components in D features, and that mixture."""

    x: Tensor
    """[N, D]"""
    log_weight: Tensor
    """[M]"""
    location: Tensor
    """[M, D]"""
    precision_chol: Tensor
    """[M, D, D] lower triangular, inverse of the Cholesky factor of the covariance."""
    df: Tensor
    """[M] degrees of freedom, for Student-t components."""
    chol: Tensor
    """[M, D, D] lower triangular Cholesky factor of the covariance: what most peers want."""


def mixture(N: int, M: int, D: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> MixtureInputs:
    """Equally many points of each component, components a few standard deviations apart, full covariances."""
    rng = np.random.default_rng([seed, N, M, D])
    basis = np.linalg.qr(rng.standard_normal((M, D, D)))[0]
    covariance = (basis * np.geomspace(1, 1 / CONDITION, D)) @ basis.transpose(0, 2, 1)
    chol = np.linalg.cholesky(covariance)
    location = rng.standard_normal((M, D))
    x = np.empty((N, D))
    for m in range(M):
        x[m::M] = location[m] + rng.standard_normal((len(x[m::M]), D)) @ chol[m].T
    log_weight = np.log(rng.dirichlet(np.ones(M)))
    arrays = (x, log_weight, location, np.tril(np.linalg.inv(chol)), rng.uniform(5, 20, M), chol)
    return MixtureInputs(*(torch.from_numpy(array).to(dtype) for array in arrays))


class ClassInputs(NamedTuple):
    """G classes of equal size, sorted by class, each a mixture of K Gaussians."""

    x: Tensor
    """[N, D]"""
    labels: Tensor
    """[N] int64 component of each point within its class."""
    group_offsets: Tensor
    """[G + 1] int64"""


def classes(
    G: int, n: int, K: int, D: int, separation: float, dtype: torch.dtype = torch.float32, seed: int = 0
) -> ClassInputs:
    """Centres drawn from N(0, separation^2 I), points from N(centre, I): at 1 and D = 64 no label is in doubt."""
    rng = np.random.default_rng([seed, G, n, K, D])
    labels = np.tile(np.arange(n) % K, G)
    centres = separation * rng.standard_normal((G, K, D))
    x = centres[np.repeat(np.arange(G), n), labels] + rng.standard_normal((G * n, D))
    return ClassInputs(torch.from_numpy(x).to(dtype), torch.from_numpy(labels), torch.arange(G + 1) * n)
