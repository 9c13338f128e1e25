"""The normal-inverse-Wishart prior, set from the data of each group, and its posterior and predictive.

    Sigma ~ IW(nu0, S0),   mu | Sigma ~ N(mu0, Sigma / kappa0)

Everything here is float64: it is what the labels and the data mean, computed afresh whenever it is needed.
"""

import warnings
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from classfit.devices import CPU
from kernels import ComponentStatistics, NIWPrior, precision_cholesky
from kernels.cpu import threads

KAPPA0 = 0.01


class ConstantFeatureWarning(UserWarning):
    """A feature of a group does not vary, so the data give it no scale."""


class NIWPosterior(NamedTuple):
    """Posterior parameters of M components, float64."""

    kappa_n: Tensor
    """[M]"""
    nu_n: Tensor
    """[M]"""
    m_n: Tensor
    """[M, D]"""
    S_n: Tensor
    """[M, D, D]"""


class StudentT(NamedTuple):
    """M multivariate Student-t densities, as `kernels.student_t_log_density` takes them."""

    location: Tensor
    """[M, D]"""
    precision_chol: Tensor
    """[M, D, D] inverse of the lower Cholesky factor of the scale matrix."""
    df: Tensor
    """[M]"""


def group_variances(x: Tensor, group_offsets: Tensor, names: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance (divisor N) of each feature in each group, float64 [G, D] both.

    A feature that is constant in a group has no scale: it is given variance 1, as scikit-learn's StandardScaler does,
    with a ConstantFeatureWarning that says where. Constant means a standard deviation below the rounding of the values,
    or one whose square float64 cannot hold (below 1.5e-154).

    Raises:
        ValueError: values so large that the sum of their squares is beyond float64.
    """
    means, variances, constant = [], [], []
    edges = group_offsets.tolist()
    with threads.reserved():  # torch adds up one feature of many points by threads
        for a, b in pairwise(edges):
            points = x[a:b].double()
            means.append(points.mean(0))
            variances.append((points - means[-1]).square().mean(0))
            rounding = 4 * torch.finfo(x.dtype).eps * points.abs().amax(0)
            constant.append((variances[-1].sqrt() <= rounding) | (variances[-1] < torch.finfo(torch.float64).tiny))
    mean, variance, is_constant = torch.stack(means), torch.stack(variances), torch.stack(constant)
    too_large = ~variance.isfinite()

    def first(where: Tensor) -> str:
        g, d = where.nonzero()[0].tolist()
        return f"feature {d} of group {names[g] if names is not None else g}"

    if too_large.any():
        raise ValueError(f"X must be scaled down: the squares of {first(too_large)} add up to more than float64 holds")
    if is_constant.any():
        warnings.warn(
            "features are constant within their group, or vary by less than can be squared, and get variance 1: in "
            f"{int(is_constant.any(1).sum())} of {len(is_constant)} groups, at most {int(is_constant.sum(1).max())} of "
            f"{is_constant.shape[1]} each; the first is {first(is_constant)}",
            ConstantFeatureWarning,
            stacklevel=3,
        )
    return mean, torch.where(is_constant, 1.0, variance)


def niw_prior(
    mean: Tensor,
    variance: Tensor,
    n_init_components: int,
    *,
    kappa0: float = KAPPA0,
    nu0: float | None = None,
    S0_scale: float = 1.0,
) -> NIWPrior:
    """mu0 = mean, kappa0, nu0, S0 = S0_scale diag(variance) / K0^(2/D); by default the paper's prior.

    Args:
        mean, variance: [G, D] float64, from `group_variances`.
        n_init_components: K0.
        kappa0: in points, positive.
        nu0: degrees of freedom, above D - 1; None is D + 2.
        S0_scale: positive.
    """
    G, D = mean.shape
    return NIWPrior(
        mu0=mean,
        kappa0=torch.full((G,), kappa0, dtype=torch.float64, device=CPU),
        nu0=torch.full((G,), D + 2.0 if nu0 is None else nu0, dtype=torch.float64, device=CPU),
        S0=torch.diag_embed(S0_scale * variance / n_init_components ** (2 / D)),
    )


def standardised(prior: NIWPrior) -> NIWPrior:
    """The same prior in the units in which mu0 = 0 and diag S0 = 1: a change of variables that labels do not notice."""
    scale = prior.S0.diagonal(dim1=-2, dim2=-1).sqrt()
    S0 = prior.S0 / (scale[:, :, None] * scale[:, None, :])
    return NIWPrior(torch.zeros_like(prior.mu0), prior.kappa0, prior.nu0, S0)


def standardise(x: Tensor, prior: NIWPrior, group_offsets: Tensor) -> Tensor:
    """x of each group in the units of `standardised`: (x - mu0) / sqrt(diag S0), computed in float64, in x's dtype."""
    scale = prior.S0.diagonal(dim1=-2, dim2=-1).sqrt()
    parts = [(x[a:b].double() - prior.mu0[g]) / scale[g] for g, (a, b) in enumerate(pairwise(group_offsets.tolist()))]
    return torch.cat(parts).to(x.dtype)


def niw_posterior(prior: NIWPrior, group: int, statistics: ComponentStatistics) -> NIWPosterior:
    """Posterior of every component of one group, given its moments ([1, K, ...], as `kernels.component_statistics`).

    kappa_n = kappa0 + n,  nu_n = nu0 + n,  m_n = (kappa0 mu0 + n xbar) / kappa_n,
    S_n = S0 + C + kappa0 n / kappa_n (xbar - mu0)(xbar - mu0)'
    """
    n, xbar, C = statistics.counts[0].double(), statistics.means[0], statistics.scatters[0]
    mu0, kappa0, nu0, S0 = (field[group] for field in prior)
    kappa_n = kappa0 + n
    difference = xbar - mu0
    outer = difference[:, :, None] * difference[:, None, :]
    return NIWPosterior(
        kappa_n=kappa_n,
        nu_n=nu0 + n,
        m_n=(kappa0 * mu0 + n[:, None] * xbar) / kappa_n[:, None],
        S_n=S0 + C + (kappa0 * n / kappa_n)[:, None, None] * outer,
    )


def prior_predictive(prior: NIWPrior, group: int) -> StudentT:
    """Density of the first point of a component: t_0, of one group, as one component."""
    D = prior.mu0.shape[1]
    nothing = (prior.mu0.new_zeros(1, 1, *shape) for shape in ((), (D,), (D, D)))
    return predictive(niw_posterior(prior, group, ComponentStatistics(*nothing)))


def predictive(posterior: NIWPosterior) -> StudentT:
    """Density of the next point of each component: Student-t, df = nu_n - D + 1, location m_n, scale matrix
    S_n (kappa_n + 1) / (kappa_n df)."""
    D = posterior.m_n.shape[1]
    df = posterior.nu_n - D + 1
    factor = torch.sqrt((posterior.kappa_n + 1) / (posterior.kappa_n * df))
    precision_chol = precision_cholesky(posterior.S_n).precision_chol / factor[:, None, None]
    return StudentT(posterior.m_n, precision_chol, df)
