"""Split-merge moves, one task a group, in float64.

A component is held as in a Gibbs sweep: count, mean m and W = inverse Cholesky factor of its posterior scale matrix. It
is built from the data when a proposal first needs it, and again after its members changed, so that a result depends on
the labels alone. A proposal works on copies: the two anchors' components as one, and its two parts, which exchange
points by rank-one updates. Of few candidates only their inner products are needed (`peels.py`): of all points in one
component of 64 dimensions 40 peels take two fifths of the time.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

from kernels.cpu import threads
from kernels.cpu.compiled import leaf
from kernels.cpu.components import (
    DONE,
    NOT_POSITIVE_DEFINITE,
    TOO_FAR,
    Components,
    Prior,
    build_scratch,
    centred,
    check_outcomes,
    compact,
    copy,
    grow,
    has_far_point,
    log_marginals,
    make_components,
    make_prior,
    rebuild_one,
)
from kernels.cpu.gibbs_sweep import FIRST_CAPACITY
from kernels.cpu.parts import Proposal, log_sigmoid, log_split, log_weight
from kernels.cpu.peels import LANES, MOST_CANDIDATES, NATS_LOST, make_peel, propose_peel
from kernels.cpu.rank_one import move_factor, whiten_point, without
from kernels.cpu.small_components import features
from kernels.cpu.tile import FASTMATH, padded
from kernels.types import GibbsState, NIWPrior, SplitMergeInfo, SplitMergeProposals

WITH_I, WITH_J, BOTH = 0, 1, 2
"""Slots of a proposal's components: with anchor i, with anchor j, and the two as one."""


def split_merge(
    state: GibbsState,
    x: Tensor,
    proposals: SplitMergeProposals,
    *,
    prior: NIWPrior,
    group_offsets: Tensor | None = None,
) -> tuple[GibbsState, SplitMergeInfo]:
    points = np.ascontiguousarray(x.double().numpy())
    edges = [0, len(x)] if group_offsets is None else group_offsets.tolist()
    P, G = proposals.accept.shape
    mu0, kappa0, nu0, S0 = (np.ascontiguousarray(field.numpy()) for field in prior)
    fields = [field.numpy() for field in proposals]
    labels = state.labels.numpy().copy()
    split, accepted = np.zeros((G, P), np.bool_), np.zeros((G, P), np.bool_)
    log_ratio = np.full((G, P), -math.inf)
    tasks = []
    for g, (a, b) in enumerate(pairwise(edges)):
        numbers = [np.ascontiguousarray(field[:, g]) for field in fields]
        tasks.append(
            (centred(points[a:b], mu0[g]), labels[a:b], float(state.alpha[g]), *numbers, kappa0[g], nu0[g], S0[g],
             MOST_CANDIDATES, split[g], log_ratio[g], accepted[g])
        )  # fmt: skip
    check_outcomes(threads.run(_split_merge_group, tasks))
    info = SplitMergeInfo(*(torch.from_numpy(np.ascontiguousarray(field.T)) for field in (split, log_ratio, accepted)))
    return GibbsState(torch.from_numpy(labels), state.alpha.clone()), info


@njit(nogil=True, cache=True)
def _split_merge_group(
    x: np.ndarray,
    labels: np.ndarray,
    alpha: float,
    anchors: np.ndarray,
    candidates: np.ndarray,
    launch: np.ndarray,
    uniforms: np.ndarray,
    accept: np.ndarray,
    kappa0: float,
    nu0: float,
    S0: np.ndarray,
    most_candidates: int,
    split_out: np.ndarray,
    log_ratio_out: np.ndarray,
    accepted_out: np.ndarray,
) -> int:
    """All proposals of one group, by products where at most so many candidates are named; labels are changed in place.

    Which form a proposal takes depends on itself and the data of the group alone.
    """
    n, D = x.shape
    scratch = build_scratch(n, D)
    prior = make_prior(x, kappa0, nu0, S0, scratch.factors)
    if math.isnan(prior.log_det):
        return NOT_POSITIVE_DEFINITE
    named = np.zeros(len(accept), np.int64)
    for p in range(len(accept)):
        for c in candidates[p]:
            named[p] += c >= 0
    fewest = len(x) if len(accept) == 0 else named.min()
    has_digits = 0.5 * (nu0 + LANES) * np.finfo(x.dtype).eps / kappa0 < NATS_LOST
    u = features(x, kappa0, S0, scratch.factors) if has_digits and fewest <= most_candidates else np.empty((0, 0))
    if len(u) == 0 and has_far_point(x, prior):
        return TOO_FAR
    peel = make_peel(x, u)
    marginal = log_marginals(prior)
    n_components = 0
    for label in labels:
        n_components = max(n_components, label + 1)
    capacity = FIRST_CAPACITY
    while capacity < n_components + 1:
        capacity *= 2
    components = make_components(x, capacity)
    for label in labels:
        components.size[label] += 1
    parts = make_components(x, 3)
    with_i = np.empty(n, np.bool_)
    v, z = np.empty(padded(D)), np.empty(padded(D))
    for p in range(len(accept)):
        i, j = anchors[p]
        if i == j:
            continue
        a, b = labels[i], labels[j]
        is_split = a == b
        split_out[p] = is_split
        movable = 0
        for c in candidates[p]:
            movable += c >= 0 and labels[c] == a
        if not is_split and movable < components.size[a] - 1:
            continue
        if not rebuild_one(x, labels, b, kappa0, S0, components, scratch):
            return NOT_POSITIVE_DEFINITE
        by_products = len(u) > 0 and named[p] <= most_candidates
        proposal = Proposal(i, j, candidates[p], launch[p], uniforms[p])
        given = (x, labels, alpha, proposal, prior, marginal, components)
        log_odds = propose_peel(*given, peel, with_i) if by_products else _propose(*given, parts, with_i, v, z)
        log_ratio = log_odds if is_split else -log_odds
        log_ratio_out[p] = log_ratio
        # In this order, so that a ratio that is no number is refused.
        if not (log_ratio >= 0 or accept[p] < math.exp(log_ratio)):
            continue
        accepted_out[p] = True
        to = n_components if is_split else b
        for k in range(n):
            if labels[k] == a and (not is_split or with_i[k]):
                labels[k] = to
                components.size[a] -= 1
                components.size[to] += 1
        components.changed[a] = True
        components.changed[to] = True
        n_components = compact(labels, n_components + is_split, components)
        if n_components + 1 > len(components.size):
            components = grow(components, make_components(x, 2 * len(components.size)))
    return DONE


@leaf()
def _propose(
    x: np.ndarray,
    labels: np.ndarray,
    alpha: float,
    proposal: Proposal,
    prior: Prior,
    marginal: np.ndarray,
    components: Components,
    parts: Components,
    with_i: np.ndarray,
    v: np.ndarray,
    z: np.ndarray,
) -> float:
    """log of the posterior odds of the two parts against one component, over the probability of proposing the split.

    A split is drawn, and written to with_i; of a merge, the split that would undo it is scored. NaN if float64 could
    not take a point out of a part.
    """
    i, j, candidates, launch, uniforms = proposal
    n, a, b = len(labels), labels[i], labels[j]
    _start_from(components.size[b], components.log_det[b], components.mean[b], components.W[b], parts, BOTH)
    if a != b:
        for k in range(n):
            if labels[k] == a:
                _move(x[k], 1, prior.kappa0, parts, BOTH, v, z)
    _start_from(parts.size[BOTH], parts.log_det[BOTH], parts.mean[BOTH], parts.W[BOTH], parts, WITH_J)
    _start_from(0, prior.log_det, prior.mean, prior.W, parts, WITH_I)
    for k in range(n):
        with_i[k] = False
    _transfer(x[i], WITH_J, WITH_I, prior.kappa0, parts, v, z)
    for t in range(len(candidates)):
        k = candidates[t]
        if k >= 0 and launch[t] and (labels[k] == a or labels[k] == b):
            with_i[k] = True
            _transfer(x[k], WITH_J, WITH_I, prior.kappa0, parts, v, z)
    log_proposal = 0.0
    for scan in range(len(uniforms)):
        last = scan == len(uniforms) - 1
        for t in range(len(candidates)):
            k = candidates[t]
            if k < 0 or (labels[k] != a and labels[k] != b):
                continue
            log_odds = _log_weight(x[k], WITH_I, with_i[k], prior, parts, v, z) - _log_weight(
                x[k], WITH_J, not with_i[k], prior, parts, v, z
            )
            log_i = log_sigmoid(log_odds)
            joins_i = labels[k] == a if last and a != b else uniforms[scan, t] < math.exp(log_i)
            if last:
                log_proposal += log_i if joins_i else log_i - log_odds
            if joins_i != with_i[k]:
                _transfer(x[k], WITH_J if joins_i else WITH_I, WITH_I if joins_i else WITH_J, prior.kappa0, parts, v, z)
                with_i[k] = joins_i
    with_i[i] = True
    log_det = parts.log_det
    return (
        log_split(
            alpha,
            parts.size[WITH_I],
            parts.size[WITH_J],
            log_det[WITH_I],
            log_det[WITH_J],
            log_det[BOTH],
            prior,
            marginal,
        )
        - log_proposal
    )


@leaf()
def _start_from(size: int, log_det: float, mean: np.ndarray, W: np.ndarray, parts: Components, part: int) -> None:
    parts.size[part] = size
    parts.log_det[part] = log_det
    copy(mean, parts.mean[part])
    copy(W, parts.W[part])


@leaf()
def _move(x: np.ndarray, sign: int, kappa0: float, parts: Components, part: int, v: np.ndarray, z: np.ndarray) -> None:
    """A point into (sign 1) or out of (-1) a part; an anchor stays in each, so none is left empty."""
    kappa = kappa0 + parts.size[part] + min(0, sign)
    c, s = (kappa / (kappa + 1), 1 / (kappa + 1)) if sign > 0 else (-(kappa + 1) / kappa, -1 / kappa)
    parts.log_det[part] += move_factor(x, c, s, parts.W[part], parts.mean[part], v, z)
    parts.size[part] += sign


@leaf()
def _transfer(
    x: np.ndarray, source: int, target: int, kappa0: float, parts: Components, v: np.ndarray, z: np.ndarray
) -> None:
    _move(x, -1, kappa0, parts, source, v, z)
    _move(x, 1, kappa0, parts, target, v, z)


@leaf(fastmath=FASTMATH | {"reassoc"})
def _log_weight(
    x: np.ndarray, part: int, is_member: bool, prior: Prior, parts: Components, v: np.ndarray, z: np.ndarray
) -> float:
    """log n_k t_k(x) of a part without the point itself (see `rank_one.without`)."""
    whiten_point(x, parts.mean[part], parts.W[part], z, v)
    q = 0.0
    for i in range(len(v)):
        q += v[i] * v[i]
    n, log_det = parts.size[part], parts.log_det[part]
    if is_member:
        q, change = without(q, prior.kappa0 + n)
        log_det += change
        n -= 1
    kappa = prior.kappa0 + n
    return log_weight(n, log_det, math.log1p(q * kappa / (kappa + 1)), prior)
