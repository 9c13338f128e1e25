"""Split-merge proposals of few candidates, which part a few points from a component, by inner products.

Of the m points that may move, anchor i and the candidates, a proposal needs their products only. A component has

    T = [[kappa, kappa m_n'], [kappa m_n, S_n + kappa m_n m_n']],    det T = kappa det S_n,

to which a point x adds (1, x)(1, x)', so with P_xy = (1, x) T^-1 (1, y)' = 1 / kappa + (x - m_n)' S_n^-1 (y - m_n)

    s_x = 1 + P_xx,    det T grows by s_x when x joins,    1 + q kappa / (kappa + 1) = s_x kappa / (kappa + 1).

Let A = I + P, P of a part without any of the m points. Pivoting on the points that are in the part (the sweep operator:
Beaton 1964, Goodnight 1979) leaves on the diagonal s_x, given them, for a point outside; for a member -1 / s_x, s_x of
the part without it. So a point joins or leaves a part by some m^2 multiplications in place of 2 D^2, and its weight is
there at once. The part with i begins as the prior, the part with j as j's component. By P of that component as it is, A
after pivoting is P_xx + 1 on the diagonal for points outside, P_xx - 1 for members, and P elsewhere.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from kernels.cpu.compiled import leaf
from kernels.cpu.components import Components, Prior
from kernels.cpu.parts import Proposal, log_sigmoid, log_split, log_weight
from kernels.cpu.rank_one import whiten_point
from kernels.cpu.tile import FASTMATH, ROWS, TILE_BYTES, multiply_columns, padded

LANES = TILE_BYTES // 8
"""Points in a tile of float64."""
MOST_CANDIDATES = LANES - 1
"""With the anchor they fill a tile."""
NATS_LOST = 1e-6
"""1 / kappa0 is part of every product under the prior, so s_x has an error of some eps / kappa0, and the ratio of a
move of that times half the degrees of freedom. Where this may be more, products are not taken."""


class Peel(NamedTuple):
    """Memory of a proposal."""

    u: np.ndarray
    """[n, D + 1] features of all points, whose inner products are P under the prior (see `small_components`), as large
    as the points in float64; empty if proposals are not made in this form."""
    points: np.ndarray
    """[LANES] those that may move: anchor i, then candidates."""
    at: np.ndarray
    """[LANES] which of the candidates each is."""
    features: np.ndarray
    """[padded(D + 1), LANES] those of the points."""
    y: np.ndarray
    """[Dp, LANES] points whitened by the component."""
    v: np.ndarray
    """[Dp] one of them."""
    d: np.ndarray
    """[Dp] less the component's mean."""
    A_i: np.ndarray
    """[LANES, LANES] A of the part with i."""
    A_j: np.ndarray
    """[LANES, LANES] A of the part with j."""
    pivot: np.ndarray
    """[LANES] a row of A."""


@njit(nogil=True, cache=True)
def make_peel(x: np.ndarray, u: np.ndarray) -> Peel:
    D = x.shape[1]
    return Peel(
        u,
        np.zeros(LANES, np.int64),
        np.zeros(LANES, np.int64),
        np.zeros((padded(D + 1), LANES)),
        np.zeros((padded(D), LANES)),
        np.zeros(padded(D)),
        np.zeros(padded(D)),
        np.zeros((LANES, LANES)),
        np.zeros((LANES, LANES)),
        np.zeros(LANES),
    )


@leaf()
def propose_peel(
    x: np.ndarray,
    labels: np.ndarray,
    alpha: float,
    proposal: Proposal,
    prior: Prior,
    marginal: np.ndarray,
    components: Components,
    peel: Peel,
    with_i: np.ndarray,
) -> float:
    """As `split_merge._propose`."""
    i, j, candidates, launch, uniforms = proposal
    a, b = labels[i], labels[j]
    points, at, A_i, A_j, kappa0 = peel.points, peel.at, peel.A_i, peel.A_j, prior.kappa0
    points[0], m = i, 1
    for t in range(len(candidates)):
        k = candidates[t]
        if k >= 0 and (labels[k] == a or labels[k] == b):
            points[m], at[m] = k, t
            m += 1
    _products(x, labels, b, m, prior, components, peel)

    # Numbers of points and log det T of both parts, of which j's has all points at first.
    n_i, n_j = 0, components.size[b]
    log_det_i, log_det_j = prior.log_det + math.log(kappa0), components.log_det[b] + math.log(kappa0 + n_j)
    if a != b:
        for r in range(m):
            if labels[points[r]] == a:
                log_det_j += _join(A_j, r, m, peel.pivot)
                n_j += 1
    log_det = log_det_j - math.log(kappa0 + n_j)  # of S_n, of the two as one
    for k in range(len(with_i)):
        with_i[k] = False
    for r in range(m):
        if r == 0 or launch[at[r]]:
            with_i[points[r]] = True
            log_det_j -= _leave(A_j, r, m, peel.pivot)
            log_det_i += _join(A_i, r, m, peel.pivot)
            n_i, n_j = n_i + 1, n_j - 1
    log_proposal = 0.0
    for scan in range(len(uniforms)):
        last = scan == len(uniforms) - 1
        for r in range(1, m):
            k, t = points[r], at[r]
            log_odds = _log_weight(A_i[r, r], with_i[k], n_i, log_det_i, prior) - _log_weight(
                A_j[r, r], not with_i[k], n_j, log_det_j, prior
            )
            log_i = log_sigmoid(log_odds)
            joins_i = labels[k] == a if last and a != b else uniforms[scan, t] < math.exp(log_i)
            if last:
                log_proposal += log_i if joins_i else log_i - log_odds
            if joins_i and not with_i[k]:
                log_det_j -= _leave(A_j, r, m, peel.pivot)
                log_det_i += _join(A_i, r, m, peel.pivot)
                n_i, n_j = n_i + 1, n_j - 1
            elif with_i[k] and not joins_i:
                log_det_i -= _leave(A_i, r, m, peel.pivot)
                log_det_j += _join(A_j, r, m, peel.pivot)
                n_i, n_j = n_i - 1, n_j + 1
            with_i[k] = joins_i
    log_det_i, log_det_j = log_det_i - math.log(kappa0 + n_i), log_det_j - math.log(kappa0 + n_j)
    return log_split(alpha, n_i, n_j, log_det_i, log_det_j, log_det, prior, marginal) - log_proposal


@leaf()
def _products(
    x: np.ndarray, labels: np.ndarray, b: int, m: int, prior: Prior, components: Components, peel: Peel
) -> None:
    """A of both parts, for the m points: of the prior, and of component b with its members."""
    u, points, features, y, A_i, A_j = peel.u, peel.points, peel.features, peel.y, peel.A_i, peel.A_j
    for r in range(m):
        whiten_point(x[points[r]], components.mean[b], components.W[b], peel.d, peel.v)
        for i in range(len(peel.v)):
            y[i, r] = peel.v[i]
        for i in range(u.shape[1]):
            features[i, r] = u[points[r], i]
    for r in range(0, m, ROWS):
        multiply_columns(features, r, len(features), features, A_i, 0)
        multiply_columns(y, r, len(y), y, A_j, 0)
    inverse_kappa = 1 / (prior.kappa0 + components.size[b])
    for r in range(m):
        for c in range(len(points)):
            A_j[r, c] += inverse_kappa
        A_i[r, r] += 1
        A_j[r, r] += -1 if labels[points[r]] == b else 1


@leaf()
def _join(A: np.ndarray, r: int, m: int, pivot: np.ndarray) -> float:
    """Point r comes into the part; log s of it, by which log det T grows."""
    s = A[r, r]
    if not s > 0:
        return math.nan
    _pivot(A, r, m, pivot)
    return math.log(s)


@leaf()
def _leave(A: np.ndarray, r: int, m: int, pivot: np.ndarray) -> float:
    """Point r goes out of the part; log s of it, by which log det T shrinks. NaN if rounding left nothing of 1 / s."""
    inverse = -A[r, r]
    if not inverse > 0:
        return math.nan
    _pivot(A, r, m, pivot)
    return -math.log(inverse)


@leaf(fastmath=FASTMATH)
def _pivot(A: np.ndarray, r: int, m: int, pivot: np.ndarray) -> None:
    """Pivot on row r, for a point that comes or goes. Columns past the points are never read.

    Pivoting twice gives A back with the signs of row and column r changed, except where they meet: neither the diagonal
    nor a product of two entries of one row or column depends on them.
    """
    inverse = 1 / A[r, r]
    for c in range(len(pivot)):
        pivot[c] = A[r, c]
    for row in range(m):
        factor = pivot[row] * inverse
        for c in range(len(pivot)):
            A[row, c] -= factor * pivot[c]
    for c in range(len(pivot)):
        A[r, c] = pivot[c] * inverse
    for row in range(m):
        A[row, r] = A[r, row]
    A[r, r] = -inverse


@leaf()
def _log_weight(diagonal: float, is_member: bool, n: int, log_det: float, prior: Prior) -> float:
    """log n_k t_k(x) of a part without the point itself, by its entry on the diagonal of A and log det T."""
    log_s = math.nan
    if is_member and diagonal < 0:
        log_s = -math.log(-diagonal)
        n, log_det = n - 1, log_det - log_s
    elif diagonal > 0 and not is_member:
        log_s = math.log(diagonal)
    log_kappa = math.log(prior.kappa0 + n)
    return log_weight(n, log_det - log_kappa, log_s + log_kappa - math.log(prior.kappa0 + n + 1), prior)
