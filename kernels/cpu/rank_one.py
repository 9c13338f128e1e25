"""One point into or out of a component: rank-one updates of its factor and of the points whitened by it."""

import math

import numpy as np

from kernels.cpu.compiled import leaf
from kernels.cpu.components import Components, Scratch
from kernels.cpu.tile import FASTMATH


@leaf()
def without(q: float, kappa: float) -> tuple[float, float]:
    """Squared distance of a member to its component without the member, from the one with it, q; the log det's change.

    kappa counts the member. NaN for both if rounding leaves nothing of 1 - r q, r = kappa / (kappa - 1).
    """
    ratio = kappa / (kappa - 1)
    left = 1 - ratio * q
    if not left > 0:
        return math.nan, math.nan
    return q * ratio * ratio / left, math.log1p(-ratio * q)


@leaf(fastmath=FASTMATH)
def remove_block(
    y: np.ndarray,
    lane: int,
    block: np.ndarray,
    labels: np.ndarray,
    k: int,
    kappa: float,
    block_y: np.ndarray,
    block_q: np.ndarray,
    v: np.ndarray,
) -> float:
    """Squared distances block_q of the block's points to component k without the block's members; the log det's change.

    Works on a copy of the block's whitened points: nothing is changed in the component. kappa counts all members. v is
    overwritten.
    """
    b, Dp = len(block), len(y)
    for i in range(b):
        for r in range(Dp):
            block_y[i, r] = y[r, lane + i]
    log_det_change = 0.0
    for i in range(b):
        if labels[block[i]] != k:
            continue
        kappa -= 1
        c, s = -(kappa + 1) / kappa, -1 / kappa
        squared = 0.0
        for r in range(Dp):
            squared += block_y[i, r] * block_y[i, r]
        log_det_change += math.log1p(c * squared)
        g = _root_gain(c, squared)
        for r in range(Dp):
            v[r] = block_y[i, r]
        for j in range(b):
            _shift(block_y[j], v, squared, s, g)
    for i in range(b):
        squared = 0.0
        for r in range(Dp):
            squared += block_y[i, r] * block_y[i, r]
        block_q[i] = squared
    return log_det_change


@leaf(fastmath=FASTMATH)
def _shift(y: np.ndarray, v: np.ndarray, squared: float, s: float, g: float) -> None:
    """y <- (I - g v v')(y - s v), |v|^2 = squared: a whitened point after the component took in or let go v's point."""
    inner = 0.0
    for r in range(len(y)):
        inner += v[r] * y[r]
    h = -s - g * (inner - s * squared)
    for r in range(len(y)):
        y[r] += h * v[r]


@leaf(fastmath=FASTMATH)
def join(v: np.ndarray, kappa: float, rest: np.ndarray) -> float:
    """Whitened points `rest` [., Dp] after the component, of strength kappa, took in v's; the log det's change."""
    c, s = kappa / (kappa + 1), 1 / (kappa + 1)
    squared = 0.0
    for r in range(len(v)):
        squared += v[r] * v[r]
    g = _root_gain(c, squared)
    for j in range(len(rest)):
        _shift(rest[j], v, squared, s, g)
    return math.log1p(c * squared)


@leaf()
def _root_gain(c: float, q: float) -> float:
    """g with (I - g v v')^2 = (I + c v v')^-1, |v|^2 = q: (1 - (1 + c q)^-1/2) / q, without cancellation at small q."""
    root = math.sqrt(1 + c * q)
    return c / (root * (1 + root))


@leaf(fastmath=FASTMATH)
def move(x: np.ndarray, lane: int, c: float, s: float, components: Components, k: int, scratch: Scratch) -> None:
    """Add a point to component k (c = kappa / (kappa + 1), s = 1 / (kappa + 1)) or remove it (c, s negative).

    With d = x - mean: mean += s d, and S += c d d', whose factor is W's times that of I + c v v', v = W d. The tile's
    whitened points follow by y <- (I - g u u') (y - s u), u the point's own column.
    """
    D, n_lanes = len(x), components.y.shape[2]
    W, mean, y, q = components.W[k], components.mean[k], components.y[k], components.q[k]
    v, z, t = scratch.v, scratch.z, scratch.t

    # The tile.
    squared = 0.0
    for r in range(D):
        v[r] = y[r, lane]
        squared += v[r] * v[r]
    g = _root_gain(c, squared)
    for j in range(n_lanes):
        t[j] = 0
    for r in range(D):
        for j in range(n_lanes):
            t[j] += v[r] * y[r, j]
    for j in range(n_lanes):
        t[j] = -s - g * (t[j] - s * squared)
        q[j] = 0
    for r in range(D):
        for j in range(n_lanes):
            y[r, j] += t[j] * v[r]
            q[j] += y[r, j] * y[r, j]

    components.log_det[k] += move_factor(x, c, s, W, mean, v, z)


@leaf(fastmath=FASTMATH | {"reassoc"})
def move_factor(
    x: np.ndarray, c: float, s: float, W: np.ndarray, mean: np.ndarray, v: np.ndarray, z: np.ndarray
) -> float:
    """Factor and mean of a component after a point was added or removed (c and s as in `move`); the log det's change.

    With sigma_i = 1 + c sum_{l <= i} v_l^2 and z = sum_{l < i} v_l W_l, row i of the new factor is
    sqrt(sigma_{i-1} / sigma_i) W_i - c v_i / sqrt(sigma_{i-1} sigma_i) z. v and z [Dp] are overwritten. NaN if rounding
    leaves nothing of a sigma; factor and mean are then of no use.
    """
    Dp = len(W)
    whiten_point(x, mean, W, z, v)
    for j in range(len(x)):
        mean[j] += s * z[j]
    for j in range(Dp):
        z[j] = 0
    sigma = 1.0
    for i in range(0, Dp, 4):
        v_0, v_1, v_2, v_3 = v[i], v[i + 1], v[i + 2], v[i + 3]
        sigma_0 = sigma + c * v_0 * v_0
        sigma_1 = sigma_0 + c * v_1 * v_1
        sigma_2 = sigma_1 + c * v_2 * v_2
        sigma_3 = sigma_2 + c * v_3 * v_3
        if not (sigma_0 > 0 and sigma_1 > 0 and sigma_2 > 0 and sigma_3 > 0):
            return math.nan
        h_0, h_1 = 1 / math.sqrt(sigma * sigma_0), 1 / math.sqrt(sigma_0 * sigma_1)
        h_2, h_3 = 1 / math.sqrt(sigma_1 * sigma_2), 1 / math.sqrt(sigma_2 * sigma_3)
        a_0, a_1, a_2, a_3 = sigma * h_0, sigma_0 * h_1, sigma_1 * h_2, sigma_2 * h_3
        h_0, h_1, h_2, h_3 = c * v_0 * h_0, c * v_1 * h_1, c * v_2 * h_2, c * v_3 * h_3
        sigma = sigma_3
        for j in range(i + 4):
            total = z[j]
            w = W[i, j]
            W[i, j] = a_0 * w - h_0 * total
            total += v_0 * w
            w = W[i + 1, j]
            W[i + 1, j] = a_1 * w - h_1 * total
            total += v_1 * w
            w = W[i + 2, j]
            W[i + 2, j] = a_2 * w - h_2 * total
            total += v_2 * w
            w = W[i + 3, j]
            W[i + 3, j] = a_3 * w - h_3 * total
            z[j] = total + v_3 * w
    return math.log(sigma)


@leaf(fastmath=FASTMATH | {"reassoc"})
def whiten_point(x: np.ndarray, mean: np.ndarray, W: np.ndarray, d: np.ndarray, v: np.ndarray) -> None:
    """d = x - mean and v = W d, both [Dp]; four rows (ROWS) at a time, so that d is read a quarter as often."""
    for j in range(len(x)):
        d[j] = x[j] - mean[j]
    for j in range(len(x), len(W)):
        d[j] = 0
    for i in range(0, len(W), 4):
        v_0, v_1, v_2, v_3 = 0.0, 0.0, 0.0, 0.0
        for j in range(i + 4):
            v_0 += W[i, j] * d[j]
            v_1 += W[i + 1, j] * d[j]
            v_2 += W[i + 2, j] * d[j]
            v_3 += W[i + 3, j] * d[j]
        v[i], v[i + 1], v[i + 2], v[i + 3] = v_0, v_1, v_2, v_3
