"""Split-merge moves on the GPU, in float64: one launch makes all proposals of all groups, one program a group.

Proposals are made in turn, and a proposal moves one point after the other, so a program's time is latency, as in
`gibbs_sweep.py`; records and moves are those of `records.py`.

A program's slots
    0 .. HELD - 1   records of the components with these numbers, built when a proposal first needs one, and emptied
                    when its members change; those of higher numbers are built anew for each proposal
    prior_slot      of no points
    slot_i, slot_j  the two parts that a proposal makes of one component, or of two united

One proposal
    build      in slot_j the component of anchor j, and for a merge the points of the other one as well
    launch     the anchor i and the candidates that start with it move from slot_j to slot_i
    scan       each candidate: its density under both parts (in the one that it is in, without it, by a closed form);
               it moves from one record to the other if it changes sides
    decide     new numbers for the points that changed components

While a launch lasts, numbers of components may have gaps: a split takes the next number that none has had. The host
closes the gaps, which keeps the order, so that the numbers are those of the reference.

Latency of a proposal, in moves of a point (2,700 cycles each at D = 64 on an H100, by the prediction in
`gibbs_sweep.py`, where P is read once; here it is read in two halves, twice each) and densities (a move without its
update): two moves for each candidate at the launch, two densities for each candidate in each scan, two moves more if it
changes sides, and as many moves as the component has points if its record must be built. A peel of 10 points is some 60
moves: 0.1 ms, predicted, not measured.
"""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import (
    MOST_REGISTERS,
    TARGETS,
    Case,
    aligned,
    group_of,
    launch_options,
    one_group,
    padded,
    padded_rows,
    target,
)
from kernels.triton.records import (
    BLOCKS,
    SLOTS,
    add_component,
    count_of,
    empty,
    log_constants,
    log_det_of,
    log_predictive,
    move_point,
    prior_records,
    record_of,
    tabulate_marginals,
    whitened,
)
from kernels.types import GibbsState, NIWPrior, SplitMergeInfo, SplitMergeProposals

SPLIT, ACCEPTED = tl.constexpr(1), tl.constexpr(2)
"""Bits of a proposal's outcome."""

ROWS = {16: 16, 32: 32, 64: 32, 128: 16}
"""Rows of P in registers while it is updated, by padded D. (All 64 would spill with Triton 3.9 on sm_90.)"""

MOST_HELD = 32
"""Components of a group whose records are kept between proposals; at D = 64 a record takes 33 KiB."""


def split_merge(
    state: GibbsState,
    x: Tensor,
    proposals: SplitMergeProposals,
    *,
    prior: NIWPrior,
    group_offsets: Tensor | None = None,
) -> tuple[GibbsState, SplitMergeInfo]:
    """See `kernels.split_merge`."""
    name = target(x)
    (N, D), device = x.shape, x.device
    if group_offsets is None:
        group_offsets = one_group(N, x)
    (P, G, C), S, DP = proposals.candidates.shape, proposals.uniforms.shape[2], padded(D)
    held = min(MOST_HELD, N)
    labels = state.labels.clone()
    records = torch.empty(G, held + 3, DP * (DP + 2), dtype=torch.float64, device=device)
    z, log_det = whitened(x, prior, group_offsets)
    records[:, held] = prior_records(log_det, D, DP)
    # Programs start in this order: large groups first, so that none of them is left for the end.
    groups = group_offsets.diff().argsort(descending=True, stable=True)
    marginals = torch.empty(N + G, dtype=torch.float64, device=device)
    with_i = torch.empty(N, dtype=torch.int32, device=device)
    outcome = torch.zeros(P, G, dtype=torch.int32, device=device)
    log_ratio = torch.full((P, G), -torch.inf, dtype=torch.float64, device=device)
    constants = log_constants(prior, group_offsets, N)
    anchors, candidates, launch, uniforms, accept = proposals
    inputs = [state.alpha, anchors, candidates, launch.int(), uniforms, accept, group_offsets]
    inputs += [prior.kappa0, prior.nu0, constants]
    with torch.cuda.device_of(x):
        _split_merge_kernel[(G,)](
            padded_rows(z), *map(aligned, inputs), groups,
            labels, marginals, records, with_i, outcome, log_ratio, G, P, C, S, held,
            DP=DP, ROWS=ROWS[DP], **launch_options(BLOCKS[DP].warps, name, MOST_REGISTERS),
        )  # fmt: skip
    info = SplitMergeInfo((outcome & SPLIT.value).bool(), log_ratio, (outcome & ACCEPTED.value).bool())
    return GibbsState(_without_gaps(labels, group_offsets, P), state.alpha.clone()), info


def _without_gaps(labels: Tensor, group_offsets: Tensor, P: int) -> Tensor:
    """Labels of each group, below n_g + P, numbered anew in the same order."""
    G, N = len(group_offsets) - 1, len(labels)
    group = group_of(group_offsets, N)
    first = group_offsets[:-1] + P * torch.arange(G, device=labels.device)
    entry = first[group] + labels
    used = torch.zeros(N + P * G, dtype=torch.int64, device=labels.device)
    used[entry] = 1
    before = used.cumsum(0) - used
    return before[entry] - before[first][group]


def aot_cases() -> list[Case]:
    constants = ("DP", "ROWS")
    kinds = dict.fromkeys(("anchors_ptr", "candidates_ptr", "offsets_ptr", "groups_ptr", "labels_ptr"), "*i64")
    kinds |= dict.fromkeys(("launch_ptr", "with_i_ptr", "outcome_ptr"), "*i32")
    kinds |= dict.fromkeys(SCALARS, "i32")
    signature = {key: kinds.get(key, "*fp64") for key in _split_merge_kernel.arg_names if key not in constants}
    return [
        Case(
            f"split merge fp64 D={DP}",
            name,
            _split_merge_kernel,
            signature,
            {"DP": DP, "ROWS": rows},
            launch_options(BLOCKS[DP].warps, name, MOST_REGISTERS),
        )
        for DP, rows in ROWS.items()
        for name in TARGETS
    ]


# ---------------------------------------------------------------- the kernel

SCALARS = ("G", "P", "C", "S", "HELD")


@triton.jit(do_not_specialize=SCALARS)
def _split_merge_kernel(
    x_ptr, alpha_ptr, anchors_ptr, candidates_ptr, launch_ptr, uniforms_ptr, accept_ptr, offsets_ptr, kappa0_ptr,
    nu0_ptr, constants_ptr, groups_ptr, labels_ptr, marginals_ptr, records_ptr, with_i_ptr, outcome_ptr, log_ratio_ptr,
    G, P, C, S, HELD, DP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    g = tl.load(groups_ptr + tl.program_id(0))
    first_row = tl.load(offsets_ptr + g)
    n_points = (tl.load(offsets_ptr + g + 1) - first_row).to(tl.int32)
    kappa0 = tl.load(kappa0_ptr + g)
    nu0 = tl.load(nu0_ptr + g)
    log_alpha = tl.log(tl.load(alpha_ptr + g))
    x_ptr += first_row * DP
    labels_ptr += first_row
    with_i_ptr += first_row
    constants_ptr += 2 * (first_row + g)
    marginals_ptr += first_row + g
    records_ptr += g * (HELD + 3) * (DP * (DP + 2))
    tabulate_marginals(constants_ptr, marginals_ptr, n_points)
    next_label = 0
    for start in tl.range(0, n_points, SLOTS, disable_licm=True):
        o_k = start + tl.arange(0, SLOTS)
        label = tl.load(labels_ptr + o_k, mask=o_k < n_points, other=-1)
        next_label = tl.maximum(next_label, tl.max(label, axis=0).to(tl.int32) + 1)
    for k in tl.range(0, HELD, disable_licm=True):
        empty(records_ptr, k, DP)
    for p in tl.range(0, P, disable_licm=True):
        row = p * G + g
        candidates = candidates_ptr + row * C
        i = tl.load(anchors_ptr + 2 * row)
        j = tl.load(anchors_ptr + 2 * row + 1)
        if i != j:
            a = tl.load(labels_ptr + i).to(tl.int32)
            b = tl.load(labels_ptr + j).to(tl.int32)
            is_split = a == b
            others = 0
            if not is_split:
                others = _n_without(candidates, C, labels_ptr, n_points, a)
            if others == 0:
                log_split = _propose(
                    x_ptr, candidates, launch_ptr + row * C, uniforms_ptr + row * S * C, constants_ptr, marginals_ptr,
                    labels_ptr, records_ptr, with_i_ptr, i, a, b, log_alpha, n_points, kappa0, nu0, C, S, HELD,
                    DP, ROWS,
                )  # fmt: skip
                log_ratio = tl.where(is_split, log_split, -log_split)
                tl.store(log_ratio_ptr + row, log_ratio)
                # In this order, so that a ratio that is no number is refused.
                accepted = (log_ratio >= 0) | (tl.load(accept_ptr + row) < tl.exp(log_ratio))
                tl.store(outcome_ptr + row, tl.where(is_split, SPLIT, 0) + tl.where(accepted, ACCEPTED, 0))
                if accepted:
                    to = tl.where(is_split, next_label, b)
                    _relabel(labels_ptr, with_i_ptr, a, to, is_split, n_points)
                    if a < HELD:
                        empty(records_ptr, a, DP)
                    if to < HELD:
                        empty(records_ptr, to, DP)
                    next_label = tl.maximum(next_label, to + 1)


@triton.jit
def _n_without(candidates, C, labels_ptr, n_points, label):
    """Points of that label, one anchor apart, that are no candidates."""
    n = -1
    for i in tl.range(0, n_points, SLOTS, disable_licm=True):
        o_i = i + tl.arange(0, SLOTS)
        n += tl.sum((tl.load(labels_ptr + o_i, mask=o_i < n_points, other=-1) == label).to(tl.int32), axis=0)
    for c in tl.range(0, C, SLOTS, disable_licm=True):
        o_c = c + tl.arange(0, SLOTS)
        point = tl.load(candidates + o_c, mask=o_c < C, other=-1)
        n -= tl.sum((tl.load(labels_ptr + point, mask=point >= 0, other=-1) == label).to(tl.int32), axis=0)
    return n


@triton.jit
def _propose(
    x_ptr, candidates, launch_ptr, uniforms_ptr, constants_ptr, marginals_ptr, labels_ptr, records_ptr, with_i_ptr,
    i, a, b, log_alpha, n_points, kappa0, nu0, C, S, HELD, DP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """log of the posterior odds of the two parts against one component, over the probability of proposing the split.

    A split is drawn, and written to with_i; of a merge, the split that would undo it is scored.
    """
    prior_slot = HELD
    slot_i = HELD + 1
    slot_j = HELD + 2
    record_i = record_of(records_ptr, slot_i, DP)
    record_j = record_of(records_ptr, slot_j, DP)

    tl.debug_barrier()  # all have read what the proposal before left in the parts and in with_i
    if b < HELD:
        if count_of(record_of(records_ptr, b, DP), DP) == 0:
            add_component(records_ptr, x_ptr, labels_ptr, b, b, n_points, kappa0, prior_slot, DP, ROWS)
        _copy(records_ptr, b, slot_j, DP, ROWS)
    else:
        empty(records_ptr, slot_j, DP)
        add_component(records_ptr, x_ptr, labels_ptr, b, slot_j, n_points, kappa0, prior_slot, DP, ROWS)
    if a != b:
        add_component(records_ptr, x_ptr, labels_ptr, a, slot_j, n_points, kappa0, prior_slot, DP, ROWS)
    log_split = log_alpha - _log_marginal(record_j, marginals_ptr, nu0, DP)

    empty(records_ptr, slot_i, DP)
    for start in tl.range(0, n_points, SLOTS, disable_licm=True):
        o_k = start + tl.arange(0, SLOTS)
        tl.store(with_i_ptr + o_k, (o_k == i).to(tl.int32), mask=o_k < n_points)
    tl.debug_barrier()
    _transfer(records_ptr, x_ptr + i * DP, slot_j, slot_i, kappa0, prior_slot, DP, ROWS)
    for c in tl.range(0, C, disable_licm=True):
        k = tl.load(candidates + c)
        if _is_of(labels_ptr, k, a, b) & (tl.load(launch_ptr + c) != 0):
            tl.store(with_i_ptr + k, 1)
            _transfer(records_ptr, x_ptr + k * DP, slot_j, slot_i, kappa0, prior_slot, DP, ROWS)

    for step in tl.range(0, S * C, disable_licm=True):
        c = step % C
        k = tl.load(candidates + c)
        if _is_of(labels_ptr, k, a, b):
            was_i = tl.load(with_i_ptr + k) != 0
            log_odds = _log_weight(record_i, x_ptr + k * DP, was_i, constants_ptr, kappa0, nu0, DP, ROWS)
            log_odds -= _log_weight(record_j, x_ptr + k * DP, not was_i, constants_ptr, kappa0, nu0, DP, ROWS)
            log_i = tl.minimum(log_odds, 0.0) - tl.log(1 + tl.exp(-tl.abs(log_odds)))
            joins_i = tl.load(uniforms_ptr + step) < tl.exp(log_i)
            if step >= (S - 1) * C:
                if a != b:
                    joins_i = tl.load(labels_ptr + k) == a
                log_split -= tl.where(joins_i, log_i, log_i - log_odds)
            if joins_i != was_i:
                tl.debug_barrier()
                tl.store(with_i_ptr + k, joins_i.to(tl.int32))
                source = tl.where(joins_i, slot_j, slot_i)
                _transfer(records_ptr, x_ptr + k * DP, source, slot_i + slot_j - source, kappa0, prior_slot, DP, ROWS)
    log_split += _log_marginal(record_i, marginals_ptr, nu0, DP) + _log_marginal(record_j, marginals_ptr, nu0, DP)
    return log_split + 0.5 * nu0 * log_det_of(record_of(records_ptr, prior_slot, DP), DP)


@triton.jit
def _is_of(labels_ptr, k, a, b):
    """Is there a point k, and does it share a component with an anchor?"""
    label = tl.load(labels_ptr + k, mask=k >= 0, other=-1)
    return (label == a) | (label == b)


@triton.jit
def _copy(records_ptr, source, target, DP: tl.constexpr, ROWS: tl.constexpr):
    source_ptr = record_of(records_ptr, source, DP)
    target_ptr = record_of(records_ptr, target, DP)
    o_d = tl.arange(0, DP)
    o_r = tl.arange(0, ROWS)
    for r in tl.range(0, DP, ROWS, disable_licm=True):
        o_rows = (r + o_r)[:, None] * DP + o_d[None, :]
        tl.store(target_ptr + o_rows, tl.load(source_ptr + o_rows))
    tl.store(target_ptr + DP * DP + o_d, tl.load(source_ptr + DP * DP + o_d))
    tl.store(target_ptr + DP * (DP + 1), count_of(source_ptr, DP))
    tl.store(target_ptr + DP * (DP + 1) + 1, log_det_of(source_ptr, DP))
    tl.debug_barrier()


@triton.jit
def _transfer(records_ptr, x_ptr, source, target, kappa0, PRIOR, DP: tl.constexpr, ROWS: tl.constexpr):
    """A point from one part to the other; an anchor stays in each, so none is left empty."""
    for step in tl.range(0, 2, disable_licm=True):
        sign = tl.where(step == 0, -1.0, 1.0).to(tl.float64)
        move_point(records_ptr, x_ptr, tl.where(step == 0, source, target), sign, kappa0, PRIOR, DP, ROWS)


@triton.jit
def _log_weight(record_ptr, x_ptr, is_member, constants_ptr, kappa0, nu0, DP: tl.constexpr, ROWS: tl.constexpr):
    """log n t(x) of a part without the point itself.

    With kappa counting the member and r = kappa / (kappa - 1), its squared distance becomes r^2 q / (1 - r q) without
    it, and the log determinant changes by log(1 - r q).
    """
    o_d = tl.arange(0, DP)
    o_r = tl.arange(0, ROWS)
    mean_ptr = record_ptr + DP * DP
    d = tl.load(x_ptr + o_d) - tl.load(mean_ptr + o_d)
    pd = tl.zeros([DP], tl.float64)
    for r in tl.range(0, DP, ROWS, disable_licm=True):
        d_rows = tl.load(x_ptr + r + o_r) - tl.load(mean_ptr + r + o_r)
        rows = tl.load(record_ptr + ((r + o_r)[:, None] * DP + o_d[None, :]))
        pd += tl.sum(rows * d_rows[:, None], axis=0)
    q = tl.sum(pd * d, axis=0)
    n = count_of(record_ptr, DP)
    ratio = (kappa0 + n) / (kappa0 + n - 1)
    left = tl.where(is_member, 1 - ratio * q, 1.0)
    q = tl.where(is_member, q * ratio * ratio / left, q)
    n -= tl.where(is_member, 1.0, 0.0)
    p_entry = constants_ptr + 2 * n.to(tl.int32)
    log_det = log_det_of(record_ptr, DP) + tl.log(left)
    return tl.load(p_entry) + log_predictive(tl.load(p_entry + 1), log_det, q, kappa0 + n, nu0 + n)


@triton.jit
def _log_marginal(record_ptr, marginals_ptr, nu0, DP: tl.constexpr):
    """log Gamma(n) + log p(points of the record), but for 0.5 nu0 log det S0."""
    n = count_of(record_ptr, DP)
    return tl.load(marginals_ptr + n.to(tl.int32)) - 0.5 * (nu0 + n) * log_det_of(record_ptr, DP)


@triton.jit
def _relabel(labels_ptr, with_i_ptr, a, to, is_split, n_points):
    """A new number for the points with anchor i: of a split, for those of its part; of a merge, for all of label a."""
    tl.debug_barrier()
    for start in tl.range(0, n_points, SLOTS, disable_licm=True):
        o_k = start + tl.arange(0, SLOTS)
        m_k = o_k < n_points
        label = tl.load(labels_ptr + o_k, mask=m_k, other=-1)
        part = tl.load(with_i_ptr + o_k, mask=m_k, other=0) != 0
        moves = (label == a) & (part | (not is_split))
        tl.store(labels_ptr + o_k, tl.where(moves, to.to(tl.int64), label), mask=m_k)
    tl.debug_barrier()
