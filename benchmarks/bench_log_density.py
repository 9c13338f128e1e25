"""Component log-densities [N, M], Gaussian and Student-t: 20,000 points, 20 components."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, multivariate_t
from torch import Tensor

import kernels
from benchmarks.bench_mixture_log_density import density_flops
from benchmarks.made import CONDITION, MixtureInputs, mixture
from benchmarks.measure import Peer, compare
from tests import tolerances

N, M, D = 20_000, 20, 64
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@DTYPES
def test_gaussian_log_density(benchmark: Any, dtype: torch.dtype) -> None:
    case, double = mixture(N, M, D, dtype), mixture(N, M, D, torch.float64)
    x, means, covariances = double.x.numpy(), double.location.numpy(), (double.chol @ double.chol.mT).numpy()
    scipy_components = [
        multivariate_normal(mean, covariance) for mean, covariance in zip(means, covariances, strict=True)
    ]
    distribution = torch.distributions.MultivariateNormal(case.location, scale_tril=case.chol)

    def ours() -> Tensor:
        return kernels.gaussian_log_density(case.x, case.location, case.precision_chol)

    tolerance = tolerance_of(ours())
    result = compare(
        benchmark,
        ours,
        [
            Peer("torch.distributions", lambda: distribution.log_prob(case.x[:, None]), tolerance, every=3),
            Peer(
                "scipy (float64)",
                lambda: np.stack([component.logpdf(x) for component in scipy_components], axis=1),
                tolerance,
                every=5,
            ),
        ],
        rounds=11,
        operation="gaussian_log_density",
        **facts(case),
    )
    result.measure("rate", density_flops(N, M) / result.seconds / 1e9, "Gflop/s")


@DTYPES
def test_student_t_log_density(benchmark: Any, dtype: torch.dtype) -> None:
    case, double = mixture(N, M, D, dtype), mixture(N, M, D, torch.float64)
    x, shapes, df = double.x.numpy(), (double.chol @ double.chol.mT).numpy(), case.df.double().numpy()
    scipy_components = [
        multivariate_t(*parameters) for parameters in zip(double.location.numpy(), shapes, df, strict=True)
    ]

    def ours() -> Tensor:
        return kernels.student_t_log_density(case.x, case.location, case.precision_chol, case.df)

    result = compare(
        benchmark,
        ours,
        [
            Peer(
                "scipy (float64)",
                lambda: np.stack([component.logpdf(x) for component in scipy_components], axis=1),
                tolerance_of(ours()),
                every=5,
            )
        ],
        rounds=11,
        operation="student_t_log_density",
        **facts(case),
    )
    result.measure("rate", density_flops(N, M) / result.seconds / 1e9, "Gflop/s")


def facts(case: MixtureInputs) -> dict[str, Any]:
    return {
        "shapes": {"points": N, "components": M, "features": D},
        "dtype": str(case.x.dtype).removeprefix("torch."),
        "flops": density_flops(N, M),
    }


def tolerance_of(log_density: Tensor) -> float:
    """Of the point farthest from a component."""
    return tolerances.log_density(log_density.dtype, D, CONDITION, squared_distance=2 * float(log_density.abs().max()))
