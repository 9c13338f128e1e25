"""What sweeps and split-merge moves keep of their components, how it is rebuilt from the data, and what is refused.

Points are taken about the prior's mean (`centred`), which is therefore 0 here.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from kernels.cpu.compiled import leaf
from kernels.cpu.component_statistics import lower_scatter, members_of, scatter_buffers
from kernels.cpu.moments import FactorScratch, factor_lower, factor_scratch
from kernels.cpu.tile import lanes, load_tile, padded, squared_distance

FAR = 0.01
"""Largest squared distance of a point to the prior's mean, in units of S0, times the epsilon of its dtype: 84,000 in
float32. There 1 - r q is known to a digit or two. Under a prior from the n points themselves it is n D 6^(2/D) at most.
"""
DONE, NOT_POSITIVE_DEFINITE, TOO_FAR = range(3)
"""What may become of a group."""


def check_outcomes(outcomes: list[int]) -> None:
    """Raise a ValueError for the first group that could not be done, in float64."""
    for g, outcome in enumerate(outcomes):
        if outcome == NOT_POSITIVE_DEFINITE:
            raise ValueError(f"group {g}: a component's scale matrix is not positive definite in float64")
        if outcome == TOO_FAR:
            raise ValueError(
                f"x must be such that (x - mu0)' S0^-1 (x - mu0) is below {FAR / np.finfo(np.float64).eps:.1e}, or "
                f"float64 could not take a point out of its component; group {g} has a point above"
            )


def centred(x: np.ndarray, mu0: np.ndarray) -> np.ndarray:
    """x - mu0, computed in float64, in the dtype of x; for mu0 = 0 x itself.

    Means, which are held in the dtype of x, are then rounded by a share of the data's spread, not of their distance
    from 0.
    """
    with np.errstate(over="ignore"):  # of float32, which is tried again in float64
        return (x - mu0).astype(x.dtype) if mu0.any() else x


class Components(NamedTuple):
    """What is kept of each component slot; slots past the largest in use are empty."""

    size: np.ndarray
    """[C] int64 points, 0 for an empty slot."""
    changed: np.ndarray
    """[C] bool: members changed since the factor was rebuilt."""
    log_det: np.ndarray
    """[C] float64 log det S_n."""
    mean: np.ndarray
    """[C, D] m_n."""
    W: np.ndarray
    """[C, Dp, Dp] inverse lower Cholesky factor of S_n."""
    y: np.ndarray
    """[C, Dp, LANES] the tile's points, whitened by each component."""
    q: np.ndarray
    """[C, LANES] their squared norms."""


class Prior(NamedTuple):
    """An empty component, with the tile whitened by it, and the constants of the predictive."""

    kappa0: float
    nu0: float
    S0: np.ndarray
    log_det: float
    mean: np.ndarray
    W: np.ndarray
    y: np.ndarray
    q: np.ndarray
    predictive: np.ndarray
    """[n + 1] the part of log t(x) that depends on a component's count c only:
    log t(x) = predictive[c] - log_det / 2 - (nu0 + c + 1) / 2 log1p(q kappa / (kappa + 1)), kappa = kappa0 + c."""
    log_count: np.ndarray
    """[n + 1] log c; -inf for c = 0."""


class BuildScratch(NamedTuple):
    """Memory in which a component is built from the data."""

    factors: FactorScratch
    S: np.ndarray
    """[D, D]"""
    rows: np.ndarray
    product: np.ndarray
    """Of `lower_scatter`."""
    members: np.ndarray
    """[n]"""
    xbar: np.ndarray
    """[D]"""


@njit(nogil=True, cache=True)
def build_scratch(n: int, D: int) -> BuildScratch:
    S, xbar = np.empty((D, D)), np.empty(D)
    rows, product = scatter_buffers(S, D)
    return BuildScratch(factor_scratch(D), S, rows, product, np.empty(n, np.int64), xbar)


class Scratch(NamedTuple):
    """Memory that is written before it is read."""

    tile: np.ndarray
    """[Dp, LANES] the points at hand."""
    work: np.ndarray
    """[Dp, LANES]"""
    v: np.ndarray
    """[Dp]"""
    z: np.ndarray
    """[Dp]"""
    t: np.ndarray
    """[LANES]"""
    block_y: np.ndarray
    """[b, Dp] whitened points of a block."""
    block_q: np.ndarray
    """[b]"""


@njit(nogil=True, cache=True)
def make_components(x: np.ndarray, capacity: int) -> Components:
    D = x.shape[1]
    Dp, n_lanes = padded(D), lanes(x)
    return Components(
        np.zeros(capacity, np.int64),
        np.ones(capacity, np.bool_),
        np.zeros(capacity),
        np.zeros((capacity, D), x.dtype),
        np.zeros((capacity, Dp, Dp), x.dtype),
        np.empty((capacity, Dp, n_lanes), x.dtype),
        np.zeros((capacity, n_lanes), x.dtype),
    )


@njit(nogil=True, cache=True)
def make_prior(
    x: np.ndarray,
    kappa0: float,
    nu0: float,
    S0: np.ndarray,
    scratch: FactorScratch,
) -> Prior:
    n, D = x.shape
    Dp, n_lanes = padded(D), lanes(x)
    log_det = factor_lower(S0, scratch)
    mean, W = np.zeros(D, x.dtype), np.zeros((Dp, Dp), x.dtype)
    for i in range(D):
        for j in range(i + 1):
            W[i, j] = scratch.W[i, j]
    predictive, log_count = np.empty(n + 1), np.empty(n + 1)
    for c in range(n + 1):
        log_count[c] = math.log(c) if c > 0 else -math.inf
        kappa, nu = kappa0 + c, nu0 + c
        predictive[c] = (
            math.lgamma(0.5 * (nu + 1))
            - math.lgamma(0.5 * (nu + 1 - D))
            - 0.5 * D * math.log(math.pi * (kappa + 1) / kappa)
        )
    y, q = np.zeros((Dp, n_lanes), x.dtype), np.zeros(n_lanes, x.dtype)
    return Prior(kappa0, nu0, S0, log_det, mean, W, y, q, predictive, log_count)


@njit(nogil=True, cache=True)
def log_marginals(prior: Prior) -> np.ndarray:
    """[n + 1] the part of log p(points of a component) that depends on their count only."""
    marginal = np.zeros(len(prior.predictive))
    for c in range(len(marginal) - 1):
        marginal[c + 1] = marginal[c] + prior.predictive[c]
    return marginal


@njit(nogil=True, cache=True)
def has_far_point(x: np.ndarray, prior: Prior) -> bool:
    """Is a point above FAR?"""
    n = len(x)
    n_lanes, rows = lanes(x), np.arange(n)
    tile, work, q = np.zeros_like(prior.y), np.zeros_like(prior.y), np.zeros((1, n_lanes), x.dtype)
    for first in range(0, n, n_lanes):
        load_tile(x, rows, first, n, tile)
        squared_distance(prior.W, prior.mean, tile, work, q)
        for j in range(n_lanes):
            if not q[0, j] <= FAR / np.finfo(x.dtype).eps:
                return True
    return False


@leaf()
def rebuild_one(
    x: np.ndarray,
    labels: np.ndarray,
    k: int,
    kappa0: float,
    S0: np.ndarray,
    components: Components,
    scratch: BuildScratch,
) -> bool:
    """Count, mean, factor and log det of component k from the data, in float64, if its members changed; False if its
    scale matrix is not positive definite."""
    if not components.changed[k]:
        return True
    c = members_of(x, labels, k, scratch.members, scratch.xbar)
    return build(x, scratch.members, c, k, kappa0, S0, components, scratch)


@leaf()
def build(
    x: np.ndarray,
    members: np.ndarray,
    c: int,
    k: int,
    kappa0: float,
    S0: np.ndarray,
    components: Components,
    scratch: BuildScratch,
) -> bool:
    """Component k from its c members and their mean, scratch.xbar; False if its scale matrix is not positive
    definite."""
    D, S, xbar, W = x.shape[1], scratch.S, scratch.xbar, scratch.factors.W
    kappa = kappa0 + c
    for i in range(D):
        for j in range(i + 1):
            S[i, j] = S0[i, j] + kappa0 * c / kappa * xbar[i] * xbar[j]
    lower_scatter(x, members, c, xbar, scratch.rows, scratch.product, S)
    log_det = factor_lower(S, scratch.factors)
    if math.isnan(log_det):
        return False
    components.log_det[k] = log_det
    components.size[k] = c
    components.changed[k] = False
    for i in range(D):
        components.mean[k, i] = c * xbar[i] / kappa
        for j in range(i + 1):
            components.W[k, i, j] = W[i, j]
    return True


@njit(nogil=True, cache=True)
def grow(components: Components, larger: Components) -> Components:
    """`larger`, with the slots of `components`."""
    copy(components.size, larger.size)
    copy(components.changed, larger.changed)
    copy(components.log_det, larger.log_det)
    copy(components.mean, larger.mean)
    copy(components.W, larger.W)
    copy(components.y, larger.y)
    copy(components.q, larger.q)
    return larger


@njit(nogil=True, cache=True)
def compact(labels: np.ndarray, n_slots: int, components: Components) -> int:
    """Renumber slots without gaps, in order, together with what is kept of each component; the number of components."""
    rank = np.empty(n_slots, np.int64)
    used = 0
    for k in range(n_slots):
        if components.size[k] == 0:
            continue
        rank[k] = used
        if used != k:
            components.size[used] = components.size[k]
            components.changed[used] = components.changed[k]
            components.log_det[used] = components.log_det[k]
            copy(components.mean[k], components.mean[used])
            copy(components.W[k], components.W[used])
        used += 1
    for k in range(used, n_slots):
        components.size[k] = 0
        components.changed[k] = True
    for i in range(len(labels)):
        labels[i] = rank[labels[i]]
    return used


@leaf()
def copy(source: np.ndarray, target: np.ndarray) -> None:
    """The entries of source into the first ones of target. A loop, because it compiles ten times faster than slices."""
    flat_source, flat_target = source.reshape(-1), target.reshape(-1)
    for i in range(len(flat_source)):
        flat_target[i] = flat_source[i]
