"""The steps of EM: against scikit-learn, and their properties."""

import warnings

import numpy as np
import pytest
import torch
from cases import mixture_case
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as ScikitMixture
from tolerances import PEER_RELATIVE, log_density

from classfit import em_steps
from classfit.em_steps import Mixtures, e_step, expectation_maximisation, initial_labels, initial_mixtures, m_step

SEED = 20221200


def one_group(N=200, K=3, D=4, seed=SEED):
    """Tensors for the steps: points, labels to start from, and the offsets of a single group."""
    x = mixture_case(N, K, D, seed=seed).x
    labels = torch.from_numpy(initial_labels(x.numpy(), K, "k-means++", [seed]))
    return x, labels, torch.tensor([0, N]), torch.tensor([0, K])


@pytest.mark.parametrize("n_steps", [1, 2, 10, 40])
@pytest.mark.parametrize(("reg_covar", "D"), [(0.0, 1), (0.0, 4), (0.0, 17), (1e-2, 4)])
def test_steps_equal_scikit_learn(n_steps, reg_covar, D):
    x, labels, group_offsets, component_offsets = one_group(N=300, K=3, D=D)
    start, _ = initial_mixtures(x, labels, group_offsets, component_offsets, reg_covar)
    peer = ScikitMixture(
        3,
        reg_covar=reg_covar,
        tol=0,
        max_iter=n_steps,
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=(start.precision_chol.mT @ start.precision_chol).numpy(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer.fit(x.numpy())
    [fit] = expectation_maximisation(
        x, labels, group_offsets, component_offsets, tol=0, max_iter=n_steps, reg_covar=reg_covar
    )
    assert fit.n_iter == n_steps
    assert not fit.converged
    assert not fit.singular
    relative = {"rtol": PEER_RELATIVE, "atol": PEER_RELATIVE}
    np.testing.assert_allclose(fit.mixture.weights, peer.weights_, **relative)
    np.testing.assert_allclose(fit.mixture.means, peer.means_, **relative)
    np.testing.assert_allclose(fit.mixture.covariances, peer.covariances_, **relative)
    np.testing.assert_allclose(fit.mixture.precision_chol.mT, peer.precisions_cholesky_, **relative)
    assert fit.log_likelihood == pytest.approx(peer.score(x.numpy()), rel=PEER_RELATIVE)


@pytest.mark.parametrize("seed", range(5))
def test_likelihood_never_falls_and_the_steps_are_the_loop(seed):
    x, labels, group_offsets, component_offsets = one_group(N=150, K=4, D=3, seed=seed)
    mixtures, _ = initial_mixtures(x, labels, group_offsets, component_offsets, 0.0)
    likelihood = []
    for _ in range(30):
        statistics = e_step(x, mixtures, group_offsets, component_offsets)
        likelihood.append(float(statistics.log_likelihood[0]) / len(x))
        mixtures, singular = m_step(statistics, mixtures, component_offsets, 0.0, x.dtype)
        assert not singular.any()
        assert float(mixtures.weights.sum()) == pytest.approx(1, rel=PEER_RELATIVE)
    slack = log_density(x.dtype, D=3, condition=1e3)
    assert np.diff(likelihood).min() >= -slack
    assert likelihood[-1] > likelihood[0] + slack
    [fit] = expectation_maximisation(x, labels, group_offsets, component_offsets, tol=0, max_iter=29, reg_covar=0.0)
    assert fit.log_likelihood == likelihood[-1]


def test_stops_at_tol():
    x, labels, group_offsets, component_offsets = one_group()
    arguments = (x, labels, group_offsets, component_offsets)
    path = [
        expectation_maximisation(*arguments, tol=0, max_iter=n, reg_covar=0.0)[0].log_likelihood for n in range(1, 31)
    ]
    tol = 1e-3
    expected = 2 + int(np.argmax(np.abs(np.diff(path)) < tol))
    [fit] = expectation_maximisation(*arguments, tol=tol, max_iter=30, reg_covar=0.0)
    assert (fit.n_iter, fit.converged) == (expected, True)
    assert fit.log_likelihood == path[expected - 1]


def test_a_group_that_has_converged_needs_no_further_covariance(monkeypatch):
    """A single component is there after one step; that the next, for the other group alone, is singular is no error."""
    x, labels, _, _ = one_group(N=200, K=3)
    really, calls = em_steps.m_step, []

    def singular_at_the_second(*arguments):
        mixtures, bad = really(*arguments)
        calls.append(len(bad))
        return mixtures, bad | (torch.arange(len(bad)) == 0) if len(calls) == 2 else bad

    monkeypatch.setattr(em_steps, "m_step", singular_at_the_second)
    labels = torch.cat([torch.zeros(50, dtype=torch.int64), labels[50:]])
    offsets = torch.tensor([0, 50, 200]), torch.tensor([0, 1, 4])
    one, three = expectation_maximisation(x, labels, *offsets, tol=1e-6, max_iter=20, reg_covar=0.0)
    assert (one.n_iter, one.converged, one.singular) == (1, True, False)
    assert three.n_iter > 1
    assert calls[:3] == [4, 4, 3]


def test_start_has_one_covariance_a_group():
    x, labels, group_offsets, component_offsets = one_group(N=100, K=3, D=2)
    mixtures, _ = initial_mixtures(x, labels, group_offsets, component_offsets, 0.25)
    within = sum(
        ((x[labels == k] - x[labels == k].mean(0)).T @ (x[labels == k] - x[labels == k].mean(0))) for k in range(3)
    )
    for k in range(3):
        np.testing.assert_allclose(mixtures.covariances[k], within / 100 + 0.25 * torch.eye(2), rtol=PEER_RELATIVE)
        np.testing.assert_allclose(mixtures.means[k], x[labels == k].mean(0), rtol=PEER_RELATIVE)
    np.testing.assert_allclose(mixtures.weights, torch.bincount(labels).double() / 100, rtol=PEER_RELATIVE)


@pytest.mark.parametrize("init_params", ["k-means++", "random"])
def test_initial_labels(init_params):
    x = mixture_case(50, 3, 2).x.numpy()
    labels = initial_labels(x, 7, init_params, [SEED])
    assert sorted(set(labels)) == list(range(7))
    np.testing.assert_array_equal(labels, initial_labels(x, 7, init_params, [SEED]))
    assert (labels != initial_labels(x, 7, init_params, [SEED + 1])).any()


def test_a_random_start_has_components_of_equal_size():
    x = mixture_case(50, 3, 2).x.numpy()
    assert sorted(np.bincount(initial_labels(x, 7, "random", [SEED]))) == [7] * 6 + [8]


def test_a_component_that_loses_its_points_keeps_its_place():
    x, _, group_offsets, component_offsets = one_group(N=60, K=3, D=2)
    far = Mixtures(
        torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64),
        torch.tensor([[0.0, 0], [1, 1], [1e4, 0]], dtype=torch.float64),
        torch.eye(2, dtype=torch.float64).repeat(3, 1, 1),
        torch.eye(2, dtype=torch.float64).repeat(3, 1, 1),
    )
    statistics = e_step(x, far, group_offsets, component_offsets)
    mixtures, singular = m_step(statistics, far, component_offsets, 0.0, x.dtype)
    assert not singular.any()
    assert mixtures.weights[2] == 0
    assert torch.equal(mixtures.means[2], far.means[2])
    assert torch.equal(mixtures.covariances[2], far.covariances[2])
    again, _ = m_step(e_step(x, mixtures, group_offsets, component_offsets), mixtures, component_offsets, 0.0, x.dtype)
    assert again.weights[2] == 0
    assert float(again.weights.sum()) == pytest.approx(1, rel=PEER_RELATIVE)


@settings(max_examples=10, derandomize=True, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_points_and_duplicates(seed):
    """From the same labels, points in another order, or each of them twice, give the same mixture."""
    x, labels, group_offsets, component_offsets = one_group(N=80, K=3, D=3, seed=seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(80))
    arguments = {"tol": 0, "max_iter": 5, "reg_covar": 1e-6}
    [fit] = expectation_maximisation(x, labels, group_offsets, component_offsets, **arguments)
    [same] = expectation_maximisation(x[order], labels[order], group_offsets, component_offsets, **arguments)
    [twice] = expectation_maximisation(
        x.repeat(2, 1), labels.repeat(2), 2 * group_offsets, component_offsets, **arguments
    )
    for other in (same, twice):
        for field, expected in zip(other.mixture, fit.mixture, strict=True):
            np.testing.assert_allclose(field, expected, rtol=PEER_RELATIVE, atol=PEER_RELATIVE)
        assert other.log_likelihood == pytest.approx(fit.log_likelihood, rel=PEER_RELATIVE)
