"""Collapsed Gibbs sweeps, one task a group.

A component is held as its count, mean m and W = inverse Cholesky factor of the posterior scale matrix S_n, so that
q = |W (x - m)|^2 is all that a point needs of it. Three facts make a sweep cheap:

- A point that keeps its label changes nothing, and its predictive without itself follows from q by a rank-one formula
  (`rank_one.py`).
- Points are visited a tile at a time: the tile is whitened by every component at once (`tile.py`). When a label does
  change, the component moves by a rank-one update, which is an affine map of whitened points: the rest of the tile is
  mapped in D operations a point, and W in D^2.
- Only components whose members changed are rebuilt, in float64 from the data, before the next sweep. The rebuilt factor
  depends on the members alone, so a sweep's result depends on the state alone, however many sweeps run in one call.

Where FEWEST components or more hold at most half as many points as there are dimensions, these are held in another
form, by the inner products of their points (`small_components.py`): with 70 components of seven points in 64 dimensions
a sweep takes two fifths of the time. Whether a sweep does so depends on the labels that it begins with.

A member's distance to its component without it is q r^2 / (1 - r q), r a little above 1. For a member far from all the
others float32 rounds 1 - r q to anything, below 0 too: a group with such a point is computed in float64.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.cpu import threads
from kernels.cpu.block_correction import excess
from kernels.cpu.compiled import leaf
from kernels.cpu.components import (
    DONE,
    FAR,
    NOT_POSITIVE_DEFINITE,
    TOO_FAR,
    BuildScratch,
    Components,
    Prior,
    Scratch,
    build,
    build_scratch,
    centred,
    check_outcomes,
    compact,
    copy,
    grow,
    make_components,
    make_prior,
    rebuild_one,
)
from kernels.cpu.conditionals import Conditionals, draw, make_conditionals, open_slots, set_slot, weigh
from kernels.cpu.rank_one import move
from kernels.cpu.small_components import (
    FEWEST,
    FEWEST_DIMENSIONS,
    MOST_POINTS,
    SmallComponents,
    append,
    clear,
    features,
    grow_small,
    inner_products,
    load_products,
    make_small_components,
    rebuild_small,
    remove,
    room,
    squared_distances,
)
from kernels.cpu.tile import lanes, load_tile, padded, whiten
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
    correction: Tensor | None = None,
    inverse_temperature: Tensor | None = None,
) -> GibbsState:
    points = np.ascontiguousarray(x.numpy())
    edges = [0, len(x)] if group_offsets is None else group_offsets.tolist()
    stacked = order.ndim == 2
    T = len(order) if stacked else 1
    resample = alpha_noise is not None
    nothing = x.new_empty(0, dtype=torch.float64)  # of the type that noise has, or a third version would be compiled
    noise = AlphaNoise(nothing, nothing, nothing) if alpha_noise is None else alpha_noise
    corrected = correction is not None
    accept = x.new_empty(T, len(x)) if correction is None else correction
    per_sweep = [field.reshape(T, -1).numpy() for field in (order, uniforms.double(), accept.double(), *noise)]
    mu0, kappa0, nu0, S0 = (np.ascontiguousarray(field.numpy()) for field in prior)
    G = len(edges) - 1
    beta = x.new_ones(T, G, dtype=torch.float64) if inverse_temperature is None else inverse_temperature.expand(T, G)
    labels, alpha = [], []
    tasks = []
    for g, (a, b) in enumerate(pairwise(edges)):
        columns = [(a, b), (a, b), (a, b), (a, b), (a + alpha_shape * g, b + alpha_shape * (g + 1)), (g, g + 1)]
        # Contiguous copies, so that one compiled version serves any number of groups.
        numbers = [np.ascontiguousarray(field[:, c:d]) for field, (c, d) in zip(per_sweep, columns, strict=True)]
        labels.append(np.empty((T, b - a), np.int64))
        alpha.append(np.empty(T))
        tasks.append(
            (points[a:b], mu0[g], state.labels[a:b].numpy(), float(state.alpha[g]), *numbers, resample, kappa0[g],
             nu0[g], S0[g], 1 if corrected and b - a <= block_size else block_size, shared_new, corrected, alpha_shape,
             beta[:, g].numpy().copy(), labels[g], alpha[g])
        )  # fmt: skip
    check_outcomes(threads.run(_in_enough_digits, tasks))
    result = GibbsState(torch.from_numpy(np.concatenate(labels, axis=1)), torch.from_numpy(np.stack(alpha, axis=1)))
    return result if stacked else GibbsState(result.labels[0], result.alpha[0])


def _in_enough_digits(x: np.ndarray, mu0: np.ndarray, *arguments: Any) -> int:
    """`_sweep_group` of x - mu0, in float64 if float32 is not enough for a point of the group."""
    outcome = _sweep_group(centred(x, mu0), *arguments)
    if outcome != DONE and x.dtype == np.float32:
        outcome = _sweep_group(centred(x.astype(np.float64), mu0), *arguments)
    return outcome


@njit(nogil=True, cache=True)
def _sweep_group(
    x: np.ndarray,
    labels_in: np.ndarray,
    alpha: float,
    orders: np.ndarray,
    uniforms: np.ndarray,
    accept: np.ndarray,
    beta_noise: np.ndarray,
    gamma_noise: np.ndarray,
    choice_noise: np.ndarray,
    resample: bool,
    kappa0: float,
    nu0: float,
    S0: np.ndarray,
    block_size: int,
    shared_new: bool,
    corrected: bool,
    alpha_shape: int,
    beta: np.ndarray,
    labels_out: np.ndarray,
    alpha_out: np.ndarray,
) -> int:
    """All sweeps of one group."""
    n, D = x.shape
    Dp, n_lanes = padded(D), lanes(x)
    labels = labels_in.copy()
    n_components = labels[0] + 1
    for label in labels:
        n_components = max(n_components, label + 1)

    building = build_scratch(n, D)
    prior = make_prior(x, kappa0, nu0, S0, building.factors)
    if math.isnan(prior.log_det):
        return NOT_POSITIVE_DEFINITE
    capacity = FIRST_CAPACITY
    while capacity < n_components + block_size:
        capacity *= 2
    components = make_components(x, capacity)
    scratch = Scratch(
        np.zeros((Dp, n_lanes), x.dtype),
        np.zeros((Dp, n_lanes), x.dtype),
        np.zeros(Dp, x.dtype),
        np.zeros(Dp, x.dtype),
        np.zeros(n_lanes, x.dtype),
        np.zeros((block_size, Dp), x.dtype),
        np.zeros(block_size),
    )
    # Whether a sweep holds components in this form depends on the labels that it begins with, and on nothing before it.
    has_products, worth_it = False, not corrected and D >= FEWEST_DIMENSIONS and n <= MOST_POINTS
    small = make_small_components(x, capacity, np.empty((0, 0)))
    for sweep in range(len(orders)):
        n_small = _count(labels, n_components, components, small)
        if worth_it and not has_products and n_small >= FEWEST:
            u = features(x.astype(np.float64), kappa0, S0, building.factors)
            has_products = worth_it = len(u) > 0
            if has_products:
                small = make_small_components(x, len(components.size), inner_products(u))
        uses_small = has_products and n_small >= FEWEST
        if not _rebuild(x, labels, n_components, uses_small, prior, components, small, building):
            return NOT_POSITIVE_DEFINITE
        components, small, n_slots, outcome = _sweep(
            x,
            labels,
            n_components,
            alpha,
            orders[sweep],
            uniforms[sweep],
            accept[sweep],
            prior,
            components,
            small,
            uses_small,
            scratch,
            building,
            block_size,
            shared_new,
            corrected,
            beta[sweep],
        )
        if outcome != DONE:
            return outcome
        first_empty = 0
        while first_empty < n_slots and components.size[first_empty] > 0:
            first_empty += 1
        n_components = compact(labels, n_slots, components)
        small.changed[first_empty:] = True
        for i in range(n):
            labels_out[sweep, i] = labels[i]
        if resample:
            alpha = _resample_alpha(
                alpha, alpha_shape + n_components - 1, beta_noise[sweep], gamma_noise[sweep], choice_noise[sweep, 0]
            )
        alpha_out[sweep] = alpha
    return DONE


@leaf()
def _count(labels: np.ndarray, n_components: int, components: Components, small: SmallComponents) -> int:
    """Write components.size; the number of components that may be small."""
    size, most, n_small = components.size, room(small), 0
    for k in range(n_components):
        size[k] = 0
    for label in labels:
        size[label] += 1
    for k in range(n_components):
        n_small += size[k] <= most
    return n_small


@leaf()
def _rebuild(
    x: np.ndarray,
    labels: np.ndarray,
    n_components: int,
    uses_small: bool,
    prior: Prior,
    components: Components,
    small: SmallComponents,
    building: BuildScratch,
) -> bool:
    """Give every component the form that it begins the sweep with, from the data, if its members changed or it had the
    other form; False if a scale matrix is not positive definite."""
    for k in range(n_components):
        small.is_small[k] = uses_small and components.size[k] <= room(small)
        # The two forms share the determinant, whose last digits are those of one of them.
        if small.is_small[k]:
            components.changed[k] = True
            if small.changed[k]:
                rebuild_small(labels, k, prior, components, small)
        else:
            small.changed[k] = True
            if not rebuild_one(x, labels, k, prior.kappa0, prior.S0, components, building):
                return False
    return True


# Functions that are called once are compiled as a part of their caller: compiling takes a sixth less time.
@njit(nogil=True, inline="always")
def _sweep(
    x: np.ndarray,
    labels: np.ndarray,
    n_slots: int,
    alpha: float,
    order: np.ndarray,
    uniforms: np.ndarray,
    accept: np.ndarray,
    prior: Prior,
    components: Components,
    small: SmallComponents,
    uses_small: bool,
    scratch: Scratch,
    building: BuildScratch,
    block_size: int,
    shared_new: bool,
    corrected: bool,
    beta: float,
) -> tuple[Components, SmallComponents, int, int]:
    """One sweep; labels are changed in place. Returns the components, which may have moved, the slots in use and the
    outcome: the first sweep stops at a point that is too far away, if there is one."""
    n = len(order)
    furthest = FAR / np.finfo(x.dtype).eps
    step = lanes(x) // block_size * block_size
    was, drawn = np.empty(block_size, np.int64), np.empty(block_size, np.int64)
    log_alpha = math.log(alpha)
    conditionals = make_conditionals(block_size, beta, prior, components)
    for first in range(0, n, step):
        last = min(n, first + step)
        load_tile(x, order, first, last, scratch.tile)
        whiten(prior.W, prior.mean, scratch.tile, scratch.work, prior.y, prior.q)
        for j in range(last - first):
            if not prior.q[j] <= furthest:
                return components, small, n_slots, TOO_FAR
        if uses_small:
            load_products(order, first, last, small)
        for k in range(n_slots):
            if small.is_small[k]:
                squared_distances(k, prior.kappa0, components, small)
            elif components.size[k] > 0:
                whiten(
                    components.W[k], components.mean[k], scratch.tile, scratch.work, components.y[k], components.q[k]
                )
        start = first
        while start < last:
            start, n_slots, outcome = _visit(
                x,
                labels,
                n_slots,
                log_alpha,
                order,
                uniforms,
                accept,
                first,
                start,
                last,
                prior,
                components,
                small,
                uses_small,
                scratch,
                building,
                conditionals,
                was,
                drawn,
                shared_new,
                corrected,
                beta,
            )
            if outcome != DONE:
                return components, small, n_slots, outcome
            if start < last:
                capacity = 2 * len(components.size)
                components = grow(components, make_components(x, capacity))
                small = grow_small(small, make_small_components(x, capacity, small.products))
                conditionals = make_conditionals(block_size, beta, prior, components)
    return components, small, n_slots, DONE


@leaf()
def _visit(
    x: np.ndarray,
    labels: np.ndarray,
    n_slots: int,
    log_alpha: float,
    order: np.ndarray,
    uniforms: np.ndarray,
    accept: np.ndarray,
    first: int,
    start: int,
    last: int,
    prior: Prior,
    components: Components,
    small: SmallComponents,
    uses_small: bool,
    scratch: Scratch,
    building: BuildScratch,
    conditionals: Conditionals,
    was: np.ndarray,
    drawn: np.ndarray,
    shared_new: bool,
    corrected: bool,
    beta: float,
) -> tuple[int, int, int]:
    """Draw the labels of a tile's blocks, from point `start` to `last` of the order, as long as there are slots for a
    block of new components. Returns the point of the order that it came to, the slots in use and the outcome."""
    block_size = len(was)
    while start < last and n_slots + block_size <= len(components.size):
        block = order[start : min(start + block_size, last)]
        lane = start - first
        weigh(block, lane, labels, n_slots, log_alpha, beta, prior, components, small, scratch, conditionals)
        any_new, any_change = False, False
        for i in range(len(block)):
            was[i] = labels[block[i]]
            drawn[i] = draw(conditionals.log_weight[i, : n_slots + 1], uniforms[start + i])
            any_new |= drawn[i] == n_slots
            any_change |= drawn[i] != was[i]
        if corrected and any_change and len(block) > 1:
            before = excess(was[: len(block)], block, lane, labels, n_slots, beta, prior, components, scratch)
            after = excess(drawn[: len(block)], block, lane, labels, n_slots, beta, prior, components, scratch)
            if not accept[start] < math.exp(min(0.0, after - before)):
                any_new, any_change = False, False
        if any_new:
            n_slots = open_slots(drawn[: len(block)], block, labels, components.size, n_slots, shared_new)
        if any_change and not _relabel(
            x, block, lane, labels, drawn, prior, components, small, uses_small, scratch, building
        ):
            return start, n_slots, NOT_POSITIVE_DEFINITE
        for i in range(len(block)):
            set_slot(was[i], components.size[was[i]], components.log_det[was[i]], beta, prior, conditionals)
            if any_change:
                k = drawn[i]
                set_slot(k, components.size[k], components.log_det[k], beta, prior, conditionals)
        start += block_size
    return start, n_slots, DONE


@njit(nogil=True, inline="always")
def _relabel(
    x: np.ndarray,
    block: np.ndarray,
    lane: int,
    labels: np.ndarray,
    drawn: np.ndarray,
    prior: Prior,
    components: Components,
    small: SmallComponents,
    uses_small: bool,
    scratch: Scratch,
    building: BuildScratch,
) -> bool:
    """Move the points of a block whose label changed: all out of their old components, then all into their new ones.

    False if the scale matrix of a component that is no longer small is not positive definite.
    """
    size, kappa0 = components.size, prior.kappa0
    for i in range(len(block)):
        k = labels[block[i]]
        if drawn[i] != k:
            size[k] -= 1
            components.changed[k] = small.changed[k] = True
            if size[k] > 0 and small.is_small[k]:
                components.log_det[k] += remove(k, block[i], size[k] + 1, kappa0, small)
                squared_distances(k, kappa0, components, small)
            elif size[k] > 0:
                kappa = kappa0 + size[k]
                move(x[block[i]], lane + i, -(kappa + 1) / kappa, -1 / kappa, components, k, scratch)
    for i in range(len(block)):
        k = drawn[i]
        if k != labels[block[i]]:
            if size[k] == 0:
                _open(k, uses_small, prior, components, small)
            full = small.is_small[k] and size[k] == room(small)
            if full and not _enlarge(x, k, prior, components, small, scratch, building):
                return False
            if small.is_small[k]:
                components.log_det[k] += append(k, block[i], size[k], kappa0, small)
                size[k] += 1
                squared_distances(k, kappa0, components, small)
            else:
                kappa = kappa0 + size[k]
                size[k] += 1
                move(x[block[i]], lane + i, kappa / (kappa + 1), 1 / (kappa + 1), components, k, scratch)
            components.changed[k] = small.changed[k] = True
            labels[block[i]] = k
    return True


@leaf()
def _open(k: int, uses_small: bool, prior: Prior, components: Components, small: SmallComponents) -> None:
    """A component without points in an empty slot."""
    small.is_small[k] = uses_small
    if uses_small:
        clear(k, prior, components, small)
    else:
        components.log_det[k] = prior.log_det
        copy(prior.mean, components.mean[k])
        copy(prior.W, components.W[k])
        copy(prior.y, components.y[k])
        copy(prior.q, components.q[k])


@njit(nogil=True, inline="always")
def _enlarge(
    x: np.ndarray,
    k: int,
    prior: Prior,
    components: Components,
    small: SmallComponents,
    scratch: Scratch,
    building: BuildScratch,
) -> bool:
    """Give a small component its scale matrix; False if that is not positive definite."""
    c, members, xbar = components.size[k], small.members[k], building.xbar
    xbar[:] = 0
    for j in range(c):
        for i in range(len(xbar)):
            xbar[i] += x[members[j], i] / c
    if not build(x, members, c, k, prior.kappa0, prior.S0, components, building):
        return False
    small.is_small[k] = False
    whiten(components.W[k], components.mean[k], scratch.tile, scratch.work, components.y[k], components.q[k])
    return True


@leaf()
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
