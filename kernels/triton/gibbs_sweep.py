"""Collapsed Gibbs sweeps on the GPU: one launch runs all sweeps of all groups, one program a group.

A sweep is sequential, so a program's time is latency: what counts is how many steps wait for the one before. Everything
is in float64, so that labels equal the reference's; products of tiles run on the float64 matrix cores.

What lives where
    component record  L2        a slot: precision P = S_n^-1 [DP, DP], mean m [DP], count n, log det S_n
    tile record       L1        a slot: Gram matrix G_ij = (x_i - m)' P (x_j - m) of the tile's TILE points, and count
                                and log det S_n, as they change while the tile is visited
    labels, alpha     memory    a row for each sweep: sweep t reads row t, works in and leaves row t + 1
    registers                   a tile of P, of G, or of log-weights [block, SLOTS], one at a time
    shared memory               operands of products and halves of reductions, as the compiler decides
A program's slots are its components, and after them one for the prior. An empty slot's record (n = 0) is never read:
the prior's is, in its place.

One sweep
    rebuild   component records from the labels alone, a point at a time, so that a sweep depends on the state alone
    for each tile of the next TILE points in visiting order:
        prepare   one pass over the P of all slots: G = X P X', two products a slot; each P is read once for TILE points
        visit     each block: take its points out, draw their labels, put them back. All in tile records: moving a point
                  in or out is a rank-one change of G (TILE^2 operations, not D^2), and draws read its diagonal
        commit    points whose label changed move from one P to another; there is nothing to do for the others
    renumber labels without gaps, resample alpha

`records.py` has how a point is moved into or out of a component record. In a tile record (e, c, gain as there):
    G'_ij = G_ij - (c r_i r_j + e (r_i + r_j) - e^2 q) / gain    with r the row of G that belongs to x

Latency of a point: steps that wait for the one before, and a prediction in cycles of an H100 at D = 64 with 10
components and block size 1, by `benchmarks.performance_model`, where the cost of each step is stated:
    visit     10 loads (order, label; count, row of G; count, diagonal, both again; count, row of G), 4 barriers,
              4 reductions in a warp, 10 divisions, logarithms and exponentials one after another              3,200
    prepare   11 slots, each P from L2 (33 KiB) and 3 products; over 16 points                                 1,000
    rebuild   3 loads (label, count, P), 2 reductions across warps, 3 barriers, 3 divisions and logarithms,
              P written back                                                                                   2,700
    commit    twice a rebuild step, for one point in five                                                      1,100
That is 4.4 us a point: 400 sweeps of 500 points in 0.9 s, for as many groups at once as there are multiprocessors.
Measured on an H200 with 6 components: 6.0 us at D = 64 (predicted: 4.1), 3.7 at D = 16 (3.5).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.common import (
    MOST_REGISTERS,
    TARGETS,
    Case,
    aligned,
    launch_options,
    one_group,
    padded,
    padded_rows,
    target,
)
from kernels.triton.records import (
    BLOCKS,
    SLOTS,
    log_constants,
    log_predictive,
    move_point,
    pick,
    prior_records,
    whitened,
)
from kernels.types import AlphaNoise, GibbsState, NIWPrior

FIRST_CAPACITY = 64
"""Slots a group has memory for at first: the paper's data need up to 56. It doubles for the groups that outgrow it."""

TILE = 16
"""Points that are visited between two passes over the precisions (32 for blocks of more than 4)."""

DRAWS = (1, 4, 32)
"""Points that a program has room to draw together: a kernel each. The paper's blocks are of 4."""


def gibbs_sweep(
    state: GibbsState,
    x: Tensor,
    order: Tensor,
    uniforms: Tensor,
    alpha_noise: AlphaNoise | None = None,
    *,
    prior: NIWPrior,
    group_offsets: Tensor | None = None,
    block_size: int = 1,
    shared_new: bool = False,
    alpha_shape: int = 1,
    correction: Tensor | None = None,
    inverse_temperature: Tensor | None = None,
) -> GibbsState:
    """See `kernels.gibbs_sweep`.

    The host looks at the device before the launch, for points that are too far away, and once after it. A group that
    needs more slots than there is memory for stops before the sweep in question. Such groups, and no others, then go on
    from there in another launch with twice the slots: since a sweep depends on the state alone, the result is that of a
    launch with room enough.
    """
    name = target(x)
    if correction is not None:
        raise ValueError("correction must be None on engine 'triton', which draws blocks without it")
    N, D = x.shape
    if group_offsets is None:
        group_offsets = one_group(N, x)
    G, T, DP = len(group_offsets) - 1, order.numel() // N, padded(D)
    # Triton's launcher knows no NumPy integers, which the argument checks let pass.
    block_size, alpha_shape = int(block_size), int(alpha_shape)
    labels = torch.empty(T + 1, N, dtype=torch.int64, device=x.device)
    alpha = torch.empty(T + 1, G, dtype=torch.float64, device=x.device)
    labels[0], alpha[0] = state.labels, state.alpha
    noise = (alpha, alpha, alpha) if alpha_noise is None else alpha_noise
    constants = log_constants(prior, group_offsets, N)
    power = torch.ones(G, dtype=torch.float64, device=x.device) if inverse_temperature is None else inverse_temperature
    inputs = [order, uniforms.double(), *noise, power.expand(T, G), group_offsets, prior.kappa0, prior.nu0, constants]
    z, log_det = whitened(x, prior, group_offsets)
    inputs = [padded_rows(z), *map(aligned, inputs)]
    constexprs = _constexprs(DP, next(draws for draws in DRAWS if draws >= block_size))
    tile = constexprs["TILE"]
    of_no_points = prior_records(log_det, D, DP)
    sweeps_done = torch.zeros(G, dtype=torch.int64, device=x.device)
    # Programs start in this order: large groups first, so that none of them is left for the end.
    groups = group_offsets.diff().argsort(descending=True, stable=True)
    capacity = min(FIRST_CAPACITY, N)
    while len(groups) > 0:
        components = torch.empty(len(groups), capacity + 1, DP * (DP + 2), dtype=torch.float64, device=x.device)
        components[:, capacity] = of_no_points[groups]
        tiles = torch.empty(len(groups), capacity + 1, tile * (tile + 1), dtype=torch.float64, device=x.device)
        with torch.cuda.device_of(x):
            _gibbs_kernel[(len(groups),)](
                *inputs, labels, alpha, groups, sweeps_done, components, tiles,
                N, G, T, capacity, block_size, int(shared_new), int(alpha_noise is not None), alpha_shape,
                **constexprs, **_options(DP, constexprs["BP"], name),
            )  # fmt: skip
        groups = (sweeps_done < T).nonzero()[:, 0]
        capacity = min(2 * capacity, N)
    if order.ndim == 1:
        return GibbsState(labels[1], alpha[1])
    return GibbsState(labels[1:], alpha[1:])


def aot_cases() -> list[Case]:
    """Every entry of the table, for blocks of every size."""
    constants = _constexprs(16, 1)
    integers = ("order_ptr", "offsets_ptr", "labels_ptr", "groups_ptr", "sweeps_done_ptr")
    kinds = dict.fromkeys(integers, "*i64") | dict.fromkeys(SCALARS, "i32")
    signature = {key: kinds.get(key, "*fp64") for key in _gibbs_kernel.arg_names if key not in constants}
    return [
        Case(
            f"gibbs sweep fp64 D={DP} block={draws}",
            name,
            _gibbs_kernel,
            signature,
            _constexprs(DP, draws),
            _options(DP, draws, name),
        )
        for DP in BLOCKS
        for draws in DRAWS
        for name in TARGETS
    ]


def _constexprs(DP: int, draws: int) -> dict[str, int]:
    columns, depth, rows, _ = BLOCKS[DP]
    tile = TILE if draws <= 4 else 2 * TILE
    return {"DP": DP, "BP": draws, "TILE": tile, "COLUMNS": columns, "DEPTH": depth, "ROWS": rows}


def _options(DP: int, draws: int, name: str) -> dict[str, int]:
    # Draws for 32 points by 2 warps would spill.
    return launch_options(BLOCKS[DP].warps if draws <= 4 else max(4, BLOCKS[DP].warps), name, MOST_REGISTERS)


# ---------------------------------------------------------------- the kernel


SCALARS = ("N", "G", "T", "CAPACITY", "BLOCK", "SHARED_NEW", "RESAMPLE", "ALPHA_SHAPE")


@triton.jit(do_not_specialize=SCALARS)
def _gibbs_kernel(
    x_ptr, order_ptr, uniform_ptr, beta_ptr, gamma_ptr, choice_ptr, power_ptr, offsets_ptr, kappa0_ptr, nu0_ptr,
    constants_ptr, labels_ptr, alpha_ptr, groups_ptr, sweeps_done_ptr, components_ptr, tiles_ptr,
    N, G, T, CAPACITY, BLOCK, SHARED_NEW, RESAMPLE, ALPHA_SHAPE,
    DP: tl.constexpr, BP: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    N = N.to(tl.int64)
    g = tl.load(groups_ptr + program)
    first_row = tl.load(offsets_ptr + g)
    n_points = (tl.load(offsets_ptr + g + 1) - first_row).to(tl.int32)
    kappa0 = tl.load(kappa0_ptr + g)
    nu0 = tl.load(nu0_ptr + g)
    x_ptr += first_row * DP
    constants_ptr += 2 * (first_row + g)
    components_ptr += program * (CAPACITY + 1) * (DP * (DP + 2))
    tiles_ptr += program * (CAPACITY + 1) * (TILE * (TILE + 1))
    sweeps_done = tl.load(sweeps_done_ptr + g)
    alpha = tl.load(alpha_ptr + sweeps_done * G + g)
    fits = 1
    for t in tl.range(sweeps_done, T, disable_licm=True):
        if fits == 1:
            before_ptr = labels_ptr + t * N + first_row
            after_ptr = before_ptr + N
            n_slots = _rebuild(
                components_ptr, tiles_ptr, x_ptr, before_ptr, after_ptr, n_points, kappa0, CAPACITY, DP, TILE, ROWS
            )
            fits = (n_slots <= CAPACITY).to(tl.int32)
            for start in tl.range(0, n_points, TILE // BLOCK * BLOCK, disable_licm=True):
                if fits == 1:
                    n_tile = tl.minimum(n_points - start, TILE // BLOCK * BLOCK)
                    visit = t * N + first_row + start
                    _prepare(
                        components_ptr, tiles_ptr, x_ptr, order_ptr + visit, n_tile, n_slots, CAPACITY,
                        DP, TILE, COLUMNS, DEPTH,
                    )  # fmt: skip
                    n_slots, fits = _visit(
                        tiles_ptr, constants_ptr, order_ptr + visit, uniform_ptr + visit, after_ptr, alpha,
                        tl.load(power_ptr + t * G + g), n_tile, n_slots, kappa0, nu0, CAPACITY, BLOCK, SHARED_NEW,
                        BP, TILE,
                    )  # fmt: skip
                    if fits == 1:
                        _commit(
                            components_ptr, x_ptr, order_ptr + visit, before_ptr, after_ptr, n_tile, kappa0, CAPACITY,
                            DP, TILE, ROWS,
                        )  # fmt: skip
            if fits == 1:
                K = _renumber(components_ptr, after_ptr, n_points, n_slots, DP)
                if RESAMPLE == 1:
                    beta_row = t * N + first_row
                    gamma_row = t * (N + ALPHA_SHAPE * G) + first_row + ALPHA_SHAPE * g
                    choice = tl.load(choice_ptr + t * G + g)
                    alpha = _resample_alpha(
                        beta_ptr + beta_row, gamma_ptr + gamma_row, choice, alpha, ALPHA_SHAPE + K - 1, n_points
                    )
                sweeps_done += 1
                tl.store(alpha_ptr + sweeps_done * G + g, alpha)
    tl.store(sweeps_done_ptr + g, sweeps_done)


@triton.jit
def _rebuild(
    components_ptr, tiles_ptr, x_ptr, before_ptr, after_ptr, n_points, kappa0, CAPACITY,
    DP: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Component records from labels; the number of slots that these need (if there are too few: no records).

    Copies the labels to the row that the sweep works in, and empties all tile records.
    """
    tl.debug_barrier()
    n_slots = 0
    for i in tl.range(0, n_points, SLOTS, disable_licm=True):
        o_i = i + tl.arange(0, SLOTS)
        label = tl.load(before_ptr + o_i, mask=o_i < n_points, other=-1)
        tl.store(after_ptr + o_i, label, mask=o_i < n_points)
        n_slots = tl.maximum(n_slots, tl.max(label, axis=0).to(tl.int32) + 1)
    for k in tl.range(0, CAPACITY, SLOTS, disable_licm=True):
        o_k = (k + tl.arange(0, SLOTS)).to(tl.int64)
        zero = tl.zeros([SLOTS], tl.float64)
        tl.store(components_ptr + o_k * (DP * (DP + 2)) + DP * (DP + 1), zero, mask=o_k < CAPACITY)
        tl.store(tiles_ptr + o_k * (TILE * (TILE + 1)) + TILE * TILE, zero, mask=o_k < CAPACITY)
    tl.debug_barrier()
    if n_slots <= CAPACITY:
        for i in tl.range(0, n_points, disable_licm=True):
            row = tl.cast(i, tl.int64)
            move_point(components_ptr, x_ptr + row * DP, tl.load(before_ptr + i), 1.0, kappa0, CAPACITY, DP, ROWS)
    return n_slots


@triton.jit
def _prepare(
    components_ptr, tiles_ptr, x_ptr, order_ptr, n_tile, n_slots, PRIOR,
    DP: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Tile records of the next points to visit, for all slots that hold a point, and for the prior."""
    o_i = tl.arange(0, TILE)
    o_c = tl.arange(0, COLUMNS)
    o_f = tl.arange(0, DEPTH)
    m_i = o_i < n_tile
    row = tl.load(order_ptr + o_i, mask=m_i, other=0)
    tl.debug_barrier()
    for k in tl.range(0, n_slots + 1, disable_licm=True):
        slot = tl.where(k < n_slots, k, PRIOR).to(tl.int64)
        component_ptr = components_ptr + slot * (DP * (DP + 2))
        mean_ptr = component_ptr + DP * DP
        tile_ptr = tiles_ptr + slot * (TILE * (TILE + 1))
        n = tl.load(mean_ptr + DP)
        if (n > 0) | (k == n_slots):
            gram = tl.zeros([TILE, TILE], tl.float64)
            for j in tl.range(0, DP, COLUMNS, disable_licm=True):
                dp = tl.zeros([TILE, COLUMNS], tl.float64)
                for f in tl.range(0, DP, DEPTH, disable_licm=True):
                    d = _centred(x_ptr, row, m_i, mean_ptr, f + o_f, DP)
                    precision = tl.load(component_ptr + (f + o_f)[:, None] * DP + (j + o_c)[None, :])
                    dp = tl.dot(d, precision, dp, input_precision="ieee", out_dtype=tl.float64)
                d = _centred(x_ptr, row, m_i, mean_ptr, j + o_c, DP)
                gram = tl.dot(dp, tl.trans(d), gram, input_precision="ieee", out_dtype=tl.float64)
            tl.store(tile_ptr + o_i[:, None] * TILE + o_i[None, :], gram)
            tl.store(tile_ptr + TILE * TILE + 1, tl.load(mean_ptr + DP + 1))
        tl.store(tile_ptr + TILE * TILE, n)
    tl.debug_barrier()


@triton.jit
def _centred(x_ptr, row, m_i, mean_ptr, o_d, DP: tl.constexpr):
    x = tl.load(x_ptr + row[:, None] * DP + o_d[None, :], mask=m_i[:, None], other=0.0)
    return x - tl.load(mean_ptr + o_d)[None, :]


@triton.jit
def _visit(
    tiles_ptr, constants_ptr, order_ptr, uniform_ptr, labels_ptr, alpha, power, n_tile, n_slots, kappa0, nu0, CAPACITY,
    BLOCK, SHARED_NEW, BP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Draw the labels of the tile's points, a block at a time; the number of slots now in use, and whether they fit."""
    fits = 1
    for first in tl.range(0, n_tile, BLOCK, disable_licm=True):
        last = tl.minimum(first + BLOCK, n_tile)
        for i in tl.range(first, last, disable_licm=True):
            slot = tl.load(labels_ptr + tl.load(order_ptr + i)).to(tl.int32)
            _move_in_tile(tiles_ptr, slot, i, -1.0, kappa0, CAPACITY, TILE)
        drawn = _draw(
            tiles_ptr, constants_ptr, uniform_ptr, alpha, power, first, last, n_slots, kappa0, nu0, CAPACITY, BP, TILE
        )
        opened = -1
        for i in tl.range(first, last, disable_licm=True):
            slot = pick(drawn, tl.arange(0, BP) == i - first)
            if slot < 0:
                slot = opened
                if (opened < 0) | (SHARED_NEW == 0):
                    slot = _lowest_empty(tiles_ptr, n_slots, TILE)
                opened = slot
            if slot < CAPACITY:
                n_slots = tl.maximum(n_slots, slot + 1)
                tl.store(labels_ptr + tl.load(order_ptr + i), slot.to(tl.int64))
                _move_in_tile(tiles_ptr, slot, i, 1.0, kappa0, CAPACITY, TILE)
            else:
                fits = 0
    return n_slots, fits


@triton.jit
def _move_in_tile(tiles_ptr, slot, i, sign, kappa0, PRIOR, TILE: tl.constexpr):
    """Move point i of the tile into (sign 1) or out of (-1) a tile record."""
    COUNT: tl.constexpr = TILE * TILE
    o_i = tl.arange(0, TILE)
    o_gram = o_i[:, None] * TILE + o_i[None, :]
    target_ptr = tiles_ptr + slot.to(tl.int64) * (TILE * (TILE + 1))
    n = tl.load(target_ptr + COUNT)
    source_ptr = tiles_ptr + tl.where(n > 0, slot, PRIOR).to(tl.int64) * (TILE * (TILE + 1))
    log_det = tl.load(source_ptr + COUNT + 1)
    q = tl.load(source_ptr + i * (TILE + 1))
    row = tl.load(source_ptr + i * TILE + o_i)
    gram = tl.load(source_ptr + o_gram)
    e = sign / (kappa0 + n + sign)
    c = e * (kappa0 + n)
    gain = 1 + c * q
    along = e * row - 0.5 * e * e * q
    gram -= (c * (row[:, None] * row[None, :]) + (along[:, None] + along[None, :])) * (1 / gain)
    tl.debug_barrier()
    tl.store(target_ptr + o_gram, gram)
    tl.store(target_ptr + COUNT, n + sign)
    tl.store(target_ptr + COUNT + 1, log_det + tl.log(gain))
    tl.debug_barrier()


@triton.jit
def _draw(
    tiles_ptr, constants_ptr, uniform_ptr, alpha, power, first, last, n_slots, kappa0, nu0, PRIOR,
    BP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """[BP] slots drawn for points first..last - 1 of the tile, which no component holds now; -1 for a new one."""
    o_i = first + tl.arange(0, BP)
    m_i = o_i < last
    prior_ptr = tiles_ptr + PRIOR.to(tl.int64) * (TILE * (TILE + 1))
    q = tl.load(prior_ptr + o_i * (TILE + 1), mask=m_i, other=0.0)
    log_det = tl.load(prior_ptr + TILE * TILE + 1)
    top = tl.log(alpha) + power * log_predictive(tl.load(constants_ptr + 1), log_det, q, kappa0, nu0)
    # In units of exp(top), so that nothing overflows.
    total = tl.full([BP], 1.0, tl.float64)
    for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
        log_weight = _log_weights(tiles_ptr, constants_ptr, power, k, o_i, m_i, n_slots, kappa0, nu0, TILE)
        higher = tl.maximum(top, tl.max(log_weight, axis=1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(log_weight - higher[:, None]), axis=1)
        top = higher
    threshold = tl.load(uniform_ptr + o_i, mask=m_i, other=0.0) * total
    below = tl.zeros([BP], tl.float64)
    drawn = tl.full([BP], -1, tl.int32)
    for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
        log_weight = _log_weights(tiles_ptr, constants_ptr, power, k, o_i, m_i, n_slots, kappa0, nu0, TILE)
        weight = tl.exp(log_weight - top[:, None])
        edge = below[:, None] + tl.cumsum(weight, axis=1)
        # An empty slot's edge may exceed the one before by a rounding error: it has no weight and is never drawn.
        exceeds = (edge > threshold[:, None]) & (weight > 0)
        slot = tl.min(tl.where(exceeds, (k + tl.arange(0, SLOTS))[None, :], n_slots), axis=1)
        drawn = tl.where((drawn < 0) & (slot < n_slots), slot, drawn)
        below += tl.sum(weight, axis=1)
    return drawn


@triton.jit
def _log_weights(tiles_ptr, constants_ptr, power, k, o_i, m_i, n_slots, kappa0, nu0, TILE: tl.constexpr):
    """[BP, SLOTS] of log n t(x)^power, for slots from k on; -inf where empty."""
    o_k = k + tl.arange(0, SLOTS)
    m_k = o_k < n_slots
    tile_ptr = tiles_ptr + o_k.to(tl.int64) * (TILE * (TILE + 1))
    n = tl.load(tile_ptr + TILE * TILE, mask=m_k, other=0.0)
    log_det = tl.load(tile_ptr + TILE * TILE + 1, mask=n > 0, other=0.0)
    q = tl.load(tile_ptr[None, :] + o_i[:, None] * (TILE + 1), mask=m_i[:, None] & (n > 0)[None, :], other=0.0)
    p_entry = constants_ptr + 2 * n.to(tl.int32)
    log_n = tl.load(p_entry, mask=m_k, other=0.0)
    constant = tl.load(p_entry + 1, mask=m_k, other=0.0)
    log_t = log_predictive(constant[None, :], log_det[None, :], q, (kappa0 + n)[None, :], (nu0 + n)[None, :])
    return tl.where((n > 0)[None, :], log_n[None, :] + power * log_t, float("-inf"))


@triton.jit
def _lowest_empty(tiles_ptr, n_slots, TILE: tl.constexpr):
    lowest = n_slots
    for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
        o_k = k + tl.arange(0, SLOTS)
        n = tl.load(tiles_ptr + o_k.to(tl.int64) * (TILE * (TILE + 1)) + TILE * TILE, mask=o_k < n_slots, other=1.0)
        lowest = tl.minimum(lowest, tl.min(tl.where(n == 0, o_k, n_slots), axis=0))
    return lowest


@triton.jit
def _commit(
    components_ptr, x_ptr, order_ptr, before_ptr, after_ptr, n_tile, kappa0, PRIOR,
    DP: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Move the points whose label changed: all of them out of their old component records, then into their new ones."""
    o_i = tl.arange(0, TILE)
    m_i = o_i < n_tile
    row = tl.load(order_ptr + o_i, mask=m_i, other=0)
    old = tl.load(before_ptr + row, mask=m_i, other=0).to(tl.int32)
    new = tl.load(after_ptr + row, mask=m_i, other=0).to(tl.int32)
    moved = (old != new).to(tl.int32)
    rank = tl.cumsum(moved, axis=0) * moved
    n_moved = tl.sum(moved, axis=0)
    for step in tl.range(0, 2 * n_moved, disable_licm=True):
        adding = step >= n_moved
        this = rank == step + 1 - tl.where(adding, n_moved, 0)
        slot = pick(tl.where(adding, new, old), this)
        sign = tl.where(adding, 1.0, -1.0).to(tl.float64)
        move_point(components_ptr, x_ptr + pick(row, this) * DP, slot, sign, kappa0, PRIOR, DP, ROWS)


@triton.jit
def _renumber(components_ptr, labels_ptr, n_points, n_slots, DP: tl.constexpr):
    """Close the gaps that emptied slots leave in the labels, in slot order; the number of components."""
    K = 0
    for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
        K += tl.sum(_occupied(components_ptr, k + tl.arange(0, SLOTS), n_slots, DP), axis=0)
    if n_slots > K:
        for i in tl.range(0, n_points, SLOTS, disable_licm=True):
            o_i = i + tl.arange(0, SLOTS)
            label = tl.load(labels_ptr + o_i, mask=o_i < n_points, other=0)
            lower = tl.zeros([SLOTS], tl.int32)
            for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
                o_k = k + tl.arange(0, SLOTS)
                occupied = _occupied(components_ptr, o_k, n_slots, DP)
                lower += tl.sum(tl.where(o_k[None, :] < label[:, None], occupied[None, :], 0), axis=1)
            tl.debug_barrier()
            tl.store(labels_ptr + o_i, lower.to(tl.int64), mask=o_i < n_points)
    return K


@triton.jit
def _occupied(components_ptr, o_k, n_slots, DP: tl.constexpr):
    n = tl.load(components_ptr + o_k.to(tl.int64) * (DP * (DP + 2)) + DP * (DP + 1), mask=o_k < n_slots, other=0.0)
    return (n > 0).to(tl.int32)


@triton.jit
def _resample_alpha(beta_ptr, gamma_ptr, choice, alpha, smaller_shape, n_points):
    """Escobar & West, as the reference has it."""
    rate = tl.full([], 1.0, tl.float64)
    for i in tl.range(0, n_points, SLOTS, disable_licm=True):
        o_i = i + tl.arange(0, SLOTS)
        rate += tl.sum(tl.load(beta_ptr + o_i, mask=o_i < n_points, other=0.0) / (alpha + 1 + o_i), axis=0)
    shape = smaller_shape + (choice < smaller_shape / (smaller_shape + n_points * rate)).to(tl.int32)
    gamma = tl.full([], 0.0, tl.float64)
    for i in tl.range(0, shape, SLOTS, disable_licm=True):
        o_i = i + tl.arange(0, SLOTS)
        gamma += tl.sum(tl.load(gamma_ptr + o_i, mask=o_i < shape, other=0.0), axis=0)
    return gamma / rate
