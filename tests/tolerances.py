"""Every tolerance of the tests, with where it comes from. u: the unit roundoff, 2^-24 in float32, 2^-53 in float64."""

import math

import torch

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def log_density(dtype: torch.dtype, D: int, condition: float = 1.0, squared_distance: float = 0.0) -> float:
    """Absolute error of a log-density, in nats.

    y = W d has error |dy| <= c u ||W|| ||d|| <= c u sqrt(condition) |y|, so q = |y|^2 is off by 2 c u sqrt(condition)
    q, and the log-density by half of that. q is about D for a point of the component, more for one far away. c = 10
    covers the accumulation over D <= 128 features, which grows like sqrt(D) and not like D. The factor itself, rounded
    to the dtype, adds u D to log det W. In float32 at condition number 1e3 this is 1.9e-5 D.
    """
    return 10 * UNIT_ROUNDOFF[dtype] * math.sqrt(condition) * max(D, squared_distance, 1.0)


def log_densities(
    dtype: torch.dtype, D: int, condition: float, squared_distance: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """`log_density` for each element, and the rounding of the result itself to the dtype (u |value|, twice).

    A Student-t's factor (df + D) / (df + q) on the error of q is at most 1 for q >= D, and below D / q: it is covered.
    """
    bound = 10 * UNIT_ROUNDOFF[dtype] * math.sqrt(condition) * squared_distance.clamp(min=max(D, 1))
    return bound + 2 * UNIT_ROUNDOFF[dtype] * value.abs()


def moments(dtype: torch.dtype, N: int, magnitude: float, log_density_error: float = 0.0) -> float:
    """Absolute error of sums of responsibilities times values of that magnitude over N points: each term is off by some
    u, and a responsibility r by 2 r (1 - r) <= 1/2 of the error of the log-densities that it comes from."""
    return (50 * UNIT_ROUNDOFF[dtype] + 0.5 * log_density_error) * N * magnitude


def inverse_factor(dtype: torch.dtype, D: int, condition: float) -> float:
    """Relative error of W = L^-1, of W S W' - I, and of log det S: backward error D u of the factorisation (Higham
    2002, theorem 10.3) times the condition number, with 4 to cover the inversion of the factor."""
    return 4 * D * UNIT_ROUNDOFF[dtype] * condition


VECTOR_MATH = 2 * 2.0**-52
"""Promised relative error of exp and log1p: two units in the last place."""

FLOAT32_NATS_PER_FEATURE = 2e-5
"""Promised error of float32 at condition number 1e3 and a data shift of 1e3, for points of the component."""

MEGABYTES_BEYOND_OUTPUTS = 200
"""Promised limit to the memory of a mixture density beside its inputs and outputs, whatever N and M."""


def assert_within(actual: torch.Tensor, expected: torch.Tensor, tolerance: torch.Tensor | float) -> None:
    """Every element equal (infinities too) or within the tolerance; NaN never is."""
    assert actual.shape == expected.shape, f"{list(actual.shape)} is not {list(expected.shape)}"
    actual, expected = actual.double(), expected.double()
    error = (actual - expected).abs()
    near = (actual == expected) | (expected.isfinite() & (error <= tolerance))
    if not near.all():
        first = tuple((~near).nonzero()[0].tolist())
        bound = torch.as_tensor(tolerance).expand(expected.shape)[first]
        raise AssertionError(
            f"{int((~near).sum())} of {near.numel()} elements differ, the first at {first}: "
            f"{float(actual[first])!r}, expected {float(expected[first])!r} within {float(bound):.3g}"
        )


PEER_RELATIVE = 1e-9
"""Relative difference to scipy and scikit-learn in float64: both sides are good to 1e-12 or so at these sizes."""

PRODUCTS_RELATIVE, PRODUCTS_NATS = 1e-7, 1e-6
"""Promised of moves by inner products up to LARGEST_PRODUCT: an error of 1e8 times the unit roundoff in s, which counts
(nu0 + n) / 2 times, some 20 here, in ratios of some hundred nats."""

QUADRATURE = 1e-9
"""Error of an integral by the double exponential rule at step 0.01, of densities no narrower than 0.3 of a unit."""

PUBLISHED_NATS = 1e-3
"""The published code's log-densities are float32; its component parameters drift besides (see the tests)."""

UNIFORM_EDGE = 1e-6
"""Labels may differ between engines if the point's uniform is this close to an edge of the cumulative probabilities."""

MONTE_CARLO_SIGMAS = 4.0
"""Differences are judged in Monte Carlo standard errors; at fixed seeds, 4 leave room and still catch a bias."""

COUNTED_DIGITS = 0.0005
"""torchvision gives the multiply-adds of its networks to three decimals, in units of 10^9."""
