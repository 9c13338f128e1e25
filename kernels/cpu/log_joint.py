"""Log joint density of labels and data, one task a group and labelling, in float64."""

import math
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.cpu import threads
from kernels.cpu.component_statistics import members_of
from kernels.cpu.components import build, build_scratch, centred, log_marginals, make_components, make_prior
from kernels.cpu.small_components import FEWEST, FEWEST_DIMENSIONS, features, log_det_of_members
from kernels.types import GibbsState, NIWPrior

STIRLING = 1e5
"""alpha from which the next term of the series, below 1 / (360 alpha^3), is nothing, and log Gamma loses digits."""


def log_joint(state: GibbsState, x: Tensor, *, prior: NIWPrior, group_offsets: Tensor | None = None) -> Tensor:
    points = np.ascontiguousarray(x.double().numpy())
    edges = [0, len(x)] if group_offsets is None else group_offsets.tolist()
    labels = state.labels.reshape(-1, len(x)).numpy()
    alpha = state.alpha.reshape(len(labels), len(edges) - 1).numpy()
    mu0, kappa0, nu0, S0 = (np.ascontiguousarray(field.numpy()) for field in prior)
    value = np.empty(alpha.shape)
    tasks = []
    for g, (a, b) in enumerate(pairwise(edges) if len(labels) else ()):
        of_group = np.ascontiguousarray(labels[:, a:b])
        alphas = np.ascontiguousarray(alpha[:, g])
        tasks.append((centred(points[a:b], mu0[g]), of_group, alphas, kappa0[g], nu0[g], S0[g]))
    for g, found in enumerate(threads.run(_log_joint_group, tasks)):
        if np.isnan(found).any():
            raise ValueError(f"group {g}: a component's scale matrix is not positive definite in float64")
        value[:, g] = found
    return torch.from_numpy(value if state.labels.ndim == 2 else value[0])


@njit(nogil=True, cache=True)
def _log_joint_group(
    x: np.ndarray,
    labels: np.ndarray,
    alpha: np.ndarray,
    kappa0: float,
    nu0: float,
    S0: np.ndarray,
) -> np.ndarray:
    """Of each labelling [T, n] of one group; nan if a scale matrix is not positive definite."""
    n, D = x.shape
    scratch = build_scratch(n, D)
    prior = make_prior(x, kappa0, nu0, S0, scratch.factors)
    value = np.full(len(labels), math.nan)
    if math.isnan(prior.log_det):
        return value
    marginal = log_marginals(prior)
    components = make_components(x, 1)
    most, tried, u = D // 2, D < FEWEST_DIMENSIONS, np.empty((0, 0))
    A = np.empty((most, most))
    for t in range(len(labels)):
        value[t] = -_log_rising(alpha[t], n)
        sizes = np.zeros(labels[t].max() + 1, np.int64)
        for label in labels[t]:
            sizes[label] += 1
        n_small = 0
        for size in sizes:
            n_small += size <= most
        many_small = n_small >= FEWEST
        if many_small and not tried:
            tried, u = True, features(x, kappa0, S0, scratch.factors)
        for k in range(len(sizes)):
            size = sizes[k]
            if size == 0:
                continue
            members_of(x, labels[t], k, scratch.members, scratch.xbar)
            if many_small and size <= most and len(u) > 0:
                log_det = prior.log_det + log_det_of_members(u, scratch.members, size, kappa0, A)
            elif build(x, scratch.members, size, 0, kappa0, S0, components, scratch):
                log_det = components.log_det[0]
            else:
                log_det = math.nan
            value[t] += math.log(alpha[t]) + math.lgamma(size) + marginal[size]
            value[t] += 0.5 * (nu0 * prior.log_det - (nu0 + size) * log_det)
    return value


@njit(nogil=True, cache=True)
def _log_rising(alpha: float, n: int) -> float:
    """log Gamma(alpha + n) - log Gamma(alpha); of a large alpha by the difference of their Stirling series."""
    if alpha > STIRLING:
        series = (alpha + n - 0.5) * math.log1p(n / alpha) + n * (math.log(alpha) - 1)
        return series - n / (12 * alpha * (alpha + n))
    return math.lgamma(alpha + n) - math.lgamma(alpha)
