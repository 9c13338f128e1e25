"""Full-covariance Gaussian mixtures by expectation maximisation, for many groups at once.

Pure functions, in the order in which they are used: initial_labels, initial_mixtures, e_step, m_step, and the loop
expectation_maximisation. The estimator is in `classfit.em`.
"""

from collections.abc import Callable
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import kmeans_plusplus
from sklearn.metrics import pairwise_distances_argmin
from torch import Tensor

import kernels
from classfit.devices import moved
from kernels.cpu import threads

__all__ = ["Fit", "Mixtures", "e_step", "expectation_maximisation", "initial_labels", "initial_mixtures", "m_step"]


class Mixtures(NamedTuple):
    """One Gaussian mixture a group, the components of all groups in a row; float64."""

    weights: Tensor
    """[M], summing to 1 in each group; 0 for a component that has lost its points."""
    means: Tensor
    """[M, D]."""
    covariances: Tensor
    """[M, D, D]."""
    precision_chol: Tensor
    """[M, D, D] inverse of the lower Cholesky factor of the covariance."""


class Fit(NamedTuple):
    """The end of EM in one group."""

    mixture: Mixtures
    """On the processor."""
    log_likelihood: float
    """Mean over the points under just this mixture, in nats."""
    n_iter: int
    """EM steps done."""
    converged: bool
    """The last step changed log_likelihood by less than tol."""
    singular: bool
    """The next step would have needed a covariance that is not positive definite to working precision."""


def initial_labels(x: np.ndarray, n_components: int, init_params: str, seed: list[int]) -> np.ndarray:
    """A start for one group: [N] int64, the component of each point.

    "k-means++": the nearest of n_components points drawn by k-means++ (Arthur & Vassilvitskii 2007).
    "random": a random split into components of equal size.

    Args:
        x: [N, D] points, N >= n_components.
        n_components: K.
        init_params: one of the two above.
        seed: entropy of the random draws.
    """
    sequence = np.random.SeedSequence(seed)
    if init_params == "random":
        return np.random.default_rng(sequence).permutation(np.arange(len(x)) % n_components)
    if n_components == 1:
        return np.zeros(len(x), np.int64)
    centres, _ = kmeans_plusplus(x, n_components, random_state=int(sequence.generate_state(1)[0]))
    return pairwise_distances_argmin(x, centres).astype(np.int64)


def initial_mixtures(
    x: Tensor, labels: Tensor, group_offsets: Tensor, component_offsets: Tensor, reg_covar: float
) -> tuple[Mixtures, Tensor]:
    """Mixtures from hard assignments: weights and means of the components, the pooled covariance within them.

    One covariance for all components of a group, so that none starts as a spike on its few points.

    Returns:
        The mixtures, and [M] bool, True where the covariance is not positive definite to working precision.
    """
    sizes, n_components = group_offsets.diff(), component_offsets.diff()
    K = int(n_components.max())
    moments = kernels.component_statistics(x, labels, K, group_offsets=group_offsets)
    pooled = moments.scatters.sum(1) / sizes[:, None, None]
    pooled.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
    precision_chol, singular = _precision_chol(pooled, x.dtype)
    present = torch.arange(K, device=x.device) < n_components[:, None]
    weights = (moments.counts / sizes[:, None].double())[present]
    group = torch.repeat_interleave(n_components)
    return Mixtures(weights, moments.means[present], pooled[group], precision_chol[group]), singular[group]


def e_step(x: Tensor, mixtures: Mixtures, group_offsets: Tensor, component_offsets: Tensor) -> kernels.EMStatistics:
    """Moments of the responsibilities, and the log-likelihood of each group (see `kernels.em_statistics`)."""
    cast = [
        field.to(x.dtype).contiguous() for field in (mixtures.weights.log(), mixtures.means, mixtures.precision_chol)
    ]
    return kernels.unchecked(x).em_statistics(
        x, *cast, group_offsets=group_offsets, component_offsets=component_offsets
    )


def m_step(
    statistics: kernels.EMStatistics,
    mixtures: Mixtures,
    component_offsets: Tensor,
    reg_covar: float,
    dtype: torch.dtype,
) -> tuple[Mixtures, Tensor]:
    """The mixtures that maximise the expected log-likelihood, in float64:

        weight_m = n_m / sum over the group of n,    mean_m = sum_n r_nm x_n / n_m,    n_m = sum_n r_nm
        covariance_m = sum_n r_nm (x_n - mean_m)(x_n - mean_m)' / n_m + reg_covar I

    A component with n_m below 10 machine epsilons of dtype has lost its points: its weight becomes 0, for good, and its
    mean and covariance stay as they were.

    Args:
        statistics: from the E-step under `mixtures`.
        mixtures: as given to the E-step.
        component_offsets: [G + 1] int64.
        reg_covar: in units of the points, squared.
        dtype: of the points.

    Returns:
        The mixtures, and [M] bool, True where the covariance is not positive definite to working precision.
    """
    counts = statistics.counts.double()
    lost = counts <= 10 * torch.finfo(dtype).eps
    divisor = torch.where(lost, 1.0, counts)
    # The sums are about the means that the kernel saw, which were rounded to its dtype.
    means = mixtures.means.to(dtype) + statistics.sums / divisor[:, None]
    covariances = statistics.scatters / divisor[:, None, None]
    covariances.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
    if lost.any():
        counts = torch.where(lost, 0.0, counts)
        means = torch.where(lost[:, None], mixtures.means, means)
        covariances = torch.where(lost[:, None, None], mixtures.covariances, covariances)
    weights = counts / _per_row(_group_sums(counts, component_offsets), component_offsets, len(counts))
    precision_chol, singular = _precision_chol(covariances, dtype)
    return Mixtures(weights, means, covariances, precision_chol), singular


@threads.reserved()
def expectation_maximisation(
    x: Tensor,
    labels: Tensor,
    group_offsets: Tensor,
    component_offsets: Tensor,
    *,
    tol: float,
    max_iter: int,
    reg_covar: float,
    on_stop: Callable[[int], None] = lambda n_stopped: None,
) -> list[Fit]:
    """EM from hard assignments until the mean log-likelihood of a group changes by less than tol, or max_iter steps.

    A group that stops is dropped from the steps that follow.

    Args:
        x: [N, D] points sorted by group, float32 or float64, centred and scaled; EM runs where they are,
            and the rest must be there.
        labels: [N] int64, component of each point within its group.
        group_offsets, component_offsets: [G + 1] int64; no group is empty.
        tol: in nats.
        max_iter: at least 1.
        reg_covar: see `m_step`.
        on_stop: called with the number of groups that have just stopped.

    Returns:
        The Fit of each group.
    """
    fits: dict[int, Fit] = {}
    mixtures, bad = initial_mixtures(x, labels, group_offsets, component_offsets, reg_covar)
    improved = mixtures
    groups = torch.arange(len(group_offsets) - 1, device=x.device)
    bound = torch.full((len(groups),), -torch.inf, dtype=torch.float64, device=x.device)
    converged = torch.zeros(len(groups), dtype=torch.bool, device=x.device)
    singular = stop = _group_sums(bad.double(), component_offsets) > 0
    for step in count():
        if stop.any():
            on_stop(int(stop.sum()))
            for i in stop.nonzero().flatten().tolist():
                a, b = component_offsets[i : i + 2].tolist()
                # A copy, or the groups that go on would keep the memory of all.
                mixture = Mixtures(*(field[a:b] if stop.all() else field[a:b].clone() for field in mixtures))
                mixture = moved(mixture, torch.device("cpu"))
                n_iter = max(step - 1, 0)
                fits[int(groups[i])] = Fit(mixture, float(bound[i]), n_iter, bool(converged[i]), bool(singular[i]))
            if stop.all():
                break
            points = _per_row(~stop, group_offsets, len(x))
            components = _per_row(~stop, component_offsets, len(improved.weights))
            x, improved = x[points], Mixtures(*(field[components] for field in improved))
            group_offsets, component_offsets = _select(~stop, group_offsets), _select(~stop, component_offsets)
            groups, bound = groups[~stop], bound[~stop]
        mixtures = improved
        statistics = e_step(x, mixtures, group_offsets, component_offsets)
        previous, bound = bound, statistics.log_likelihood.double() / group_offsets.diff()
        converged = (bound - previous).abs() < tol
        singular = torch.zeros_like(converged)
        if step < max_iter and not converged.all():
            improved, bad = m_step(statistics, mixtures, component_offsets, reg_covar, x.dtype)
            singular = (_group_sums(bad.double(), component_offsets) > 0) & ~converged
        stop = converged | singular | (step == max_iter)
    return [fits[g] for g in range(len(fits))]


def _precision_chol(covariances: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[M, D, D] W with W'W the inverse, and [M] bool, True where rounding errors of dtype would decide what it is.

    The squared diagonal of the Cholesky factor is the variance of each feature given those before it. Moments summed in
    dtype leave it an error of some epsilons of the feature's variance; less than 10^3 of them is refused.
    """
    precision_chol = kernels.unchecked(covariances).precision_cholesky(covariances).precision_chol
    conditional = precision_chol.diagonal(dim1=-2, dim2=-1).pow(-2)
    variance = covariances.diagonal(dim1=-2, dim2=-1)
    # Not above the bound, or nan.
    return precision_chol, ~(conditional > 1e3 * torch.finfo(dtype).eps * variance).all(-1)


def _per_row(values: Tensor, offsets: Tensor, n_rows: int) -> Tensor:
    """The value of its group for each row, of which there are n_rows in all."""
    return torch.repeat_interleave(values, offsets.diff(), output_size=n_rows)


def _select(keep: Tensor, offsets: Tensor) -> Tensor:
    """Offsets of the groups that are kept."""
    return torch.cat([offsets[:1], offsets.diff()[keep].cumsum(0)])


def _group_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """In the order of the rows on every device, so that runs are alike: of one column, which torch sums row by row."""
    return torch.segment_reduce(values[:, None], "sum", lengths=offsets.diff(), unsafe=True)[:, 0]
