"""Fused mixture density: 20,000 points, 20 components; and 50,000 points, 2,000 components, a question of memory."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from torch import Tensor

import kernels
from benchmarks.made import CONDITION, MixtureInputs, mixture
from benchmarks.measure import Peer, compare
from paper_repro.machine import peak_memory_bytes, reset_peak_memory
from tests import tolerances

N, M, D = 20_000, 20, 64
LARGE_N, LARGE_M = 50_000, 2_000
CHUNK = 200
"""Points at a time in the GEMM form, the fastest of 200, 1,000 and 4,000: M x D numbers a point stay in the cache."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_mixture_log_density(benchmark: Any, dtype: torch.dtype) -> None:
    case = mixture(N, M, D, dtype)
    double = mixture(N, M, D, torch.float64)
    x, weights = double.x.numpy(), double.log_weight.exp().numpy()
    means, covariances = double.location.numpy(), (double.chol @ double.chol.mT).numpy()
    fitted = GaussianMixture(M)
    fitted.weights_, fitted.means_ = weights, means
    fitted.precisions_cholesky_ = double.precision_chol.mT.numpy().copy()
    scipy_components = [
        multivariate_normal(mean, covariance) for mean, covariance in zip(means, covariances, strict=True)
    ]
    distribution = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=case.log_weight),
        torch.distributions.MultivariateNormal(case.location, scale_tril=case.chol),
    )

    def ours() -> Tensor:
        return kernels.mixture_log_density(case.x, case.log_weight, case.location, case.precision_chol)

    tolerance = tolerances.log_density(dtype, D, CONDITION, squared_distance=2 * float(ours().abs().max()))
    single = dtype == torch.float32
    flops = density_flops(N, M)
    result = compare(
        benchmark,
        ours,
        [
            Peer(
                "torch.distributions",
                lambda: distribution.log_prob(case.x),
                tolerance,
                every=3,
                must=10 if single else None,
            ),
            Peer(
                "scikit-learn (float64)",
                lambda: fitted.score_samples(x),
                tolerance,
                every=2,
                must=7.5 if single else None,
            ),
            Peer(
                "scipy (float64)",
                lambda: logsumexp([component.logpdf(x) for component in scipy_components], axis=0, b=weights[:, None]),
                tolerance,
                every=5,
            ),
            Peer("a plain GEMM form", lambda: gemm_form(case), tolerance),
        ],
        rounds=15,
        operation="mixture_log_density",
        shapes={"points": N, "components": M, "features": D},
        dtype=str(dtype).removeprefix("torch."),
        flops=flops,
    )
    result.measure("rate", flops / result.seconds / 1e9, "Gflop/s")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_against_matrix_product(benchmark: Any, dtype: torch.dtype) -> None:
    """In multiply-adds of the dense product N x M x D x D, beside one big matrix product of the machine.

    Above 1 is possible because the factor is triangular: half of the dense product's entries are zero.
    """
    case = mixture(N, M, D, dtype)
    n = 2048
    a, b, out = torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype), torch.empty(n, n, dtype=dtype)
    single = dtype == torch.float32
    compare(
        benchmark,
        lambda: kernels.mixture_log_density(case.x, case.log_weight, case.location, case.precision_chol),
        [
            Peer(
                "the machine's matrix product, as if dense",
                lambda: torch.matmul(a, b, out=out),
                None,
                work=n**3,
                aim=1.0 if single else None,
            )
        ],
        rounds=21,
        operation="mixture_log_density against matmul",
        shapes={"points": N, "components": M, "features": D, "matmul": n},
        dtype=str(dtype).removeprefix("torch."),
        flops=density_flops(N, M),
        work=N * M * D * D,
    )


def test_large_mixture(benchmark: Any) -> None:
    case = mixture(LARGE_N, LARGE_M, D)

    def ours() -> Tensor:
        return kernels.mixture_log_density(case.x, case.log_weight, case.location, case.precision_chol)

    few = slice(0, 2 * CHUNK)
    values = ours()
    tolerance = tolerances.log_density(torch.float32, D, CONDITION, squared_distance=2 * float(values.abs().max()))
    np.testing.assert_allclose(values[few], gemm_form(case._replace(x=case.x[few])), rtol=0, atol=tolerance)
    flops = density_flops(LARGE_N, LARGE_M)
    result = compare(
        benchmark,
        ours,
        # A twentieth of the points: the whole takes as long as all other benchmarks of this file.
        [Peer("a plain GEMM form", lambda: gemm_form(case._replace(x=case.x[: LARGE_N // 20])), None, work=0.05)],
        rounds=3,
        operation="mixture_log_density, large",
        shapes={"points": LARGE_N, "components": LARGE_M, "features": D},
        dtype="float32",
        flops=flops,
    )
    result.measure("rate", flops / result.seconds / 1e9, "Gflop/s")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        extra = alone.submit(extra_memory).result()
    # torch.distributions holds N x M x D numbers at a time, twice.
    result.measure("memory beyond inputs and outputs", extra / 1e6, "MB", must=200, more_is_better=False)
    result.measure("the same of torch.distributions, at least", LARGE_N * LARGE_M * D * 4 / 1e6, "MB")


def density_flops(n_points: int, n_components: int) -> float:
    """Subtract, D (D + 1) / 2 multiply-adds, square and sum; the few operations after that are not counted."""
    return n_points * n_components * (D + D * (D + 1) + 2 * D)


def gemm_form(case: MixtureInputs) -> Tensor:
    """One dense matrix product for all components of some points, then norms and logsumexp.

    The fastest of four plain forms: `baddbmm`, a loop over components, and squares with sums are slower.
    """
    n_components = len(case.location)
    factors = case.precision_chol.reshape(n_components * D, D).T.contiguous()
    shift = -(case.precision_chol @ case.location[:, :, None]).reshape(n_components * D)
    log_det = case.precision_chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = case.log_weight + log_det - 0.5 * D * np.log(2 * np.pi)
    out = torch.empty(len(case.x), dtype=case.x.dtype)
    white = torch.empty(CHUNK, n_components * D, dtype=case.x.dtype)
    for first in range(0, len(case.x), CHUNK):
        x = case.x[first : first + CHUNK]
        y = torch.addmm(shift, x, factors, out=white[: len(x)]).view(len(x), n_components, D)
        out[first : first + CHUNK] = torch.logsumexp(constant - 0.5 * torch.linalg.vector_norm(y, dim=-1).square_(), 1)
    return out


def extra_memory() -> int:
    """Bytes above those of inputs and outputs at the peak; to be called in a process of its own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(LARGE_N, D, generator=generator)
    log_weight, location = torch.zeros(LARGE_M), torch.randn(LARGE_M, D, generator=generator)
    precision_chol = torch.eye(D).repeat(LARGE_M, 1, 1)
    # Code and threads are there before the measurement: what is asked is what grows with N and M.
    kernels.mixture_log_density(x[:4096], log_weight[:2], location[:2], precision_chol[:2])
    reset_peak_memory()
    before = peak_memory_bytes()
    out = kernels.mixture_log_density(x, log_weight, location, precision_chol)
    return peak_memory_bytes() - before - out.numel() * out.element_size()
