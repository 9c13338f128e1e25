"""The E-step of EM and the moments for its M-step, on the GPU, in two launches, and five small ones beside them.

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
about PROGRAMS scatters at most; into no more runs than a run has tiles, because runs are merged one after the other. No
atomics: the order of every sum follows from the shapes.

Before them: `components.py`, and where each component's log joints begin. After them: the log-likelihood of each group,
and the runs of each component merged. Torch's operations on such small tensors cost the host more than these launches.

Responsibilities of a point add up to 1 however far it is, because log joints are computed once, and their logsumexp is
kept as two numbers, the largest and the log of the sum relative to it: as one float32 it would be off by whole nats
where the largest is -1e8. The host waits for the device once, to know how many numbers to set memory aside for.
"""

# mypy: allow-untyped-defs

import math

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
    aligned,
    dot,
    launch_options,
    one_group,
    padded,
    padded_rows,
    target,
    tile_cases,
    tile_constexprs,
)
from kernels.triton.components import pack, relative
from kernels.triton.mixture_log_density import BLOCKS as JOINT_BLOCKS
from kernels.triton.mixture_log_density import joint_log_density
from kernels.types import EMStatistics

PROGRAMS = 1024
SUMMED = 1024  # log-likelihoods at a time
LOOKED_AT = 256  # groups or components at a time
MERGED_ROWS = 32  # of a scatter in a program, at most

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
        group_offsets, component_offsets = one_group(N, x), one_group(M, x)
    group_offsets, component_offsets = aligned(group_offsets), aligned(component_offsets)
    points, means = padded_rows(x), padded_rows(mean)
    G, DP = len(group_offsets) - 1, padded(D)
    factor, constants = pack(precision_chol, None, log_weight, JOINT_BLOCKS[x.dtype, DP], name)
    constants, largest = relative(constants, component_offsets, x.dtype, name)
    # Each a tensor of its own: a kernel for a view at another address would have to be compiled.
    group, start, size = (torch.empty(n, dtype=torch.int64, device=x.device) for n in (M, M, 1))
    with torch.cuda.device_of(x):
        _layout_kernel[(G,)](
            group_offsets, component_offsets, group, start, size, G, BN=LOOKED_AT, **launch_options(4, name)
        )  # fmt: skip
    joint, evidence = joint_log_density(
        points, constants, means, factor, component_offsets, group_offsets, start, int(size)
    )  # fmt: skip
    log_likelihood = torch.empty(G, dtype=torch.float64, device=x.device)
    with torch.cuda.device_of(x):
        _log_likelihood_kernel[(G,)](
            evidence, group_offsets, largest, log_likelihood, N, BN=SUMMED, **launch_options(4, name)
        )  # fmt: skip
    if M == 0:
        return EMStatistics(x.new_empty(0), x.new_empty(0, D), x.new_empty(0, D, D), log_likelihood)

    blocks = BLOCKS[x.dtype, DP]
    tiles = triton.cdiv(N, G * blocks.points)
    splits = max(1, min(triton.cdiv(PROGRAMS, M), math.ceil(math.sqrt(tiles))))
    scatter_blocks = 1 if blocks.features == DP else 3
    counts = torch.empty(splits, M, dtype=x.dtype, device=x.device)
    shifts = torch.empty(splits, M, DP, dtype=x.dtype, device=x.device)
    scatters = torch.empty(splits, M, DP, DP, dtype=x.dtype, device=x.device)
    out = EMStatistics(x.new_empty(M), x.new_empty(M, D), x.new_empty(M, D, D), log_likelihood)
    rows = min(DP, MERGED_ROWS)
    with torch.cuda.device_of(x):
        _statistics_kernel[(M * splits * scatter_blocks,)](
            points,
            means,
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
        _merge_kernel[(M * (DP // rows),)](
            counts, shifts, scatters, out.counts, out.sums, out.scatters, M, D, splits,
            DP=DP, ROWS=rows, **launch_options(4, name, MOST_REGISTERS),
        )  # fmt: skip
    return out


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
        # On NVIDIA's cards sqrt.approx.ftz, 0 for a subnormal r: counts and sums have it, the scatter has not.
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


@triton.jit(do_not_specialize=["G"])
def _layout_kernel(group_offsets_ptr, component_offsets_ptr, group_ptr, start_ptr, size_ptr, G, BN: tl.constexpr):
    """Group of each component, where its log joints begin (less its group's first point), and how many there are."""
    g = tl.program_id(0)
    o_n = tl.arange(0, BN)
    before = tl.zeros([BN], tl.int64)
    for start in tl.range(0, g, BN):
        o_g = start + o_n
        p_points = group_offsets_ptr + o_g
        p_components = component_offsets_ptr + o_g
        n_points = tl.load(p_points + 1, mask=o_g < g, other=0) - tl.load(p_points, mask=o_g < g, other=0)
        n_components = tl.load(p_components + 1, mask=o_g < g, other=0) - tl.load(p_components, mask=o_g < g, other=0)
        before += n_points * n_components
    begin = tl.sum(before, axis=0)
    first_point = tl.load(group_offsets_ptr + g)
    n_points = tl.load(group_offsets_ptr + g + 1) - first_point
    first = tl.load(component_offsets_ptr + g)
    last = tl.load(component_offsets_ptr + g + 1)
    for start in tl.range(first, last, BN):
        o_m = start + o_n
        tl.store(group_ptr + o_m, tl.zeros([BN], tl.int64) + g, mask=o_m < last)
        tl.store(start_ptr + o_m, begin + (o_m - first) * n_points - first_point, mask=o_m < last)
    tl.store(size_ptr, begin + (last - first) * n_points, mask=g == G - 1)


@triton.jit(do_not_specialize=["N"])
def _log_likelihood_kernel(evidence_ptr, offsets_ptr, largest_ptr, out_ptr, N, BN: tl.constexpr):
    """Of each group, in float64: the sum of both rows of evidence, and the constant that they are relative to."""
    group = tl.program_id(0)
    first = tl.load(offsets_ptr + group)
    last = tl.load(offsets_ptr + group + 1)
    total = tl.zeros([BN], tl.float64)
    for start in tl.range(first, last, BN):
        o_n = start + tl.arange(0, BN)
        total += tl.load(evidence_ptr + o_n, mask=o_n < last, other=0.0).to(tl.float64)
        total += tl.load(evidence_ptr + N + o_n, mask=o_n < last, other=0.0).to(tl.float64)
    constant = tl.load(largest_ptr + group) * (last - first).to(tl.float64)
    tl.store(out_ptr + group, tl.sum(total, axis=0) + constant)


@triton.jit(do_not_specialize=["M", "D", "splits"])
def _merge_kernel(
    counts_ptr, shifts_ptr, scatters_ptr, count_ptr, sum_ptr, scatter_ptr, M, D, splits,
    DP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Counts, sums and ROWS rows of the scatters of a component, in float64, of those of its runs about their means."""
    pid = tl.program_id(0)
    m = (pid // (DP // ROWS)).to(tl.int64)
    o_row = (pid % (DP // ROWS)) * ROWS + tl.arange(0, ROWS)
    o_col = tl.arange(0, DP)
    count = tl.full([], 0.0, tl.float64)
    total_row = tl.zeros([ROWS], tl.float64)
    total_col = tl.zeros([DP], tl.float64)
    for split in tl.range(0, splits):
        run = tl.cast(split, tl.int64) * M + m
        n = tl.load(counts_ptr + run).to(tl.float64)
        count += n
        total_row += n * tl.load(shifts_ptr + run * DP + o_row).to(tl.float64)
        total_col += n * tl.load(shifts_ptr + run * DP + o_col).to(tl.float64)
    divisor = tl.where(count > 0, count, 1.0)
    mean_row = total_row / divisor
    mean_col = total_col / divisor
    # Of a run's scatter only the lower triangle is written.
    o_lower = tl.maximum(o_row[:, None], o_col[None, :]) * DP + tl.minimum(o_row[:, None], o_col[None, :])
    scatter = tl.zeros([ROWS, DP], tl.float64)
    for split in tl.range(0, splits):
        run = tl.cast(split, tl.int64) * M + m
        n = tl.load(counts_ptr + run).to(tl.float64)
        apart_row = tl.load(shifts_ptr + run * DP + o_row).to(tl.float64) - mean_row
        apart_col = tl.load(shifts_ptr + run * DP + o_col).to(tl.float64) - mean_col
        scatter += tl.load(scatters_ptr + run * DP * DP + o_lower).to(tl.float64)
        scatter += n * (apart_row[:, None] * apart_col[None, :])
    tl.store(count_ptr + m, count, mask=pid % (DP // ROWS) == 0)
    tl.store(sum_ptr + m * D + o_row, total_row, mask=o_row < D)
    m_out = (o_row < D)[:, None] & (o_col < D)[None, :]
    tl.store(scatter_ptr + m * D * D + o_row[:, None] * D + o_col[None, :], scatter, mask=m_out)


def aot_cases() -> list[Case]:
    signature = {
        "x_ptr": "*x", "mean_ptr": "*x", "joint_ptr": "*x", "start_ptr": "*i64", "evidence_ptr": "*x",
        "group_offsets_ptr": "*i64", "group_ptr": "*i64", "counts_ptr": "*x", "shifts_ptr": "*x", "scatters_ptr": "*x",
        "N": "i32", "M": "i32", "splits": "i32", "scatter_blocks": "i32",
    }  # fmt: skip
    cases = tile_cases(BLOCKS, _statistics_kernel, signature, "em", MOST_REGISTERS)
    offsets = ("group_offsets_ptr", "component_offsets_ptr", "group_ptr", "start_ptr", "size_ptr")
    layout = dict.fromkeys(offsets, "*i64") | {"G": "i32"}
    for name in TARGETS:
        options = launch_options(4, name)
        cases.append(Case("em layout", name, _layout_kernel, layout, {"BN": LOOKED_AT}, options))
        for short in ("fp32", "fp64"):
            types = {"evidence_ptr": f"*{short}", "offsets_ptr": "*i64", "largest_ptr": "*fp64", "out_ptr": "*fp64"}
            constants = {"BN": SUMMED}
            types |= {"N": "i32"}
            cases.append(Case(f"em log-likelihood {short}", name, _log_likelihood_kernel, types, constants, options))
            pointers = [key for key in _merge_kernel.arg_names if key.endswith("_ptr")]
            types = dict.fromkeys(pointers, f"*{short}") | dict.fromkeys(("M", "D", "splits"), "i32")
            for DP in (16, 32, 64, 128):
                constants = {"DP": DP, "ROWS": min(DP, MERGED_ROWS)}
                most = launch_options(4, name, MOST_REGISTERS)
                cases.append(Case(f"em merge {short} D={DP}", name, _merge_kernel, types, constants, most))
    return cases
