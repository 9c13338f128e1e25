"""Generative classification."""

import warnings

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris
from sklearn.utils.estimator_checks import parametrize_with_checks
from tolerances import PEER_RELATIVE

from classfit import ClassConditionalDensity, DPGaussianMixture, GaussianMixture


@parametrize_with_checks(
    [ClassConditionalDensity(GaussianMixture()), ClassConditionalDensity(GaussianMixture(2, random_state=0))]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    return X, np.array(["setosa", "versicolor", "virginica"])[y]


def test_one_gaussian_a_class(iris):
    """Quadratic discriminant analysis with maximum-likelihood covariances."""
    X, y = iris
    model = ClassConditionalDensity(GaussianMixture(reg_covar=0)).fit(X, y)
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    expected = np.stack(
        [multivariate_normal(X[y == c].mean(0), np.cov(X[y == c].T, bias=True)).logpdf(X) for c in model.classes_],
        axis=1,
    )
    np.testing.assert_allclose(model.log_density(X), expected, rtol=PEER_RELATIVE)
    joint = np.exp(expected) / 3
    posterior = joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), posterior, rtol=PEER_RELATIVE, atol=PEER_RELATIVE)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X), rtol=PEER_RELATIVE)
    np.testing.assert_array_equal(model.predict(X), model.classes_[expected.argmax(1)])
    assert model.score(X, y) == (model.predict(X) == y).mean() > 0.95


def test_priors(iris):
    X, y = iris
    X, y = X[:120], y[:120]
    fractions = ClassConditionalDensity(GaussianMixture()).fit(X, y)
    np.testing.assert_allclose(np.exp(fractions.class_log_prior_), np.array([50, 50, 20]) / 120, rtol=PEER_RELATIVE)
    given = ClassConditionalDensity(GaussianMixture(), priors=[0.5, 0.5, 0]).fit(X, y)
    np.testing.assert_array_equal(given.log_density(X), fractions.log_density(X))
    np.testing.assert_array_equal(given.predict_proba(X)[:, 2], 0)
    assert (fractions.predict(X) == "virginica").any()
    assert not (given.predict(X) == "virginica").any()
    odds = given.predict_log_proba(X)[:, :2] - fractions.predict_log_proba(X)[:, :2]
    np.testing.assert_allclose(odds[:, 0], odds[:, 1], rtol=PEER_RELATIVE, atol=PEER_RELATIVE)


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ([0.5, 0.5], r"priors must have shape \[3\], one a class, got \[2\]"),
        ([0.5, 0.6, -0.1], r"priors must be non-negative and sum to 1, got \[0.5, 0.6, -0.1\]"),
        ([0.5, 0.5, 0.5], "priors must be non-negative and sum to 1"),
        ([0.5, 0.5, np.nan], "priors must be non-negative and sum to 1"),
    ],
)
def test_bad_priors(iris, priors, message):
    with pytest.raises(ValueError, match=message):
        ClassConditionalDensity(GaussianMixture(), priors=priors).fit(*iris)


def test_the_density_given_is_cloned_and_fitted_once_to_all_classes(iris):
    X, y = iris
    density = GaussianMixture(2, random_state=3)
    model = ClassConditionalDensity(density).fit(X, y)
    assert not hasattr(density, "means_")
    assert model.density_.groups_.tolist() == model.classes_.tolist()
    np.testing.assert_array_equal(model.log_density(X), density.fit(X, groups=y).class_log_density(X))


def test_default_density_is_the_dirichlet_process_mixture(iris):
    X, y = iris
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ClassConditionalDensity().fit(X, y)
    assert isinstance(model.density_, DPGaussianMixture)
    assert model.log_density(X).shape == (150, 3)
    assert model.score(X, y) > 0.95


def test_a_fit_that_is_stopped_leaves_the_one_before(iris, monkeypatch):
    X, y = iris
    model = ClassConditionalDensity(GaussianMixture()).fit(X, y)
    expected, fit = model.predict(X), GaussianMixture.fit

    def stopped(self, *args, **kwargs):
        fit(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(GaussianMixture, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X[:, :2], np.array(["c", "b", "a"])[np.unique(y, return_inverse=True)[1]])
    assert np.array_equal(model.predict(X), expected)
    assert model.score(X, y) > 0.9
