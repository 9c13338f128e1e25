"""What the density and EM kernels share: whitening on the tensor cores, the layout of a component, the target's name.

Points, means and factors are padded with zeros to DP = 16, 32, 64 or 128 features on the host. So a kernel is compiled
once for each DP, not for each D, and what `kernels.aot` compiles is exactly what runs.

Whitening is nearly all the work: y = W (x - mean) for a tile of BN points and one component after another. W is lower
triangular, so it is cut into blocks of BK features and those above the diagonal are left out. Two ways:

Held, up to D = 64. The program keeps its tile of points (the compiler puts it in shared memory) and streams components
past it; the next component's factor is loaded into registers while this one is at work. One block up to D = 32, above

    | y0 |   | W00   0  | | d0 |        y0, y1' = [W00; W10] d0     one product, BK x 2 BK
    | y1 | = | W10  W11 | | d1 |        y1      = y1' + W11 d1      one product, BK x BK

which is 3/4 of the multiply-adds of the square. (Quarters would save 1/8 more, in 10 products instead of 2, each with
its own wait for the tensor cores: 539 instructions a component on sm_90 instead of 398.)

Streamed, above. Nothing is held: loops over the blocks of W, rows and columns, load blocks of x again (from L1). With
4 x 4 blocks that is 5/8 of the multiply-adds, and no spill on any target, where the whole factor at once spills on all
but one.

float32 on tensor cores that keep 11 bits of an operand (TF32): see `split_tf32`. Triton's own "tf32x3" computes the
same, but also repairs infinities, which finite input does not need: at D = 64 on sm_90, with Triton 3.9, it takes 178
registers and 608 instructions a component, these kernels 127 and 398.
"""

# mypy: allow-untyped-defs

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_FEATURES = 128
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


class Blocks(NamedTuple):
    """One entry of an operation's table of block sizes."""

    points: int
    """BN: points in a tile."""
    features: int
    """BK: features in a block of the factor (of `em_statistics.py`: of a scatter)."""
    warps: int
    registers: int | None = None
    """That a thread may take (NVIDIA only), where ptxas left alone would spill for an occupancy."""


class Case(NamedTuple):
    """A kernel with the block sizes of one entry of its table for one target, for `kernels.aot` to compile."""

    label: str
    target: str
    kernel: Any
    signature: dict[str, str]
    """Type of each argument that is no constant."""
    constexprs: dict[str, Any]
    options: dict[str, Any]
    """Of the launch (`launch_options`)."""


# ---------------------------------------------------------------- on the device


@triton.jit
def split_tf32(a):
    """hi + lo = a exactly: hi is a rounded to the 11 bits of TF32, lo the rest, of 12 bits, of which TF32 drops one.

    So lo hi + hi lo + hi hi misses lo lo and that bit: 2^-22 of each product at most, in place of float32's 2^-24.
    """
    bits = a.to(tl.int32, bitcast=True)
    hi = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return hi, a - hi


@triton.jit
def dot(a, b, SPLIT: tl.constexpr):
    """a @ b to the accuracy of their dtype; SPLIT: float32 on TF32 tensor cores."""
    if SPLIT:
        a_hi, a_lo = split_tf32(a)
        b_hi, b_lo = split_tf32(b)
        # In this order. With lo hi first Triton 3.8 takes a_hi through shared memory (mixture, D = 64, sm_90: 189
        # registers and 64 KiB, else 156 and 48); with hi hi last 3.6 takes 135 registers, else 127 (two programs fit).
        c = tl.dot(a_hi, b_lo, input_precision="tf32")
        c = tl.dot(a_hi, b_hi, c, input_precision="tf32")
        c = tl.dot(a_lo, b_hi, c, input_precision="tf32")
    else:
        c = tl.dot(a, b, input_precision="ieee", out_dtype=a.dtype)
    return c


@triton.jit
def load_points(p_x, n, DP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """The first BK features of n points and the next BK (if there are any), two tiles [BN, BK]; zero beyond n."""
    k = tl.arange(0, BK)
    o_n = tl.arange(0, BN)
    p_x = p_x + o_n[:, None] * DP + k[None, :]
    m_row = (o_n < n)[:, None]
    left = tl.load(p_x, mask=m_row, other=0.0)
    right = tl.load(p_x + BK, mask=m_row & (k + BK < DP)[None, :], other=0.0)
    return left, right


@triton.jit
def load_factor(p_factor, inside, DP: tl.constexpr, BK: tl.constexpr):
    """A factor of one block or three: [BK, DP] of [W00; W10]' and [BK, BK] of W11'; zeros if not inside the data."""
    k = tl.arange(0, BK)
    j = tl.arange(0, DP)
    # Masked by output feature, not by k, along which threads load 4 numbers at a time.
    n_out = tl.where(inside, DP, 0)
    left = tl.load(p_factor + j[None, :] * BK + k[:, None], mask=(j < n_out)[None, :], other=0.0)
    p_right = p_factor + DP * BK
    right = tl.load(p_right + k[None, :] * BK + k[:, None], mask=(k + BK < n_out)[None, :], other=0.0)
    return left, right


@triton.jit
def squared_distance(x_left, x_right, w_left, w_right, p_mean, DP: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr):
    """[BN] of |W (x - mean)|^2, held: for tiles of `load_points` and blocks of `load_factor`."""
    BN: tl.constexpr = x_left.shape[0]
    mean = tl.load(p_mean + tl.arange(0, DP))
    if BK == DP:
        y = dot(x_left - mean[None, :], w_left, SPLIT)
        squares = y * y
    else:
        mean_left, mean_right = tl.split(mean.reshape(2, BK).permute(1, 0))
        y = dot(x_left - mean_left[None, :], w_left, SPLIT)
        z = dot(x_right - mean_right[None, :], w_right, SPLIT)
        # The two halves of y's columns; on sm_90 neither split leaves the registers.
        y0, y1 = tl.split(y.reshape(BN, 2, BK).permute(0, 2, 1))
        y1 += z
        squares = y0 * y0 + y1 * y1
    return tl.sum(squares, 1)


@triton.jit
def squared_distance_streamed(
    p_x, n, p_factor, p_mean, DP: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr
):
    """[BN] of |W (x - mean)|^2, streamed, from a factor of `components.pack`."""
    dtype = p_x.dtype.element_ty
    k = tl.arange(0, BK)
    o_n = tl.arange(0, BN)
    p_tile = p_x + o_n[:, None] * DP + k[None, :]
    m_row = (o_n < n)[:, None]
    p_w = p_factor + k[None, :] * BK + k[:, None]
    squares = tl.zeros([BN, BK], dtype)
    for i in range(0, DP, BK):
        y = tl.zeros([BN, BK], dtype)
        for j in range(0, i + BK, BK):
            x = tl.load(p_tile + j, mask=m_row, other=0.0)
            mean = tl.load(p_mean + j + k)
            y += dot(x - mean[None, :], tl.load(p_w), SPLIT)
            p_w += BK * BK
        squares += y * y
    return tl.sum(squares, 1)


@triton.jit
def log_density(q, p_constant, STUDENT_T: tl.constexpr):
    """From squared distances and the component's three constants (`components.py`)."""
    # A NaN is inf - inf or 0 inf, of finite numbers that overflow on the way: as far as can be. The minimum of it and a
    # number is the number, in an instruction or two; a comparison and a choice would be 6% of the loop at D = 16, not
    # 2%.
    q = tl.minimum(q, float("inf"))
    constant = tl.load(p_constant)
    if STUDENT_T:
        power = tl.load(p_constant + 1)
        z = q * tl.load(p_constant + 2)
        # log(1 + z) loses z below the roundoff of 1, which (df + D) / 2 then magnifies; 2 atanh(z / (2 + z)) does not.
        s = z / (2 + z)
        s2 = s * s
        series = 1 + s2 * (1 / 3 + s2 * (1 / 5 + s2 * (1 / 7 + s2 * (1 / 9 + s2 * (1 / 11)))))
        value = constant - power * tl.where(z < 0.1, 2 * s * series, tl.log(1 + z))
    else:
        value = constant - 0.5 * q
    return value


# ---------------------------------------------------------------- on the host

INTERPRETED = not isinstance(split_tf32, triton.JITFunction)


def target(x: Tensor) -> str:
    """The entry of TARGETS that x's device runs.

    Raises:
        ValueError: a device that the kernels are not compiled for, or more features than they take.
    """
    if x.shape[1] > MAX_FEATURES:
        raise ValueError(
            f"engine 'triton' takes x with at most {MAX_FEATURES} features, got {x.shape[1]}; use engine='reference'"
        )
    if INTERPRETED:
        if x.device.type != "cpu":
            raise ValueError(f"TRITON_INTERPRET is set: engine 'triton' takes tensors on the CPU, x is on {x.device}")
        return "sm_90"
    if x.device.type != "cuda":
        raise ValueError(
            f"engine 'triton' needs tensors on a GPU, x is on {x.device} (Triton's interpreter takes tensors on the "
            "CPU: set TRITON_INTERPRET=1 before Python starts)"
        )
    if torch.version.hip:
        name = torch.cuda.get_device_properties(x.device).gcnArchName.split(":")[0]
    else:
        major, minor = torch.cuda.get_device_capability(x.device)
        name = f"sm_{major}{minor}"
        # Minor versions run the code of their major version. 8.6 and 8.9 have less shared memory, 99 KiB a program:
        # no kernel takes more than 64.
        if name not in TARGETS and f"sm_{major}0" in TARGETS:
            name = f"sm_{major}0"
    if name not in TARGETS:
        raise ValueError(f"engine 'triton' runs on {', '.join(TARGETS)}, x is on {x.device}, which is {name}")
    return name


Table = dict[tuple[torch.dtype, int], Blocks]
"""Block sizes by dtype and padded D. An entry must compile for every target without a spill with the newest Triton that
a table is stored of (`kernels.aot`); older versions spill here and there, which the tests list."""


def padded(D: int) -> int:
    """Features that a kernel for D features holds: a power of two, 16 at least for the tensor cores."""
    return max(16, triton.next_power_of_2(D))


def padded_rows(value: Tensor) -> Tensor:
    """[n, DP] of [n, D]: contiguous, zeros after D, at an address that vector loads can take."""
    n, D = value.shape
    if padded(D) == D and value.is_contiguous() and value.data_ptr() % 16 == 0:
        return value
    out = value.new_zeros(n, padded(D))
    out[:, :D] = value
    return out


def aligned(value: Tensor) -> Tensor:
    """Contiguous, at a multiple of 16 bytes, as the kernels are compiled for; a view may begin anywhere."""
    value = value.contiguous()
    return value if value.data_ptr() % 16 == 0 else value.clone()


def one_group(n: int, x: Tensor) -> Tensor:
    """[2] int64 offsets of n points or components in one group, where x is. A list would be copied there, and the host
    wait for it."""
    return torch.arange(2, device=x.device) * n


def tile_constexprs(dtype: torch.dtype, D: int, blocks: Blocks, name: str) -> dict[str, Any]:
    """The constants that every kernel takes, for D features on the target of that name."""
    return {
        "DP": padded(D),
        "BK": blocks.features,
        "BN": blocks.points,
        # AMD's matrix cores, and float64 ones everywhere, take their operands whole.
        "SPLIT": dtype == torch.float32 and name.startswith("sm_"),
    }


MOST_REGISTERS = 255
"""For kernels of few programs: left alone, ptxas spills a few bytes for an occupancy that nobody needs."""


def launch_options(warps: int, name: str, registers: int | None = None) -> dict[str, Any]:
    """Of a launch on the target of that name; `registers`: the most that a thread may take (NVIDIA only).

    Loads are prefetched by hand or not at all: more stages cost shared memory and registers, and gained nothing.
    """
    options = {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True}
    return options | {"maxnreg": registers} if registers and name.startswith("sm_") else options


def tile_cases(
    table: Table, kernel: Any, signature: dict[str, str], label: str, registers: int | None = None, **constexprs: Any
) -> list[Case]:
    """A `Case` for every entry of the table and every target; in the signature, "*x" is a pointer to x's dtype."""
    cases = []
    for (dtype, DP), blocks in table.items():
        short = {torch.float32: "fp32", torch.float64: "fp64"}[dtype]
        types = {key: f"*{short}" if kind == "*x" else kind for key, kind in signature.items()}
        for name in TARGETS:
            constants = tile_constexprs(dtype, DP, blocks, name) | constexprs
            options = launch_options(blocks.warps, name, registers or blocks.registers)
            cases.append(Case(f"{label} {short} D={DP}", name, kernel, types, constants, options))
    return cases


def group_of(offsets: Tensor, n: int) -> Tensor:
    """[n] int64: the group that each of n points or components belongs to."""
    return torch.searchsorted(offsets[1:].contiguous(), torch.arange(n, device=offsets.device), right=True)
