"""The EM estimator: its attributes against scikit-learn, its properties, difficult data, bad input."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as ScikitMixture
from sklearn.utils.estimator_checks import parametrize_with_checks
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE, log_density

from classfit import ConstantFeatureWarning, GaussianMixture
from kernels import cpu

SEED = 20221200


@parametrize_with_checks([GaussianMixture(), GaussianMixture(2, init_params="random")])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def blobs(sizes=(80, 120), D=3, centres=3, seed=SEED, dtype=np.float64):
    """Points of several groups, in mixed order, and their group names."""
    rng = np.random.default_rng([seed, D, *sizes])
    parts, groups = [], []
    for name, n in zip("abcdefghij", sizes, strict=False):
        centre = 4 * rng.normal(size=(centres, D))
        spread = rng.normal(size=(centres, D, D)) / D**0.5 + np.eye(D)
        label = rng.integers(centres, size=n)
        parts.append(centre[label] + np.einsum("nij,nj->ni", spread[label], rng.normal(size=(n, D))))
        groups += [name] * n
    order = rng.permutation(sum(sizes))
    return np.concatenate(parts)[order].astype(dtype), np.array(groups)[order]


def test_attributes_are_those_of_scikit_learn():
    """Weights, means, covariances and factors, put into scikit-learn's estimator, give the same densities there."""
    X, _ = blobs((300,))
    ours = GaussianMixture(3, random_state=SEED).fit(1e3 + 50 * X)
    peer = ScikitMixture(3)
    peer.weights_, peer.means_, peer.covariances_ = ours.weights_, ours.means_, ours.covariances_
    peer.precisions_cholesky_ = ours.precisions_cholesky_
    new = 1e3 + 50 * X[:50] + 7
    np.testing.assert_allclose(ours.score_samples(new), peer.score_samples(new), rtol=PEER_RELATIVE)
    np.testing.assert_allclose(ours.predict_proba(new), peer.predict_proba(new), rtol=PEER_RELATIVE, atol=PEER_RELATIVE)
    np.testing.assert_array_equal(ours.predict(new), peer.predict(new))
    assert ours.score(new) == pytest.approx(peer.score(new), rel=PEER_RELATIVE)
    assert ours.bic(new) == pytest.approx(peer.bic(new), rel=PEER_RELATIVE)
    assert ours.aic(new) == pytest.approx(peer.aic(new), rel=PEER_RELATIVE)
    product = ours.precisions_cholesky_ @ ours.precisions_cholesky_.swapaxes(1, 2) @ ours.covariances_
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), product.shape), atol=PEER_RELATIVE)


def test_lower_bound_is_the_score_of_what_is_returned():
    X, groups = blobs()
    model = GaussianMixture(3, random_state=SEED).fit(X, groups=groups)
    log_density_ = model.score_samples(X, groups)
    for g, name in enumerate(model.groups_):
        assert log_density_[groups == name].mean() == pytest.approx(model.lower_bound_[g], rel=PEER_RELATIVE)
    assert model.converged_.all()


@pytest.mark.parametrize("n_components", [(1, 3), (1, 2, 3)])
def test_many_groups_equal_one_at_a_time(n_components):
    X, groups = blobs((50, 1, 90, 33, 60, 45, 75, 52), D=4)
    arguments = {"n_init": 2, "random_state": SEED}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantFeatureWarning)
        together = GaussianMixture(n_components, **arguments).fit(X, groups=groups)
        for g, name in enumerate(together.groups_):
            mine = groups == name
            alone = GaussianMixture(n_components, **arguments).fit(X[mine], groups=groups[mine])
            a, b = together.component_offsets_[g : g + 2]
            np.testing.assert_allclose(together.means_[a:b], alone.means_, rtol=PEER_RELATIVE)
            np.testing.assert_allclose(together.covariances_[a:b], alone.covariances_, rtol=PEER_RELATIVE)
            np.testing.assert_allclose(together.weights_[a:b], alone.weights_, rtol=PEER_RELATIVE)
            assert together.n_iter_[g] == alone.n_iter_[0]
            np.testing.assert_allclose(
                together.score_samples(X[mine], groups[mine]),
                alone.score_samples(X[mine], groups[mine]),
                rtol=PEER_RELATIVE,
            )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_number_of_threads_does_not_change_a_bit(dtype, two_threads):
    X, groups = blobs((60, 90, 70), D=9, dtype=dtype)
    two = GaussianMixture(3, random_state=SEED).fit(X, groups=groups)
    torch.set_num_threads(1)
    one = GaussianMixture(3, random_state=SEED).fit(X, groups=groups)
    np.testing.assert_array_equal(one.precisions_cholesky_, two.precisions_cholesky_)
    np.testing.assert_array_equal(one.score_samples(X, groups), two.score_samples(X, groups))
    assert torch.get_num_threads() == 1


def test_restarts_are_never_worse():
    X, groups = blobs((60, 60), D=2, centres=5)
    bounds = [
        GaussianMixture(5, n_init=n, random_state=SEED, max_iter=20, tol=0.02).fit(X, groups=groups).lower_bound_
        for n in range(1, 8)
    ]
    steps = np.diff(bounds, axis=0)
    # The first starts of a longer run are those of a shorter one, so this is exact.
    assert (steps >= 0).all()
    assert (steps > 0).any()


def test_bic_chooses_the_number_of_components_in_each_group():
    rng = np.random.default_rng(SEED)
    one, two = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + np.repeat([[0, 0], [9, 9]], 100, axis=0)
    X, groups = np.concatenate([one, two]), np.repeat([10, 20], 200)
    model = GaussianMixture((1, 2, 3), random_state=SEED).fit(X, groups=groups)
    np.testing.assert_array_equal(np.diff(model.component_offsets_), [1, 2])
    singles = [GaussianMixture(K, random_state=SEED).fit(X, groups=groups).bic(X, groups) for K in (1, 2, 3)]
    np.testing.assert_allclose(model.bic(X, groups), np.min(singles, axis=0), rtol=PEER_RELATIVE)
    only = model.bic(X[:200], groups[:200])
    assert only[0] == pytest.approx(singles[0][0], rel=PEER_RELATIVE)
    assert np.isnan(only[1])
    # They differ by 5 and 11 parameters, each at 2 in place of log 200.
    np.testing.assert_allclose(model.bic(X, groups) - model.aic(X, groups), np.array([5, 11]) * (np.log(200) - 2))
    np.testing.assert_array_equal(model.fit_predict(X, groups=groups), model.predict(X, groups))
    probability = model.predict_proba(X, groups)
    assert probability.shape == (400, 2)
    np.testing.assert_array_equal(probability[:200], np.repeat([[1.0, 0.0]], 200, axis=0))
    assert model.predict(X, groups)[200:].tolist() in ([0] * 100 + [1] * 100, [1] * 100 + [0] * 100)


def test_with_few_points_bic_takes_components_that_are_singular_but_for_reg_covar():
    for seed in range(3):
        X = np.random.default_rng(seed).normal(size=(20, 2))
        model = GaussianMixture((1, 2, 3, 4, 6, 8), n_init=3, random_state=SEED).fit(X)
        assert len(model.weights_) >= 6
        assert np.linalg.eigvalsh(model.covariances_).min() < 1e-5


def test_starts_that_do_not_fit_in_memory_at_once_are_run_in_turns(monkeypatch):
    X, groups = blobs((30, 40, 50), D=2)
    arguments = {"n_components": (1, 3), "n_init": 2, "random_state": SEED}
    at_once = GaussianMixture(**arguments).fit(X, groups=groups)
    for batch in (1, 300):
        monkeypatch.setattr("classfit.em._BATCH", batch)
        in_turns = GaussianMixture(**arguments).fit(X, groups=groups)
        np.testing.assert_array_equal(in_turns.component_offsets_, at_once.component_offsets_)
        np.testing.assert_allclose(in_turns.means_, at_once.means_, rtol=PEER_RELATIVE)
        np.testing.assert_allclose(in_turns.lower_bound_, at_once.lower_bound_, rtol=PEER_RELATIVE)


def test_class_log_density_is_the_density_under_every_group():
    X, groups = blobs((50, 70, 60), D=3)
    model = GaussianMixture(2, random_state=SEED).fit(X, groups=groups)
    everyone = model.class_log_density(X)
    assert everyone.shape == (180, 3)
    for g, name in enumerate(model.groups_):
        np.testing.assert_array_equal(everyone[:, g], model.score_samples(X, np.full(180, name)))
        a, b = model.component_offsets_[g : g + 2]
        densities = [
            weight * multivariate_normal(mean, covariance).pdf(X)
            for weight, mean, covariance in zip(
                model.weights_[a:b], model.means_[a:b], model.covariances_[a:b], strict=True
            )
        ]
        reachable = everyone[:, g] > np.log(np.finfo(float).tiny)
        np.testing.assert_allclose(
            everyone[reachable, g], np.log(np.sum(densities, axis=0))[reachable], rtol=PEER_RELATIVE
        )


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    scale=st.floats(-8, 8).map(lambda e: 10**e),
    shift=st.floats(-1e3, 1e3),
    seed=st.integers(0, 100),
    K=st.integers(1, 3),
)
def test_shift_and_scale(scale, shift, seed, K):
    """Fitted to scale (x + shift), the density is that of x over scale^D, and the steps are the same."""
    X, groups = blobs((30, 45), D=2, seed=seed)
    scales = np.array([scale, 1.0])
    moved = scales * (X + shift)
    model = GaussianMixture(K, random_state=SEED).fit(X, groups=groups)
    other = GaussianMixture(K, random_state=SEED).fit(moved, groups=groups)
    np.testing.assert_array_equal(model.n_iter_, other.n_iter_)
    np.testing.assert_allclose(other.weights_, model.weights_, rtol=PEER_RELATIVE)
    np.testing.assert_allclose(other.means_, scales * (model.means_ + shift), rtol=PEER_RELATIVE, atol=0)
    difference = other.score_samples(moved, groups) + np.log(scale) - model.score_samples(X, groups)
    # Moving the points rounds them, by `shift` units of roundoff of a distance that the smallest deviation resolves.
    assert np.abs(difference).max() <= 1e3 * log_density(torch.float64, D=2, condition=1e6, squared_distance=30)


def test_a_group_that_stops_is_dropped(monkeypatch):
    X, groups = blobs((40, 80, 60), D=2)
    seen = []
    original = cpu.em_statistics

    def counting(x, *arguments, group_offsets, **keywords):
        seen.append((len(group_offsets) - 1, len(x)))
        return original(x, *arguments, group_offsets=group_offsets, **keywords)

    monkeypatch.setattr(cpu, "em_statistics", counting)
    model = GaussianMixture(3, random_state=SEED).fit(X, groups=groups)
    # A fit of n steps needs n + 1 E-steps.
    assert sum(n for n, _ in seen) == (model.n_iter_ + 1).sum()
    assert sum(n for _, n in seen) == ((model.n_iter_ + 1) * [40, 80, 60]).sum()
    assert len(set(model.n_iter_)) > 1


# ---------------------------------------------------------------- difficult data


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("N", [1, 2, 5])
def test_fewer_points_than_features(N, dtype):
    """One component: the sample covariance plus 1e-6 of each feature's variance, a constant feature counting as 1."""
    D = 8
    X = (100 + np.random.default_rng(SEED).normal(size=(N, D))).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantFeatureWarning)
        model = GaussianMixture(1).fit(X)
    exact = X.astype(np.float64)
    variance = np.where(N == 1, 1.0, exact.var(0))
    covariance = np.cov(exact.T, bias=True).reshape(D, D) if N > 1 else np.zeros((D, D))
    expected = covariance + 1e-6 * np.diag(variance)
    np.testing.assert_allclose(model.means_[0], exact.mean(0), rtol=PEER_RELATIVE)
    # The points are rounded to their dtype once they are centred: some u of the deviation.
    u = float(np.finfo(dtype).eps) / 2
    np.testing.assert_allclose(model.covariances_[0], expected, rtol=PEER_RELATIVE, atol=N * u + PEER_RELATIVE)
    reference = multivariate_normal(exact.mean(0), expected).logpdf(exact)
    # The covariance itself has rounding errors: they move its log det by u times the condition number, not its root.
    condition = 1e6 * D
    slack = log_density(torch.from_numpy(X).dtype, D, condition) + log_density(torch.float64, D, condition**2)
    np.testing.assert_allclose(model.score_samples(X), reference, atol=slack, rtol=0)


def test_float32_that_cannot_resolve_a_covariance_is_fitted_in_float64():
    rng = np.random.default_rng(SEED)
    X = np.concatenate([rng.normal(size=(20, 32)), rng.normal(size=(200, 32))]).astype(np.float32)
    groups = np.repeat(["few", "many"], [20, 200])
    single = GaussianMixture(2, random_state=SEED).fit(X, groups=groups)
    double = GaussianMixture(2, random_state=SEED).fit(X.astype(np.float64), groups=groups)
    np.testing.assert_allclose(single.means_[:2], double.means_[:2], rtol=PEER_RELATIVE, atol=PEER_RELATIVE)
    np.testing.assert_allclose(single.covariances_[:2], double.covariances_[:2], rtol=PEER_RELATIVE, atol=PEER_RELATIVE)
    # The other group was summed in float32, so it is close and not equal.
    assert 0 < np.abs(single.covariances_[2:] - double.covariances_[2:]).max() < log_density(torch.float32, 32)


def test_the_group_that_float32_cannot_resolve_is_the_one_fitted_in_float64():
    """The second of three: the others stay as they are alone."""
    rng = np.random.default_rng(SEED)
    sizes = {"a": 200, "b": 20, "c": 150}
    X, groups = rng.normal(size=(370, 32)).astype(np.float32), np.repeat(list(sizes), list(sizes.values()))
    together = GaussianMixture(2, random_state=SEED).fit(X, groups=groups)
    for g, name in enumerate(sizes):
        alone = GaussianMixture(2, random_state=SEED).fit(X[groups == name], groups=groups[groups == name])
        slack = log_density(torch.float32, 32)
        np.testing.assert_allclose(together.means_[2 * g : 2 * g + 2], alone.means_, rtol=slack, atol=slack)
        assert together.lower_bound_[g] == pytest.approx(alone.lower_bound_[0], rel=slack)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_float32_with_a_shift(shift):
    X = (blobs((300,), D=16)[0] + shift).astype(np.float32)
    single = GaussianMixture(2, random_state=SEED).fit(X)
    double = GaussianMixture(2, random_state=SEED).fit(X.astype(np.float64))
    assert single.n_iter_ == double.n_iter_
    condition = np.linalg.cond(double.covariances_).max()
    slack = log_density(torch.float32, 16, condition)
    np.testing.assert_allclose(single.score_samples(X), double.score_samples(X), atol=slack, rtol=0)


def test_constant_feature_and_duplicated_points():
    X, _ = blobs((40,), D=3)
    X[:, 1] = 7.25
    X = np.repeat(X, 3, axis=0)
    with pytest.warns(ConstantFeatureWarning, match="feature 1"):
        model = GaussianMixture(2, random_state=SEED).fit(X)
    np.testing.assert_allclose(model.means_[:, 1], 7.25, rtol=PEER_RELATIVE)
    np.testing.assert_allclose(model.covariances_[:, 1, 1], 1e-6, rtol=PEER_RELATIVE)
    varying = GaussianMixture(2, random_state=SEED).fit(X[:, [0, 2]])
    constant = -0.5 * np.log(2 * np.pi * 1e-6)
    np.testing.assert_allclose(
        model.score_samples(X), varying.score_samples(X[:, [0, 2]]) + constant, rtol=PEER_RELATIVE
    )


def test_equal_points_leave_components_without_points():
    X = np.repeat([[1.0, 2.0]], 10, axis=0)
    with pytest.warns() as caught:
        model = GaussianMixture(3).fit(X, groups=["same"] * 10)
    assert any("weight 0" in str(w.message) and "same" in str(w.message) for w in caught)
    np.testing.assert_array_equal(np.sort(model.weights_), [0, 0, 1])
    assert np.isfinite(model.score_samples(X, ["same"] * 10)).all()
    points, components = model.sample(20, "same")
    assert set(components) == {int(model.weights_.argmax())}
    assert points.shape == (20, 2)


def test_warns_of_groups_that_have_not_converged():
    X, groups = blobs((80, 80), D=2)
    with pytest.warns(ConvergenceWarning, match=r"max_iter = 1 .*groups a, b"):
        model = GaussianMixture(3, max_iter=1, random_state=SEED).fit(X, groups=groups)
    np.testing.assert_array_equal(model.converged_, [False, False])
    np.testing.assert_array_equal(model.n_iter_, [1, 1])


def test_a_warning_names_the_groups_that_it_concerns_and_no_others():
    X, groups = blobs((60, 80, 40), D=2)
    steps = GaussianMixture(3, random_state=SEED).fit(X, groups=groups).n_iter_
    slowest = int(steps.argmax())
    assert (np.delete(steps, slowest) < steps[slowest]).all()
    with pytest.warns(ConvergenceWarning, match=rf"\(groups {'abc'[slowest]}\)$") as caught:
        GaussianMixture(3, max_iter=int(steps.max()) - 1, random_state=SEED).fit(X, groups=groups)
    assert len([w for w in caught if issubclass(w.category, ConvergenceWarning)]) == 1
    X[groups == "b"] = 1.5
    with pytest.warns() as caught:
        GaussianMixture(3, random_state=SEED).fit(X, groups=groups)
    lost = [str(w.message) for w in caught if "lost all their points" in str(w.message)]
    assert len(lost) == 1
    assert lost[0].endswith("(groups b)")


def two_clusters(distance):
    """Of 300 points, variance 1, in one dimension."""
    return np.random.default_rng(SEED).normal(size=(600, 1)) + np.repeat([[0.0], [distance]], 300, axis=0)


def test_warns_where_reg_covar_widens_components():
    """It is in units of the group's variance, here 2.5e7: far-apart clusters, or an outlier, make that large."""
    X, groups = np.concatenate([two_clusters(10), two_clusters(1e4)]), np.repeat(["near", "far"], 600)
    with pytest.warns(UserWarning, match=r"reg_covar = 1e-06 .* over 1% .* lower reg_covar \(groups far\)") as caught:
        model = GaussianMixture(2, random_state=SEED).fit(X, groups=groups)
    assert len(caught) == 1
    assert (model.covariances_[:2] > 25).all()
    outlier = np.concatenate([two_clusters(0), [[1e5]]])
    with pytest.warns(UserWarning, match="groups 0"):
        GaussianMixture(2, random_state=SEED).fit(outlier)
    # One narrow component is enough, beside one that is wide.
    wide = np.where(np.arange(600) < 300, 1, 500)[:, None] * two_clusters(0) + np.repeat([[0.0], [1e4]], 300, axis=0)
    with pytest.warns(UserWarning, match="groups 0"):
        GaussianMixture(2, random_state=SEED).fit(wide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = GaussianMixture(2, random_state=SEED, reg_covar=1e-12).fit(X, groups=groups)
    np.testing.assert_allclose(model.covariances_.ravel(), 1, atol=MONTE_CARLO_SIGMAS * np.sqrt(2 / 300))


@pytest.mark.parametrize(
    ("X", "parameters"),
    [
        # As representations are: components of fewer points than dimensions are singular but for reg_covar.
        (np.random.default_rng(SEED).normal(size=(150, 64)) * np.linspace(9, 0.1, 64), {"n_components": (1, 2, 4)}),
        # A point by itself, and few that are close to each other by chance.
        (np.concatenate([two_clusters(5), [[90.0]]]), {"n_components": 3}),
        # As much as that is asked for.
        (two_clusters(5), {"n_components": 2, "reg_covar": 0.1}),
    ],
)
def test_does_not_warn_of_reg_covar_elsewhere(X, parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(**parameters, random_state=SEED).fit(X)


def test_sample_has_the_moments_of_the_mixture():
    X, groups = blobs((150, 150), D=2)
    model = GaussianMixture(2, random_state=SEED).fit(1e-4 * X + 5, groups=groups)
    n = 20_000
    points, components = model.sample(n, "b")
    np.testing.assert_array_equal(points, model.sample(n, "b")[0])
    for k in range(2):
        m = 2 + k
        mine = points[components == k]
        weight, mean, covariance = model.weights_[m], model.means_[m], model.covariances_[m]
        assert abs(len(mine) / n - weight) < MONTE_CARLO_SIGMAS * np.sqrt(weight * (1 - weight) / n)
        errors = np.sqrt(np.diag(covariance) / len(mine))
        assert (np.abs(mine.mean(0) - mean) < MONTE_CARLO_SIGMAS * errors).all()
        variances = np.diag(covariance)
        error = np.sqrt((variances[:, None] * variances + covariance**2) / len(mine))
        assert (np.abs(np.cov(mine.T) - covariance) < MONTE_CARLO_SIGMAS * error).all()


def test_verbose_shows_progress(capsys):
    GaussianMixture(2, verbose=1, random_state=SEED).fit(blobs((50,))[0])
    assert "EM" in capsys.readouterr().out
    GaussianMixture(2, random_state=SEED).fit(blobs((50,))[0])
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, "n_components must be .* got 0"),
        ({"n_components": 2.5}, "n_components must be .* got 2.5"),
        ({"n_components": []}, r"n_components must be .* got \[\]"),
        ({"n_components": (2, 0)}, "n_components must be an integer of at least 1, got 0"),
        ({"n_components": True}, "n_components must be an integer of at least 1, got True"),
        ({"max_iter": True}, "max_iter must be an integer of at least 1, got True"),
        ({"tol": -1}, "tol must be .* got -1"),
        ({"reg_covar": np.nan}, "reg_covar must be .* got nan"),
        ({"max_iter": 0}, "max_iter must be .* got 0"),
        ({"n_init": 1.0}, "n_init must be .* got 1.0"),
        ({"init_params": "kmeans"}, "init_params must be .* got 'kmeans'"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**parameters).fit(np.eye(4))


def test_bad_data_and_groups():
    X, groups = blobs((20, 3), D=2)
    with pytest.raises(ValueError, match=r"n_components must be at most .* got 4 for group b with n_samples = 3"):
        GaussianMixture(4).fit(X, groups=groups)
    with pytest.raises(ValueError, match=r"groups must hold one name for each of 23 rows of X, got shape \[22\]"):
        GaussianMixture().fit(X, groups=groups[:-1])
    with pytest.raises(
        ValueError, match="X must be scaled down: the squares of feature 0 of group a add up to more than"
    ):
        GaussianMixture().fit(X * 1e160, groups=groups)
    with pytest.raises(ValueError, match=r"group b is not positive definite .* reg_covar \(it is 0\)"):
        GaussianMixture(2, reg_covar=0, random_state=SEED).fit(X, groups=groups)
    model = GaussianMixture().fit(X, groups=groups)
    with pytest.raises(ValueError, match="groups must be given: the model was fitted with 2 groups"):
        model.score_samples(X)
    with pytest.raises(ValueError, match="'c'"):
        model.score_samples(X, ["c"] * len(X))
    with pytest.raises(ValueError, match=r"groups must hold one name for each of 23 rows of X, got shape \[22\]"):
        model.predict(X, groups[:-1])
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1, got 0"):
        model.sample(0, "a")
    with pytest.raises(ValueError, match=r"^group must be given: the model was fitted with 2 groups"):
        model.sample(1)
    with pytest.raises(ValueError, match="groups must be None: the model was fitted without groups"):
        GaussianMixture().fit(X).score_samples(X, groups)
    with pytest.raises(ValueError, match=r"^group must be None: the model was fitted without groups"):
        GaussianMixture().fit(X).sample(1, "a")
