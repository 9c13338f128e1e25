"""Whole fits by the paper's protocol, and what is asked of their posteriors: 10 classes of 500 points, D = 64.

The classes are those of the state "moving" in `bench_gibbs_sweep.py`: 6 components far apart.
"""

import time
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_t

import classfit.gibbs
from benchmarks.made import classes
from benchmarks.measure import Peer, compare
from classfit import DPGaussianMixture, Posterior
from classfit.predictive import Mixture
from tests import tolerances

G, N_CLASS, K, D = 10, 500, 6, 64
SEPARATION = 5.0
SWEEPS = 400
N_POINTS, N_DRAWS = 5_000, 10_000


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """Points and the class of each."""
    return classes(G, N_CLASS, K, D, SEPARATION).x.numpy(), np.repeat(np.arange(G), N_CLASS)


def fit() -> DPGaussianMixture:
    X, groups = data()
    schedule = {"n_sweeps": SWEEPS, "n_discard": 4 * SWEEPS // 5}  # the default of 400 sweeps
    return DPGaussianMixture(K, block_size=4, random_state=0, **schedule).fit(X, groups=groups)


@cache
def posterior() -> Posterior:
    return fit().posterior_


def test_fit(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of `DPGaussianMixture.fit`, and how much of it is not the sweeps."""
    spent = {"gibbs_sweep": 0.0, "log_joint": 0.0, "_random_numbers": 0.0, "whole": 0.0}

    def timed(name: str) -> None:
        function = getattr(classfit.gibbs, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        monkeypatch.setattr(classfit.gibbs, name, wrapped)

    def ours() -> None:
        start = time.perf_counter()
        labels = fit().posterior_.labels
        spent["whole"] += time.perf_counter() - start
        np.testing.assert_array_equal(labels, posterior().labels)  # no bit differs from one fit to the next

    posterior()
    for name in ("gibbs_sweep", "log_joint", "_random_numbers"):
        timed(name)
    result = compare(
        benchmark,
        ours,
        rounds=3,
        operation="DPGaussianMixture.fit, blocks of 4",
        shapes={"classes": G, "points a class": N_CLASS, "features": D, "sweeps": SWEEPS},
        dtype="float32",
        work=G * SWEEPS,
    )
    result.measure(
        "one sweep of one class, all included", result.seconds / (G * SWEEPS) * 1e3, "ms", more_is_better=False
    )
    labels = {"gibbs_sweep": "sweeps", "log_joint": "log joint for the trace", "_random_numbers": "random numbers"}
    for name, label in labels.items():
        result.measure(f"share of time: {label}", 100 * spent[name] / spent["whole"], "%")
    n_components = posterior().labels.reshape(-1, G, N_CLASS).max(2) + 1
    result.measure("components at kept sweeps", float(n_components.mean()), "")


def test_log_density(benchmark: Any) -> None:
    """The predictive of every class at 5,000 points, from labels to log-densities; scipy is given the components."""
    X = data()[0][:N_POINTS]
    mixtures = [posterior().mixture(g) for g in range(G)]
    few = X[:: N_POINTS // 500]
    ours = posterior().log_density(few)
    tolerance = tolerances.log_density(torch.float32, D, 1e3, squared_distance=2 * float(np.abs(ours).max()))
    np.testing.assert_allclose(ours[:, 0], scipy_density(few, mixtures[0]), rtol=0, atol=tolerance)
    result = compare(
        benchmark,
        lambda: posterior().log_density(X),
        # A hundredth of the work: a tenth of the points under one class of ten.
        [Peer("scipy (float64)", lambda: scipy_density(few, mixtures[0]), None, work=0.01)],
        rounds=7,
        operation="Posterior.log_density",
        shapes={
            "points": N_POINTS,
            "classes": G,
            "features": D,
        },
        dtype="float32",
    )
    result.measure("components of all classes", sum(len(mixture.log_weight) for mixture in mixtures), "")


def test_relative_entropy(benchmark: Any) -> None:
    """From 10,000 draws a class (the paper: 100,000), held against scipy's densities of other draws, less the mean of
    log q by the variances of the components (a mean of it over draws would have no error to rely on: see there)."""
    value, error, _ = posterior().relative_entropy(N_DRAWS, random_state=0)
    mixture = posterior().mixture(0)
    log_p = scipy_density(posterior().sample(1_000, group=0, random_state=1), mixture)
    mean, variance = posterior().prior.mu0[0].numpy(), posterior().variance[0].numpy()
    location, precision_chol, df = (field.numpy() for field in mixture.components)
    spread = (np.linalg.inv(precision_chol) ** 2).sum(2) * (df / (df - 2))[:, None] + (location - mean) ** 2
    log_q = -0.5 * (spread / variance + np.log(2 * np.pi * variance)).sum(1)
    expected = log_p.mean() - np.exp(mixture.log_weight.numpy()) @ log_q
    both = np.hypot(error[0], log_p.std(ddof=1) / np.sqrt(len(log_p)))
    assert abs(value[0] - expected) < tolerances.MONTE_CARLO_SIGMAS * both
    compare(
        benchmark,
        lambda: posterior().relative_entropy(N_DRAWS, random_state=0).value,
        rounds=5,
        operation="Posterior.relative_entropy",
        shapes={"classes": G, "draws a class": N_DRAWS, "features": D},
        dtype="float32",
    )


def scipy_density(points: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Log-density of one predictive, component by component."""
    location, precision_chol, df = (field.numpy() for field in mixture.components)
    chol = np.linalg.inv(precision_chol)
    parts = [
        multivariate_t.logpdf(points, location[m], chol[m] @ chol[m].T, df[m]) for m in range(len(mixture.log_weight))
    ]
    return logsumexp(np.array(parts) + mixture.log_weight.numpy()[:, None], axis=0)
