"""Draws from the posterior predictive of few points, whose tails are far from a Gaussian's, against scipy."""

import numpy as np
import torch
from scipy import stats
from tolerances import PEER_RELATIVE

from classfit import Posterior
from kernels import NIWPrior

N_DRAWS = 20_000
LEAST_P_VALUE = 1e-3
"""Of a Kolmogorov-Smirnov test at a fixed seed; a forgotten square root gives 1e-47."""


def test_draws_of_few_points_follow_their_student_t():
    """One component of one point, no weight on the prior: a Student-t with nu_n - D + 1 = 3 degrees of freedom."""
    x0, kappa0, nu0, S0 = 2.0, 1.0, 2.0, 1.5
    prior = NIWPrior(*(torch.tensor(v, dtype=torch.float64) for v in ([[0.0]], [kappa0], [nu0], [[[S0]]])))
    posterior = Posterior(
        torch.tensor([[x0]], dtype=torch.float64),
        torch.tensor([0, 1]),
        np.array([0]),
        np.zeros((1, 1), np.int32),
        np.full((1, 1), 1e-200),
        prior,
        torch.ones(1, 1, dtype=torch.float64),
    )
    # kappa_n = 2, m_n = x0 / 2, S_n = S0 + x0^2 / 2; the scale is S_n (kappa_n + 1) / (kappa_n df).
    density = stats.t(df=3, loc=x0 / 2, scale=np.sqrt((S0 + x0**2 / 2) * 3 / (2 * 3)))
    draws = posterior.sample(N_DRAWS, random_state=1)[:, 0]
    assert stats.kstest(draws, density.cdf).pvalue > LEAST_P_VALUE
    assert np.allclose(posterior.log_density(draws[:50, None])[:, 0], density.logpdf(draws[:50]), rtol=PEER_RELATIVE)
