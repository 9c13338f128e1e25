"""`Posterior.relative_entropy` against numerical integration, prior's component and all."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from tolerances import MONTE_CARLO_SIGMAS

from classfit import Posterior
from classfit.prior import group_variances, niw_prior


def posterior_of(x: np.ndarray, labels: list[list[int]], alpha: list[float], official: bool = False, **prior):
    offsets = torch.tensor([0, len(x)])
    points = torch.from_numpy(x)
    mean, variance = group_variances(points, offsets)
    niw = niw_prior(mean, variance, 2, **prior)
    every = np.array(labels, np.int32)
    return Posterior(points, offsets, np.array([0]), every, np.array(alpha)[:, None], niw, variance, official)


def two_labellings(official: bool = False) -> Posterior:
    """Twelve numbers with an outlier of its own in one labelling: components of 3, 4 and more degrees of freedom."""
    x = np.random.default_rng(0).normal(size=(12, 1)) + np.array([[0.0]] * 5 + [[3.0]] * 6 + [[9.0]])
    return posterior_of(x, [[0] * 5 + [1] * 6 + [2], [0] * 11 + [1]], [1.5, 0.7], official)


def densities(posterior: Posterior):
    """log p(x), log q(x) and the weighted prior's component, of a number, by scipy."""
    mixture = posterior.mixture(0)
    location, precision, df = (field.numpy() for field in mixture.components)
    weight = torch.softmax(mixture.log_weight, 0).numpy()
    components = [stats.t(nu, m[0], 1 / w[0, 0]) for m, w, nu in zip(location, precision, df, strict=True)]
    q = stats.norm(float(posterior.prior.mu0[0, 0]), float(posterior.variance[0, 0]) ** 0.5)

    def log_p(x: float) -> float:
        return float(np.log(sum(w * t.pdf(x) for w, t in zip(weight, components, strict=True))))

    return log_p, q.logpdf, lambda x: weight[-1] * components[-1].pdf(x)


def integral(of) -> float:
    """Over all numbers: the tails fall as a power, so in the logarithm of the distance."""
    middle = integrate.quad(of, -20, 20, limit=500, epsabs=1e-10)[0]
    tails = (
        integrate.quad(lambda s, side=side: of(side * np.exp(s)) * np.exp(s), np.log(20), 25, limit=500)
        for side in (-1, 1)
    )
    return middle + sum(value for value, _ in tails)


def test_the_value_and_the_share_of_the_prior_are_the_integrals():
    posterior = two_labellings()
    log_p, log_q, prior = densities(posterior)
    expected = integral(lambda x: np.exp(log_p(x)) * (log_p(x) - log_q(x)))
    of_prior = integral(lambda x: prior(x) * (log_p(x) - log_q(x)))
    found = posterior.relative_entropy(n_draws=200_000, random_state=0)
    assert found.standard_error[0] < 0.01
    assert abs(found.value[0] - expected) < MONTE_CARLO_SIGMAS * found.standard_error[0] + 1e-4
    # Its own error is that of a tenth of the draws.
    assert abs(found.from_prior[0] - of_prior) < 0.01
    assert of_prior > 0.3 * expected


def test_intervals_of_the_stated_error_hold_the_integral_as_often_as_they_should():
    posterior = two_labellings()
    log_p, log_q, _ = densities(posterior)
    expected = integral(lambda x: np.exp(log_p(x)) * (log_p(x) - log_q(x)))
    found = [posterior.relative_entropy(n_draws=500, random_state=seed) for seed in range(200)]
    z = np.array([(f.value[0] - expected) / f.standard_error[0] for f in found])
    # 190 expected; a mean over draws of log q has 140 or so, all misses below.
    assert stats.binom.cdf((np.abs(z) < 1.96).sum(), 200, 0.95) > 1e-3
    assert abs(z.mean()) < MONTE_CARLO_SIGMAS / np.sqrt(200)
    assert 0.8 < z.std() < 1.2


def test_the_published_predictive_has_no_share_of_the_prior():
    posterior = two_labellings(official=True)
    assert posterior.relative_entropy(n_draws=1000, random_state=0).from_prior.tolist() == [0]
    draws = posterior.sample(400_000, random_state=1)
    _, log_q, _ = densities(posterior)
    found = posterior.relative_entropy(n_draws=100_000, random_state=2)
    # Without the prior's 3 degrees of freedom a mean over draws can be trusted roughly.
    by_draws = (posterior.log_density(draws)[:, 0] - log_q(draws[:, 0])).mean()
    assert found.value[0] == pytest.approx(by_draws, rel=0.05)


@pytest.mark.parametrize("nu0", [1.5, 2.0])
def test_it_is_infinite_where_the_prior_has_no_variance(nu0):
    x = np.random.default_rng(0).normal(size=(12, 1))
    found = posterior_of(x, [[0] * 12], [1.0], nu0=nu0).relative_entropy(n_draws=100, random_state=0)
    assert found.value.tolist() == [np.inf]
    assert found.from_prior.tolist() == [np.inf]
    assert np.isfinite(posterior_of(x, [[0] * 12], [1.0], nu0=2.1).relative_entropy(100, 0).value).all()
