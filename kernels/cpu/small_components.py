"""Components of few points, by inner products: what a sweep needs of them without their scale matrices.

Let u = W_0 (x - mu0), whitened by the prior's scale, and A = I + P over the points of a component, with the products
P_ij = 1 / kappa0 + u_i . u_j. For a component of c points, kappa = kappa0 + c,

    det S_n / det S_0 = det A kappa0 / kappa
    1 + q kappa / (kappa + 1) = s kappa / (kappa + 1),  s = 1 + P_xx - |R P_Mx|^2,  R the inverse Cholesky factor of A,
    s = 1 / sum_r R_rm^2 of a point m of the component, without itself,

all by Schur complements and det(I_D + U' H U) = det(I_c + H U U'). Where c is 7 and D is 64, a point costs 28
multiplications in place of 2,080, and a component that takes in a point 56 in place of 8,320. The products are computed
once for all sweeps of a call. Everything is in float64; distances are stored in the dtype of the points.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from kernels.cpu.compiled import leaf
from kernels.cpu.components import Components, Prior, copy
from kernels.cpu.moments import FactorScratch, factor_lower
from kernels.cpu.tile import FASTMATH, ROWS, add_squares, lanes, load_tile, multiply_rows, padded, whiten

FEWEST = 16
"""Small components that make it worth computing products."""
FEWEST_DIMENSIONS = 32
MOST_POINTS = 2048
"""In a group whose products are kept: 32 MiB."""
LARGEST_PRODUCT = 1e8
"""s is 1 at least, and its rounding errors are this times those of float64."""


class SmallComponents(NamedTuple):
    """Of the component slots of a group. A slot that is small has as many points as `Components.size` says."""

    products: np.ndarray
    """[n, n] P, with more rows and columns for the inner loop; empty if no slot is small, as members and R are then."""
    is_small: np.ndarray
    """[C] bool: the slot is held in this form, in the sweep at hand."""
    changed: np.ndarray
    """[C] bool: members changed since R was built from the list of them in order."""
    members: np.ndarray
    """[C + 1, most] points; the last slot is for use in between."""
    R: np.ndarray
    """[C + 1, most, most] inverse lower Cholesky factors, with zeros elsewhere; `most` is a multiple of ROWS."""
    tile_points: np.ndarray
    """[LANES] points of the tile."""
    tile: np.ndarray
    """[n, LANES] products of all points and the tile."""
    itself: np.ndarray
    """[LANES] 1 + P_xx of the tile."""
    rows: np.ndarray
    """[most, LANES] products of members and the tile."""
    explained: np.ndarray
    """[1, LANES] |R P_Mx|^2"""
    w: np.ndarray
    """[most] R P_Mx of one point."""


@njit(nogil=True, cache=True)
def make_small_components(x: np.ndarray, capacity: int, products: np.ndarray) -> SmallComponents:
    n_lanes = lanes(x)
    most = max(ROWS, x.shape[1] // 2 // ROWS * ROWS)
    slots = capacity + 1 if len(products) > 0 else 0
    return SmallComponents(
        products,
        np.zeros(capacity, np.bool_),
        np.ones(capacity, np.bool_),
        np.zeros((slots, most), np.int64),
        np.zeros((slots, most, most)),
        np.zeros(n_lanes, np.int64),
        np.empty((min(len(x), len(products)), n_lanes)),
        np.empty(n_lanes),
        np.zeros((most, n_lanes)),
        np.zeros((1, n_lanes)),
        np.zeros(most),
    )


@register_jitable
def room(small: SmallComponents) -> int:
    """Points that a small component has room for."""
    return small.members.shape[1]


@njit(nogil=True, cache=True)
def grow_small(small: SmallComponents, larger: SmallComponents) -> SmallComponents:
    """`larger`, with the slots of `small` and its tile."""
    copy(small.is_small, larger.is_small)
    copy(small.changed, larger.changed)
    copy(small.members[:-1], larger.members)
    copy(small.R[:-1], larger.R)
    copy(small.tile, larger.tile)
    copy(small.itself, larger.itself)
    return larger


@njit(nogil=True, cache=True)
def features(x: np.ndarray, kappa0: float, S0: np.ndarray, scratch: FactorScratch) -> np.ndarray:
    """[n, D + 1], whose inner products are P: u, and a constant that gives the 1 / kappa0. x is about the prior's mean.

    Rows are added up to a multiple of ROWS. Empty if float64 is not enough for one of the points.
    """
    n, D = x.shape
    Dp, n_lanes = padded(D), lanes(S0)
    factor_lower(S0, scratch)
    u = np.zeros((padded(n), D + 1))
    origin, every_row = np.zeros(D), np.arange(n)
    tile, work, y, q = np.empty((Dp, n_lanes)), np.empty((Dp, n_lanes)), np.empty((Dp, n_lanes)), np.empty(n_lanes)
    for first in range(0, n, n_lanes):
        load_tile(x, every_row, first, n, tile)
        whiten(scratch.W, origin, tile, work, y, q)
        for j in range(min(n_lanes, n - first)):
            if not q[j] + 1 / kappa0 < LARGEST_PRODUCT:
                return np.empty((0, 0))
            for r in range(D):
                u[first + j, r] = y[r, j]
            u[first + j, D] = 1 / math.sqrt(kappa0)
    return u


@njit(nogil=True, cache=True)
def inner_products(u: np.ndarray) -> np.ndarray:
    """P of all points by their features, with some more rows and columns."""
    n_lanes = lanes(u)
    n_rows, width = len(u), (len(u) + n_lanes - 1) // n_lanes * n_lanes
    transposed = np.zeros((u.shape[1], width))
    for i in range(n_rows):
        for r in range(len(transposed)):
            transposed[r, i] = u[i, r]
    # Rows one after another in memory must not lie a multiple of 4 KiB apart: columns are read, too.
    products = np.empty((n_rows, width + 8))
    for column in range(0, width, n_lanes):
        last = min(column + n_lanes, n_rows)
        for i in range(0, last, ROWS):
            multiply_rows(u, i, len(transposed), transposed, products, column)
            if i < column:
                for j in range(column, last):
                    for r in range(i, i + ROWS):
                        products[j, r] = products[r, j]
    return products


@leaf(fastmath=FASTMATH | {"reassoc"})
def log_det_of_members(u: np.ndarray, members: np.ndarray, c: int, kappa0: float, A: np.ndarray) -> float:
    """log det S_n / det S_0 of c points by their features; A [c, c] or larger is overwritten."""
    total = math.log(kappa0 / (kappa0 + c))
    for i in range(c):
        for j in range(i + 1):
            product = 1.0 if i == j else 0.0
            for r in range(u.shape[1]):
                product += u[members[i], r] * u[members[j], r]
            for r in range(j):
                product -= A[i, r] * A[j, r]
            A[i, j] = math.sqrt(product) if i == j else product / A[j, j]
        total += 2 * math.log(A[i, i])
    return total


@leaf()
def clear(k: int, prior: Prior, components: Components, small: SmallComponents) -> None:
    """Make slot k a small one without points."""
    small.R[k] = 0
    small.is_small[k] = True
    components.log_det[k] = prior.log_det


@leaf(fastmath=FASTMATH)
def append(k: int, point: int, c: int, kappa0: float, small: SmallComponents) -> float:
    """A point joins the c points of slot k; the change of log det S_n."""
    R = small.R[k]
    small.members[k, c] = point
    schur = _schur(k, point, c, small)
    inverse_root = 1 / math.sqrt(schur)
    R[c, :c] = 0
    for r in range(c):
        factor = inverse_root * small.w[r]
        for j in range(r + 1):
            R[c, j] -= factor * R[r, j]
    R[c, c] = inverse_root
    return math.log(schur * (kappa0 + c) / (kappa0 + c + 1))


@leaf(fastmath=FASTMATH)
def _schur(k: int, point: int, c: int, small: SmallComponents) -> float:
    """s of a point outside the c points of slot k; small.w is R P_Mx."""
    R, members, products = small.R[k], small.members[k], small.products[point]
    s = 1 + products[point]
    for r in range(c):
        total = 0.0
        for j in range(r + 1):
            total += R[r, j] * products[members[j]]
        small.w[r] = total
        s -= total * total
    return s


@leaf()
def remove(k: int, point: int, c: int, kappa0: float, small: SmallComponents) -> float:
    """A point leaves the c points of slot k; the change of log det S_n. What is before it in the list stays."""
    R, members = small.R[k], small.members[k]
    at = _position(members, point)
    change = 0.0
    for j in range(at, c):
        change += 2 * math.log(R[j, j]) - math.log((kappa0 + j) / (kappa0 + j + 1))
        for i in range(j + 1):
            R[j, i] = 0
    for j in range(at, c - 1):
        change += append(k, members[j + 1], j, kappa0, small)
    return change


@leaf()
def rebuild_small(labels: np.ndarray, k: int, prior: Prior, components: Components, small: SmallComponents) -> None:
    """Slot k from its points, in order."""
    clear(k, prior, components, small)
    components.size[k] = 0
    for i in range(len(labels)):
        if labels[i] == k:
            components.log_det[k] += append(k, i, components.size[k], prior.kappa0, small)
            components.size[k] += 1
    small.changed[k] = False


@leaf()
def load_products(order: np.ndarray, start: int, stop: int, small: SmallComponents) -> None:
    """As `load_tile`, the products of the tile."""
    n, n_lanes = small.tile.shape
    points = small.tile_points
    for j in range(n_lanes):
        points[j] = order[min(start + j, stop - 1)]
        small.itself[j] = 1 + small.products[points[j], points[j]]
    for i in range(n):
        row = small.tile[i]
        for j in range(n_lanes):
            row[j] = small.products[points[j], i]


@leaf(fastmath=FASTMATH)
def squared_distances(k: int, kappa0: float, components: Components, small: SmallComponents) -> None:
    """components.q of slot k for all points of the tile."""
    tile, members, R, rows, explained = small.tile, small.members[k], small.R[k], small.rows, small.explained
    c, n_lanes = components.size[k], rows.shape[1]
    n_rows = padded(c)
    for r in range(c):
        row = tile[members[r]]
        for j in range(n_lanes):
            rows[r, j] = row[j]
    for r in range(c, n_rows):
        for j in range(n_lanes):
            rows[r, j] = 0
    for j in range(n_lanes):
        explained[0, j] = 0
    for column in range(0, n_lanes, lanes(rows)):
        for i in range(0, n_rows, ROWS):
            add_squares(R, i, i + ROWS, rows, explained, column)
    inverse_shrink = (kappa0 + c + 1) / (kappa0 + c)
    for j in range(n_lanes):
        components.q[k, j] = small.itself[j] - explained[0, j] - inverse_shrink


@leaf()
def without_point(k: int, point: int, c: int, kappa0: float, small: SmallComponents) -> tuple[float, float]:
    """Squared distance of one of the c > 1 points of slot k to the others; the change of log det S_n without it."""
    R = small.R[k]
    at = _position(small.members[k], point)
    inverse = 0.0
    for r in range(at, c):
        inverse += R[r, at] * R[r, at]
    kappa = kappa0 + c - 1
    return 1 / inverse - (kappa + 1) / kappa, math.log(inverse * (kappa + 1) / kappa)


@leaf()
def without_block(
    k: int, block: np.ndarray, c: int, kappa0: float, small: SmallComponents, block_q: np.ndarray
) -> float:
    """Squared distances block_q of the points of a block to slot k without those of them that it holds, and log det S_n
    / det S_0 of the rest. Some of its c points are not in the block."""
    between = len(small.R) - 1
    members = small.members[between]
    left, log_det = 0, 0.0
    for j in range(c):
        stays = True
        for point in block:
            stays &= small.members[k, j] != point
        if stays:
            members[left] = small.members[k, j]
            left += 1
    for r in range(left):
        log_det += append(between, members[r], r, kappa0, small)
    for i in range(len(block)):
        block_q[i] = _schur(between, block[i], left, small) - (kappa0 + left + 1) / (kappa0 + left)
    return log_det


@leaf()
def _position(members: np.ndarray, point: int) -> int:
    at = 0
    while members[at] != point:
        at += 1
    return at
