"""EM: 20 classes of 500 points, 4 components each. The E-step with its moments alone, and EM as a whole."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

import kernels
from benchmarks.made import classes
from benchmarks.measure import Peer, compare
from classfit.em_steps import expectation_maximisation, initial_mixtures
from tests import tolerances

G, N_CLASS, K, D = 20, 500, 4, 64
ITERATIONS = 5
SEPARATION = 0.35
"""Standard deviation of the centres: so close that points change sides in the first iterations."""
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
SHAPES = {"classes": G, "points a class": N_CLASS, "components": K, "features": D}


@DTYPES
def test_em(benchmark: Any, dtype: torch.dtype) -> None:
    """A given number of iterations from the same start: ours on all classes at once, scikit-learn class by class."""
    case = classes(G, N_CLASS, K, D, SEPARATION, dtype)
    component_offsets = torch.arange(G + 1) * K
    start, _ = initial_mixtures(case.x, case.labels, case.group_offsets, component_offsets, 1e-6)
    doubles = [case.x[g * N_CLASS : (g + 1) * N_CLASS].double().numpy() for g in range(G)]
    precisions = (start.precision_chol.mT @ start.precision_chol).numpy()
    mixtures = []
    for first in range(0, G * K, K):
        own = slice(first, first + K)
        mixtures.append(
            GaussianMixture(
                K,
                tol=0,
                max_iter=ITERATIONS,
                weights_init=start.weights[own].numpy(),
                means_init=start.means[own].numpy(),
                precisions_init=precisions[own],
            )
        )

    def ours() -> np.ndarray:
        fits = expectation_maximisation(
            case.x, case.labels, case.group_offsets, component_offsets, tol=0, max_iter=ITERATIONS, reg_covar=1e-6
        )
        assert [fit.n_iter for fit in fits] == [ITERATIONS] * G
        return np.stack([fit.mixture.means.numpy() for fit in fits])

    def scikit_learn() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return np.stack([mixture.fit(x).means_ for mixture, x in zip(mixtures, doubles, strict=True)])

    def scikit_learn_one_thread() -> np.ndarray:
        with threadpool_limits(1):
            return scikit_learn()

    tolerance = ITERATIONS * tolerances.moments(dtype, N_CLASS, 1.0) / (N_CLASS / K)
    flops = ITERATIONS * (step_flops() + G * K * 2 * D**3 / 3)  # an M-step: a Cholesky factor and its inverse
    result = compare(
        benchmark,
        ours,
        [
            # As it comes; and on one thread, which it is better off with at this size, above all on a busy machine.
            Peer("scikit-learn (float64)", scikit_learn, None, every=4, must=30, aim=100),
            Peer("scikit-learn (float64), one thread", scikit_learn_one_thread, tolerance, every=2),
        ],
        rounds=9,
        operation="EM",
        shapes={**SHAPES, "iterations": ITERATIONS},
        dtype=str(dtype).removeprefix("torch."),
        flops=flops,
        work=G * ITERATIONS,
    )
    result.measure("per class and iteration", result.seconds / (G * ITERATIONS) * 1e3, "ms", more_is_better=False)
    result.measure("rate", flops / result.seconds / 1e9, "Gflop/s")


@DTYPES
def test_em_statistics(benchmark: Any, dtype: torch.dtype) -> None:
    """One E-step with its moments, beside a plain batched form of it."""
    case = classes(G, N_CLASS, K, D, SEPARATION, dtype)
    component_offsets = torch.arange(G + 1) * K
    start, _ = initial_mixtures(case.x, case.labels, case.group_offsets, component_offsets, 1e-6)
    log_weight, mean, factor = (field.to(dtype) for field in (start.weights.log(), start.means, start.precision_chol))

    def ours() -> kernels.EMStatistics:
        return kernels.em_statistics(
            case.x, log_weight, mean, factor, group_offsets=case.group_offsets, component_offsets=component_offsets
        )

    def batched() -> tuple[Tensor, ...]:
        x, m = case.x.view(G, N_CLASS, D), mean.view(G, K, D)
        difference = x[:, None] - m[:, :, None]
        white = difference @ factor.view(G, K, D, D).mT
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).view(G, K, 1)
        log_density = log_det - 0.5 * (white.square().sum(-1) + D * np.log(2 * np.pi))
        joint = log_weight.view(G, K, 1) + log_density
        log_likelihood = torch.logsumexp(joint, 1, keepdim=True)
        r = (joint - log_likelihood).exp()
        counts = r.sum(-1)
        sums = (r[:, :, None] @ difference)[:, :, 0]
        centred = difference - (sums / counts[..., None])[:, :, None]
        return counts, sums, (centred * r[..., None]).mT @ centred, log_likelihood.sum((1, 2))

    moments_tolerance = tolerances.moments(dtype, N_CLASS, float(case.x.abs().max()) ** 2)
    for field, theirs in zip(ours(), batched(), strict=True):
        np.testing.assert_allclose(field, theirs.reshape(field.shape), rtol=0, atol=moments_tolerance)
    flops = step_flops()
    result = compare(
        benchmark,
        ours,
        [Peer("a plain batched form", batched, None)],
        rounds=31,
        operation="em_statistics",
        shapes=SHAPES,
        dtype=str(dtype).removeprefix("torch."),
        flops=flops,
    )
    result.measure("rate", flops / result.seconds / 1e9, "Gflop/s")


def step_flops() -> float:
    """Of an E-step and its moments: whitening, then D (D + 1) / 2 multiply-adds of the symmetric scatter, a point and
    component."""
    return G * K * N_CLASS * (2.0 * D * (D + 1) + 8 * D)
