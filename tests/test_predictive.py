"""The posterior predictive of Dirichlet-process mixtures: densities, samples, divergences, storage."""

import json
import warnings

import numpy as np
import pytest
import torch
from cases import three_groups
from scipy import stats
from scipy.special import logsumexp
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE

from classfit import ConstantFeatureWarning, DPGaussianMixture, Posterior
from classfit._check import streams_of
from classfit.predictive import _mean
from classfit.prior import group_variances, niw_prior
from classfit.storage import replacing

QUICK = {"n_sweeps": 24, "n_discard": 8, "thin": 4, "random_state": 0}


def test_density_is_the_mean_over_kept_sweeps_of_the_dp_predictive():
    """Equation 3, from the labels, with scipy's Student-t only."""
    X, names = three_groups()
    model = DPGaussianMixture(**QUICK).fit(X, groups=names)
    posterior = model.posterior_
    g = list(posterior.groups).index("fox")
    a, b = posterior.group_offsets[g : g + 2].tolist()
    x, n = posterior.x[a:b].numpy(), b - a
    D = x.shape[1]
    mu0, kappa0, nu0, S0 = (field[g].numpy() for field in posterior.prior)
    points = X[:7]
    per_sweep = []
    for s in range(len(posterior.labels)):
        labels, alpha = posterior.labels[s, a:b], posterior.alpha[s, g]
        terms = []
        for k in range(-1, labels.max() + 1):  # -1: no members, the prior
            members = x[labels == k]
            count = len(members)
            xbar = members.mean(0) if count else mu0
            kappa, nu = kappa0 + count, nu0 + count
            m = (kappa0 * mu0 + count * xbar) / kappa
            S = S0 + (members - xbar).T @ (members - xbar) + kappa0 * count / kappa * np.outer(xbar - mu0, xbar - mu0)
            df = nu - D + 1
            weight = (count if count else alpha) / (n + alpha)
            terms.append(np.log(weight) + stats.multivariate_t.logpdf(points, m, S * (kappa + 1) / (kappa * df), df=df))
        per_sweep.append(logsumexp(terms, axis=0))
    expected = logsumexp(per_sweep, axis=0) - np.log(len(per_sweep))
    assert np.allclose(model.class_log_density(points)[:, g], expected, rtol=PEER_RELATIVE, atol=PEER_RELATIVE)
    assert np.allclose(model.score_samples(points, ["fox"] * 7), expected, rtol=PEER_RELATIVE, atol=PEER_RELATIVE)
    assert len(posterior.labels) == 4, "sweeps 12, 16, 20 and 24 are kept"


def test_density_integrates_to_one_and_samples_follow_it():
    rng = np.random.default_rng(1)
    X = np.concatenate([rng.normal(-3, 0.5, 80), rng.normal(2, 1, 120)])[:, None]
    model = DPGaussianMixture(n_sweeps=60, n_discard=20, random_state=3).fit(X)
    grid = np.linspace(-60, 60, 60_001)
    density = np.exp(model.score_samples(grid[:, None]))
    total = np.trapezoid(density, grid)
    assert total == pytest.approx(1, abs=2e-3)  # a Student-t of 4 degrees of freedom has 1e-4 of its mass outside
    draws = model.posterior_.sample(20_000, random_state=5)[:, 0]
    cumulative = np.interp(np.sort(draws), grid, np.cumsum(density) * (grid[1] - grid[0]))
    assert stats.kstest(cumulative, "uniform").pvalue > 1e-3
    assert model.sample(3).shape == (3, 1)


def test_samples_in_several_dimensions_have_the_covariance_of_the_predictive():
    rng = np.random.default_rng(8)
    A = np.array([[2.0, 0, 0], [1.5, 0.5, 0], [-1, 0.3, 0.2]])
    x = torch.from_numpy(rng.normal(size=(4000, 3)) @ A.T)
    offsets = torch.tensor([0, len(x)])
    mean, variance = group_variances(x, offsets)
    labels, alpha = np.zeros((1, len(x)), np.int32), np.full((1, 1), 1e-200)
    one_component = Posterior(x, offsets, np.array([0]), labels, alpha, niw_prior(mean, variance, 1), variance)
    draws = one_component.sample(40_000, random_state=2)
    whitened = np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), (draws - x.mean(0).numpy()).T)
    assert np.allclose(np.cov(whitened), np.eye(3), atol=0.05)  # a transposed factor is off by more than 1
    assert np.allclose(whitened.mean(1), 0, atol=0.03)


def gaussian_posterior(n: int = 4000, D: int = 2) -> Posterior:
    """Two groups of one component each: many points and no weight on the prior, so nearly Gaussian predictives."""
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.normal(size=(n, D)) * [1, 3], rng.normal(size=(n, D)) * [2, 1] + 1])
    offsets = torch.tensor([0, n, 2 * n])
    mean, variance = group_variances(torch.from_numpy(x), offsets)
    prior = niw_prior(mean, variance, 1)
    labels = np.zeros((1, 2 * n), np.int32)
    return Posterior(torch.from_numpy(x), offsets, np.array([0, 1]), labels, np.full((1, 2), 1e-200), prior, variance)


def test_kl_divergence_of_gaussians_is_the_closed_form():
    posterior = gaussian_posterior()
    kl = posterior.kl_divergence(n_draws=40_000, random_state=0)
    x = posterior.x.numpy().reshape(2, -1, 2)
    mean, cov = x.mean(1), np.array([np.cov(group.T) for group in x])
    for g, h in ((0, 1), (1, 0)):
        inverse = np.linalg.inv(cov[h])
        d = mean[h] - mean[g]
        log_det = np.linalg.slogdet(cov[h])[1] - np.linalg.slogdet(cov[g])[1]
        expected = 0.5 * (np.trace(inverse @ cov[g]) + d @ inverse @ d - 2 + log_det)
        # The predictive is a Student-t of 4,000 degrees of freedom: 1e-3 relative.
        assert abs(kl.value[g, h] - expected) < MONTE_CARLO_SIGMAS * kl.standard_error[g, h] + 2e-3 * expected
        assert 0 < kl.standard_error[g, h] < 0.1 * kl.value[g, h]
    assert (np.diag(kl.value) == 0).all()


def test_relative_entropy_is_zero_for_a_diagonal_gaussian_and_half_log_det_for_a_correlated_one():
    posterior = gaussian_posterior()
    entropy = posterior.relative_entropy(n_draws=20_000, random_state=0)
    assert np.all(np.abs(entropy.value) < MONTE_CARLO_SIGMAS * entropy.standard_error + 2e-3)
    rng = np.random.default_rng(9)
    x = rng.normal(size=(4000, 2)) @ np.array([[1.0, 0.9], [0, 0.4]])
    offsets = torch.tensor([0, len(x)])
    mean, variance = group_variances(torch.from_numpy(x), offsets)
    labels = np.zeros((1, len(x)), np.int32)
    correlated = Posterior(
        torch.from_numpy(x),
        offsets,
        np.array([0]),
        labels,
        np.full((1, 1), 1e-200),
        niw_prior(mean, variance, 1),
        variance,
    )
    correlation = np.corrcoef(x.T)[0, 1]
    got = correlated.relative_entropy(n_draws=40_000, random_state=1)
    expected = -0.5 * np.log(1 - correlation**2)
    assert abs(got.value[0] - expected) < MONTE_CARLO_SIGMAS * got.standard_error[0] + 2e-3


def test_standard_errors_are_the_spread_of_repeated_estimates():
    posterior = gaussian_posterior(n=300)
    repeats = [posterior.kl_divergence(n_draws=400, random_state=seed) for seed in range(40)]
    spread = np.std([r.value[0, 1] for r in repeats], ddof=1)
    stated = np.mean([r.standard_error[0, 1] for r in repeats])
    assert 0.6 < spread / stated < 1.6


@pytest.mark.parametrize("official", [False, True])
def test_a_saved_posterior_is_the_same_when_loaded(tmp_path, official):
    X, names = three_groups(dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantFeatureWarning)
        posterior = DPGaussianMixture(**QUICK, official=official).fit(X, groups=names).posterior_
    posterior.save(tmp_path / "posterior.npz")
    loaded = Posterior.load(tmp_path / "posterior.npz")
    assert np.array_equal(loaded.log_density(X, names), posterior.log_density(X, names))
    assert np.array_equal(loaded.sample(5, "fox", 0), posterior.sample(5, "fox", 0))
    assert list(loaded.groups) == list(posterior.groups)
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.npz"]
    (tmp_path / "other.npz").write_bytes((tmp_path / "posterior.npz").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"other\.npz is not a saved posterior"):
        Posterior.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        Posterior.load(tmp_path / "missing.npz")


def test_densities_far_from_the_origin_keep_their_digits():
    """As float32 the points are what they are: only the arithmetic could lose more."""
    X = (np.random.default_rng(0).normal(size=(60, 8)) + 1e5).astype(np.float32)
    single = DPGaussianMixture(2, n_sweeps=8, n_discard=4, random_state=0).fit(X).posterior_
    double = Posterior(
        torch.from_numpy(X).double(),
        *(getattr(single, name) for name in ("group_offsets", "groups", "labels", "alpha", "prior", "variance")),
    )
    assert np.abs(single.log_density(X) - double.log_density(X)).max() < 1e-4


def test_probabilities_of_components_have_their_weights_at_the_last_kept_sweep():
    """In one dimension, with scipy's Student-t: of 30 and 10 points and of the prior; before, all were in one."""
    x, alpha = np.random.default_rng(0).normal(size=(40, 1)), 0.7
    labels = np.array([[0] * 40, [0] * 30 + [1] * 10], np.int32)
    points, offsets = torch.from_numpy(x), torch.tensor([0, 40])
    mean, variance = group_variances(points, offsets)
    prior = niw_prior(mean, variance, 2)
    found = Posterior(points, offsets, np.array([0]), labels, np.array([[9.0], [alpha]]), prior, variance)
    mu0, kappa0, nu0, S0 = (float(field.flatten()[0]) for field in prior)
    joint = []
    for members in (x[:30], x[30:], x[:0]):
        n = len(members)
        xbar = members.mean() if n else mu0
        kappa, nu = kappa0 + n, nu0 + n
        S = S0 + ((members - xbar) ** 2).sum() + kappa0 * n / kappa * (xbar - mu0) ** 2
        m = (kappa0 * mu0 + n * xbar) / kappa
        joint.append((n or alpha) * stats.t.pdf(0.3, nu, m, np.sqrt(S * (kappa + 1) / (kappa * nu))))
    expected = np.array(joint) / sum(joint)
    assert found.component_probabilities(np.array([[0.3]]))[0] == pytest.approx(expected, rel=PEER_RELATIVE)


def test_the_most_probable_component_is_known_where_all_probabilities_underflow():
    """A new component has the widest tails: far out all others have probability 0, and yet one is more probable."""
    rng = np.random.default_rng(0)
    labels = (np.arange(400) < 100).astype(np.int32)
    x = torch.from_numpy(rng.normal(size=(400, 8)) * (1 + labels[:, None]))
    offsets = torch.tensor([0, 400])
    prior = niw_prior(*group_variances(x, offsets), 2)
    posterior = Posterior(x, offsets, np.array([0]), labels[None], np.ones((1, 1)), prior, torch.ones(1, 8))
    far = np.full((1, 8), 1e6)
    assert (posterior.component_probabilities(far)[0] == [0, 0, 1]).all()
    # The wider one, whose degrees of freedom are fewer as well.
    assert posterior.most_probable_component(far).tolist() == [1]
    assert posterior.most_probable_component(np.zeros((1, 8))).tolist() == [0]


def several_groups(official: bool = False) -> Posterior:
    """Groups of one, three and two components far apart, in one dimension."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([[0] * 4, [0, 1, 2] * 4, [0, 1] * 3]).astype(np.int32)
    x = torch.from_numpy(rng.normal(size=(len(labels), 1)) + 50 * labels[:, None])
    offsets = torch.tensor([0, 4, 16, 22])
    mean, variance = group_variances(x, offsets)
    alpha = np.array([[0.5, 1.5, 3.0]])
    return Posterior(
        x, offsets, np.array(["a", "b", "c"]), labels[None], alpha, niw_prior(mean, variance, 6), variance, official
    )


@pytest.mark.parametrize("official", [False, True])
def test_components_of_groups_of_other_numbers_keep_their_columns(official):
    """A new component is the last column, whatever the group; a component that a group does not have has 0."""
    posterior = several_groups(official)
    names = np.repeat(posterior.groups, [4, 12, 6])
    order = np.random.default_rng(1).permutation(22)
    found = posterior.component_probabilities(posterior.x[order], names[order])[np.argsort(order)]
    assert found.shape == (22, 4)
    assert found.sum(1) == pytest.approx(np.ones(22))
    assert np.array_equal(found[:, :-1] > 0, np.arange(3) < np.repeat([1, 3, 2], [4, 12, 6])[:, None])
    assert (found[:, -1] > 0).all()
    own = posterior.most_probable_component(posterior.x[order], names[order])[np.argsort(order)]
    assert np.array_equal(own, posterior.labels[0])
    # By Bayes' rule from the density under each group: the prior's part of it, at a point of group "a".
    mu0, kappa0, nu0, S0 = (float(field[0].flatten()[0]) for field in posterior.prior)
    x0 = float(posterior.x[0, 0])
    prior = stats.t.logpdf(x0, nu0, mu0, np.sqrt(S0 * (kappa0 + 1) / (kappa0 * nu0))) + np.log(0.5 / 4.5)
    total = several_groups().log_density(posterior.x[:1], ["a"])[0]
    assert found[0, -1] == pytest.approx(np.exp(prior - total), rel=PEER_RELATIVE)


def test_draws_are_in_no_order():
    draws = several_groups().sample(2000, "c", 0)[:, 0] > 25
    halves = draws.reshape(2, 1000).sum(1)
    assert stats.fisher_exact([halves, 1000 - halves]).pvalue > 1e-3


def test_each_group_has_random_numbers_of_its_own():
    first = [stream.random(50) for stream in streams_of(3, 4)]
    assert len(np.unique(first)) == 200
    # Groups with the same points and labels have the same predictive, and draws that differ.
    one = several_groups()
    x, labels = one.x[4:16].repeat(2, 1), np.tile(one.labels[:, 4:16], 2)
    prior = type(one.prior)(*(field[[1, 1]] for field in one.prior))
    twins = Posterior(
        x, torch.tensor([0, 12, 24]), np.array(["a", "b"]), labels, np.ones((1, 2)), prior, one.variance[[1, 1]]
    )
    entropy = twins.relative_entropy(100, 0)
    assert entropy.value[0] != entropy.value[1]
    assert np.abs(entropy.value[0] - entropy.value[1]) < MONTE_CARLO_SIGMAS * np.hypot(*entropy.standard_error)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_the_error_of_a_mean_is_scipys(n):
    values = np.random.default_rng(0).normal(size=n)
    assert _mean(values) == pytest.approx((values.mean(), stats.sem(values)), rel=PEER_RELATIVE)


def test_a_posterior_of_another_format_is_refused(tmp_path):
    several_groups().save(tmp_path / "posterior.npz")
    with np.load(tmp_path / "posterior.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / "posterior.npz", **arrays | {"meta": json.dumps({"format": 2, "official": False})})
    with pytest.raises(ValueError, match="not a saved posterior: format 2, this version reads 1"):
        Posterior.load(tmp_path / "posterior.npz")


def test_all_of_a_posterior_is_there_when_loaded(tmp_path):
    posterior = several_groups(official=True)
    posterior.save(tmp_path / "posterior.npz")
    loaded = Posterior.load(tmp_path / "posterior.npz")
    for name in ("x", "group_offsets", "groups", "labels", "alpha", "variance", "official"):
        assert np.array_equal(getattr(loaded, name), getattr(posterior, name)), name
    for name, field, expected in zip(loaded.prior._fields, loaded.prior, posterior.prior, strict=True):
        assert torch.equal(field, expected), name


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path):
    posterior, path = several_groups(), tmp_path / "posterior.npz"
    posterior.save(path)
    posterior.groups = np.array(["a", "b", None])
    with pytest.raises(ValueError, match="groups must hold numbers or strings, got dtype object"):
        posterior.save(path)

    def stopped():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == [path]
    assert Posterior.load(path).groups.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_dtype_of_the_points_and_densities_float64(dtype):
    posterior = several_groups()
    posterior.x = posterior.x.to(dtype)
    draws = posterior.sample(3, "b", 0)
    assert torch.from_numpy(draws).dtype == dtype
    assert posterior.log_density(draws).dtype == np.float64


def test_a_posterior_of_some_of_the_groups():
    X, groups = np.random.default_rng(0).normal(size=(30, 2)), np.repeat(["a", "b", "c"], 10)
    posterior = DPGaussianMixture(n_sweeps=6, n_discard=2, thin=2, random_state=0).fit(X, groups=groups).posterior_
    whole = posterior.log_density(X, groups)
    for which, names in ((slice(1, 3), "bc"), (slice(None), "abc"), (slice(-1, None), "c"), (slice(0, 99), "abc")):
        part, own = posterior.of_groups(which), np.isin(groups, list(names))
        assert part.groups.tolist() == list(names)
        np.testing.assert_array_equal(part.log_density(X[own], groups[own]), whole[own])
    for which in (slice(0, 3, 2), slice(2, 2), slice(3, 1), [0], 1):
        with pytest.raises(ValueError, match=r"which must be a slice of neighbouring groups, 0\.\.3, got"):
            posterior.of_groups(which)
