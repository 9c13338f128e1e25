"""Log-density of every point under every Gaussian component, on the GPU; the kernel serves Student-t components too.

One program: a tile of BN points against COMPONENTS components, one after another (`common.py` has the whitening). Each
gives a column of log-densities, which is selected into a tile [BN, COMPONENTS] in registers, so that the store at the
end writes 64 consecutive bytes a point. Memory: x once for every COMPONENTS components, a component once for every BN
points, both from L2; the output [N, M] once.
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
    launch_options,
    load_factor,
    load_points,
    log_density,
    padded,
    padded_rows,
    squared_distance,
    squared_distance_streamed,
    target,
    tile_cases,
    tile_constexprs,
)
from kernels.triton.components import pack

COMPONENTS = 16

# The tiles are those of `mixture_log_density.py`, whose loop this is.
BLOCKS: Table = {
    (torch.float32, 16): Blocks(points=128, features=16, warps=2),
    (torch.float32, 32): Blocks(points=128, features=32, warps=4),
    (torch.float32, 64): Blocks(points=128, features=32, warps=8),
    (torch.float32, 128): Blocks(points=128, features=32, warps=8),
    (torch.float64, 16): Blocks(points=64, features=16, warps=2),
    (torch.float64, 32): Blocks(points=64, features=32, warps=2),
    (torch.float64, 64): Blocks(points=64, features=32, warps=4),
    (torch.float64, 128): Blocks(points=64, features=16, warps=4, registers=MOST_REGISTERS),
}


def gaussian_log_density(x: Tensor, mean: Tensor, precision_chol: Tensor) -> Tensor:
    """See `kernels.gaussian_log_density`."""
    return component_log_density(x, mean, precision_chol, None)


def component_log_density(x: Tensor, location: Tensor, precision_chol: Tensor, df: Tensor | None) -> Tensor:
    """[N, M] log-densities under Gaussians (df None) or Student-t's."""
    (N, D), M = x.shape, len(location)
    name = target(x)
    out = torch.empty(N, M, dtype=x.dtype, device=x.device)
    if M == 0:
        return out
    blocks = BLOCKS[x.dtype, padded(D)]
    factor, constants = pack(precision_chol, df, None, blocks, name)
    with torch.cuda.device_of(x):
        _component_kernel[(triton.cdiv(N, blocks.points) * triton.cdiv(M, COMPONENTS),)](
            padded_rows(x),
            padded_rows(location),
            factor,
            constants.to(x.dtype),
            out,
            N,
            M,
            **tile_constexprs(x.dtype, D, blocks, name),
            COMPONENTS=COMPONENTS,
            STUDENT_T=df is not None,
            **launch_options(blocks.warps, name, blocks.registers),
        )
    return out


@triton.jit(do_not_specialize=["N", "M"])
def _component_kernel(
    x_ptr, location_ptr, factor_ptr, constants_ptr, out_ptr, N, M,
    DP: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, SPLIT: tl.constexpr,
    COMPONENTS: tl.constexpr, STUDENT_T: tl.constexpr,
):  # fmt: skip
    HELD: tl.constexpr = DP <= 2 * BK
    SIZE: tl.constexpr = DP * (DP + BK) // 2
    # Neighbouring programs share their components, which then stay in L2.
    n_tiles = tl.cdiv(N, BN)
    pid = tl.program_id(0)
    row = (pid % n_tiles).to(tl.int64) * BN
    first = (pid // n_tiles).to(tl.int64) * COMPONENTS
    n_points = N - row
    n = tl.minimum(COMPONENTS, M - first).to(tl.int32)
    o_n = tl.arange(0, BN)
    o_c = tl.arange(0, COMPONENTS)

    out = tl.zeros([BN, COMPONENTS], x_ptr.dtype.element_ty)
    p_factor = factor_ptr + first * SIZE
    p_mean = location_ptr + first * DP
    p_constant = constants_ptr + first * 3
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
        out = tl.where((o_c == m)[None, :], value[:, None], out)
        p_factor += SIZE
        p_mean += DP
        p_constant += 3
    p_out = out_ptr + row * M + first + o_n.to(tl.int64)[:, None] * M + o_c[None, :]
    tl.store(p_out, out, mask=(o_n < n_points)[:, None] & (o_c < n)[None, :])


def aot_cases() -> list[Case]:
    signature = {
        "x_ptr": "*x", "location_ptr": "*x", "factor_ptr": "*x", "constants_ptr": "*x", "out_ptr": "*x",
        "N": "i32", "M": "i32",
    }  # fmt: skip
    return [
        case
        for name, student_t in (("gaussian", False), ("student_t", True))
        for case in tile_cases(
            BLOCKS, _component_kernel, signature, f"{name} density", COMPONENTS=COMPONENTS, STUDENT_T=student_t
        )
    ]
