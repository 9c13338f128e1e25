"""Argument checks of the public operations: each names the argument, what came and what was expected."""

import math
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.types import AlphaNoise, GibbsState, NIWPrior, SplitMergeProposals

MAX_BLOCK_SIZE = 32
MAX_DEGREES_OF_FREEDOM = 1e8
"""Above, lgamma((df + D) / 2) - lgamma(df / 2) keeps no more than six decimals of a nat in float64; of nu0, too."""


def points(x: Tensor) -> None:
    _tensor(x, "x")
    if x.ndim != 2 or x.shape[0] < 1 or x.shape[1] < 1:
        raise ValueError(f"x must have shape [N, D] with N >= 1 and D >= 1, got {list(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x must be float32 or float64, got {x.dtype}")
    finite(x, "x")


def components(x: Tensor, location: Tensor, precision_chol: Tensor, name: str) -> None:
    D = x.shape[1]
    _tensor(location, name)
    _tensor(precision_chol, "precision_chol")
    M = location.shape[0] if location.ndim else 0
    _shape(location, name, (M, D), "shape [M, D] with the D of x")
    _shape(precision_chol, "precision_chol", (M, D, D), "shape [M, D, D]")
    _like(location, name, x)
    _like(precision_chol, "precision_chol", x)
    finite(location, name)
    finite(precision_chol, "precision_chol", lower=True)
    diagonal = precision_chol.diagonal(dim1=-2, dim2=-1)
    if (diagonal <= 0).any():
        m, d = (diagonal <= 0).nonzero()[0].tolist()
        raise ValueError(
            f"precision_chol must have a positive diagonal (is the matrix positive definite?), "
            f"component {m} has {float(diagonal[m, d])} at {d}"
        )


def matrices(covariance: Tensor) -> None:
    _tensor(covariance, "covariance")
    if covariance.ndim != 3 or covariance.shape[1] != covariance.shape[2] or covariance.shape[1] < 1:
        raise ValueError(f"covariance must have shape [M, D, D] with D >= 1, got {list(covariance.shape)}")
    _floating(covariance, "covariance")
    finite(covariance, "covariance", lower=True)


def degrees_of_freedom(x: Tensor, df: Tensor, M: int) -> None:
    _tensor(df, "df")
    _shape(df, "df", (M,), "shape [M]")
    _device(df, "df", x)
    _floating(df, "df")
    finite(df, "df")
    if (df <= 0).any():
        m = int((df <= 0).nonzero()[0])
        raise ValueError(f"df must be positive, component {m} has {float(df[m])}")
    if (df > MAX_DEGREES_OF_FREEDOM).any():
        m = int((df > MAX_DEGREES_OF_FREEDOM).nonzero()[0])
        raise ValueError(
            f"df must be at most {MAX_DEGREES_OF_FREEDOM:.0e}, component {m} has {float(df[m]):g}; "
            "a Gaussian (df=None, or gaussian_log_density) is as good there"
        )


def log_weights(x: Tensor, log_weight: Tensor, M: int) -> None:
    _tensor(log_weight, "log_weight")
    _shape(log_weight, "log_weight", (M,), "shape [M]")
    _device(log_weight, "log_weight", x)
    _floating(log_weight, "log_weight")
    bad = torch.isnan(log_weight) | (log_weight == torch.inf)
    if bad.any():
        m = int(bad.nonzero()[0])
        raise ValueError(f"log_weight must be finite or -inf, component {m} has {float(log_weight[m])}")


def offsets(value: Tensor, name: str, total: int, x: Tensor) -> None:
    _tensor(value, name)
    _device(value, name, x)
    if value.dtype != torch.int64 or value.ndim != 1 or len(value) < 2:
        raise ValueError(f"{name} must be int64 of shape [G + 1], got {value.dtype} {list(value.shape)}")
    steps = value.diff()
    if int(value[0]) != 0 or int(value[-1]) != total or (steps < 0).any():
        raise ValueError(f"{name} must rise from 0 to {total}, got {_brief(value)}")


def same_groups(group_offsets: Tensor | None, component_offsets: Tensor | None) -> None:
    if (group_offsets is None) != (component_offsets is None):
        given, missing = ("group_offsets", "component_offsets")
        if group_offsets is None:
            given, missing = missing, given
        raise ValueError(f"{given} needs {missing} too")
    if group_offsets is not None and component_offsets is not None and len(group_offsets) != len(component_offsets):
        raise ValueError(
            f"group_offsets and component_offsets must name the same number of groups, "
            f"got {len(group_offsets) - 1} and {len(component_offsets) - 1}"
        )


def labels(value: Tensor, x: Tensor, n_components: int, name: str = "labels") -> None:
    _tensor(value, name)
    _device(value, name, x)
    if value.dtype != torch.int64 or tuple(value.shape) != (len(x),):
        raise ValueError(f"{name} must be int64 of shape [{len(x)}], got {value.dtype} {list(value.shape)}")
    _positive_integer(n_components, "n_components")
    bad = (value < 0) | (value >= n_components)
    if bad.any():
        n = int(bad.nonzero()[0])
        raise ValueError(f"{name} must be in 0..{n_components - 1}, point {n} has {int(value[n])}")


def gibbs(
    state: GibbsState,
    x: Tensor,
    order: Tensor,
    uniforms: Tensor,
    alpha_noise: AlphaNoise | None,
    prior: NIWPrior,
    group_offsets: Tensor | None,
    block_size: int,
    alpha_shape: int,
    shared_new: bool,
    correction: Tensor | None,
) -> None:
    N = len(x)
    group_offsets = nonempty_groups(group_offsets, x)
    sizes = group_offsets.diff()
    G = len(sizes)
    _positive_integer(block_size, "block_size", MAX_BLOCK_SIZE)
    _positive_integer(alpha_shape, "alpha_shape")
    if not isinstance(shared_new, bool | np.bool_):
        raise ValueError(f"shared_new must be a bool, got {shared_new!r}")

    first_row, end_row = gibbs_state(state, x, group_offsets)
    _tensor(order, "order")
    if order.dtype != torch.int64 or order.ndim not in (1, 2) or order.shape[-1] != N or len(order) < 1:
        raise ValueError(
            f"order must be int64 of shape [{N}] or [T, {N}], T >= 1, got {order.dtype} {list(order.shape)}"
        )
    _device(order, "order", x)
    # Shifted by its group's first row, an order of permutations is itself a permutation of all rows.
    rows = order.reshape(-1, N) + first_row
    outside = (rows < first_row) | (rows >= end_row)
    visits = torch.zeros_like(rows).scatter_add_(1, rows.where(~outside, 0), (~outside).long())
    if (visits != 1).any():
        t, row = (outside if outside.any() else visits != 1).nonzero()[0].tolist()
        g = int((group_offsets <= row).sum()) - 1
        came = order.reshape(-1, N)[t, group_offsets[g] : group_offsets[g + 1]]
        raise ValueError(
            f"order must hold, for each group, a permutation of 0..n_g - 1, "
            f"group {g} of {len(came)} points has {_brief(came)}"
        )
    _tensor(uniforms, "uniforms")
    _shape(uniforms, "uniforms", tuple(order.shape), "the shape of order")
    _floating(uniforms, "uniforms")
    _device(uniforms, "uniforms", x)
    _in_unit_interval(uniforms, "uniforms")

    if alpha_noise is not None:
        _named(alpha_noise, AlphaNoise, "alpha_noise")
        lead = tuple(order.shape[:-1])
        for name, value, size, word in zip(
            AlphaNoise._fields, alpha_noise, (N, N + alpha_shape * G, G), ("N", "N + alpha_shape G", "G"), strict=True
        ):
            _tensor(value, f"alpha_noise.{name}")
            _shape(value, f"alpha_noise.{name}", (*lead, size), f"shape [T, {word}]" if lead else f"shape [{word}]")
            _float64(value, f"alpha_noise.{name}", x)
            finite(value, f"alpha_noise.{name}")
        for name in ("beta", "gamma"):
            value = getattr(alpha_noise, name)
            if (value < 0).any():
                raise ValueError(f"alpha_noise.{name} must not be negative, got {float(value.min())}")
        _in_unit_interval(alpha_noise.choice, "alpha_noise.choice")

    if correction is not None:
        if shared_new:
            raise ValueError("correction must be None with shared_new, whose draws have no correction")
        _tensor(correction, "correction")
        _shape(correction, "correction", tuple(order.shape), "the shape of order")
        _floating(correction, "correction")
        _device(correction, "correction", x)
        _in_unit_interval(correction, "correction")
    niw_prior(prior, x, G)


def inverse_temperature(value: Tensor | None, order: Tensor, x: Tensor, G: int) -> None:
    if value is None:
        return
    _tensor(value, "inverse_temperature")
    T = order.numel() // len(x)
    if tuple(value.shape) not in ((G,), (T, G)):
        raise ValueError(f"inverse_temperature must have shape [{G}] or [{T}, {G}], got {list(value.shape)}")
    _float64(value, "inverse_temperature", x)
    finite(value, "inverse_temperature")
    if (value < 0).any():
        raise ValueError(f"inverse_temperature must not be negative, got {float(value.min())}")


def split_merge(
    state: GibbsState, x: Tensor, proposals: SplitMergeProposals, prior: NIWPrior, group_offsets: Tensor | None
) -> None:
    group_offsets = nonempty_groups(group_offsets, x)
    sizes = group_offsets.diff()
    G = len(sizes)
    gibbs_state(state, x, group_offsets)
    _named(proposals, SplitMergeProposals, "proposals")
    for name, field in zip(SplitMergeProposals._fields, proposals, strict=True):
        _tensor(field, f"proposals.{name}")
        _device(field, f"proposals.{name}", x)
    anchors, candidates, _, uniforms, accept = proposals
    P = len(accept) if accept.ndim else len(anchors) if anchors.ndim else 0
    C = candidates.shape[-1] if candidates.ndim else 0
    S = uniforms.shape[-2] if uniforms.ndim == 4 else 0
    for name, shape, words, dtype in (
        ("anchors", (P, G, 2), "shape [P, G, 2]", torch.int64),
        ("candidates", (P, G, C), "shape [P, G, C]", torch.int64),
        ("launch", (P, G, C), "shape [P, G, C]", torch.bool),
        ("uniforms", (P, G, S, C), "shape [P, G, S, C]", torch.float64),
        ("accept", (P, G), "shape [P, G]", torch.float64),
    ):
        field = getattr(proposals, name)
        _shape(field, f"proposals.{name}", shape, words)
        if field.dtype != dtype:
            raise ValueError(f"proposals.{name} must be {dtype}, got {field.dtype}")
    if S < 1:
        raise ValueError("proposals.uniforms must be of at least one scan, got none")
    _in_unit_interval(uniforms, "proposals.uniforms")
    _in_unit_interval(accept, "proposals.accept")
    limit = sizes[:, None]
    for name, least in (("anchors", 0), ("candidates", -1)):
        field = getattr(proposals, name)
        bad = (field < least) | (field >= limit)
        if bad.any():
            p, g, c = bad.nonzero()[0].tolist()
            raise ValueError(
                f"proposals.{name} must be from {least} to {int(sizes[g]) - 1} in group {g}, "
                f"got {int(field[p, g, c])} in proposal {p}"
            )
    named = torch.cat([anchors, candidates], dim=2).sort(dim=2).values
    twice = ((named.diff(dim=2) == 0) & (named[:, :, 1:] >= 0)).any(2) & (anchors[:, :, 0] != anchors[:, :, 1])
    if twice.any():
        p, g = twice.nonzero()[0].tolist()
        raise ValueError(f"proposals must name a point of a group once, proposal {p} of group {g} names one twice")
    niw_prior(prior, x, G)


def log_joint(state: GibbsState, x: Tensor, prior: NIWPrior, group_offsets: Tensor | None) -> None:
    group_offsets = nonempty_groups(group_offsets, x)
    _named(state, GibbsState, "state")
    for name, value in zip(GibbsState._fields, state, strict=True):
        _tensor(value, f"state.{name}")
    if state.labels.ndim != 2:
        gibbs_state(state, x, group_offsets)
    else:
        if state.alpha.ndim != 2 or len(state.alpha) != len(state.labels):
            raise ValueError(
                f"state.alpha must have one row for each of the {len(state.labels)} rows of labels, "
                f"got shape {list(state.alpha.shape)}"
            )
        for each, alpha in zip(*state, strict=True):
            gibbs_state(GibbsState(each, alpha), x, group_offsets)
    niw_prior(prior, x, len(group_offsets) - 1)


def nonempty_groups(group_offsets: Tensor | None, x: Tensor) -> Tensor:
    """The offsets (of one group for None), checked."""
    if group_offsets is None:
        return torch.tensor([0, len(x)], device=x.device)
    offsets(group_offsets, "group_offsets", len(x), x)
    empty = group_offsets.diff() == 0
    if empty.any():
        raise ValueError(f"group {int(empty.nonzero()[0])} is empty; every group needs at least one point")
    return group_offsets


def gibbs_state(state: GibbsState, x: Tensor, group_offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Check labels and alpha; returns the first row of each point's group and the row after its last."""
    _named(state, GibbsState, "state")
    N, sizes = len(x), group_offsets.diff()
    G = len(sizes)
    labels(state.labels, x, N, "state.labels")
    first_row = torch.repeat_interleave(group_offsets[:-1], sizes)
    used = torch.zeros(2 * N, dtype=torch.int64, device=x.device).scatter_(0, first_row + state.labels, 1)[:N]
    # Labels without gaps fill the rows of their group from the first one on.
    gap = (used == 0) & (first_row == torch.arange(N, device=x.device))
    gap[:-1] |= (used.diff() > 0) & (first_row.diff() == 0)
    end_row = torch.repeat_interleave(group_offsets[1:], sizes)
    gap |= first_row + state.labels >= end_row
    if gap.any():
        g = int((group_offsets <= gap.nonzero()[0]).sum()) - 1
        found = state.labels[group_offsets[g] : group_offsets[g + 1]].unique()
        raise ValueError(
            f"state.labels must number the components of each group 0..K_g - 1 without gaps, "
            f"group {g} has {_brief(found)}"
        )
    _tensor(state.alpha, "state.alpha")
    _shape(state.alpha, "state.alpha", (G,), "shape [G]")
    _float64(state.alpha, "state.alpha", x)
    if not ((state.alpha > 0) & state.alpha.isfinite()).all():
        raise ValueError(f"state.alpha must be positive and finite, got {_brief(state.alpha)}")
    return first_row, end_row


def niw_prior(prior: NIWPrior, x: Tensor, G: int) -> None:
    D = x.shape[1]
    _named(prior, NIWPrior, "prior")
    for name, field, words in zip(NIWPrior._fields, prior, ("G, D", "G", "G", "G, D, D"), strict=True):
        _tensor(field, f"prior.{name}")
        shape = tuple({"G": G, "D": D}[letter] for letter in words.split(", "))
        _shape(field, f"prior.{name}", shape, f"shape [{words}]")
        _float64(field, f"prior.{name}", x)
        finite(field, f"prior.{name}", lower=name == "S0")
    if (prior.kappa0 <= 0).any():
        raise ValueError(f"prior.kappa0 must be positive, got {_brief(prior.kappa0)}")
    if (prior.nu0 <= D - 1).any():
        raise ValueError(f"prior.nu0 must be above D - 1 = {D - 1}, got {_brief(prior.nu0)}")
    if (prior.nu0 > MAX_DEGREES_OF_FREEDOM).any():
        raise ValueError(f"prior.nu0 must be at most {MAX_DEGREES_OF_FREEDOM:.0e}, got {_brief(prior.nu0)}")
    info = torch.linalg.cholesky_ex(prior.S0).info
    if info.any():
        raise ValueError(f"prior.S0 must be positive definite, group {int(info.nonzero()[0])} is not")


def finite(value: Tensor, name: str, lower: bool = False) -> None:
    """Of matrices only the lower triangles, with `lower`."""
    # The sum is finite for almost all finite input and costs one pass without a temporary. On the CPU by numpy: torch's
    # threads would go on spinning for a while on the cores that the engine is about to use.
    with np.errstate(over="ignore", invalid="ignore"):
        total = value.numpy().sum() if value.device.type == "cpu" else value.sum().item()
    if math.isfinite(total):
        return
    bad = ~torch.isfinite(value)
    bad = bad.tril() if lower else bad
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{name} must be finite, got {int(bad.sum())} non-finite values, the first at {first}")


def _positive_integer(value: int, name: str, most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= value <= most:
        limits = ">= 1" if most == math.inf else f"from 1 to {most}"
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")


def _in_unit_interval(value: Tensor, name: str) -> None:
    bad = ~((value >= 0) & (value < 1))
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{name} must be in [0, 1), got {float(value[first])} at {first}")


def _named(value: Any, kind: type, name: str) -> None:
    """Not a plain tuple, whose entries may be in any order."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a kernels.{kind.__name__}, got {type(value).__name__}")


def _tensor(value: Tensor, name: str) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.requires_grad:
        raise ValueError(f"{name} must not require gradients, which no engine computes: pass {name}.detach()")


def _shape(value: Tensor, name: str, shape: tuple[int, ...], words: str) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have {words} = {list(shape)}, got {list(value.shape)}")


def _like(value: Tensor, name: str, x: Tensor) -> None:
    if value.dtype != x.dtype:
        raise ValueError(f"{name} must have the dtype of x, {x.dtype}, got {value.dtype}")
    _device(value, name, x)


def _device(value: Tensor, name: str, x: Tensor) -> None:
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of x, {x.device}, got {value.device}")


def _floating(value: Tensor, name: str) -> None:
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {value.dtype}")


def _float64(value: Tensor, name: str, x: Tensor) -> None:
    if value.dtype != torch.float64:
        raise ValueError(f"{name} must be float64, got {value.dtype}")
    _device(value, name, x)


def _brief(value: Tensor) -> str:
    flat = value.flatten().tolist()
    return str(flat) if len(flat) <= 8 else f"{str(flat[:8])[:-1]}, ...]"
