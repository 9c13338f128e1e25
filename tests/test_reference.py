"""The reference against things nobody here wrote: scipy, scikit-learn and numpy. Then the engines' common face."""

import importlib
import inspect
import warnings

import numpy as np
import pytest
import torch
from cases import SIZES, arguments, mixture_arguments, mixture_case, ragged
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, multivariate_t
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from tolerances import PEER_RELATIVE

import kernels
from kernels import reference

RELATIVE = {"rtol": PEER_RELATIVE, "atol": PEER_RELATIVE}
OPERATIONS = [
    "component_statistics",
    "em_statistics",
    "gaussian_log_density",
    "gibbs_sweep",
    "log_joint",
    "mixture_log_density",
    "precision_cholesky",
    "split_merge",
    "student_t_log_density",
]


def scipy_log_density(case, family):
    """[N, M], one component after another."""
    x = case.x.numpy()
    columns = []
    for mean, covariance, df in zip(case.location.numpy(), case.covariance.numpy(), case.df.numpy(), strict=True):
        density = (
            multivariate_normal(mean, covariance) if family == "gaussian" else multivariate_t(mean, covariance, df)
        )
        columns.append(np.reshape(density.logpdf(x), len(x)))
    return np.stack(columns, axis=1)


# ---------------------------------------------------------------- densities against scipy


@pytest.mark.parametrize("condition", [10.0, 1e3])
@pytest.mark.parametrize(("N", "M", "D"), SIZES)
@pytest.mark.parametrize("family", ["gaussian", "student_t"])
def test_component_densities_equal_scipy(family, N, M, D, condition):
    case = mixture_case(N, M, D, condition=condition, shift=2.0)
    actual = getattr(reference, f"{family}_log_density")(**arguments(case, family))
    assert_allclose(actual, scipy_log_density(case, family), **RELATIVE)


@pytest.mark.parametrize(("N", "M", "D"), SIZES)
@pytest.mark.parametrize("family", ["gaussian", "student_t"])
def test_mixture_densities_equal_scipy(family, N, M, D):
    case = mixture_case(N, M, D)
    joint = case.log_weight.numpy() + scipy_log_density(case, family)
    actual = reference.mixture_log_density(**mixture_arguments(case, family))
    assert_allclose(actual, logsumexp(joint, axis=1), **RELATIVE)


@pytest.mark.parametrize("family", ["gaussian", "student_t"])
def test_mixture_densities_by_group_equal_scipy(family):
    N, M, D = 63, 9, 4
    case = mixture_case(N, M, D)
    components, points = ragged(M, 4, empty=True), ragged(N, 4, seed=1)
    joint = case.log_weight.numpy() + scipy_log_density(case, family)
    expected = np.full((N, 4), -np.inf)
    for g in range(4):
        if components[g] < components[g + 1]:
            expected[:, g] = logsumexp(joint[:, components[g] : components[g + 1]], axis=1)
    assert np.isinf(expected).any(0).sum() == 1, "one group should have no components"
    case_arguments = mixture_arguments(case, family) | {"component_offsets": components}
    assert_allclose(reference.mixture_log_density(**case_arguments), expected, **RELATIVE)
    own_group = np.repeat(np.arange(4), np.diff(points.numpy()))
    actual = reference.mixture_log_density(**case_arguments, group_offsets=points)
    assert_allclose(actual, expected[np.arange(N), own_group], **RELATIVE)


# ---------------------------------------------------------------- EM against scikit-learn


def scikit_mixture(case, **settings):
    """scikit-learn's mixture at the case's parameters, not yet fitted."""
    return GaussianMixture(
        len(case.location),
        reg_covar=0,
        tol=0,
        weights_init=case.log_weight.exp().numpy(),
        means_init=case.location.numpy(),
        precisions_init=np.linalg.inv(case.covariance.numpy()),
        **settings,
    )


@pytest.mark.parametrize(("N", "M", "D"), [(31, 1, 4), (33, 5, 5), (257, 7, 33), (500, 4, 2)])
def test_responsibilities_equal_scikit_learn(N, M, D):
    case = mixture_case(N, M, D, spread=0.3)
    peer = scikit_mixture(case)
    peer.weights_, peer.means_ = peer.weights_init, peer.means_init
    peer.precisions_cholesky_ = case.precision_chol.mT.numpy()
    r = peer.predict_proba(case.x.numpy())
    if M > 1 and D < 5:
        assert ((r > 0.1) & (r < 0.9)).any(), "the components should overlap"
    statistics = reference.em_statistics(case.x, case.log_weight, case.location, case.precision_chol)
    assert_allclose(statistics.counts, r.sum(0), **RELATIVE)
    centred = case.x.numpy()[:, None] - peer.means_
    assert_allclose(statistics.sums, np.einsum("nm,nmi->mi", r, centred), **RELATIVE)
    new_means = peer.means_ + np.einsum("nm,nmi->mi", r, centred) / r.sum(0)[:, None]
    about_new = case.x.numpy()[:, None] - new_means
    assert_allclose(statistics.scatters, np.einsum("nm,nmi,nmj->mij", r, about_new, about_new), **RELATIVE)
    assert_allclose(statistics.log_likelihood, [peer.score_samples(case.x.numpy()).sum()], **RELATIVE)


@pytest.mark.parametrize("n_steps", [1, 12])
@pytest.mark.parametrize(("N", "M", "D"), [(200, 3, 1), (300, 4, 5), (257, 2, 33)])
def test_em_steps_equal_scikit_learn(N, M, D, n_steps):
    case = mixture_case(N, M, D, spread=0.3, shift=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer = scikit_mixture(case, max_iter=n_steps).fit(case.x.numpy())
    weight, mean, covariance = case.log_weight.exp(), case.location, case.covariance
    for _ in range(n_steps):
        precision_chol = torch.linalg.inv(torch.linalg.cholesky(covariance))
        statistics = reference.em_statistics(case.x, weight.log(), mean, precision_chol)
        weight = statistics.counts / N
        mean = mean + statistics.sums / statistics.counts[:, None]
        covariance = statistics.scatters / statistics.counts[:, None, None]
    assert_allclose(weight, peer.weights_, **RELATIVE)
    assert_allclose(mean, peer.means_, **RELATIVE)
    assert_allclose(covariance, peer.covariances_, **RELATIVE)
    assert_allclose(statistics.log_likelihood / N, [peer.lower_bound_], **RELATIVE)


def test_em_statistics_of_groups_equal_those_of_each_group_alone():
    case = mixture_case(63, 9, 4, spread=0.3)
    points, components = ragged(63, 4), ragged(9, 4, seed=1)
    together = reference.em_statistics(
        case.x, case.log_weight, case.location, case.precision_chol, group_offsets=points, component_offsets=components
    )
    for g in range(4):
        a, b, c, d = *points[g : g + 2].tolist(), *components[g : g + 2].tolist()
        alone = reference.em_statistics(case.x[a:b], case.log_weight[c:d], case.location[c:d], case.precision_chol[c:d])
        for field in ("counts", "sums", "scatters"):
            assert_allclose(getattr(together, field)[c:d], getattr(alone, field), **RELATIVE)
        assert_allclose(together.log_likelihood[g], alone.log_likelihood[0], **RELATIVE)


# ---------------------------------------------------------------- hard assignments against numpy


def test_component_statistics_equal_numpy():
    N, D, K = 90, 5, 4
    rng = np.random.default_rng(8)
    x, labels = rng.normal(3.0, 2.0, size=(N, D)), rng.integers(K - 1, size=N)
    offsets = ragged(N, 3)
    actual = reference.component_statistics(torch.from_numpy(x), torch.from_numpy(labels), K, group_offsets=offsets)
    assert actual.counts.dtype == torch.int64
    for g in range(3):
        rows = slice(int(offsets[g]), int(offsets[g + 1]))
        for k in range(K):
            members = x[rows][labels[rows] == k]
            assert actual.counts[g, k] == len(members)
            if len(members) == 0:
                assert not actual.means[g, k].any()
                assert not actual.scatters[g, k].any()
                continue
            assert_allclose(actual.means[g, k], members.mean(0), **RELATIVE)
            expected = np.cov(members.T, bias=True) * len(members)
            assert_allclose(actual.scatters[g, k], expected, **RELATIVE)


# ---------------------------------------------------------------- one face for all engines


def test_memory_is_set_aside_on_the_device_of_x(monkeypatch):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 2)))
    labels, one = torch.zeros(4, dtype=torch.int64), torch.ones(1, dtype=torch.float64)
    prior = kernels.NIWPrior(0 * x[:1], one, 4 * one, torch.eye(2, dtype=torch.float64)[None])
    state = kernels.GibbsState(labels, one)
    i_and_j, half = torch.tensor([[[0, 1]]]), torch.full((1, 1), 0.5, dtype=torch.float64)
    proposals = kernels.SplitMergeProposals(
        i_and_j, i_and_j[..., :1] + 2, i_and_j[..., :1] == 0, half[None, None], half
    )
    devices = []

    def recorded(make):
        return lambda *args, device=None, **options: devices.append(device) or make(*args, **options)

    for name in ("zeros", "full"):
        monkeypatch.setattr(torch, name, recorded(getattr(torch, name)))
    reference.component_statistics(x, labels, 1)
    reference.split_merge(state, x, proposals, prior=prior)
    reference.log_joint(state, x, prior=prior)
    assert len(devices) >= 7
    assert set(devices) == {x.device}


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_signatures_are_the_references(operation):
    expected = parameters(getattr(reference, operation))
    engine = importlib.import_module("kernels.cpu")
    assert parameters(getattr(engine, operation)) == expected
    public = parameters(getattr(kernels, operation))
    assert public == [*expected, ("engine", inspect.Parameter.KEYWORD_ONLY, "auto")]


def test_the_cpu_engine_has_the_operations_and_nothing_else():
    assert sorted(importlib.import_module("kernels.cpu").__all__) == OPERATIONS


def test_the_public_names():
    assert sorted(kernels.__all__) == sorted(
        [
            *OPERATIONS,
            "ENGINES",
            "AlphaNoise",
            "ComponentStatistics",
            "EMStatistics",
            "GibbsState",
            "NIWPrior",
            "PrecisionCholesky",
            "SplitMergeInfo",
            "SplitMergeProposals",
            "unchecked",
        ]
    )
    assert all(hasattr(kernels, name) for name in kernels.__all__)
    assert kernels.ENGINES == ("auto", "cpu", "triton", "reference")


def test_unchecked_is_the_engine_itself():
    x = torch.zeros(3, 2)
    assert kernels.unchecked(x) is importlib.import_module("kernels.cpu")
    assert kernels.unchecked(x, "reference") is reference
    with pytest.raises(ValueError, match="engine must be one of auto, cpu, triton, reference, got 'gpu'"):
        kernels.unchecked(x, "gpu")
