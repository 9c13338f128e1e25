"""What tells whether a chain is where it should be."""

from itertools import pairwise

import torch
from torch import Tensor

from classfit.prior import log_marginal_likelihood, niw_posterior
from kernels import GibbsState, NIWPrior, component_statistics, unchecked
from kernels.cpu import threads


@threads.reserved()
def log_joint(labels: Tensor, alpha: Tensor, x: Tensor, group_offsets: Tensor, prior: NIWPrior) -> Tensor:
    """Log of the joint density of the labels and the data of each group, given alpha.

        log Gamma(alpha) - log Gamma(alpha + n) + sum_k [log alpha + log Gamma(n_k) + log p(points of k)]

    The first terms are the probability of the partition under the Chinese restaurant process, the last the normal-
    inverse-Wishart marginal likelihood of each component.

    Args:
        labels: [N] int64, 0..K_g - 1 within each group; on the CPU also [T, N].
        alpha: [G] float64; on the CPU also [T, G].
        x: [N, D] points sorted by group.
        group_offsets: [G + 1] int64.
        prior: of each group, in the units of x.

    Returns:
        float64 of the shape of alpha, in nats.
    """
    if x.device.type == "cpu":
        return unchecked(x).log_joint(GibbsState(labels, alpha), x, prior=prior, group_offsets=group_offsets)
    return _by_torch(labels, alpha, x, group_offsets, prior)


def _by_torch(labels: Tensor, alpha: Tensor, x: Tensor, group_offsets: Tensor, prior: NIWPrior) -> Tensor:
    """`log_joint` of labels [N], wherever the tensors are."""
    values = []
    for g, (a, b) in enumerate(pairwise(group_offsets.tolist())):
        n_components = int(labels[a:b].max()) + 1
        statistics = component_statistics(x[a:b], labels[a:b], n_components)
        likelihood = log_marginal_likelihood(prior, g, niw_posterior(prior, g, statistics))
        occupied = statistics.counts[0] > 0
        n_k = statistics.counts[0][occupied].double()
        partition = (
            torch.lgamma(alpha[g])
            - torch.lgamma(alpha[g] + (b - a))
            + len(n_k) * torch.log(alpha[g])
            + torch.lgamma(n_k).sum()
        )
        values.append(partition + likelihood[occupied].sum())
    return torch.stack(values)
