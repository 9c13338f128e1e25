"""Annealed importance sampling: its weights are unbiased for the evidence, which is known for six points."""

import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from test_gibbs import make_prior, partitions, scipy_log_marginal
from test_split_merge import POINTS
from tolerances import MONTE_CARLO_SIGMAS

from classfit.annealing import anneal, sweep_numbers
from kernels import NIWPrior


def test_weights_are_unbiased_for_the_evidence_of_six_points():
    prior = make_prior(POINTS, torch.tensor([0, 6]), n_init_components=3)
    alpha = 1.0  # the least that is used
    log_joints = []
    for p in partitions(6):
        sizes = np.bincount(p)
        likelihood = sum(scipy_log_marginal(POINTS[np.array(p) == k], prior) for k in range(len(sizes)))
        log_joints.append(len(sizes) * np.log(alpha) + gammaln(sizes).sum() + gammaln(1) - gammaln(7) + likelihood)
    n_chains = 400
    _, log_weight = anneal(
        torch.from_numpy(np.tile(POINTS, (n_chains, 1))),
        6 * torch.arange(n_chains + 1),
        NIWPrior(*(field.expand(n_chains, *field.shape[1:]).contiguous() for field in prior)),
        [np.random.default_rng([9, chain]) for chain in range(n_chains)],
    )
    ratio = np.exp(log_weight + alpha - logsumexp(log_joints))
    assert abs(ratio.mean() - 1) < MONTE_CARLO_SIGMAS * ratio.std(ddof=1) / np.sqrt(n_chains)
    assert ratio.std() < 1, "so uneven weights show little"


def test_random_numbers_of_a_group_are_its_generators_own():
    sizes = torch.tensor([0, 5, 9])
    both = sweep_numbers([np.random.default_rng(1), np.random.default_rng(2)], sizes, 3)
    second = sweep_numbers([np.random.default_rng(2)], torch.tensor([0, 4]), 3)
    assert torch.equal(both[0][:, 5:], second[0])
    assert torch.equal(both[1][:, 5:], second[1])
    assert torch.equal(both[2].gamma[:, 6:], second[2].gamma)
