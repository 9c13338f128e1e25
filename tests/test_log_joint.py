"""Log joint density of labels and data: engine against reference, reference against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from scipy.stats import multivariate_t
from test_gibbs import moved_far_from_zero
from tolerances import PEER_RELATIVE

import kernels
from kernels import GibbsState, NIWPrior

SIZES = [5, 1, 12]


def problem(D: int, dtype: torch.dtype = torch.float64):
    rng = np.random.default_rng(D)
    x = torch.from_numpy(3 + rng.normal(size=(sum(SIZES), D))).to(dtype)
    G = len(SIZES)
    A = torch.from_numpy(rng.normal(size=(G, D, D)))
    prior = NIWPrior(
        mu0=torch.from_numpy(rng.normal(size=(G, D))),
        kappa0=torch.tensor([0.01, 2.0, 0.5]).double(),
        nu0=torch.tensor([D + 2.0, D, D + 0.5]).double(),
        S0=A @ A.mT + torch.eye(D).double(),
    )
    labels = torch.tensor([[0, 1, 0, 1, 2, 0, *[0] * 6, *[1] * 6], [0, 0, 0, 0, 0, 0, *range(12)]])
    alpha = torch.tensor([[1.0, 2.0, 0.3], [5.0, 0.1, 1.0]]).double()
    return GibbsState(labels, alpha), x, {"prior": prior, "group_offsets": torch.tensor([0, 5, 6, 18])}


@pytest.mark.parametrize("D", [1, 3, 17])
def test_the_reference_is_crp_times_scipys_predictives(D):
    state, x, arguments = problem(D)
    prior = arguments["prior"]
    actual = kernels.log_joint(state, x, **arguments, engine="reference")
    for t in range(2):
        for g, (a, b) in enumerate([(0, 5), (5, 6), (6, 18)]):
            mu0, kappa0, nu0, S0 = (field[g].numpy() for field in prior)
            labels, points, alpha = state.labels[t, a:b].numpy(), x[a:b].numpy(), float(state.alpha[t, g])
            sizes = np.bincount(labels)
            expected = gammaln(alpha) - gammaln(alpha + b - a) + len(sizes) * math.log(alpha) + gammaln(sizes).sum()
            for k in range(len(sizes)):
                own = points[labels == k]
                for i, point in enumerate(own):
                    xbar = own[:i].mean(0) if i else mu0
                    C = (own[:i] - xbar).T @ (own[:i] - xbar)
                    S = S0 + C + kappa0 * i / (kappa0 + i) * np.outer(xbar - mu0, xbar - mu0)
                    m, df = (kappa0 * mu0 + i * xbar) / (kappa0 + i), nu0 + i - D + 1
                    expected += multivariate_t(m, S * (kappa0 + i + 1) / ((kappa0 + i) * df), df).logpdf(point)
            assert float(actual[t, g]) == pytest.approx(expected, rel=PEER_RELATIVE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("D", [1, 3, 17, 64])
def test_the_engine_equals_the_reference(D, dtype):
    state, x, arguments = problem(D, dtype)
    expected = kernels.log_joint(state, x, **arguments, engine="reference")
    assert torch.allclose(kernels.log_joint(state, x, **arguments), expected, rtol=PEER_RELATIVE)
    one = kernels.log_joint(GibbsState(state.labels[1], state.alpha[1]), x, **arguments)
    assert torch.allclose(one, expected[1], rtol=PEER_RELATIVE)
    assert kernels.log_joint(GibbsState(state.labels[:0], state.alpha[:0]), x, **arguments).shape == (0, 3)


@pytest.mark.parametrize("alpha", [1e4, 1e6, 1e12, 1e30])
def test_a_large_alpha(alpha):
    state, x, arguments = problem(3)
    state = GibbsState(state.labels, torch.full_like(state.alpha, alpha))
    expected = kernels.log_joint(state, x, **arguments, engine="reference")
    assert torch.allclose(kernels.log_joint(state, x, **arguments), expected, rtol=PEER_RELATIVE)


def test_points_far_from_zero_give_the_same_to_the_bit():
    state, x, arguments = problem(3)
    near, far = (
        kernels.log_joint(state, points, prior=prior, group_offsets=arguments["group_offsets"])
        for points, prior in moved_far_from_zero(x, arguments["prior"], 2.0**40)
    )
    assert torch.equal(near, far)


def test_a_scatter_that_overflows_is_refused():
    state, x, arguments = problem(3)
    x[7, 1] = 1e200
    with pytest.raises(ValueError, match="group 2: a component's scale matrix is not positive definite in float64"):
        kernels.log_joint(state, x, **arguments)


def test_bad_states_are_refused():
    state, x, arguments = problem(3)
    with pytest.raises(ValueError, match=r"one row for each of the 2 rows of labels, got shape \[1, 3\]"):
        kernels.log_joint(GibbsState(state.labels, state.alpha[:1]), x, **arguments)
    gap = state.labels.clone()
    gap[1, -1] = 15
    with pytest.raises(ValueError, match="without gaps"):
        kernels.log_joint(GibbsState(gap, state.alpha), x, **arguments)
    arguments["prior"] = arguments["prior"]._replace(nu0=torch.zeros(3).double())
    with pytest.raises(ValueError, match="nu0"):
        kernels.log_joint(state, x, **arguments)
