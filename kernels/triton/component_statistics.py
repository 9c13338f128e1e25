"""Count, mean and scatter of the points of each label in each group, on the GPU, in float64.

Points are sorted by group and label, which turns every component into a run of rows. One program: one component and a
block of rows of its scatter, both in registers. It streams the component's points past in tiles of BN and adds each
tile's mean and scatter about that mean to the running ones, as `em_statistics.py` does (there is the formula), but with
weights of one. No atomics: the order of every sum is that of the points.
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
    dot,
    group_of,
    launch_options,
    one_group,
    padded,
    padded_rows,
    target,
)
from kernels.types import ComponentStatistics

BN = 32
ROWS = 64  # of a scatter in a program, at most
WARPS = {16: 4, 32: 4, 64: 4, 128: 8}


def component_statistics(
    x: Tensor, labels: Tensor, n_components: int, *, group_offsets: Tensor | None = None
) -> ComponentStatistics:
    """See `kernels.component_statistics`."""
    (N, D), K = x.shape, int(n_components)
    name = target(x)
    if group_offsets is None:
        group_offsets = one_group(N, x)
    G, DP = len(group_offsets) - 1, padded(D)
    run, order = torch.sort(group_of(group_offsets, N) * K + labels, stable=True)
    offsets = torch.searchsorted(run, torch.arange(G * K + 1, device=x.device))
    means = torch.empty(G, K, DP, dtype=torch.float64, device=x.device)
    scatters = torch.empty(G, K, DP, DP, dtype=torch.float64, device=x.device)
    rows = min(DP, ROWS)
    row_blocks = DP // rows
    with torch.cuda.device_of(x):
        _component_statistics_kernel[(G * K * row_blocks,)](
            padded_rows(x), order, offsets, means, scatters, row_blocks,
            DP=DP, BN=BN, ROWS=rows, **launch_options(WARPS[DP], name, MOST_REGISTERS),
        )  # fmt: skip
    means, scatters = means[..., :D].contiguous(), scatters[..., :D, :D]
    return ComponentStatistics(offsets.diff().view(G, K), means, 0.5 * (scatters + scatters.mT))


@triton.jit(do_not_specialize=["row_blocks"])
def _component_statistics_kernel(
    x_ptr, order_ptr, offsets_ptr, means_ptr, scatters_ptr, row_blocks,
    DP: tl.constexpr, BN: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    o_row = (pid % row_blocks) * ROWS + tl.arange(0, ROWS)
    component = (pid // row_blocks).to(tl.int64)
    first = tl.load(offsets_ptr + component)
    last = tl.load(offsets_ptr + component + 1)
    o_d = tl.arange(0, DP)
    mean = tl.zeros([DP], tl.float64)
    mean_row = tl.zeros([ROWS], tl.float64)
    scatter = tl.zeros([ROWS, DP], tl.float64)
    for start in tl.range(first, last, BN):
        o_n = start + tl.arange(0, BN)
        m_n = (o_n < last)[:, None]
        p_x = x_ptr + tl.load(order_ptr + o_n, mask=o_n < last, other=0)[:, None] * DP
        n_before = tl.cast(start - first, tl.float64)
        n_tile = tl.cast(tl.minimum(last - start, BN), tl.float64)
        x = tl.load(p_x + o_d[None, :], mask=m_n, other=0.0).to(tl.float64)
        tile_mean = tl.sum(x, 0) / n_tile
        right = tl.where(m_n, x - tile_mean[None, :], 0.0)
        if ROWS == DP:
            tile_mean_row = tile_mean
            left = right
        else:
            x = tl.load(p_x + o_row[None, :], mask=m_n, other=0.0).to(tl.float64)
            tile_mean_row = tl.sum(x, 0) / n_tile
            left = tl.where(m_n, x - tile_mean_row[None, :], 0.0)
        scatter += dot(tl.trans(left), right, False)
        share = n_tile / (n_before + n_tile)
        scatter += (n_before * share) * (tile_mean_row - mean_row)[:, None] * (tile_mean - mean)[None, :]
        mean += share * (tile_mean - mean)
        mean_row += share * (tile_mean_row - mean_row)
    tl.store(means_ptr + component * DP + o_row, mean_row)
    tl.store(scatters_ptr + component * DP * DP + o_row[:, None] * DP + o_d[None, :], scatter)


def aot_cases() -> list[Case]:
    signature = {
        "order_ptr": "*i64", "offsets_ptr": "*i64", "means_ptr": "*fp64", "scatters_ptr": "*fp64", "row_blocks": "i32",
    }  # fmt: skip
    return [
        Case(
            f"component statistics {dtype} D={DP}",
            name,
            _component_statistics_kernel,
            {"x_ptr": f"*{dtype}"} | signature,
            {"DP": DP, "BN": BN, "ROWS": min(DP, ROWS)},
            launch_options(warps, name, MOST_REGISTERS),
        )
        for dtype in ("fp32", "fp64")
        for DP, warps in WARPS.items()
        for name in TARGETS
    ]
