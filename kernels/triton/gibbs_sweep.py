"""draft"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.types import AlphaNoise, GibbsState, NIWPrior

FIRST_CAPACITY = 64
TILE = 32
SLOTS = 32
POINTS = 64
BLOCK_SIZES = {
    16: (16, 16, 16, 4),
    32: (32, 32, 32, 4),
    64: (64, 32, 64, 8),
    128: (64, 16, 64, 8),
}  # padded D: (PANEL, num_warps)


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
) -> GibbsState:
    N, D = x.shape
    if group_offsets is None:
        group_offsets = torch.tensor([0, N], device=x.device)
    G = len(group_offsets) - 1
    x, group_offsets = x.contiguous(), group_offsets.contiguous()
    orders, all_uniforms = order.reshape(-1, N).contiguous(), uniforms.reshape(-1, N).contiguous()
    T = len(orders)
    labels = torch.empty(T + 1, N, dtype=torch.int64, device=x.device)
    alpha = torch.empty(T + 1, G, dtype=torch.float64, device=x.device)
    labels[0], alpha[0] = state.labels, state.alpha
    noise = (alpha, alpha, alpha) if alpha_noise is None else tuple(f.contiguous() for f in alpha_noise)

    DP = max(16, triton.next_power_of_2(D))
    panel, depth, rows, num_warps = BLOCK_SIZES[DP]
    table = _log_constants(prior, group_offsets, N, D)
    first_records = _prior_records(prior, DP)
    sweeps_done = torch.zeros(G, dtype=torch.int64, device=x.device)
    groups = torch.arange(G, device=x.device)
    capacity = min(FIRST_CAPACITY, N)
    while True:
        components = torch.empty(len(groups), capacity + 1, DP * (DP + 2), dtype=torch.float64, device=x.device)
        components[:, capacity] = first_records[groups]
        tiles = torch.empty(len(groups), capacity + 1, TILE * (TILE + 1), dtype=torch.float64, device=x.device)
        _gibbs_kernel[(len(groups),)](
            x, orders, all_uniforms, *noise, labels, alpha, group_offsets, prior.kappa0.contiguous(),
            prior.nu0.contiguous(), table, groups, sweeps_done, components, tiles, N, G, D, T, capacity,
            DP=DP, BLOCK=block_size, BP=triton.next_power_of_2(block_size), TILE=TILE, PANEL=panel, DEPTH=depth, ROWS=rows, SLOTS=SLOTS,
            POINTS=POINTS, RESAMPLE=alpha_noise is not None, SHARED_NEW=shared_new, num_warps=num_warps, num_stages=1,
        )  # fmt: skip
        groups = (sweeps_done < T).nonzero()[:, 0]
        if len(groups) == 0:
            break
        capacity = min(2 * capacity, N)
    if order.ndim == 1:
        return GibbsState(labels[1], alpha[1])
    return GibbsState(labels[1:], alpha[1:])


def _log_constants(prior: NIWPrior, group_offsets: Tensor, N: int, D: int) -> Tensor:
    G = len(group_offsets) - 1
    first = group_offsets + torch.arange(G + 1, device=group_offsets.device)
    entry = torch.arange(N + G, device=group_offsets.device)
    g = torch.searchsorted(first, entry, right=True) - 1
    n = (entry - first[g]).double()
    kappa, nu = prior.kappa0[g] + n, prior.nu0[g] + n
    return (
        torch.where(n > 0, n, 1.0).log()
        + torch.lgamma(0.5 * (nu + 1))
        - torch.lgamma(0.5 * (nu + 1 - D))
        - 0.5 * D * torch.log(math.pi * (kappa + 1) / kappa)
    )


def _prior_records(prior: NIWPrior, DP: int) -> Tensor:
    G, D = prior.mu0.shape
    chol = torch.linalg.cholesky(prior.S0)
    records = prior.S0.new_zeros(G, DP * (DP + 2))
    records[:, : DP * DP].view(G, DP, DP)[:, :D, :D] = torch.cholesky_inverse(chol)
    records[:, DP * DP : DP * DP + D] = prior.mu0
    records[:, DP * (DP + 1) + 1] = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return records


@triton.jit
def _gibbs_kernel(
    x_ptr, order_ptr, uniform_ptr, beta_ptr, gamma_ptr, choice_ptr, labels_ptr, alpha_ptr, offsets_ptr, kappa0_ptr,
    nu0_ptr, table_ptr, groups_ptr, done_ptr, components_ptr, tiles_ptr, N, G, D, T, CAPACITY,
    DP: tl.constexpr, BLOCK: tl.constexpr, BP: tl.constexpr, TILE: tl.constexpr, PANEL: tl.constexpr,
    DEPTH: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr, POINTS: tl.constexpr, RESAMPLE: tl.constexpr, SHARED_NEW: tl.constexpr,
):  # fmt: skip
    COMPONENT: tl.constexpr = DP * (DP + 2)
    RECORD: tl.constexpr = TILE * (TILE + 1)
    program = tl.program_id(0).to(tl.int64)
    D = D.to(tl.int64)
    N = N.to(tl.int64)
    g = tl.load(groups_ptr + program)
    a = tl.load(offsets_ptr + g)
    n_points = (tl.load(offsets_ptr + g + 1) - a).to(tl.int32)
    kappa0 = tl.load(kappa0_ptr + g)
    nu0 = tl.load(nu0_ptr + g)
    x_ptr += a * D
    table_ptr += a + g
    components_ptr += program * (CAPACITY + 1) * COMPONENT
    tiles_ptr += program * (CAPACITY + 1) * RECORD
    t = tl.load(done_ptr + g)
    alpha = tl.load(alpha_ptr + t * G + g)
    fits = 1
    while (t < T) & (fits == 1):
        before_ptr = labels_ptr + t * N + a
        after_ptr = labels_ptr + (t + 1) * N + a
        n_slots = _start(before_ptr, after_ptr, components_ptr, tiles_ptr, n_points, CAPACITY, DP, TILE, SLOTS, POINTS)
        fits = (n_slots <= CAPACITY).to(tl.int32)
        if fits == 1:
            for i in tl.range(0, n_points, disable_licm=True):
                slot = tl.load(before_ptr + i)
                _move_component(components_ptr, x_ptr + i * D, slot, 1.0, kappa0, D, CAPACITY, DP, ROWS)
        start = 0
        while (start < n_points) & (fits == 1):
            n_tile = tl.minimum(n_points - start, (TILE // BLOCK) * BLOCK)
            _tile_grams(
                components_ptr, tiles_ptr, x_ptr, order_ptr + t * N + a + start, n_tile, n_slots, D, CAPACITY,
                DP, TILE, PANEL, DEPTH,
            )  # fmt: skip
            for first in tl.range(0, n_tile, BLOCK, disable_licm=True):
                last = tl.minimum(first + BLOCK, n_tile)
                visit = t * N + a + start
                for i in tl.range(first, last, disable_licm=True):
                    slot = tl.load(after_ptr + tl.load(order_ptr + visit + i)).to(tl.int32)
                    _move_in_tile(tiles_ptr, slot, i, -1.0, kappa0, CAPACITY, TILE)
                choice = _draw(
                    tiles_ptr, table_ptr, uniform_ptr + visit, alpha, first, last, n_slots, kappa0, nu0, CAPACITY,
                    BP, TILE, SLOTS,
                )  # fmt: skip
                opened = -1
                for i in tl.range(first, last, disable_licm=True):
                    slot = _pick(choice, i - first, BP)
                    if slot < 0:
                        slot = opened
                        if (opened < 0) | (not SHARED_NEW):
                            slot = _lowest_empty(tiles_ptr, n_slots, TILE, SLOTS)
                        opened = slot
                    if slot < CAPACITY:
                        n_slots = tl.maximum(n_slots, slot + 1)
                        tl.store(after_ptr + tl.load(order_ptr + visit + i), slot.to(tl.int64))
                        _move_in_tile(tiles_ptr, slot, i, 1.0, kappa0, CAPACITY, TILE)
                    else:
                        fits = 0
            if fits == 1:
                o_i = tl.arange(0, TILE)
                m_i = o_i < n_tile
                rows = tl.load(order_ptr + t * N + a + start + o_i, mask=m_i, other=0)
                old = tl.load(before_ptr + rows, mask=m_i, other=-1).to(tl.int32)
                new = tl.load(after_ptr + rows, mask=m_i, other=-1).to(tl.int32)
                step = tl.min(tl.where(old != new, o_i, 2 * TILE), axis=0)
                while step < 2 * TILE:
                    i = step % TILE
                    adding = step >= TILE
                    slot = tl.where(adding, _pick(new, i, TILE), _pick(old, i, TILE))
                    sign = tl.where(adding, 1.0, -1.0).to(tl.float64)
                    _move_component(
                        components_ptr, x_ptr + _pick(rows, i, TILE) * D, slot, sign, kappa0, D, CAPACITY, DP, ROWS
                    )
                    later = tl.min(tl.where((old != new) & (o_i > step), o_i, 2 * TILE), axis=0)
                    later_add = tl.min(tl.where((old != new) & (o_i + TILE > step), o_i + TILE, 2 * TILE), axis=0)
                    step = tl.minimum(later, later_add)
            start += n_tile
        if fits == 1:
            K = _renumber(after_ptr, components_ptr, n_points, n_slots, DP, SLOTS, POINTS)
            if RESAMPLE:
                noise = t * N + a
                alpha = _resample_alpha(
                    beta_ptr + noise, gamma_ptr + noise + t * G + g, tl.load(choice_ptr + t * G + g), alpha, K,
                    n_points, POINTS,
                )  # fmt: skip
            t += 1
            tl.store(alpha_ptr + t * G + g, alpha)
    tl.store(done_ptr + g, t)


@triton.jit
def _pick(values, i, SIZE: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, SIZE) == i, values, 0), axis=0)


@triton.jit
def _start(
    before_ptr, after_ptr, components_ptr, tiles_ptr, n_points, CAPACITY,
    DP: tl.constexpr, TILE: tl.constexpr, SLOTS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    tl.debug_barrier()
    n_slots = 0
    for i in tl.range(0, n_points, POINTS, disable_licm=True):
        o_i = i + tl.arange(0, POINTS)
        label = tl.load(before_ptr + o_i, mask=o_i < n_points, other=-1)
        tl.store(after_ptr + o_i, label, mask=o_i < n_points)
        n_slots = tl.maximum(n_slots, tl.max(label, axis=0).to(tl.int32) + 1)
    for k in tl.range(0, CAPACITY, SLOTS, disable_licm=True):
        o_k = (k + tl.arange(0, SLOTS)).to(tl.int64)
        zero = tl.zeros([SLOTS], tl.float64)
        tl.store(components_ptr + o_k * (DP * (DP + 2)) + DP * (DP + 1), zero, mask=o_k < CAPACITY)
        tl.store(tiles_ptr + o_k * (TILE * (TILE + 1)) + TILE * TILE, zero, mask=o_k < CAPACITY)
    tl.debug_barrier()
    return n_slots


@triton.jit
def _move_component(components_ptr, x_ptr, slot, sign, kappa0, D, PRIOR, DP: tl.constexpr, ROWS: tl.constexpr):
    COMPONENT: tl.constexpr = DP * (DP + 2)
    N_AT: tl.constexpr = DP * (DP + 1)
    o_d = tl.arange(0, DP)
    o_r = tl.arange(0, ROWS)
    target_ptr = components_ptr + slot.to(tl.int64) * COMPONENT
    n = tl.load(target_ptr + N_AT)
    source_ptr = components_ptr + tl.where(n > 0, slot, PRIOR).to(tl.int64) * COMPONENT
    shift = sign / (kappa0 + n + sign)
    log_det = tl.load(source_ptr + N_AT + 1)
    mean = tl.load(source_ptr + DP * DP + o_d)
    d = tl.load(x_ptr + o_d, mask=o_d < D, other=0.0).to(tl.float64) - mean
    v = tl.zeros([DP], tl.float64)
    for r in tl.range(0, DP, ROWS, disable_licm=True):
        panel = tl.load(source_ptr + (r + o_r)[:, None] * DP + o_d[None, :])
        d_r = tl.load(x_ptr + r + o_r, mask=r + o_r < D, other=0.0).to(tl.float64) - tl.load(
            source_ptr + DP * DP + r + o_r
        )
        v += tl.sum(panel * d_r[:, None], axis=0)
    weight = shift * (kappa0 + n)
    gain = 1 + weight * tl.sum(v * d, axis=0)
    if n + sign > 0:
        for r in tl.range(0, DP, ROWS, disable_licm=True):
            panel = tl.load(source_ptr + (r + o_r)[:, None] * DP + o_d[None, :])
            v_r = v
            if ROWS < DP:
                v_r = tl.sum(panel * d[None, :], axis=1)
            tl.debug_barrier()
            tl.store(
                target_ptr + (r + o_r)[:, None] * DP + o_d[None, :],
                panel - (v_r[:, None] * v[None, :]) * (weight / gain),
            )
        tl.store(target_ptr + N_AT + 1, log_det + tl.log(gain))
        tl.store(target_ptr + DP * DP + o_d, mean + d * shift)
    tl.debug_barrier()
    tl.store(target_ptr + N_AT, n + sign)
    tl.debug_barrier()


@triton.jit
def _tile_grams(
    components_ptr, tiles_ptr, x_ptr, order_ptr, n_tile, n_slots, D, PRIOR,
    DP: tl.constexpr, TILE: tl.constexpr, PANEL: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    o_i = tl.arange(0, TILE)
    o_c = tl.arange(0, DEPTH)
    o_p = tl.arange(0, PANEL)
    m_i = o_i < n_tile
    rows = tl.load(order_ptr + o_i, mask=m_i, other=0)
    tl.debug_barrier()
    for k in tl.range(0, n_slots + 1, disable_licm=True):
        slot = tl.where(k < n_slots, k, PRIOR).to(tl.int64)
        component_ptr = components_ptr + slot * (DP * (DP + 2))
        tile_ptr = tiles_ptr + slot * (TILE * (TILE + 1))
        n = tl.load(component_ptr + DP * (DP + 1))
        if (n > 0) | (k == n_slots):
            mean_ptr = component_ptr + DP * DP
            gram = tl.zeros([TILE, TILE], tl.float64)
            for p in tl.range(0, DP, PANEL, disable_licm=True):
                white = tl.zeros([TILE, PANEL], tl.float64)
                for c in tl.range(0, DP, DEPTH, disable_licm=True):
                    d = _centred(x_ptr, rows, m_i, mean_ptr, c + o_c, D)
                    precision = tl.load(component_ptr + (c + o_c)[:, None] * DP + (p + o_p)[None, :])
                    white = tl.dot(d, precision, white, input_precision="ieee", out_dtype=tl.float64)
                d = _centred(x_ptr, rows, m_i, mean_ptr, p + o_p, D)
                gram = tl.dot(white, tl.trans(d), gram, input_precision="ieee", out_dtype=tl.float64)
            tl.store(tile_ptr + o_i[:, None] * TILE + o_i[None, :], gram)
            tl.store(tile_ptr + TILE * TILE + 1, tl.load(component_ptr + DP * (DP + 1) + 1))
        tl.store(tile_ptr + TILE * TILE, n)
    tl.debug_barrier()


@triton.jit
def _centred(x_ptr, rows, m_i, mean_ptr, o_d, D):
    x = tl.load(x_ptr + rows[:, None] * D + o_d[None, :], mask=m_i[:, None] & (o_d < D)[None, :], other=0.0)
    return x.to(tl.float64) - tl.load(mean_ptr + o_d)[None, :]


@triton.jit
def _draw(
    tiles_ptr, table_ptr, uniform_ptr, alpha, first, last, n_slots, kappa0, nu0, PRIOR,
    BP: tl.constexpr, TILE: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    o_b = first + tl.arange(0, BP)
    m_b = o_b < last
    prior_ptr = tiles_ptr + PRIOR.to(tl.int64) * (TILE * (TILE + 1))
    q = tl.load(prior_ptr + o_b * (TILE + 1), mask=m_b, other=0.0)
    log_det = tl.load(prior_ptr + TILE * TILE + 1)
    log_new = tl.log(alpha) + _log_predictive(tl.load(table_ptr), log_det, q, kappa0, nu0)
    top = log_new
    total = tl.full([BP], 1.0, tl.float64)
    for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
        log_weight = _log_weights(tiles_ptr, table_ptr, k, o_b, m_b, n_slots, kappa0, nu0, TILE, SLOTS)
        higher = tl.maximum(top, tl.max(log_weight, axis=1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(log_weight - higher[:, None]), axis=1)
        top = higher
    threshold = tl.load(uniform_ptr + o_b, mask=m_b, other=0.0).to(tl.float64) * total
    below = tl.zeros([BP], tl.float64)
    choice = tl.full([BP], -1, tl.int32)
    for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
        o_k = k + tl.arange(0, SLOTS)
        log_weight = _log_weights(tiles_ptr, table_ptr, k, o_b, m_b, n_slots, kappa0, nu0, TILE, SLOTS)
        weight = tl.exp(log_weight - top[:, None])
        edge = below[:, None] + tl.cumsum(weight, axis=1)
        exceeds = (edge > threshold[:, None]) & (weight > 0)
        slot = tl.min(tl.where(exceeds, o_k[None, :], n_slots), axis=1)
        choice = tl.where((choice < 0) & (slot < n_slots), slot, choice)
        below += tl.sum(weight, axis=1)
    return choice


@triton.jit
def _log_predictive(constant, log_det, q, kappa, nu):
    return constant - 0.5 * log_det - 0.5 * (nu + 1) * tl.log(1 + q * (kappa / (kappa + 1)))


@triton.jit
def _log_weights(
    tiles_ptr, table_ptr, k, o_b, m_b, n_slots, kappa0, nu0, TILE: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    o_k = k + tl.arange(0, SLOTS)
    m_k = o_k < n_slots
    tile_ptr = tiles_ptr + o_k.to(tl.int64) * (TILE * (TILE + 1))
    n = tl.load(tile_ptr + TILE * TILE, mask=m_k, other=0.0)
    log_det = tl.load(tile_ptr + TILE * TILE + 1, mask=m_k, other=0.0)
    q = tl.load(tile_ptr[None, :] + o_b[:, None] * (TILE + 1), mask=m_b[:, None] & (n > 0)[None, :], other=0.0)
    constant = tl.load(table_ptr + n.to(tl.int32), mask=m_k, other=0.0)
    log_weight = _log_predictive(constant[None, :], log_det[None, :], q, (kappa0 + n)[None, :], (nu0 + n)[None, :])
    return tl.where((n > 0)[None, :], log_weight, float("-inf"))


@triton.jit
def _move_in_tile(tiles_ptr, slot, i, sign, kappa0, PRIOR, TILE: tl.constexpr):
    RECORD: tl.constexpr = TILE * (TILE + 1)
    o_i = tl.arange(0, TILE)
    o_gram = o_i[:, None] * TILE + o_i[None, :]
    target_ptr = tiles_ptr + slot.to(tl.int64) * RECORD
    n = tl.load(target_ptr + TILE * TILE)
    source_ptr = tiles_ptr + tl.where(n > 0, slot, PRIOR).to(tl.int64) * RECORD
    shift = -sign / (kappa0 + n + sign)
    weight = -shift * (kappa0 + n)
    log_det = tl.load(source_ptr + TILE * TILE + 1)
    q = tl.load(source_ptr + i * (TILE + 1))
    row = tl.load(source_ptr + i * TILE + o_i)
    gram = tl.load(source_ptr + o_gram)
    gain = 1 + weight * q
    over = 1 / gain
    image = (shift * over) * row
    gram += (image + (0.5 * shift * shift * over) * q)[:, None] + (image + (0.5 * shift * shift * over) * q)[None, :]
    gram -= (weight * over) * (row[:, None] * row[None, :])
    tl.debug_barrier()
    tl.store(target_ptr + TILE * TILE, n + sign)
    if n + sign > 0:
        tl.store(target_ptr + TILE * TILE + 1, log_det + tl.log(gain))
        tl.store(target_ptr + o_gram, gram)
    tl.debug_barrier()


@triton.jit
def _lowest_empty(tiles_ptr, n_slots, TILE: tl.constexpr, SLOTS: tl.constexpr):
    lowest = n_slots
    for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
        o_k = k + tl.arange(0, SLOTS)
        n = tl.load(tiles_ptr + o_k.to(tl.int64) * (TILE * (TILE + 1)) + TILE * TILE, mask=o_k < n_slots, other=1.0)
        lowest = tl.minimum(lowest, tl.min(tl.where(n == 0, o_k, n_slots), axis=0))
    return lowest


@triton.jit
def _renumber(
    after_ptr, components_ptr, n_points, n_slots, DP: tl.constexpr, SLOTS: tl.constexpr, POINTS: tl.constexpr
):
    K = 0
    for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
        K += tl.sum(_occupied(components_ptr, k + tl.arange(0, SLOTS), n_slots, DP), axis=0)
    if K < n_slots:
        for i in tl.range(0, n_points, POINTS, disable_licm=True):
            o_i = i + tl.arange(0, POINTS)
            label = tl.load(after_ptr + o_i, mask=o_i < n_points, other=0)
            rank = tl.zeros([POINTS], tl.int32)
            for k in tl.range(0, n_slots, SLOTS, disable_licm=True):
                o_k = k + tl.arange(0, SLOTS)
                occupied = _occupied(components_ptr, o_k, n_slots, DP)
                rank += tl.sum(tl.where(o_k[None, :] < label[:, None], occupied[None, :], 0), axis=1)
            tl.store(after_ptr + o_i, rank.to(tl.int64), mask=o_i < n_points)
    return K


@triton.jit
def _occupied(components_ptr, o_k, n_slots, DP: tl.constexpr):
    n = tl.load(components_ptr + o_k.to(tl.int64) * (DP * (DP + 2)) + DP * (DP + 1), mask=o_k < n_slots, other=0.0)
    return (n > 0).to(tl.int32)


@triton.jit
def _resample_alpha(beta_ptr, gamma_ptr, choice, alpha, K, n_points, POINTS: tl.constexpr):
    rate = tl.full([], 1.0, tl.float64)
    for i in tl.range(0, n_points, POINTS, disable_licm=True):
        o_i = i + tl.arange(0, POINTS)
        beta = tl.load(beta_ptr + o_i, mask=o_i < n_points, other=0.0)
        rate += tl.sum(beta / (alpha + 1 + o_i), axis=0)
    shape = K + (choice < K / (K + n_points * rate)).to(tl.int32)
    gamma = tl.full([], 0.0, tl.float64)
    for i in tl.range(0, shape, POINTS, disable_licm=True):
        o_i = i + tl.arange(0, POINTS)
        gamma += tl.sum(tl.load(gamma_ptr + o_i, mask=o_i < shape, other=0.0), axis=0)
    return gamma / rate


def aot_cases():
    f64, i64 = "*fp64", "*i64"
    sig = dict(
        x_ptr="*fp32",
        order_ptr=i64,
        uniform_ptr="*fp64",
        beta_ptr=f64,
        gamma_ptr=f64,
        choice_ptr=f64,
        labels_ptr=i64,
        alpha_ptr=f64,
        offsets_ptr=i64,
        kappa0_ptr=f64,
        nu0_ptr=f64,
        table_ptr=f64,
        groups_ptr=i64,
        done_ptr=i64,
        components_ptr=f64,
        tiles_ptr=f64,
        N="i32",
        G="i32",
        D="i32",
        T="i32",
        CAPACITY="i32",
    )
    out = []
    for DP, (panel, depth, rows, nw) in BLOCK_SIZES.items():
        for b in (1, 4, 32):
            out.append(
                (
                    _gibbs_kernel,
                    sig,
                    dict(
                        DP=DP,
                        BLOCK=b,
                        BP=b,
                        TILE=TILE,
                        PANEL=panel,
                        DEPTH=depth,
                        ROWS=rows,
                        SLOTS=SLOTS,
                        POINTS=POINTS,
                        RESAMPLE=True,
                        SHARED_NEW=False,
                    ),
                    nw,
                    1,
                    f"gibbs D={DP} b={b}",
                )
            )
    return out
