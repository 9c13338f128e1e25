"""Densities of points that were left out: against scipy, against all partitions of six points, against new fits."""

import numpy as np
import pytest
import torch
from scipy.special import gammaln, logsumexp
from sklearn.exceptions import NotFittedError
from test_gibbs import exact_posterior, make_prior, partitions, scipy_log_marginal
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE

from classfit import ConstantFeatureWarning, DPGaussianMixture, Posterior
from kernels import NIWPrior

NAMES = np.array(["a", "b"])


def posterior_of(x: np.ndarray, labels: list, alpha: list, prior: NIWPrior, sizes: list[int]) -> Posterior:
    edges = torch.tensor([0, *np.cumsum(sizes)])
    return Posterior(
        torch.from_numpy(x), edges, NAMES[: len(sizes)], np.array(labels, np.int32), np.array(alpha), prior,
        torch.ones(len(sizes), x.shape[1], dtype=torch.float64),
    )  # fmt: skip


def conditional(x: np.ndarray, i: int, labels: np.ndarray, alpha: float, prior: NIWPrior) -> float:
    """log p(x_i | the other points and their labels), from scipy's marginal likelihoods alone."""
    n, others = len(x), np.arange(len(x)) != i
    terms = [np.log(alpha) + scipy_log_marginal(x[[i]], prior)]
    for k in np.unique(labels[others]):
        members = np.flatnonzero(others & (labels == k))
        gain = scipy_log_marginal(x[[*members, i]], prior) - scipy_log_marginal(x[members], prior)
        terms.append(np.log(len(members)) + gain)
    return float(logsumexp(terms) - np.log(n - 1 + alpha))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_given_labels_it_is_a_ratio_of_marginal_likelihoods(dtype):
    rng = np.random.default_rng(0)
    sizes, D = [9, 6], 3
    x = (rng.normal(size=(15, D)) + 3 * rng.integers(0, 2, size=(15, 1))).astype(dtype)
    prior = make_prior(x.astype(np.float64), torch.tensor([0, 9, 15]))
    # Components of one point, of several, and of all; two labellings, so that the mean over them shows as well.
    labels = [[0, 1, 1, 2, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 2, 2, 0, 1, 2, 3, 4, 5]]
    alpha = [[0.4, 1.3], [2.0, 0.7]]
    found = posterior_of(x, labels, alpha, prior, sizes).leave_one_out()
    for g, (a, b) in enumerate(((0, 9), (9, 15))):
        own = NIWPrior(*(field[g : g + 1] for field in prior))
        points = x[a:b].astype(np.float64)
        for i in range(b - a):
            terms = [-conditional(points, i, np.array(labels[s][a:b]), alpha[s][g], own) for s in (0, 1)]
            assert found.log_density[a + i] == pytest.approx(np.log(2) - logsumexp(terms), rel=PEER_RELATIVE)
            weights = np.exp(terms - logsumexp(terms))
            assert found.effective_draws[a + i] == pytest.approx(1 / (weights**2).sum(), rel=PEER_RELATIVE)


def log_evidence(x: np.ndarray, alpha: float, prior: NIWPrior) -> float:
    """log p(x | alpha), summed over all partitions."""
    n, terms = len(x), []
    for p in partitions(n):
        labels, sizes = np.array(p), np.bincount(p)
        marginal = sum(scipy_log_marginal(x[labels == k], prior) for k in range(len(sizes)))
        terms.append(len(sizes) * np.log(alpha) + gammaln(sizes).sum() + marginal)
    return logsumexp(terms) + gammaln(alpha) - gammaln(alpha + n)


def test_the_mean_is_over_the_posterior_given_all_points():
    """Six points, alpha known: p(x_i | x_-i) is a ratio of sums over all partitions of six and of five points."""
    rng = np.random.default_rng(1)
    x, alpha, n, S = rng.normal(size=(6, 2)) + 2.5 * np.array([0, 0, 0, 1, 1, 1])[:, None], 0.8, 6, 3000
    prior = make_prior(x, torch.tensor([0, n]))
    exact = [log_evidence(x, alpha, prior) - log_evidence(np.delete(x, i, 0), alpha, prior) for i in range(n)]
    posterior = exact_posterior(x, prior, alpha)
    every, probability = list(posterior), np.array(list(posterior.values()))
    labels = [every[d] for d in rng.choice(len(every), size=S, p=probability)]
    found = posterior_of(x, labels, [[alpha]] * S, prior, [n]).leave_one_out()
    # The relative standard error of the mean of 1/p follows from the effective number of draws.
    error = np.sqrt(1 / found.effective_draws - 1 / S)
    assert error.max() < 0.03
    assert (np.abs(found.log_density - exact) < MONTE_CARLO_SIGMAS * error).all()
    # The mean of the logarithms, under labels that saw the point, is another number.
    plain = probability @ [[conditional(x, i, np.array(p), alpha, prior) for i in range(n)] for p in every]
    assert (np.abs(plain - exact) > 2 * MONTE_CARLO_SIGMAS * error).any()


def test_it_is_what_new_fits_without_the_point_give():
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=(30, 2)), [4, 0] + 0.5 * rng.normal(size=(20, 2))])
    settings = {"n_sweeps": 1500, "n_discard": 300, "thin": 4, "random_state": 0}
    model = DPGaussianMixture(**settings).fit(x)
    found = model.posterior_.leave_one_out().log_density
    seen = model.score_samples(x)
    far_out = int(found.argmin())
    for i in (0, 35, far_out):
        # The prior is set from the data; the densities are of the same one.
        whole = model.posterior_
        refit = DPGaussianMixture(**settings).fit(np.delete(x, i, 0)).posterior_
        without = Posterior(
            refit.x, refit.group_offsets, refit.groups, refit.labels, refit.alpha, whole.prior, whole.variance
        )
        assert found[i] == pytest.approx(without.log_density(x[[i]], groups=[0])[0], abs=0.15)
    assert (seen - found)[far_out] > 0.3
    assert (seen > found).all()


def test_small_components_in_64_dimensions_equal_those_without_the_point():
    rng = np.random.default_rng(3)
    n, D = 40, 64
    x = rng.normal(size=(n, D)) * np.geomspace(3, 0.1, D)
    labels = np.repeat(np.arange(8), 5)
    prior = make_prior(x, torch.tensor([0, n]))
    found = posterior_of(x, [labels], [[0.9]], prior, [n]).leave_one_out()
    for i in range(n):
        rest = np.arange(n) != i
        without = posterior_of(x[rest], [labels[rest]], [[0.9]], prior, [n - 1])
        assert found.log_density[i] == pytest.approx(without.log_density(x[[i]], groups=["a"])[0], rel=PEER_RELATIVE)
    assert (found.effective_draws == 1).all()


def test_order_groups_and_what_it_refuses():
    rng = np.random.default_rng(4)
    x, names = rng.normal(size=(40, 2)), np.array(["two", "one"] * 20)
    settings = {"n_sweeps": 12, "n_discard": 4, "thin": 4, "random_state": 0}
    both = DPGaussianMixture(**settings).fit(x, groups=names)
    alone = DPGaussianMixture(**settings).fit(x[names == "two"], groups=names[names == "two"])
    assert list(both.groups_) == ["one", "two"]
    found, expected = (model.posterior_.leave_one_out().log_density for model in (both, alone))
    assert np.array_equal(found[20:], expected)
    in_order = both.leave_one_out()
    for name, half in (("one", slice(0, 20)), ("two", slice(20, 40))):
        assert np.array_equal(in_order.log_density[names == name], found[half])
    assert (in_order.effective_draws >= 1).all()
    with pytest.raises(NotFittedError):
        DPGaussianMixture().leave_one_out()
    with pytest.warns(ConstantFeatureWarning):
        single = DPGaussianMixture(**settings).fit([[1.0, 2.0]]).posterior_
    # Nothing is left but the prior.
    assert single.leave_one_out().log_density == pytest.approx(scipy_log_marginal(np.array([[1.0, 2.0]]), single.prior))
    official = DPGaussianMixture(**settings, official=True).fit(x)
    with pytest.raises(ValueError, match="official must be False"):
        official.leave_one_out()
