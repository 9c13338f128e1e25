"""Log joint density of labels and data on the GPU, in float64: one program a group, labellings one after another.

A component's log marginal likelihood follows from the log determinant of its record (`records.py`), which is made from
its points one at a time. So a labelling costs a rebuild of a Gibbs sweep, for as many groups at once as there is room.
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
    add_component,
    count_of,
    empty,
    log_constants,
    log_det_of,
    prior_records,
    record_of,
    tabulate_marginals,
    whitened,
)
from kernels.types import GibbsState, NIWPrior

STIRLING = 1e5
"""alpha from which the next term of the series, below 1 / (360 alpha^3), is nothing, and log Gamma loses digits."""

PRIOR, COMPONENT = tl.constexpr(0), tl.constexpr(1)
"""Slots of a program."""


def log_joint(state: GibbsState, x: Tensor, *, prior: NIWPrior, group_offsets: Tensor | None = None) -> Tensor:
    """See `kernels.log_joint`."""
    name = target(x)
    N, D = x.shape
    if group_offsets is None:
        group_offsets = one_group(N, x)
    G, DP = len(group_offsets) - 1, padded(D)
    labels, alpha = state.labels.reshape(-1, N), state.alpha.reshape(-1, G)
    records = torch.empty(G, 2, DP * (DP + 2), dtype=torch.float64, device=x.device)
    z, log_det = whitened(x, prior, group_offsets)
    records[:, 0] = prior_records(log_det, D, DP)
    marginals = torch.empty(N + G, dtype=torch.float64, device=x.device)
    likelihood = torch.empty(alpha.shape, dtype=torch.float64, device=x.device)
    n_components = torch.empty(alpha.shape, dtype=torch.int64, device=x.device)
    constants = log_constants(prior, group_offsets, N)
    inputs = [labels, group_offsets, prior.kappa0, prior.nu0, constants]
    with torch.cuda.device_of(x):
        _log_joint_kernel[(G,)](
            padded_rows(z), *map(aligned, inputs), marginals, records, likelihood,
            n_components, N, G, len(labels),
            DP=DP, ROWS=BLOCKS[DP].rows, **launch_options(BLOCKS[DP].warps, name, MOST_REGISTERS),
        )  # fmt: skip
    restaurant = n_components * alpha.log() - _log_rising(alpha, group_offsets.diff())
    return (restaurant + likelihood).view(state.alpha.shape)


def _log_rising(alpha: Tensor, n: Tensor) -> Tensor:
    """log Gamma(alpha + n) - log Gamma(alpha); of a large alpha by the difference of their Stirling series."""
    end = alpha + n
    series = (end - 0.5) * torch.log1p(n / alpha) + n * (alpha.log() - 1) - n / (12 * alpha * end)
    return torch.where(alpha > STIRLING, series, torch.lgamma(end) - torch.lgamma(alpha))


def aot_cases() -> list[Case]:
    signature = {
        "x_ptr": "*fp64", "labels_ptr": "*i64", "offsets_ptr": "*i64", "kappa0_ptr": "*fp64", "nu0_ptr": "*fp64",
        "constants_ptr": "*fp64", "marginals_ptr": "*fp64", "records_ptr": "*fp64", "likelihood_ptr": "*fp64",
        "n_components_ptr": "*i64",
    } | dict.fromkeys(SCALARS, "i32")  # fmt: skip
    return [
        Case(
            f"log joint fp64 D={DP}",
            name,
            _log_joint_kernel,
            signature,
            {"DP": DP, "ROWS": blocks.rows},
            launch_options(blocks.warps, name, MOST_REGISTERS),
        )
        for DP, blocks in BLOCKS.items()
        for name in TARGETS
    ]


SCALARS = ("N", "G", "T")


@triton.jit(do_not_specialize=SCALARS)
def _log_joint_kernel(
    x_ptr, labels_ptr, offsets_ptr, kappa0_ptr, nu0_ptr, constants_ptr, marginals_ptr, records_ptr, likelihood_ptr,
    n_components_ptr, N, G, T, DP: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Of each labelling: its number of components, and sum_k [log Gamma(n_k) + log p(points of k)]."""
    g = tl.program_id(0).to(tl.int64)
    N = N.to(tl.int64)
    first_row = tl.load(offsets_ptr + g)
    n_points = (tl.load(offsets_ptr + g + 1) - first_row).to(tl.int32)
    kappa0 = tl.load(kappa0_ptr + g)
    nu0 = tl.load(nu0_ptr + g)
    x_ptr += first_row * DP
    marginals_ptr += first_row + g
    records_ptr += 2 * g * (DP * (DP + 2))
    tabulate_marginals(constants_ptr + 2 * (first_row + g), marginals_ptr, n_points)
    prior_slot = tl.full([], PRIOR, tl.int32)
    slot = tl.full([], COMPONENT, tl.int32)
    record_ptr = record_of(records_ptr, slot, DP)
    log_det0 = log_det_of(records_ptr, DP)
    for t in tl.range(0, T, disable_licm=True):
        row_ptr = labels_ptr + t * N + first_row
        K = 0
        for i in tl.range(0, n_points, SLOTS, disable_licm=True):
            o_i = i + tl.arange(0, SLOTS)
            label = tl.load(row_ptr + o_i, mask=o_i < n_points, other=-1)
            K = tl.maximum(K, tl.max(label, axis=0).to(tl.int32) + 1)
        n_occupied = 0
        value = tl.full([], 0.0, tl.float64)
        for k in tl.range(0, K, disable_licm=True):
            empty(records_ptr, slot, DP)
            add_component(records_ptr, x_ptr, row_ptr, k, slot, n_points, kappa0, prior_slot, DP, ROWS)
            n = count_of(record_ptr, DP)
            if n > 0:
                n_occupied += 1
                value += tl.load(marginals_ptr + n.to(tl.int32))
                value += 0.5 * (nu0 * log_det0 - (nu0 + n) * log_det_of(record_ptr, DP))
        tl.store(likelihood_ptr + t * G + g, value)
        tl.store(n_components_ptr + t * G + g, tl.cast(n_occupied, tl.int64))
