"""The E-step of EM and the moments for its M-step, on the GPU, in two launches.

1. The logsumexp of each point over the components of its group (`mixture_log_density.py`), relative to the group's largest
   constant: N numbers.
2. One program a component (and a run of its group's points, and a block of rows of its scatter): the factor stays, the
   points stream past in tiles of BN. Each tile is whitened again for its responsibilities r = exp(log joint - logsumexp),
   which never reach memory, and gives a count, a mean and a scatter about that mean, q' q for q = sqrt(r) (x - mean) on
   the tensor cores. These are added to the running ones by the formula of Chan, Golub & LeVeque (1983),

       scatter += scatter_tile + n n_tile / (n + n_tile) (mean_tile - mean)(mean_tile - mean)'

   All its terms are positive, so nothing cancels, however far the new mean lies from the old one, and one pass suffices
   for scatters about the new mean. Runs of points are partial buffers, merged by the same formula in float64.

Where a group has many points, its points are cut into `splits` runs to make PROGRAMS programs, so the buffers hold about
PROGRAMS scatters at most. No atomics: the order of every sum follows from the shapes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import (
    Blocks,
    Case,
    Table,
    dot,
    group_of,
    launch_options,
    load_factor,
    load_points,
    log_density,
    pack_factor,
    padded,
    relative_constants,
    squared_distance,
    squared_distance_streamed,
    target,
    tile_cases,
    tile_constexprs,
)
from kernels.triton.mixture_log_density import logsumexp_density
from kernels.types import EMStatistics

PROGRAMS = 1024

BLOCKS: Table = {
    (torch.float32, 16): Blocks(points=64, features=16, warps=4),
    (torch.float32, 32): Blocks(points=64, features=32, warps=4),
    (torch.float32, 64): Blocks(points=64, features=32, warps=8),
    (torch.float32, 128): Blocks(points=64, features=32, warps=8),
    (torch.float64, 16): Blocks(points=32, features=16, warps=4),
    (torch.float64, 32): Blocks(points=32, features=32, warps=4),
    (torch.float64, 64): Blocks(points=32, features=32, warps=8),
    (torch.float64, 128): Blocks(points=32, features=32, warps=8),
}
ROWS = 64  # of a scatter in a program, at most: 64 x 128 of them fit in the registers of 8 warps


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
    evidence = logsumexp_density(x, constants, mean, precision_chol, False, component_offsets, group_offsets)
    log_likelihood = torch.empty(G, dtype=torch.float64, device=x.device)
    with torch.cuda.device_of(x):
        _group_sum_kernel[(G,)](evidence, group_offsets, log_likelihood, BN=1024, **launch_options(4))
    log_likelihood += largest * group_offsets.diff()
    if M == 0:
        return EMStatistics(x.new_empty(0), x.new_empty(0, D), x.new_empty(0, D, D), log_likelihood)

    blocks = BLOCKS[x.dtype, padded(D)]
    splits = max(1, min(triton.cdiv(PROGRAMS, M), triton.cdiv(N, G * blocks.points)))
    rows = min(padded(D), ROWS)
    row_blocks = triton.cdiv(D, rows)
    counts = torch.empty(splits, M, dtype=x.dtype, device=x.device)
    shifts = torch.empty(splits, M, D, dtype=x.dtype, device=x.device)
    scatters = torch.empty(splits, M, D, D, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        _statistics_kernel[(M * splits * row_blocks,)](
            x.contiguous(),
            mean.contiguous(),
            pack_factor(precision_chol, blocks),
            constants.to(x.dtype),
            evidence,
            group_offsets,
            group_of(component_offsets, M),
            counts,
            shifts,
            scatters,
            M,
            splits,
            row_blocks,
            **tile_constexprs(x.dtype, D, blocks, name),
            ROWS=rows,
            **launch_options(blocks.warps),
        )
    count, total, scatter = merge(counts, shifts, scatters)
    return EMStatistics(count.to(x.dtype), total.to(x.dtype), scatter.to(x.dtype), log_likelihood)


def merge(counts: Tensor, shifts: Tensor, scatters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[M], [M, D], [M, D, D] float64: counts, sums and scatters of partial ones [splits, M, ...] about their own means."""
    counts, shifts = counts.double(), shifts.double()
    count = counts.sum(0)
    total = (counts[..., None] * shifts).sum(0)
    new_mean = torch.where(count > 0, 1 / count, 0.0)[:, None] * total
    apart = counts.sqrt()[..., None] * (shifts - new_mean)
    scatter = scatters.sum(0, dtype=torch.float64) + torch.einsum("smi,smj->mij", apart, apart)
    # The products of the two parts of an element and of its mirror image are summed in different orders.
    return count, total, 0.5 * (scatter + scatter.mT)


@triton.jit(do_not_specialize=["M", "splits", "row_blocks"])
def _statistics_kernel(
    x_ptr, mean_ptr, factor_ptr, constants_ptr, evidence_ptr, group_offsets_ptr, group_ptr, counts_ptr, shifts_ptr,
    scatters_ptr, M, splits, row_blocks,
    D: tl.constexpr, DP: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    o_row = (pid % row_blocks) * ROWS + tl.arange(0, ROWS)
    split = (pid // row_blocks) % splits
    m = (pid // row_blocks // splits).to(tl.int64)
    group = tl.load(group_ptr + m)
    first = tl.load(group_offsets_ptr + group)
    last = tl.load(group_offsets_ptr + group + 1)
    in_split = tl.cdiv(tl.cdiv(last - first, BN), splits) * BN
    first += split * in_split
    last = tl.minimum(first + in_split, last)

    dtype = x_ptr.dtype.element_ty
    o_d = tl.arange(0, DP)
    m_d = o_d < D
    mean = tl.load(mean_ptr + m * D + o_d, mask=m_d, other=0.0)
    mean_row = tl.load(mean_ptr + m * D + o_row, mask=o_row < D, other=0.0)
    count = tl.sum(tl.zeros([BN], dtype))
    shift = tl.zeros([DP], dtype)
    shift_row = tl.zeros([ROWS], dtype)
    scatter = tl.zeros([ROWS, DP], dtype)
    for start in tl.range(first, last, BN, disable_licm=True):
        rows = start + tl.arange(0, BN)
        m_point = rows < last
        if DP <= 2 * BK:
            x_left, x_right = load_points(x_ptr, rows, last, D, BK)
            w_left, w_right = load_factor(factor_ptr, m, M, DP, BK)
            q = squared_distance(x_left, x_right, w_left, w_right, mean_ptr + m * D, D, DP, BK, SPLIT)
        else:
            q = squared_distance_streamed(x_ptr, rows, last, mean_ptr + m * D, factor_ptr, m, D, DP, BK, SPLIT)
        evidence = tl.load(evidence_ptr + rows, mask=m_point, other=float("-inf"))
        joint = log_density(q, constants_ptr + m * 3, False)
        r = tl.where(evidence == float("-inf"), 0.0, tl.exp(joint - evidence))

        p_x = x_ptr + rows[:, None] * D
        d = tl.load(p_x + o_d[None, :], mask=m_point[:, None] & m_d[None, :], other=0.0) - mean[None, :]
        n_tile = tl.sum(r)
        inverse = 1 / tl.where(n_tile > 0, n_tile, 1.0)
        tile_shift = tl.sum(r[:, None] * d, 0) * inverse
        root = tl.sqrt(r)[:, None]
        right = root * (d - tile_shift[None, :])
        if ROWS == DP:
            left = right
            tile_shift_row = tile_shift
        else:
            d = tl.load(p_x + o_row[None, :], mask=m_point[:, None] & (o_row < D)[None, :], other=0.0) - mean_row[None, :]
            tile_shift_row = tl.sum(r[:, None] * d, 0) * inverse
            left = root * (d - tile_shift_row[None, :])

        # A fresh product, added in float32: tensor cores truncate as they accumulate, which would add up over tiles.
        scatter += dot(tl.trans(left), right, SPLIT)
        share = n_tile / tl.where(n_tile > 0, count + n_tile, 1.0)
        apart = tile_shift - shift
        apart_row = tile_shift_row - shift_row
        scatter += (count * share) * apart_row[:, None] * apart[None, :]
        shift += share * apart
        shift_row += share * apart_row
        count += n_tile

    out = split.to(tl.int64) * M + m
    tl.store(counts_ptr + out, count, mask=pid % row_blocks == 0)
    tl.store(shifts_ptr + out * D + o_row, shift_row, mask=o_row < D)
    p_scatter = scatters_ptr + out * D * D + o_row[:, None] * D + o_d[None, :]
    tl.store(p_scatter, scatter, mask=(o_row < D)[:, None] & m_d[None, :])


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
        "x_ptr": "*x", "mean_ptr": "*x", "factor_ptr": "*x", "constants_ptr": "*x", "evidence_ptr": "*x",
        "group_offsets_ptr": "*i64", "group_ptr": "*i64", "counts_ptr": "*x", "shifts_ptr": "*x", "scatters_ptr": "*x",
        "M": "i32", "splits": "i32", "row_blocks": "i32",
    }  # fmt: skip
    cases = tile_cases(BLOCKS, _statistics_kernel, signature, "em")
    return [case._replace(constexprs=case.constexprs | {"ROWS": min(case.constexprs["DP"], ROWS)}) for case in cases]
