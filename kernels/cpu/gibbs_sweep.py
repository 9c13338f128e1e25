"""Collapsed Gibbs sweeps, one task a group.

A component is held as its count, mean m and W = inverse Cholesky factor of the posterior scale matrix S_n, so that
q = |W (x - m)|^2 is all that a point needs of it. Three facts make a sweep cheap:

- A point that keeps its label changes nothing, and its predictive without itself follows from q by a rank-one formula.
- Points are visited a tile at a time: the tile is whitened by every component at once (`tile.py`). When a label does
  change, the component moves by a rank-one update, which is an affine map of whitened points: the rest of the tile is
  mapped in D operations a point, and W in D^2.
- Only components whose members changed are rebuilt, in float64 from the data, before the next sweep. The rebuilt factor
  depends on the members alone, so a sweep's result depends on the state alone, however many sweeps run in one call.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.cpu import threads
from kernels.cpu.component_statistics import lower_scatter, members_of, scatter_buffers
from kernels.cpu.moments import precision_cholesky
from kernels.cpu.tile import FASTMATH, lanes, load_tile, padded, whiten
from kernels.types import AlphaNoise, GibbsState, NIWPrior

FIRST_CAPACITY = 16
"""Components that memory is set aside for at first; it doubles when they do not suffice."""


def gibbs_sweep(
    state: GibbsState,
    x: Tensor,
    order: Tensor,
    uniforms: Tensor,
    alpha_noise: AlphaNoise | None = None,
    *,
    prior: NIWPrior,
    group_offsets: Tensor | None = None,
    block_size: int = 1,
    shared_new: bool = False,
    alpha_shape: int = 1,
) -> GibbsState:
    points = x.contiguous().numpy()
    edges = [0, len(x)] if group_offsets is None else group_offsets.tolist()
    stacked = order.ndim == 2
    orders, all_uniforms = (t.reshape(-1, len(x)).contiguous().numpy() for t in (order, uniforms.double()))
    T, G = len(orders), len(edges) - 1
    labels = np.empty((T, len(x)), np.int64)
    alpha = np.empty((T, G))
    resample = alpha_noise is not None
    noise = AlphaNoise(*(torch.empty(0),) * 3) if alpha_noise is None else alpha_noise
    beta, gamma, choice = (field.reshape(T, -1).contiguous().numpy() for field in noise)
    mu0, kappa0, nu0, S0 = (field.contiguous().numpy() for field in prior)
    tasks = []
    for g, (a, b) in enumerate(pairwise(edges)):
        c, d = a + alpha_shape * g, b + alpha_shape * (g + 1)
        tasks.append(
            (points[a:b], state.labels[a:b].numpy(), float(state.alpha[g]), orders[:, a:b], all_uniforms[:, a:b],
             beta[:, a:b], gamma[:, c:d], choice[:, g : g + 1], resample, mu0[g], kappa0[g], nu0[g], S0[g],
             block_size, shared_new, alpha_shape, labels[:, a:b], alpha[:, g])
        )  # fmt: skip
    for g, ok in enumerate(threads.run(_sweep_group, tasks)):
        if not ok:
            raise ValueError(f"group {g}: a component's scale matrix is not positive definite in float64")
    result = GibbsState(torch.from_numpy(labels), torch.from_numpy(alpha))
    return result if stacked else GibbsState(result.labels[0], result.alpha[0])


@njit(nogil=True, cache=True)
def _sweep_group(
    x: np.ndarray,
    labels_in: np.ndarray,
    alpha: float,
    orders: np.ndarray,
    uniforms: np.ndarray,
    beta_noise: np.ndarray,
    gamma_noise: np.ndarray,
    choice_noise: np.ndarray,
    resample: bool,
    mu0: np.ndarray,
    kappa0: float,
    nu0: float,
    S0: np.ndarray,
    block_size: int,
    shared_new: bool,
    alpha_shape: int,
    labels_out: np.ndarray,
    alpha_out: np.ndarray,
) -> bool:
    """All sweeps of one group; False if a scale matrix is not positive definite."""
    n, D = x.shape
    Dp, n_lanes = padded(D), lanes(x)
    labels = labels_in.copy()
    n_components = labels.max() + 1

    # Per component. Slots past the largest in use are empty.
    capacity = FIRST_CAPACITY
    while capacity < n_components + block_size:
        capacity *= 2
    count = np.zeros(capacity, np.int64)
    changed = np.ones(capacity, np.bool_)
    log_det = np.zeros(capacity)
    mean = np.zeros((capacity, D), x.dtype)
    W = np.zeros((capacity, Dp, Dp), x.dtype)
    y = np.zeros((capacity, Dp, n_lanes), x.dtype)
    q = np.zeros((capacity, n_lanes), x.dtype)

    prior_mean = mu0.astype(x.dtype)
    factor, inverse = np.empty((D, D)), np.zeros((D, D))
    prior_log_det = precision_cholesky(S0, factor, inverse)
    if math.isnan(prior_log_det):
        return False
    prior_W = np.zeros((Dp, Dp), x.dtype)
    prior_W[:D, :D] = inverse
    prior_y, prior_q = np.zeros((Dp, n_lanes), x.dtype), np.zeros(n_lanes, x.dtype)

    # log t(x) of a component of c points:
    # predictive[c] - log_det / 2 - (nu0 + c + 1) / 2 log1p(q kappa / (kappa + 1)).
    predictive = np.empty(n + 1)
    for c in range(n + 1):
        kappa, nu = kappa0 + c, nu0 + c
        predictive[c] = (
            math.lgamma(0.5 * (nu + 1))
            - math.lgamma(0.5 * (nu + 1 - D))
            - 0.5 * D * math.log(math.pi * (kappa + 1) / kappa)
        )

    tile, work = np.zeros((Dp, n_lanes), x.dtype), np.zeros((Dp, n_lanes), x.dtype)
    v, z, t = np.zeros(Dp, x.dtype), np.zeros(Dp, x.dtype), np.zeros(n_lanes, x.dtype)
    block_y, block_q = np.zeros((block_size, Dp), x.dtype), np.zeros(block_size)
    drawn = np.empty(block_size, np.int64)
    block_log_weight = np.empty((block_size, capacity + 1))
    for sweep in range(len(orders)):
        if not _rebuild(x, labels, n_components, mu0, kappa0, S0, count, changed, log_det, mean, W, factor, inverse):
            return False
        n_slots = n_components
        for first in range(0, n, n_lanes // block_size * block_size):
            last = min(n, first + n_lanes // block_size * block_size)
            load_tile(x, orders[sweep], first, last, tile)
            whiten(prior_W, prior_mean, tile, work, prior_y, prior_q)
            for k in range(n_slots):
                if count[k] > 0:
                    whiten(W[k], mean[k], tile, work, y[k], q[k])
            for start in range(first, last, block_size):
                b = min(block_size, last - start)
                lane = start - first
                block = orders[sweep, start : start + b]

                # The conditional of each point of the block given the points outside it.
                for k in range(n_slots):
                    log_det_k = log_det[k]
                    kappa = kappa0 + count[k]
                    removed = 0
                    for i in range(b):
                        removed += labels[block[i]] == k
                    if removed == count[k]:
                        for i in range(b):
                            block_log_weight[i, k] = -math.inf
                        continue
                    for i in range(b):
                        block_q[i] = q[k, lane + i]
                    if removed > 0:
                        log_det_k += _remove_block(y[k], lane, b, block, labels, k, kappa, block_y, block_q)
                    c = count[k] - removed
                    kappa = kappa0 + c
                    constant = math.log(c) + predictive[c] - 0.5 * log_det_k
                    for i in range(b):
                        block_log_weight[i, k] = constant - 0.5 * (nu0 + c + 1) * math.log1p(
                            block_q[i] * kappa / (kappa + 1)
                        )
                constant = math.log(alpha) + predictive[0] - 0.5 * prior_log_det
                for i in range(b):
                    block_log_weight[i, n_slots] = constant - 0.5 * (nu0 + 1) * math.log1p(
                        prior_q[lane + i] * kappa0 / (kappa0 + 1)
                    )
                    drawn[i] = _draw(block_log_weight[i, : n_slots + 1], uniforms[sweep, start + i])

                # Counts first, so that the lowest empty slot is known; then the factors of what changed.
                any_new = False
                any_change = False
                for i in range(b):
                    any_new |= drawn[i] == n_slots
                    any_change |= drawn[i] != labels[block[i]]
                if not any_change:
                    continue
                if any_new:
                    n_slots = _open_slots(drawn[:b], block, labels, count, n_slots, shared_new)
                    if n_slots + block_size > capacity:
                        grown = 2 * capacity
                        count, changed, log_det = _grow(count, grown), _grow(changed, grown), _grow(log_det, grown)
                        mean, W, y, q = _grow(mean, grown), _grow(W, grown), _grow(y, grown), _grow(q, grown)
                        capacity = grown
                        block_log_weight = np.empty((block_size, capacity + 1))
                for i in range(b):
                    k = labels[block[i]]
                    if drawn[i] != k:
                        count[k] -= 1
                        changed[k] = True
                        if count[k] > 0:
                            kappa = kappa0 + count[k]
                            log_det[k] += _move(
                                x[block[i]],
                                lane + i,
                                -(kappa + 1) / kappa,
                                -1 / kappa,
                                W[k],
                                mean[k],
                                y[k],
                                q[k],
                                v,
                                z,
                                t,
                            )
                for i in range(b):
                    k = drawn[i]
                    if k != labels[block[i]]:
                        if count[k] == 0:
                            W[k], mean[k], log_det[k] = prior_W, prior_mean, prior_log_det
                            y[k], q[k] = prior_y, prior_q
                        kappa = kappa0 + count[k]
                        count[k] += 1
                        changed[k] = True
                        log_det[k] += _move(
                            x[block[i]],
                            lane + i,
                            kappa / (kappa + 1),
                            1 / (kappa + 1),
                            W[k],
                            mean[k],
                            y[k],
                            q[k],
                            v,
                            z,
                            t,
                        )
                        labels[block[i]] = k

        n_components = _compact_components(labels, n_slots, count, changed, log_det, mean, W)
        labels_out[sweep] = labels
        if resample:
            alpha = _resample_alpha(
                alpha, alpha_shape + n_components - 1, beta_noise[sweep], gamma_noise[sweep], choice_noise[sweep, 0]
            )
        alpha_out[sweep] = alpha
    return True


@njit(nogil=True, cache=True)
def _rebuild(
    x: np.ndarray,
    labels: np.ndarray,
    n_components: int,
    mu0: np.ndarray,
    kappa0: float,
    S0: np.ndarray,
    count: np.ndarray,
    changed: np.ndarray,
    log_det: np.ndarray,
    mean: np.ndarray,
    W: np.ndarray,
    factor: np.ndarray,
    inverse: np.ndarray,
) -> bool:
    """Count, posterior mean m_n, W and log det S_n of every component whose members changed, from the data."""
    n, D = x.shape
    buffers = scatter_buffers(D)
    S = np.empty((D, D))
    xbar = np.empty(D)
    members = np.empty(n, np.int64)
    for k in range(n_components):
        if not changed[k]:
            continue
        c = members_of(x, labels, k, members, xbar)
        kappa = kappa0 + c
        for i in range(D):
            for j in range(i + 1):
                S[i, j] = S0[i, j] + kappa0 * c / kappa * (xbar[i] - mu0[i]) * (xbar[j] - mu0[j])
        lower_scatter(x, members, c, xbar, *buffers, S)
        log_det[k] = precision_cholesky(S, factor, inverse)
        if math.isnan(log_det[k]):
            return False
        for i in range(D):
            mean[k, i] = (kappa0 * mu0[i] + c * xbar[i]) / kappa
            for j in range(i + 1):
                W[k, i, j] = inverse[i, j]
        count[k] = c
        changed[k] = False
    return True


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def _remove_block(
    y: np.ndarray,
    lane: int,
    b: int,
    block: np.ndarray,
    labels: np.ndarray,
    k: int,
    kappa: float,
    block_y: np.ndarray,
    block_q: np.ndarray,
) -> float:
    """Squared distances block_q of the block's points to component k without the block's members; the log det's change.

    Works on a copy of the block's whitened points: nothing is changed in the component. kappa counts all members.
    """
    Dp = len(y)
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
        v = block_y[i].copy()
        for j in range(b):
            inner = 0.0
            for r in range(Dp):
                inner += v[r] * block_y[j, r]
            h = -s - g * (inner - s * squared)
            for r in range(Dp):
                block_y[j, r] += h * v[r]
    for i in range(b):
        squared = 0.0
        for r in range(Dp):
            squared += block_y[i, r] * block_y[i, r]
        block_q[i] = squared
    return log_det_change


@njit(nogil=True, cache=True)
def _root_gain(c: float, q: float) -> float:
    """g with (I - g v v')^2 = (I + c v v')^-1, |v|^2 = q: (1 - (1 + c q)^-1/2) / q, without cancellation at small q."""
    root = math.sqrt(1 + c * q)
    return c / (root * (1 + root))


@njit(nogil=True, fastmath=FASTMATH, cache=True)
def _move(
    x: np.ndarray,
    lane: int,
    c: float,
    s: float,
    W: np.ndarray,
    mean: np.ndarray,
    y: np.ndarray,
    q: np.ndarray,
    v: np.ndarray,
    z: np.ndarray,
    t: np.ndarray,
) -> float:
    """Add a point to a component (c = kappa / (kappa + 1), s = 1 / (kappa + 1)) or remove it (c, s negative).

    With d = x - mean: mean += s d, and S += c d d', whose log det grows by the value returned. The tile's whitened
    points follow by y <- (I - g u u') (y - s u), u the point's own column, W by the factor of I + c v v', v = W d.
    """
    D, n_lanes = len(x), y.shape[1]

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

    # The factor: with sigma_i = 1 + c sum_{l <= i} v_l^2 and z = sum_{l < i} v_l W_l, row i of the new factor is
    # sqrt(sigma_{i-1} / sigma_i) W_i - c v_i / sqrt(sigma_{i-1} sigma_i) z.
    for i in range(D):
        v[i] = 0
        z[i] = 0
    for i in range(D):
        total = 0.0
        for j in range(i + 1):
            total += W[i, j] * (x[j] - mean[j])
        v[i] = total
    sigma = 1.0
    for i in range(D):
        sigma_next = sigma + c * v[i] * v[i]
        a = math.sqrt(sigma / sigma_next)
        h = c * v[i] / math.sqrt(sigma * sigma_next)
        sigma = sigma_next
        for j in range(i + 1):
            w = W[i, j]
            W[i, j] = a * w - h * z[j]
            z[j] += v[i] * w
    for i in range(D):
        mean[i] += s * (x[i] - mean[i])
    return math.log(sigma)


@njit(nogil=True, cache=True)
def _draw(log_weight: np.ndarray, uniform: float) -> int:
    """The first index at which the cumulative weight exceeds `uniform` times the total; log_weight is overwritten."""
    largest = log_weight[0]
    for k in range(1, len(log_weight)):
        largest = max(largest, log_weight[k])
    total = 0.0
    for k in range(len(log_weight)):
        if log_weight[k] - largest > -700:
            total += math.exp(log_weight[k] - largest)
        log_weight[k] = total
    for k in range(len(log_weight)):
        if log_weight[k] > uniform * total:
            return k
    return len(log_weight) - 1


@njit(nogil=True, cache=True)
def _open_slots(
    drawn: np.ndarray, block: np.ndarray, labels: np.ndarray, count: np.ndarray, n_slots: int, shared_new: bool
) -> int:
    """Replace the draws of a new component (n_slots) by the lowest slots that the block leaves empty; slots in use."""
    after = count[: n_slots + len(block)].copy()
    for i in range(len(block)):
        after[labels[block[i]]] -= 1
        if drawn[i] < n_slots:
            after[drawn[i]] += 1
    opened = -1
    used = n_slots
    for i in range(len(block)):
        if drawn[i] == n_slots:
            if opened < 0 or not shared_new:
                opened = 0
                while after[opened] > 0:
                    opened += 1
            after[opened] += 1
            # n_slots marks a draw that is not yet replaced: a slot of that number is written once the others are.
            drawn[i] = -1 - opened
            used = max(used, opened + 1)
    for i in range(len(block)):
        if drawn[i] < 0:
            drawn[i] = -1 - drawn[i]
    return used


@njit(nogil=True, cache=True)
def _grow(array: np.ndarray, capacity: int) -> np.ndarray:
    grown = np.zeros((capacity, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


@njit(nogil=True, cache=True)
def _compact(labels: np.ndarray, rank: np.ndarray) -> int:
    """Renumber labels without gaps, in order; rank[old] = new for every label in use, -1 for others; their number."""
    rank[:] = -1
    for i in range(len(labels)):
        rank[labels[i]] = 0
    used = 0
    for k in range(len(rank)):
        if rank[k] == 0:
            rank[k] = used
            used += 1
    for i in range(len(labels)):
        labels[i] = rank[labels[i]]
    return used


@njit(nogil=True, cache=True)
def _compact_components(
    labels: np.ndarray,
    n_slots: int,
    count: np.ndarray,
    changed: np.ndarray,
    log_det: np.ndarray,
    mean: np.ndarray,
    W: np.ndarray,
) -> int:
    """Renumber slots without gaps, in order, together with what is kept of each component; the number of components."""
    rank = np.empty(n_slots, np.int64)
    used = _compact(labels, rank)
    for k in range(n_slots):
        new = rank[k]
        if new >= 0 and new != k:
            count[new], changed[new], log_det[new] = count[k], changed[k], log_det[k]
            mean[new], W[new] = mean[k], W[k]
    count[used:n_slots] = 0
    changed[used:n_slots] = True
    return used


@njit(nogil=True, cache=True)
def _resample_alpha(alpha: float, smaller: int, beta: np.ndarray, gamma: np.ndarray, choice: float) -> float:
    """Escobar & West (1995) from exponentials and one uniform, as in `kernels.reference`; smaller = a + K - 1."""
    n = len(beta)
    rate = 1.0
    for j in range(n):
        rate += beta[j] / (alpha + 1 + j)
    shape = smaller + (choice < smaller / (smaller + n * rate))
    total = 0.0
    for j in range(shape):
        total += gamma[j]
    return total / rate
