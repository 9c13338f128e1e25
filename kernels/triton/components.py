"""What the density and EM kernels read of a component, made in two small launches.

1. A program a component: the blocks of its factor's lower triangle, row after row of them, zero-padded (`common.py`
   says why), and its three constants in float64: the first term, the power and the inverse degrees of freedom of

       Gaussian:   log det W - D/2 log(2 pi)                                       - q / 2
       Student-t:  log det W - D/2 log(df pi) + lgamma((df + D)/2) - lgamma(df/2)  - (df + D)/2 log(1 + q / df)

   for the squared distance q. Log weights are added to the first.
2. A program a group: the first constants less the largest of the group. So a density kernel rounds numbers of the size
   of q, whatever the unit of the data, and a group's numbers are its own.

With torch's operations instead an EM step had 78 launches and took 1.4 ms, three times as long as now, since the host
needs longer for each than the device (measured on an H200).
"""

# mypy: allow-untyped-defs

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import TARGETS, Blocks, Case, aligned, launch_options, padded

HALF_LOG_TWO_PI = tl.constexpr(0.5 * math.log(2 * math.pi))
LOOKED_AT = 256  # components at a time
PACKED = (
    (torch.float32, 16, 16), (torch.float32, 32, 32), (torch.float32, 64, 32), (torch.float32, 128, 32),
    (torch.float64, 16, 16), (torch.float64, 32, 32), (torch.float64, 64, 32), (torch.float64, 128, 16),
)  # fmt: skip
"""Data type, padded D and BK of every layout that a kernel reads."""


def pack(
    precision_chol: Tensor, df: Tensor | None, log_weight: Tensor | None, blocks: Blocks, name: str
) -> tuple[Tensor, Tensor]:
    """[M, DP (DP + BK) / 2] blocks of the factors, and [M, 3] constants in float64; M may be 0."""
    M, D, _ = precision_chol.shape
    DP, BK = padded(D), blocks.features
    factor = precision_chol.new_empty(M, DP * (DP + BK) // 2)
    constants = torch.empty(M, 3, dtype=torch.float64, device=precision_chol.device)
    terms = constants if df is None else _student_t_terms(df.double(), D)
    if M > 0:
        chol = aligned(precision_chol)
        with torch.cuda.device_of(chol):
            _pack_kernel[(M,)](
                chol,
                chol if log_weight is None else aligned(log_weight.to(chol.dtype)),
                terms,
                factor,
                constants,
                D,
                int(log_weight is not None),
                int(df is not None),
                DP=DP,
                BK=BK,
                **launch_options(4, name),
            )
    return factor, constants


def relative(constants: Tensor, component_offsets: Tensor, dtype: torch.dtype, name: str) -> tuple[Tensor, Tensor]:
    """[M, 3] constants in that data type, the first less the largest of its group; and these [G] float64, 0 where there
    is none."""
    G = len(component_offsets) - 1
    out = torch.empty(constants.shape, dtype=dtype, device=constants.device)
    largest = constants.new_empty(G)
    with torch.cuda.device_of(constants):
        _relative_kernel[(G,)](
            constants, component_offsets, out, largest, BM=LOOKED_AT, **launch_options(4, name)
        )  # fmt: skip
    return out, largest


def _student_t_terms(df: Tensor, D: int) -> Tensor:
    power = 0.5 * (df + D)
    first = torch.lgamma(power) - torch.lgamma(0.5 * df) - 0.5 * D * torch.log(df * math.pi)
    return torch.stack([first, power, 1 / df], dim=1)


@triton.jit(do_not_specialize=["D", "weighted", "student_t"])
def _pack_kernel(
    chol_ptr, log_weight_ptr, terms_ptr, factor_ptr, constants_ptr, D, weighted, student_t,
    DP: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64)
    chol_ptr += m * D * D
    factor_ptr += m * (DP * (DP + BK) // 2)
    o_d = tl.arange(0, DP)
    diagonal = tl.load(chol_ptr + o_d * (D + 1), mask=o_d < D, other=1.0).to(tl.float64)
    constant = tl.sum(tl.log(diagonal), axis=0)
    constant += tl.load(log_weight_ptr + m, mask=weighted != 0, other=0.0).to(tl.float64)
    gaussian = -HALF_LOG_TWO_PI * D.to(tl.float64)
    is_t = student_t != 0
    tl.store(
        constants_ptr + 3 * m, constant + tl.where(is_t, tl.load(terms_ptr + 3 * m, mask=is_t, other=0.0), gaussian)
    )
    tl.store(constants_ptr + 3 * m + 1, tl.load(terms_ptr + 3 * m + 1, mask=is_t, other=0.5))
    tl.store(constants_ptr + 3 * m + 2, tl.load(terms_ptr + 3 * m + 2, mask=is_t, other=1.0))

    k = tl.arange(0, BK)
    for i in tl.range(0, DP, BK):
        for j in tl.range(0, i + BK, BK):
            row = (i + k)[:, None]
            col = (j + k)[None, :]
            block = tl.load(chol_ptr + row * D + col, mask=(row < D) & (col <= row), other=0.0)
            tl.store(factor_ptr + k[:, None] * BK + k[None, :], block)
            factor_ptr += BK * BK


@triton.jit
def _relative_kernel(constants_ptr, offsets_ptr, out_ptr, largest_ptr, BM: tl.constexpr):
    group = tl.program_id(0)
    first = tl.load(offsets_ptr + group)
    last = tl.load(offsets_ptr + group + 1)
    o_m = tl.arange(0, BM)
    top = tl.full([BM], float("-inf"), tl.float64)
    for start in tl.range(first, last, BM):
        m = start + o_m
        top = tl.maximum(top, tl.load(constants_ptr + 3 * m, mask=m < last, other=float("-inf")))
    largest = tl.max(top, axis=0)
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    tl.store(largest_ptr + group, largest)
    for start in tl.range(first, last, BM):
        m = start + o_m
        own = m < last
        tl.store(out_ptr + 3 * m, tl.load(constants_ptr + 3 * m, mask=own, other=0.0) - largest, mask=own)
        for column in tl.static_range(1, 3):
            value = tl.load(constants_ptr + 3 * m + column, mask=own, other=0.0)
            tl.store(out_ptr + 3 * m + column, value, mask=own)


def aot_cases() -> list[Case]:
    cases = []
    for name in TARGETS:
        options = launch_options(4, name)
        for dtype, DP, BK in PACKED:
            short = {torch.float32: "fp32", torch.float64: "fp64"}[dtype]
            types = dict.fromkeys(("chol_ptr", "log_weight_ptr"), f"*{short}") | {"terms_ptr": "*fp64"}
            types |= {"factor_ptr": f"*{short}", "constants_ptr": "*fp64"}
            types |= dict.fromkeys(("D", "weighted", "student_t"), "i32")
            cases.append(Case(f"pack {short} D={DP}", name, _pack_kernel, types, {"DP": DP, "BK": BK}, options))
        for short in ("fp32", "fp64"):
            types = {"constants_ptr": "*fp64", "offsets_ptr": "*i64", "out_ptr": f"*{short}", "largest_ptr": "*fp64"}
            cases.append(Case(f"relative {short}", name, _relative_kernel, types, {"BM": LOOKED_AT}, options))
    return cases
