"""Annealed importance sampling: its weights are unbiased for the evidence, which is known for six points."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.special import gammaln, logsumexp
from test_gibbs import make_prior, partitions, scipy_log_marginal
from test_split_merge import POINTS
from tolerances import MONTE_CARLO_SIGMAS

from classfit.annealing import (
    _restaurant,
    anneal,
    heat,
    log_partition,
    log_restaurant,
    sweep_numbers,
)
from kernels import GibbsState, NIWPrior


def log_integral(n: int, n_components: int) -> float:
    """log of the integral over alpha of alpha^K Gamma(alpha) / Gamma(alpha + n) exp(-alpha)."""
    value, _ = quad(lambda a: np.exp(n_components * np.log(a) + gammaln(a) - gammaln(a + n) - a), 0, np.inf, epsabs=0)
    return np.log(value)


def test_partitions_without_alpha():
    """By another rule of integration; over all partitions of six points they add up to one."""
    every = partitions(6)
    labels = torch.tensor([label for p in every for label in p])
    found = log_partition(labels, 6 * torch.arange(len(every) + 1))
    for p, value in zip(every, found, strict=True):
        sizes = np.bincount(p)
        assert value == pytest.approx(gammaln(sizes).sum() + log_integral(6, len(sizes)), abs=1e-6)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-6)
    many = log_partition(torch.arange(500) % 60, torch.tensor([0, 500]))

    def log_value(a: float) -> float:
        return 60 * np.log(a) + gammaln(a) - gammaln(a + 500) - a

    mode = 12.0  # about there the integrand is largest
    scaled, _ = quad(lambda a: np.exp(log_value(a) - log_value(mode)), 0, 100, points=[5, mode, 25])
    sizes = np.bincount(np.arange(500) % 60)
    assert many[0] == pytest.approx(gammaln(sizes).sum() + np.log(scaled) + log_value(mode), abs=1e-6)


@pytest.mark.parametrize(("slowness", "n_chains", "spread"), [(1, 400, 1.0), (4, 100, 0.7)])
def test_weights_are_unbiased_for_the_evidence_of_six_points(slowness, n_chains, spread):
    prior = make_prior(POINTS, torch.tensor([0, 6]), n_init_components=3)
    log_joints = []
    for p in partitions(6):
        sizes = np.bincount(p)
        likelihood = sum(scipy_log_marginal(POINTS[np.array(p) == k], prior) for k in range(len(sizes)))
        log_joints.append(gammaln(sizes).sum() + log_integral(6, len(sizes)) + likelihood)
    many = (
        torch.from_numpy(np.tile(POINTS, (n_chains, 1))),
        6 * torch.arange(n_chains + 1),
        NIWPrior(*(field.expand(n_chains, *field.shape[1:]).contiguous() for field in prior)),
    )

    def rngs(purpose: int) -> list[np.random.Generator]:
        return [np.random.default_rng([purpose, chain]) for chain in range(n_chains)]

    def assert_mean_is_one(ratio: np.ndarray) -> None:
        assert abs(ratio.mean() - 1) < MONTE_CARLO_SIGMAS * ratio.std(ddof=1) / np.sqrt(n_chains)
        assert ratio.std() < spread, "so uneven weights show little"

    assert_mean_is_one(np.exp(anneal(*many, rngs(9), slowness)[1] - logsumexp(log_joints)))
    # Heated from exact draws from the posterior, one over the weight is unbiased for one over the evidence.
    probability = np.exp(log_joints - logsumexp(log_joints))
    drawn = np.random.default_rng(10).choice(len(probability), size=n_chains, p=probability)
    labels = torch.tensor([label for i in drawn for label in partitions(6)[i]])
    assert_mean_is_one(np.exp(logsumexp(log_joints) - heat(labels, *many, rngs(11), slowness)))


@pytest.mark.parametrize("alpha", [0.6, 3.0])
def test_labels_of_the_restaurant_have_its_probabilities(alpha):
    """Over all partitions of five points; in groups of other sizes each is weighed by its own alpha."""
    every, n_draws = partitions(5), 4000
    state = GibbsState(
        torch.tensor([label for p in every for label in p] + [0, 0, 1]),
        torch.tensor([alpha] * len(every) + [2.0], dtype=torch.float64),
    )
    log_probability = log_restaurant(
        state, torch.cat([5 * torch.arange(len(every) + 1), torch.tensor([5 * len(every) + 3])])
    )
    assert float(log_probability[-1]) == pytest.approx(np.log(2 / 2 * 1 / 3 * 2 / 4))
    expected = n_draws * log_probability[:-1].exp().numpy()
    assert expected.sum() == pytest.approx(n_draws)
    rng = np.random.default_rng(0)
    drawn = [tuple(_restaurant(rng, 5, alpha).tolist()) for _ in range(n_draws)]
    assert stats.chisquare([drawn.count(p) for p in every], expected).pvalue > 1e-3


def test_random_numbers_of_a_group_are_its_generators_own():
    sizes = torch.tensor([0, 5, 9])
    both = sweep_numbers([np.random.default_rng(1), np.random.default_rng(2)], sizes, 3)
    second = sweep_numbers([np.random.default_rng(2)], torch.tensor([0, 4]), 3)
    assert torch.equal(both[0][:, 5:], second[0])
    assert torch.equal(both[1][:, 5:], second[1])
    assert torch.equal(both[2].gamma[:, 6:], second[2].gamma)
