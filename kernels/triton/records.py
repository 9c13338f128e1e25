"""What the kernels of the Dirichlet process share: components as records in memory, which points join and leave.

A record holds, in float64 and padded to DP features, what the predictive of a component takes:

    P = S_n^-1 [DP, DP]    mean m [DP]    count n, log det S_n [2, and zeros up to DP]

P and m are in the units of the prior (`whitened`), log det S_n is in those of the points. The record of no points is
the prior's; an empty slot's record (n = 0) is never read, the prior's is, in its place.

Moving a point x into (s = 1) or out of (s = -1) a component, with kappa = kappa0 + n, d = x - m, q = d' P d:
    e = s / (kappa + s)    c = e kappa    gain = 1 + c q
    m' = m + e d    S' = S + c d d'    log det S' = log det S + log gain    P' = P - (c / gain) (P d)(P d)'
and the density under a component, its constant tabulated by count on the host:
    log t(x) = constant(n) - 1/2 log det S - (nu0 + n + 1)/2 log(1 + q kappa / (kappa + 1))
"""

# mypy: allow-untyped-defs

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import group_of
from kernels.types import NIWPrior

FARTHEST = 1e6
"""Largest (x - mu0)' S0^-1 (x - mu0) of a point that may leave a component.

P and d are explicit, so squared distances have an error of about 1e-16 of the one under the prior, q; of a component
that owes its extent to the point itself 1 / (1 + q) is left without it, so what is left has an error of 1e-16 q^2.
"""

TILE = 32
"""Points of a group that are whitened by one copy of its matrix."""

WHITENED_BYTES = 2**27
"""Matrices and points that are copied at once where points are whitened."""

SLOTS = tl.constexpr(32)
"""Slots, or points, that a step looks at together: one for each thread of a warp, so reductions need no barrier."""


class Blocks(NamedTuple):
    """One entry of the table of block sizes."""

    columns: int
    """Columns of P that a product makes at a time."""
    depth: int
    """Features that it sums over at a time."""
    rows: int
    """Rows of P in registers while it is updated."""
    warps: int


BLOCKS = {
    16: Blocks(columns=16, depth=16, rows=16, warps=2),
    32: Blocks(columns=16, depth=32, rows=32, warps=4),
    64: Blocks(columns=64, depth=32, rows=64, warps=4),
    128: Blocks(columns=16, depth=64, rows=16, warps=8),
}
"""By padded D."""


# ---------------------------------------------------------------- on the host


def log_constants(prior: NIWPrior, group_offsets: Tensor, N: int) -> Tensor:
    """[N + G, 2]: for counts n = 0..n_g of each group, log n (0 for n = 0), and the part of log t(x) that n decides."""
    G, D = prior.mu0.shape
    first = group_offsets + torch.arange(G + 1, device=group_offsets.device)
    entry = torch.arange(N + G, device=group_offsets.device)
    g = torch.searchsorted(first, entry, right=True) - 1
    n = (entry - first[g]).double()
    kappa, nu = prior.kappa0[g] + n, prior.nu0[g] + n
    constant = (
        torch.lgamma(0.5 * (nu + 1))
        - torch.lgamma(0.5 * (nu + 1 - D))
        - 0.5 * D * torch.log(math.pi * (kappa + 1) / kappa)
    )
    return torch.stack([n.clamp(min=1).log(), constant], dim=1)


def whitened(x: Tensor, prior: NIWPrior, group_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The points in the units of their group's prior, and log det S0; the host waits once.

        z = L^-1 (x - mu0)    with    S0 = L L'

    In these units mu0 is 0 and S0 the identity, so that P and d are no larger than 1 and sqrt(q): however S0 is
    conditioned, and however far mu0 is from 0, no digits are lost but those that belong to the point. What a component
    is, and how likely a point, stays the same up to log det S0, which the records hold with that of S_n.

    Returns:
        z [N, D], and [G], float64.

    Raises:
        ValueError: a point is above FARTHEST.
    """
    (N, D), G = x.shape, len(prior.S0)
    chol = torch.linalg.cholesky_ex(prior.S0).L  # without _ex the host would wait, to see whether it succeeded
    inverse = torch.linalg.solve_triangular(chol, torch.eye(D, dtype=chol.dtype, device=chol.device), upper=False)
    group = group_of(group_offsets, N)
    # A few points of a group take its matrix together; the last of a group, and of all, are filled up with point N.
    tiles = (group_offsets.diff() + (TILE - 1)) // TILE
    first = torch.cat([tiles.new_zeros(1), tiles.cumsum(0)])
    tile = torch.arange(N // TILE + G, device=x.device)  # at least as many as there are
    of_tile = (torch.searchsorted(first, tile, right=True) - 1).clamp(max=G - 1)
    rows = (group_offsets[of_tile] + (tile - first[of_tile]) * TILE)[:, None] + torch.arange(TILE, device=x.device)
    rows = torch.where(rows < group_offsets[of_tile + 1, None], rows, N)
    shifted = torch.cat([x.double() - prior.mu0[group], inverse.new_zeros(1, D)])
    z = torch.empty_like(shifted)
    at_once = max(1, WHITENED_BYTES // (8 * D * (D + 2 * TILE)))
    for part, g in zip(rows.split(at_once), of_tile.split(at_once), strict=True):
        z[part] = shifted[part] @ inverse[g].mT
    z = z[:N]
    distance = z.square().sum(1)
    if not (distance <= FARTHEST).all():  # in this form, so that a NaN of numbers that overflow is refused
        furthest = int(distance.argmax())
        raise ValueError(
            f"engine 'triton' takes points for which (x - mu0)' S0^-1 (x - mu0) is at most {FARTHEST:g}, or it "
            f"could not take them out of a component; group {int(group[furthest])} has one of "
            f"{float(distance[furthest]):.3g}"
        )
    return z, 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def prior_records(log_det: Tensor, D: int, DP: int) -> Tensor:
    """[G, DP (DP + 2)] records of no points in the units of `whitened`, zero-padded; log_det [G] of S0."""
    records = log_det.new_zeros(len(log_det), DP + 2, DP)
    records[:, :D, :D] = torch.eye(D, dtype=log_det.dtype, device=log_det.device)
    records[:, DP + 1, 1] = log_det
    return records.view(len(log_det), -1)


# ---------------------------------------------------------------- on the device
# Loops keep their invariants inside (disable_licm): hoisted, they fill the registers and spill.


@triton.jit
def record_of(records_ptr, slot, DP: tl.constexpr):
    return records_ptr + tl.cast(slot, tl.int64) * (DP * (DP + 2))


@triton.jit
def count_of(record_ptr, DP: tl.constexpr):
    return tl.load(record_ptr + DP * (DP + 1))


@triton.jit
def log_det_of(record_ptr, DP: tl.constexpr):
    return tl.load(record_ptr + DP * (DP + 1) + 1)


@triton.jit
def move_point(records_ptr, x_ptr, slot, sign, kappa0, PRIOR, DP: tl.constexpr, ROWS: tl.constexpr):
    """Move a point into (sign 1) or out of (-1) a record."""
    COUNT: tl.constexpr = DP * (DP + 1)
    o_d = tl.arange(0, DP)
    o_r = tl.arange(0, ROWS)
    target_ptr = record_of(records_ptr, slot, DP)
    n = tl.load(target_ptr + COUNT)
    source_ptr = record_of(records_ptr, tl.where(n > 0, slot, PRIOR), DP)
    log_det = tl.load(source_ptr + COUNT + 1)
    mean = tl.load(source_ptr + DP * DP + o_d)
    d = tl.load(x_ptr + o_d) - mean
    pd = tl.zeros([DP], tl.float64)
    for r in tl.range(0, DP, ROWS, disable_licm=True):
        d_rows = tl.load(x_ptr + r + o_r) - tl.load(source_ptr + DP * DP + r + o_r)
        rows = tl.load(source_ptr + ((r + o_r)[:, None] * DP + o_d[None, :]))
        pd += tl.sum(rows * d_rows[:, None], axis=0)
    e = sign / (kappa0 + n + sign)
    c = e * (kappa0 + n)
    gain = 1 + c * tl.sum(pd * d, axis=0)
    for r in tl.range(0, DP, ROWS, disable_licm=True):
        # The same rows again, which costs nothing if they are all of P: the compiler has them in registers.
        rows = tl.load(source_ptr + ((r + o_r)[:, None] * DP + o_d[None, :]))
        pd_rows = pd
        if ROWS < DP:
            pd_rows = tl.sum(rows * d[None, :], axis=1)
        rows -= (c / gain) * (pd_rows[:, None] * pd[None, :])
        tl.debug_barrier()
        tl.store(target_ptr + ((r + o_r)[:, None] * DP + o_d[None, :]), rows)
    tl.store(target_ptr + DP * DP + o_d, mean + e * d)
    tl.store(target_ptr + COUNT, n + sign)
    tl.store(target_ptr + COUNT + 1, log_det + tl.log(gain))
    tl.debug_barrier()


@triton.jit
def empty(records_ptr, slot, DP: tl.constexpr):
    """Make a slot hold no points."""
    tl.debug_barrier()
    tl.store(record_of(records_ptr, slot, DP) + DP * (DP + 1), 0.0)
    tl.debug_barrier()


@triton.jit
def add_component(
    records_ptr, x_ptr, labels_ptr, label, slot, n_points, kappa0, PRIOR, DP: tl.constexpr, ROWS: tl.constexpr
):
    """Move all points of that label into a record, in order."""
    for i in tl.range(0, n_points, SLOTS, disable_licm=True):
        o_i = i + tl.arange(0, SLOTS)
        member = (tl.load(labels_ptr + o_i, mask=o_i < n_points, other=-1) == label).to(tl.int32)
        rank = tl.cumsum(member, axis=0) * member
        for r in tl.range(0, tl.sum(member, axis=0), disable_licm=True):
            row = pick(o_i, rank == r + 1).to(tl.int64)
            move_point(records_ptr, x_ptr + row * DP, slot, 1.0, kappa0, PRIOR, DP, ROWS)


@triton.jit
def pick(values, where):
    """The value where the one true element of `where` is."""
    return tl.sum(tl.where(where, values, 0), axis=0)


@triton.jit
def log_predictive(constant, log_det, q, kappa, nu):
    return constant - 0.5 * log_det - 0.5 * (nu + 1) * tl.log(1 + q * (kappa / (kappa + 1)))


@triton.jit
def tabulate_marginals(constants_ptr, marginals_ptr, n_points):
    """For counts n = 0..n_points: log Gamma(n) + all of log p(points of a component) that depends on n alone.

    That is the sum of what `log_constants` has for fewer points, since p(x_1..x_n) = t_0(x_1) t_1(x_2) ...
    """
    total = tl.full([], 0.0, tl.float64)
    for i in tl.range(0, n_points + 1, SLOTS, disable_licm=True):
        o_i = i + tl.arange(0, SLOTS)
        p_entry = constants_ptr + 2 * o_i
        value = tl.load(p_entry, mask=o_i < n_points, other=0.0)
        value += tl.load(p_entry + 1, mask=o_i < n_points, other=0.0)
        tl.store(marginals_ptr + o_i, total + tl.cumsum(value, axis=0) - value, mask=o_i <= n_points)
        total += tl.sum(value, axis=0)
    tl.debug_barrier()
