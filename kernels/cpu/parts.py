"""The two parts of a split-merge proposal: what both ways to hold them have in common."""

import math
from typing import NamedTuple

import numpy as np

from kernels.cpu.compiled import leaf
from kernels.cpu.components import Prior


class Proposal(NamedTuple):
    """One of `SplitMergeProposals`, of C candidates and S scans."""

    i: int
    j: int
    candidates: np.ndarray
    """[C]"""
    launch: np.ndarray
    """[C]"""
    uniforms: np.ndarray
    """[S, C]"""


@leaf()
def log_weight(n: int, log_det: float, log_growth: float, prior: Prior) -> float:
    """log n t(x) of n points with log det S_n; log_growth = log(1 + q kappa / (kappa + 1))."""
    return math.log(n) + prior.predictive[n] - 0.5 * log_det - 0.5 * (prior.nu0 + n + 1) * log_growth


@leaf()
def log_sigmoid(log_odds: float) -> float:
    return min(log_odds, 0.0) - math.log1p(math.exp(-abs(log_odds)))


@leaf()
def log_split(
    alpha: float,
    n_i: int,
    n_j: int,
    log_det_i: float,
    log_det_j: float,
    log_det: float,
    prior: Prior,
    marginal: np.ndarray,
) -> float:
    """log of the posterior odds of the two parts against one component; log determinants of S_n."""
    n = n_i + n_j
    return (
        math.log(alpha)
        + math.lgamma(n_i)
        + math.lgamma(n_j)
        - math.lgamma(n)
        + marginal[n_i]
        + marginal[n_j]
        - marginal[n]
        + 0.5 * prior.nu0 * prior.log_det
        - 0.5 * (prior.nu0 + n_i) * log_det_i
        - 0.5 * (prior.nu0 + n_j) * log_det_j
        + 0.5 * (prior.nu0 + n) * log_det
    )
