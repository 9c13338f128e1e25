"""Log-density of every point under mixtures, on the GPU: component densities and their logsumexp in one kernel.

One program: a tile of BN points against a run of components, one after another (`common.py` has the whitening), with a
running maximum and a running sum of exponentials in registers, two numbers a point. Nothing of size N x M exists, but
for EM, whose responsibilities need them, the log-densities of a point under the components of its group (JOINT).

Work is cut into programs by tile of points, by group of components, and, where that makes fewer than PROGRAMS of them,
by SPLITS of the components of a group; the partial results [SPLITS, N, G] are then summed in a fixed order. The number
of splits follows from the shapes alone, so results are the same on every GPU of a kind. Tiles vary fastest: programs
that run at the same time read the same components, from L2.
"""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import (
    MOST_REGISTERS,
    Blocks,
    Case,
    Table,
    aligned,
    group_of,
    launch_options,
    load_factor,
    load_points,
    log_density,
    one_group,
    padded,
    padded_rows,
    squared_distance,
    squared_distance_streamed,
    target,
    tile_cases,
    tile_constexprs,
)
from kernels.triton.components import pack, relative

PROGRAMS = 2048  # 8 waves of 2 programs on each of the 132 multiprocessors of an H100: the last one is 1/8 at most
SEARCHED = tl.constexpr(256)  # groups at a time
LEAST_COMPONENTS = 8  # in a split, against the load of the tile

# float32 at D = 64: 127 registers and 48 KiB on sm_90 with Triton 3.9 (3.8 takes 156), so that two programs share a
# multiprocessor, one at work while the other waits. float64 at D = 128: with blocks of 32 features gfx942 spills.
# Measured on an H200: few warps with many points each are fastest, by 3% in float32 at D = 64 (4 warps, which spill on
# sm_80), 6 and 14% at D = 32 and 16, and in float64 by 18 to 49%. float32 at D = 128 would
# take 10 ms in place of 16 with blocks of 64 features, but these spill on all others.
BLOCKS: Table = {
    (torch.float32, 16): Blocks(points=128, features=16, warps=2),
    (torch.float32, 32): Blocks(points=128, features=32, warps=4),
    (torch.float32, 64): Blocks(points=128, features=32, warps=8),
    (torch.float32, 128): Blocks(points=128, features=32, warps=8, registers=MOST_REGISTERS),
    (torch.float64, 16): Blocks(points=64, features=16, warps=2),
    (torch.float64, 32): Blocks(points=64, features=32, warps=2),
    (torch.float64, 64): Blocks(points=64, features=32, warps=4),
    (torch.float64, 128): Blocks(points=64, features=16, warps=4),
}


def mixture_log_density(
    x: Tensor,
    log_weight: Tensor,
    location: Tensor,
    precision_chol: Tensor,
    df: Tensor | None = None,
    component_offsets: Tensor | None = None,
    *,
    group_offsets: Tensor | None = None,
) -> Tensor:
    """See `kernels.mixture_log_density`."""
    name = target(x)
    offsets = one_group(len(location), x) if component_offsets is None else aligned(component_offsets)
    blocks = BLOCKS[x.dtype, padded(x.shape[1])]
    factor, constants = pack(precision_chol, df, log_weight, blocks, name)
    constants, largest = relative(constants, offsets, x.dtype, name)
    out = _launch(x, constants, location, factor, df is not None, offsets, group_offsets)[0]
    out = out[0] if len(out) == 1 else torch.logsumexp(out, dim=0)
    if group_offsets is not None:
        return out[:, 0] + largest[group_of(group_offsets, len(x))].to(x.dtype)
    out += largest.to(x.dtype)
    return out[:, 0] if component_offsets is None else out


def joint_log_density(
    x: Tensor,
    constants: Tensor,
    mean: Tensor,
    factor: Tensor,
    component_offsets: Tensor,
    group_offsets: Tensor,
    start: Tensor,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Gaussian log-densities of each point under each component of its group, with the given constants and factors.

    Args:
        x, mean: padded or not.
        constants, factor: of `components.py`.
        start: [M], of which this says what it is.
        size: of `joint`: points times components, over all groups.

    Returns:
        joint [size]: that of point n under component m is joint[start[m] + n].
        evidence [2, N]: the largest of a point's, and the log of the sum relative to it; -inf for a density of zero.
    """
    joint = torch.empty(size, dtype=x.dtype, device=x.device)
    arguments = (x, constants, mean, factor, False, component_offsets, group_offsets, start, joint)
    largest, log_total = evidence = _launch(*arguments)[..., 0]
    if len(largest) == 1:
        return joint, evidence[:, 0]
    top = largest.amax(0)
    return joint, torch.stack([top, torch.logsumexp(largest - top + log_total, dim=0)])


def _launch(
    x: Tensor,
    constants: Tensor,
    location: Tensor,
    factor: Tensor,
    student_t: bool,
    component_offsets: Tensor,
    group_offsets: Tensor | None,
    start: Tensor | None = None,
    joint: Tensor | None = None,
) -> Tensor:
    """[1, splits, N, G] log-densities under each split of each group, with group_offsets [1, splits, N, 1]. With start
    and joint (see `joint_log_density`), which is written, [2, splits, N, 1]: their two parts."""
    (N, D), M = x.shape, len(location)
    name = target(x)
    blocks = BLOCKS[x.dtype, padded(D)]
    G = len(component_offsets) - 1
    own = group_offsets is not None
    if group_offsets is None:
        group_offsets = one_group(N, x)
    # As many tiles as there can be, so that the host need not wait for the offsets; those left over hold no point.
    n_groups = len(group_offsets) - 1
    n_tiles, n_columns = N // blocks.points + n_groups, 1 if own else G
    splits = max(1, min(triton.cdiv(PROGRAMS, n_tiles * n_columns), M // (G * LEAST_COMPONENTS)))
    out = torch.empty(1 if joint is None else 2, splits, N, n_columns, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        _mixture_kernel[(n_tiles * n_columns * splits,)](
            padded_rows(x),
            padded_rows(location),
            factor,
            constants,
            component_offsets,
            aligned(group_offsets),
            component_offsets if start is None else start,
            out if joint is None else joint,
            out,
            N,
            n_groups,
            n_tiles,
            n_columns,
            splits,
            **tile_constexprs(x.dtype, D, blocks, name),
            STUDENT_T=student_t,
            JOINT=joint is not None,
            **launch_options(blocks.warps, name, blocks.registers),
        )
    return out


@triton.jit
def _tile_of(group_offsets_ptr, tile, n_groups, BN: tl.constexpr):
    """Group, first point and number of points (0 or less: left over) of a tile of at most BN points of one group.

    The tiles of a group begin at number offset // BN + group, which leaves room for ceil(points / BN) of each.
    """
    group = 0
    for start in tl.range(0, n_groups, SEARCHED):
        o_g = start + tl.arange(0, SEARCHED)
        inside = o_g < n_groups
        first_tile = tl.load(group_offsets_ptr + o_g, mask=inside, other=0) // BN + o_g
        group += tl.sum((inside & (first_tile <= tile)).to(tl.int32), axis=0)
    group -= 1
    first = tl.load(group_offsets_ptr + group)
    last = tl.load(group_offsets_ptr + group + 1)
    row = first + (tile - first // BN - group) * BN
    return group, row, last - row


@triton.jit(do_not_specialize=["N", "n_groups", "n_tiles", "n_columns", "splits"])
def _mixture_kernel(
    x_ptr, location_ptr, factor_ptr, constants_ptr, component_offsets_ptr, group_offsets_ptr, start_ptr,
    joint_ptr, out_ptr, N, n_groups, n_tiles, n_columns, splits,
    DP: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    STUDENT_T: tl.constexpr, JOINT: tl.constexpr,
):  # fmt: skip
    HELD: tl.constexpr = DP <= 2 * BK
    SIZE: tl.constexpr = DP * (DP + BK) // 2
    pid = tl.program_id(0)
    tile = pid % n_tiles
    column = (pid // n_tiles) % n_columns
    split = (pid // n_tiles // n_columns).to(tl.int64)
    group, row, n_points = _tile_of(group_offsets_ptr, tile, n_groups, BN)
    group += column
    first = tl.load(component_offsets_ptr + group)
    last = tl.load(component_offsets_ptr + group + 1)
    in_split = tl.cdiv(last - first, splits)
    first += split * in_split
    n = tl.where(n_points > 0, tl.minimum(in_split, last - first), 0).to(tl.int32)

    dtype = x_ptr.dtype.element_ty
    # The sum of exp(value - maximum). A maximum that starts finite needs no special case for values of -inf.
    maximum = tl.full([BN], -3e38 if dtype == tl.float32 else -1e308, dtype)
    total = tl.zeros([BN], dtype)
    p_factor = factor_ptr + first * SIZE
    p_mean = location_ptr + first * DP
    p_constant = constants_ptr + first * 3
    p_start = start_ptr + first
    o_n = tl.arange(0, BN)
    m_n = o_n < n_points
    if HELD:
        x_left, x_right = load_points(x_ptr + row * DP, n_points, DP, BN, BK)
        next_left, next_right = load_factor(p_factor, n > 0, DP, BK)
    for m in range(n):
        if HELD:
            w_left, w_right = next_left, next_right
            next_left, next_right = load_factor(p_factor + SIZE, m + 1 < n, DP, BK)
            q = squared_distance(x_left, x_right, w_left, w_right, p_mean, DP, BK, SPLIT)
        else:
            q = squared_distance_streamed(x_ptr + row * DP, n_points, p_factor, p_mean, DP, BN, BK, SPLIT)
        value = log_density(q, p_constant, STUDENT_T)
        if JOINT:
            tl.store(joint_ptr + (tl.load(p_start + m) + row) + o_n, value, mask=m_n)
        # One exponential: of the smaller of the two over the larger.
        ratio = tl.exp(-tl.abs(value - maximum))
        total = tl.where(value > maximum, total * ratio + 1, total + ratio)
        maximum = tl.maximum(value, maximum)
        p_factor += SIZE
        p_mean += DP
        p_constant += 3
    p_out = out_ptr + (split * N + row) * n_columns + column + o_n * n_columns
    if JOINT:
        tl.store(p_out, maximum, mask=m_n)
        tl.store(p_out + tl.cast(splits, tl.int64) * N, tl.log(total), mask=m_n)
    else:
        tl.store(p_out, maximum + tl.log(total), mask=m_n)


def aot_cases() -> list[Case]:
    signature = {
        "x_ptr": "*x", "location_ptr": "*x", "factor_ptr": "*x", "constants_ptr": "*x",
        "component_offsets_ptr": "*i64", "group_offsets_ptr": "*i64",
        "start_ptr": "*i64", "joint_ptr": "*x", "out_ptr": "*x",
        "N": "i32", "n_groups": "i32", "n_tiles": "i32", "n_columns": "i32", "splits": "i32",
    }  # fmt: skip
    return [
        case
        for name, student_t, joint in (
            ("gaussian mixture", False, False),
            ("student_t mixture", True, False),
            ("em joint", False, True),
        )
        for case in tile_cases(BLOCKS, _mixture_kernel, signature, name, STUDENT_T=student_t, JOINT=joint)
    ]
