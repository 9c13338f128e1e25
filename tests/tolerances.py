"""Every tolerance of the tests, with where it comes from. u is the unit roundoff: 2^-24 in float32, 2^-53 in float64."""

import math

import torch

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def log_density(dtype: torch.dtype, D: int, condition: float = 1.0, squared_distance: float = 0.0) -> float:
    """Absolute error of a log-density, in nats.

    y = W d has error |dy| <= c u ||W|| ||d|| <= c u sqrt(condition) |y|, so q = |y|^2 is off by 2 c u sqrt(condition) q, and
    the log-density by half of that. q is about D for a point of the component, more for one far away. c = 10 covers the
    accumulation over D <= 128 features, which grows like sqrt(D) and not like D. The factor itself, rounded to the dtype,
    adds u D to log det W. In float32 at condition number 1e3 this is 1.9e-5 D.
    """
    return 10 * UNIT_ROUNDOFF[dtype] * math.sqrt(condition) * max(D, squared_distance, 1.0)


def moments(dtype: torch.dtype, N: int, magnitude: float) -> float:
    """Absolute error of sums of responsibilities times values of that magnitude over N points: each term is off by some u."""
    return 50 * UNIT_ROUNDOFF[dtype] * N * magnitude


PEER_RELATIVE = 1e-9
"""Relative difference to scipy and scikit-learn in float64: both sides are good to 1e-12 or so at these sizes."""

PUBLISHED_NATS = 1e-3
"""The published code's log-densities are float32; its component parameters drift besides (see the tests)."""

UNIFORM_EDGE = 1e-6
"""A label may differ between engines if the point's uniform is this close to an edge of the cumulative probabilities."""

MONTE_CARLO_SIGMAS = 4.0
"""Differences are judged in Monte Carlo standard errors; at fixed seeds, 4 of them leave room and still catch a bias."""
