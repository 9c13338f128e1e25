"""Drawing the labels of a block: the log weight of every component, and of a new one, for each point; and the draw."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from kernels.cpu.compiled import leaf
from kernels.cpu.components import Components, Prior, Scratch
from kernels.cpu.rank_one import remove_block, without
from kernels.cpu.small_components import SmallComponents, without_block, without_point
from kernels.cpu.tile import FASTMATH
from kernels.cpu.vector_math import log1p

NEGLIGIBLE = -40.0
"""Log weights, relative to the largest, from here on are less than what rounding their sum in float64 loses."""


class Conditionals(NamedTuple):
    """What labels are drawn from: log weight = constant - factor log1p(q shrink). Columns are slots, then a new
    component; the columns of slots change with their components."""

    log_weight: np.ndarray
    """[b, C + 1]"""
    distance: np.ndarray
    """[b, C + 1] q shrink"""
    constant: np.ndarray
    """[C + 1] -inf for an empty slot"""
    factor: np.ndarray
    """[C + 1]"""
    shrink: np.ndarray
    """[C + 1] kappa / (kappa + 1)"""
    power: np.ndarray
    """[C + 1] memory of log1p"""


@njit(nogil=True, cache=True)
def make_conditionals(block_size: int, beta: float, prior: Prior, components: Components) -> Conditionals:
    columns = len(components.size) + 1
    conditionals = Conditionals(
        np.empty((block_size, columns)),
        np.empty((block_size, columns)),
        np.empty(columns),
        np.empty(columns),
        np.empty(columns),
        np.empty(columns),
    )
    for k in range(len(components.size)):
        set_slot(k, components.size[k], components.log_det[k], beta, prior, conditionals)
    return conditionals


@leaf()
def set_slot(k: int, c: int, log_det: float, beta: float, prior: Prior, conditionals: Conditionals) -> None:
    """What a component of c points gives to the conditional of any point outside it."""
    if c == 0:
        conditionals.constant[k], conditionals.factor[k], conditionals.shrink[k] = -math.inf, 0.0, 0.0
        return
    kappa = prior.kappa0 + c
    conditionals.constant[k] = prior.log_count[c] + beta * (prior.predictive[c] - 0.5 * log_det)
    conditionals.factor[k] = 0.5 * beta * (prior.nu0 + c + 1)
    conditionals.shrink[k] = kappa / (kappa + 1)


@leaf(fastmath=FASTMATH)
def weigh(
    block: np.ndarray,
    lane: int,
    labels: np.ndarray,
    n_slots: int,
    log_alpha: float,
    beta: float,
    prior: Prior,
    components: Components,
    small: SmallComponents,
    scratch: Scratch,
    conditionals: Conditionals,
) -> None:
    """conditionals.log_weight[i, k]: log conditional of label k for point i of the block given the points outside it,
    up to a constant; -inf for an empty slot, k = n_slots for a new component.

    The slots of the block's own components are left as they are without the block.
    """
    b = len(block)
    for i in range(b):
        for k in range(n_slots):
            conditionals.distance[i, k] = components.q[k, lane + i] * conditionals.shrink[k]
        conditionals.distance[i, n_slots] = prior.q[lane + i] * prior.kappa0 / (prior.kappa0 + 1)
    conditionals.constant[n_slots] = log_alpha + beta * (prior.predictive[0] - 0.5 * prior.log_det)
    conditionals.factor[n_slots] = 0.5 * beta * (prior.nu0 + 1)
    for first in range(b):
        k = labels[block[first]]
        seen, removed = False, 0
        for i in range(b):
            seen |= i < first and labels[block[i]] == k
            removed += labels[block[i]] == k
        if seen:
            continue
        size = components.size[k]
        log_det = components.log_det[k]
        kappa = prior.kappa0 + size
        if b == 1 and size > 1 and small.is_small[k]:
            scratch.block_q[0], change = without_point(k, block[0], size, prior.kappa0, small)
            log_det += change
        elif b == 1 and size > 1:
            scratch.block_q[0], change = without(components.q[k, lane], kappa)
            log_det += change
        elif size > removed and small.is_small[k]:
            log_det = prior.log_det + without_block(k, block, size, prior.kappa0, small, scratch.block_q)
        elif size > removed:
            log_det += remove_block(
                components.y[k], lane, block, labels, k, kappa, scratch.block_y, scratch.block_q, scratch.v
            )
        set_slot(k, size - removed, log_det, beta, prior, conditionals)
        for i in range(b):
            conditionals.distance[i, k] = scratch.block_q[i] * conditionals.shrink[k] if size > removed else 0.0
    for i in range(b):
        log_weight = conditionals.log_weight[i]
        log1p(conditionals.distance[i, : n_slots + 1], conditionals.power, log_weight)
        for k in range(n_slots + 1):
            log_weight[k] = conditionals.constant[k] - conditionals.factor[k] * log_weight[k]


@leaf()
def draw(log_weight: np.ndarray, uniform: float) -> int:
    """The first index at which the cumulative weight exceeds `uniform` times the total; log_weight is overwritten."""
    largest = log_weight[0]
    for k in range(1, len(log_weight)):
        largest = max(largest, log_weight[k])
    total = 0.0
    for k in range(len(log_weight)):
        if log_weight[k] - largest > NEGLIGIBLE:
            total += math.exp(log_weight[k] - largest)
        log_weight[k] = total
    for k in range(len(log_weight)):
        if log_weight[k] > uniform * total:
            return k
    return len(log_weight) - 1


@leaf()
def open_slots(
    drawn: np.ndarray, block: np.ndarray, labels: np.ndarray, size: np.ndarray, n_slots: int, shared_new: bool
) -> int:
    """Replace the draws of a new component (n_slots) by the lowest slots that the block leaves empty; slots in use."""
    opened, used = -1, n_slots
    for i in range(len(block)):
        if drawn[i] == n_slots:
            if opened < 0 or not shared_new:
                opened = 0
                while not _left_empty(opened, drawn, block, labels, size, n_slots):
                    opened += 1
            # n_slots marks a draw that is not yet replaced: a slot of that number is written once the others are.
            drawn[i] = -1 - opened
            used = max(used, opened + 1)
    for i in range(len(block)):
        if drawn[i] < 0:
            drawn[i] = -1 - drawn[i]
    return used


@leaf()
def _left_empty(
    k: int, drawn: np.ndarray, block: np.ndarray, labels: np.ndarray, size: np.ndarray, n_slots: int
) -> bool:
    """Is slot k without points once those of the block have the labels that are drawn so far?"""
    points = size[k]
    for i in range(len(block)):
        points -= labels[block[i]] == k
        points += (drawn[i] == k and k < n_slots) or drawn[i] == -1 - k
    return points == 0
