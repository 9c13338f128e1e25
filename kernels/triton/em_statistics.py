"""The E-step of EM and the moments for its M-step, on the GPU, in two launches.

1. The log joint density of each point and each component of its group, n_g K_g numbers a group, and their logsumexp
   (`mixture_log_density.py`), all relative to the group's largest constant.
2. One program a component (and a run of its group's points, and a block of its scatter): the points stream past in
   tiles of BN. A tile and its responsibilities r = exp(log joint - logsumexp) give a count, a mean and a scatter about
   that mean, q' q for q = sqrt(r) (x - mean) on the tensor cores. These are added to the running ones, in registers, by
   the formula of Chan, Golub & LeVeque (1983),

       scatter += scatter_tile + n n_tile / (n + n_tile) (mean_tile - mean)(mean_tile - mean)'

   All its terms are positive, so nothing cancels, however far the new mean lies from the old one, and one pass suffices
   for scatters about the new mean. Runs of points are partial buffers, merged by the same formula in float64.

Where a group has many points, its points are cut into `splits` runs to make PROGRAMS programs, so the buffers hold
about PROGRAMS scatters at most. No atomics: the order of every sum follows from the shapes.

Responsibilities of a point add up to 1 however far it is, because log joints are computed once, and their logsumexp is
kept as two numbers, the largest and the log of the sum relative to it: as one float32 it would be off by whole nats
where the largest is -1e8. The host waits for the device once, to know how many numbers to set memory aside for.
"""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import (
    MOST_REGISTERS,
    TARGETS,
    Blocks,
    Case,
    Table,
    dot,
    group_of,
    launch_options,
    padded,
    padded_rows,
    relative_constants,
    target,
    tile_cases,
    tile_constexprs,
)
from kernels.triton.mixture_log_density import joint_log_density
from kernels.types import EMStatistics

PROGRAMS = 1024
SUMMED = 1024  # log-likelihoods at a time

# float32 at D = 64: tiles of 64 points would take fewer instructions a point (56 for 72 on sm_90, with Triton 3.9), but
# 254 registers on sm_80.
BLOCKS: Table = {
    (torch.float32, 16): Blocks(points=64, features=16, warps=4),
    (torch.float32, 32): Blocks(points=64, features=32, warps=4),
    (torch.float32, 64): Blocks(points=32, features=64, warps=4),
    (torch.float32, 128): Blocks(points=32, features=64, warps=4),
    (torch.float64, 16): Blocks(points=64, features=16, warps=4),
    (torch.float64, 32): Blocks(points=32, features=32, warps=4),
    (torch.float64, 64): Blocks(points=32, features=64, warps=8),
    (torch.float64, 128): Blocks(points=32, features=64, warps=8),
}


def em_statistics(
    x: Tensor,
    log_weight: Tensor,
    mean: Tensor,
    precision_chol: Tensor,
    *,
    group_offsets: Tensor | None = None,
    component_offsets: Tensor | None = None,
) -> EMStatistics:
    """See `kernels.em_statistics`."""
    (N, D), M = x.shape, len(mean)
    name = target(x)
    if group_offsets is None or component_offsets is None:
        group_offsets, component_offsets = (torch.tensor([0, n], device=x.device) for n in (N, M))
    group_offsets = group_offsets.contiguous()
    G = len(group_offsets) - 1
    constants, largest = relative_constants(log_weight, precision_chol, None, component_offsets)
    group = group_of(component_offsets, M)
    joint, start, evidence = joint_log_density(
        x, constants, mean, precision_chol, component_offsets, group_offsets, group
    )
    log_likelihood = torch.empty(G, dtype=torch.float64, device=x.device)
    with torch.cuda.device_of(x):
        _group_sum_kernel[(G,)](
            evidence.double().sum(0), group_offsets, log_likelihood, BN=SUMMED, **launch_options(4, name)
        )
    log_likelihood += largest * group_offsets.diff()
    if M == 0:
        return EMStatistics(x.new_empty(0), x.new_empty(0, D), x.new_empty(0, D, D), log_likelihood)

    blocks = BLOCKS[x.dtype, padded(D)]
    splits = max(1, min(triton.cdiv(PROGRAMS, M), triton.cdiv(N, G * blocks.points)))
    DP = padded(D)
    scatter_blocks = 1 if blocks.features == DP else 3
    counts = torch.empty(splits, M, dtype=x.dtype, device=x.device)
    shifts = torch.empty(splits, M, DP, dtype=x.dtype, device=x.device)
    scatters = torch.empty(splits, M, DP, DP, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        _statistics_kernel[(M * splits * scatter_blocks,)](
            padded_rows(x),
            padded_rows(mean),
            joint,
            start,
            evidence,
            group_offsets,
            group,
            counts,
            shifts,
            scatters,
            N,
            M,
            splits,
            scatter_blocks,
            **tile_constexprs(x.dtype, D, blocks, name),
            **launch_options(blocks.warps, name, MOST_REGISTERS),
        )
    count, total, scatter = merge(counts, shifts[..., :D], scatters[..., :D, :D])
    return EMStatistics(count.to(x.dtype), total.to(x.dtype), scatter.to(x.dtype), log_likelihood)


def merge(counts: Tensor, shifts: Tensor, scatters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[M], [M, D], [M, D, D] float64: counts, sums and scatters, of partial ones [splits, M, ...] about their means."""
    counts, shifts = counts.double(), shifts.double()
    count = counts.sum(0)
    total = (counts[..., None] * shifts).sum(0)
    new_mean = total / torch.where(count > 0, count, 1.0)[:, None]
    apart = counts.sqrt()[..., None] * (shifts - new_mean)
    scatter = scatters.sum(0, dtype=torch.float64) + torch.einsum("smi,smj->mij", apart, apart)
    return count, total, scatter.tril() + scatter.tril(-1).mT


@triton.jit(do_not_specialize=["N", "M", "splits", "scatter_blocks"])
def _statistics_kernel(
    x_ptr, mean_ptr, joint_ptr, start_ptr, evidence_ptr, group_offsets_ptr, group_ptr, counts_ptr, shifts_ptr,
    scatters_ptr, N, M, splits, scatter_blocks,
    DP: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    # Blocks of a scatter's lower triangle: one, or (0, 0), (1, 0), (1, 1).
    block = pid % scatter_blocks
    o_row = (block + 1) // 2 * BK + tl.arange(0, BK)
    o_col = block // 2 * BK + tl.arange(0, BK)
    split = (pid // scatter_blocks) % splits
    m = (pid // scatter_blocks // splits).to(tl.int64)
    group = tl.load(group_ptr + m)
    first = tl.load(group_offsets_ptr + group)
    last = tl.load(group_offsets_ptr + group + 1)
    in_split = tl.cdiv(tl.cdiv(last - first, BN), splits) * BN
    first += split * in_split
    last = tl.minimum(first + in_split, last)

    dtype = x_ptr.dtype.element_ty
    o_n = tl.arange(0, BN)
    p_mean = mean_ptr + m * DP
    p_joint = joint_ptr + tl.load(start_ptr + m)
    mean_row = tl.load(p_mean + o_row)
    mean_col = tl.load(p_mean + o_col)
    count = tl.sum(tl.zeros([BN], dtype))
    shift_row = tl.zeros([BK], dtype)
    shift_col = tl.zeros([BK], dtype)
    scatter = tl.zeros([BK, BK], dtype)
    for row in tl.range(first, last, BN, disable_licm=True):
        m_n = o_n < last - row
        joint = tl.load(p_joint + row + o_n, mask=m_n, other=float("-inf"))
        largest = tl.load(evidence_ptr + row + o_n, mask=m_n, other=0.0)
        log_total = tl.load(evidence_ptr + N + row + o_n, mask=m_n, other=0.0)
        # A density of zero under all components has a log_total of -inf.
        r = tl.where(joint == float("-inf"), 0.0, tl.exp(joint - largest - log_total))

        n_tile = tl.sum(r)
        # A division by this, not a product with its inverse: a count may be subnormal.
        divisor = tl.where(n_tile > 0, n_tile, 1.0)
        root = tl.sqrt(r)[:, None]
        p_tile = x_ptr + row * DP + o_n[:, None] * DP
        d = tl.load(p_tile + o_col[None, :], mask=m_n[:, None], other=0.0) - mean_col[None, :]
        tile_col = tl.sum(r[:, None] * d, 0) / divisor
        right = root * (d - tile_col[None, :])
        if BK == DP:
            tile_row = tile_col
            left = right
        else:
            d = tl.load(p_tile + o_row[None, :], mask=m_n[:, None], other=0.0) - mean_row[None, :]
            tile_row = tl.sum(r[:, None] * d, 0) / divisor
            left = root * (d - tile_row[None, :])
        # A fresh product, added in float32: tensor cores truncate as they accumulate, which would add up over tiles.
        scatter += dot(tl.trans(left), right, SPLIT)
        share = n_tile / (count + divisor)
        scatter += (count * share) * (tile_row - shift_row)[:, None] * (tile_col - shift_col)[None, :]
        shift_row += share * (tile_row - shift_row)
        shift_col += share * (tile_col - shift_col)
        count += n_tile

    out = split.to(tl.int64) * M + m
    tl.store(counts_ptr + out, count, mask=block == 0)
    tl.store(shifts_ptr + out * DP + o_row, shift_row, mask=o_row < tl.where(block == 1, 0, DP))
    tl.store(scatters_ptr + out * DP * DP + o_row[:, None] * DP + o_col[None, :], scatter)


@triton.jit
def _group_sum_kernel(value_ptr, offsets_ptr, out_ptr, BN: tl.constexpr):
    group = tl.program_id(0)
    first = tl.load(offsets_ptr + group)
    last = tl.load(offsets_ptr + group + 1)
    total = tl.zeros([BN], tl.float64)
    for start in range(first, last, BN):
        o_n = start + tl.arange(0, BN)
        total += tl.load(value_ptr + o_n, mask=o_n < last, other=0.0).to(tl.float64)
    tl.store(out_ptr + group, tl.sum(total))


def aot_cases() -> list[Case]:
    signature = {
        "x_ptr": "*x", "mean_ptr": "*x", "joint_ptr": "*x", "start_ptr": "*i64", "evidence_ptr": "*x",
        "group_offsets_ptr": "*i64", "group_ptr": "*i64", "counts_ptr": "*x", "shifts_ptr": "*x", "scatters_ptr": "*x",
        "N": "i32", "M": "i32", "splits": "i32", "scatter_blocks": "i32",
    }  # fmt: skip
    cases = tile_cases(BLOCKS, _statistics_kernel, signature, "em", MOST_REGISTERS)
    types = {"value_ptr": "*fp64", "offsets_ptr": "*i64", "out_ptr": "*fp64"}
    for name in TARGETS:
        cases.append(Case("em group sum", name, _group_sum_kernel, types, {"BN": SUMMED}, launch_options(4, name)))
    return cases
