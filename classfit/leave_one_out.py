"""The density of each fitted point, had it been left out: from the labellings of the fit to all points.

    p(x_i | x_-i) = 1 / E[1 / p(x_i | x_-i, z_-i, alpha)]    over the posterior of labels z and alpha given all points
    p(x_i | x_-i, z_-i, alpha) = sum_k (n_k - [z_i = k]) / (n - 1 + alpha) t_k(x_i) + alpha / (n - 1 + alpha) t_0(x_i)

with t_k the predictive of component k without x_i. The first line is importance sampling from the posterior given all
points to the one given all but x_i (Gelfand, Dey & Chang 1992), on labels only: means and covariances are integrated
out, so that the weights are more alike than with parameters in them. It costs no second fit, and rests on n - 1 points,
where folds have fewer. The prior stays as it was set, from all points.

How far to trust it: with finitely many labellings the estimate is too high on average, the more so the more the
weights differ; where chains are stuck it is higher still, because the labels of the other points were drawn with the
point there; and it cannot see a state that no kept labelling is in. Pooled over chains that do not mix it is dominated
by the worst of them, where a density as fitted, a mean, is dominated by the best: that works the other way, and may
undo it. It is of the posterior that was sampled, so as exact as the sampler: blocks of labels that are not corrected
draw from another distribution.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from classfit.prior import NIWPosterior, StudentT, niw_posterior, predictive, prior_predictive
from kernels import NIWPrior, student_t_log_density, unchecked


class LeaveOneOut(NamedTuple):
    """Densities of points that were left out, one at a time."""

    log_density: np.ndarray
    """[N] log p(x_i | x_-i) under the point's own group, in nats; in the order of x."""
    effective_draws: np.ndarray
    """[N] (sum w)^2 / sum w^2 of the weights w = 1 / p(x_i | x_-i, z_-i, alpha), in 1..S: near 1 a single labelling
    decides; near S the weights hardly differ, as those of S copies of one labelling do not either."""


def leave_one_out(
    x: Tensor, group_offsets: Tensor, labels: np.ndarray, alpha: np.ndarray, prior: NIWPrior, *, verbose: int = 0
) -> LeaveOneOut:
    """Densities of all points, each given the others of its group.

    Args:
        x, group_offsets, labels, alpha, prior: as of `Posterior`; it is computed where x and prior are.
        verbose: 1 shows a progress bar.

    Returns:
        LeaveOneOut, float64, in the order of x.
    """
    log_density, effective = np.empty(len(x)), np.empty(len(x))
    edges = list(pairwise(group_offsets.tolist()))
    for g, (a, b) in enumerate(track(edges, "leaving one out", disable=not verbose)):
        points = x[a:b].double()
        new = student_t_log_density(points, *prior_predictive(prior, g))
        draws = [
            _given_labels(points, torch.from_numpy(z).long().to(x.device), float(value), prior, g, new)
            for z, value in zip(labels[:, a:b], alpha[:, g], strict=True)
        ]
        log_weight = -torch.stack(draws)
        total = torch.logsumexp(log_weight, 0)
        log_density[a:b] = np.log(len(draws)) - total.cpu().numpy()
        effective[a:b] = torch.exp(2 * total - torch.logsumexp(2 * log_weight, 0)).cpu().numpy()
    return LeaveOneOut(log_density, effective)


def _given_labels(x: Tensor, labels: Tensor, alpha: float, prior: NIWPrior, group: int, new: Tensor) -> Tensor:
    """[n] log p(x_i | x_-i, z_-i, alpha) of all points of a group; new [n, 1] log t_0(x_i)."""
    engine = unchecked(x)
    statistics = engine.component_statistics(x, labels, int(labels.max()) + 1)
    fitted = niw_posterior(prior, group, statistics)
    components, counts = predictive(fitted), statistics.counts[0]
    size, members = counts.double(), labels.argsort(stable=True).split(counts.tolist())
    joint = size.log() + engine.student_t_log_density(x, *components)
    own = (size[labels] - 1).log() + _of_members(x, labels, members, fitted, components)
    # Without its only point a component is not there.
    joint[torch.arange(len(x), device=x.device), labels] = torch.where(size[labels] > 1, own, -torch.inf)
    return torch.logsumexp(torch.cat([joint, new + np.log(alpha)], 1), 1) - np.log(len(x) - 1 + alpha)


def _of_members(
    x: Tensor, labels: Tensor, members: Sequence[Tensor], fitted: NIWPosterior, components: StudentT
) -> Tensor:
    """[n] log predictive density of each point under its component without it (members: the rows of each component),
    by the rank-one change of S_n:

    with q = (x - m_n)' S_n^-1 (x - m_n) and r = kappa_n / (kappa_n - 1), |S without x| = |S_n| (1 - r q) and

        log t(x) = lgamma(nu_n / 2) - lgamma((nu_n - D) / 2) - D/2 log(pi r) - 1/2 log|S_n| + (nu_n - 1)/2 log(1 - r q)
    """
    D, (kappa, nu) = x.shape[1], fitted[:2]
    # The scale matrix of the component is S_n times this.
    factor = (kappa + 1) / (kappa * components.df)
    chol = components.precision_chol
    half_log_det = D / 2 * factor.log() + chol.diagonal(dim1=1, dim2=2).log().sum(1)
    q = torch.empty_like(x[:, 0])
    for k, rows in enumerate(members):
        q[rows] = factor[k] * ((x[rows] - components.location[k]) @ chol[k].T).square().sum(1)
    r = kappa / (kappa - 1)
    constant = torch.lgamma(nu / 2) - torch.lgamma((nu - D) / 2) - D / 2 * torch.log(torch.pi * r) + half_log_det
    return constant[labels] + (nu[labels] - 1) / 2 * torch.log1p(-r[labels] * q)
