"""Batched log-densities, EM statistics and collapsed Gibbs sweeps over ragged groups of points and components.

Pure functions on tensors. Every operation checks its arguments, then runs on one of three engines:

    "reference"  float64 on any device, written to be read (`kernels.reference`)
    "cpu"        compiled, on the processors that torch may use (`kernels.cpu`)
    "triton"     on a GPU (`kernels.triton`)
    "auto"       "triton" for tensors on a GPU, else "cpu"

"triton" takes at most 128 features (`precision_cholesky` any number). No engine computes gradients: a tensor that
requires them is refused.

Shapes: N points, D features, M components, G groups. Points are sorted by group: group g holds the rows
`group_offsets[g]:group_offsets[g + 1]`; likewise components by `component_offsets`. Densities are logs, in nats.
`precision_chol` is W, the inverse of the lower Cholesky factor of the covariance (Student-t: scale) matrix, so that
W (x - mean) is white: lower triangular, and the transpose of scikit-learn's `precisions_cholesky_`. Of it, and of the
S0 of a prior, only the lower triangle is read. In float32 a point has density zero under a component that is
more than 1.8e19 standard deviations away, because its squared distance overflows, or whose mean differs from it by more
than 3.4e38 in a feature; float64 has no such limits in practice.
"""

import importlib
from types import ModuleType

from torch import Tensor

from kernels import _check as check
from kernels.types import (
    AlphaNoise,
    ComponentStatistics,
    EMStatistics,
    GibbsState,
    NIWPrior,
    PrecisionCholesky,
    SplitMergeInfo,
    SplitMergeProposals,
)

__all__ = [
    "ENGINES",
    "AlphaNoise",
    "ComponentStatistics",
    "EMStatistics",
    "GibbsState",
    "NIWPrior",
    "PrecisionCholesky",
    "SplitMergeInfo",
    "SplitMergeProposals",
    "component_statistics",
    "em_statistics",
    "gaussian_log_density",
    "gibbs_sweep",
    "log_joint",
    "mixture_log_density",
    "precision_cholesky",
    "split_merge",
    "student_t_log_density",
    "unchecked",
]

ENGINES = ("auto", "cpu", "triton", "reference")


def gaussian_log_density(x: Tensor, mean: Tensor, precision_chol: Tensor, *, engine: str = "auto") -> Tensor:
    """Log-density of every point under every Gaussian component.

        out[n, m] = -D/2 log(2 pi) + log det W_m - |W_m (x_n - mean_m)|^2 / 2

    Args:
        x: [N, D] points, float32 or float64.
        mean: [M, D] component means, of the dtype of x.
        precision_chol: [M, D, D] lower triangular W_m with W_m' W_m the precision, of the dtype of x: the transpose of
            scikit-learn's `precisions_cholesky_`. Only the lower triangle is read.
        engine: see `kernels`.

    Returns:
        [N, M] log-densities in nats, of the dtype of x (float64 from the reference).

    Raises:
        ValueError: wrong shape, dtype or device; a non-finite value; a diagonal entry of W that is not positive.
    """
    check.points(x)
    check.components(x, mean, precision_chol, name="mean")
    return _engine(engine, x).gaussian_log_density(x, mean, precision_chol)


def student_t_log_density(
    x: Tensor, location: Tensor, precision_chol: Tensor, df: Tensor, *, engine: str = "auto"
) -> Tensor:
    """Log-density of every point under every multivariate Student-t component.

        out[n, m] = lgamma((df_m + D)/2) - lgamma(df_m/2) - D/2 log(df_m pi) + log det W_m
                    - (df_m + D)/2 log(1 + |W_m (x_n - location_m)|^2 / df_m)

    Args:
        x: [N, D] points, float32 or float64.
        location: [M, D], of the dtype of x.
        precision_chol: [M, D, D] inverse of the lower Cholesky factor of the scale matrix, of the dtype of x; otherwise
            as in `gaussian_log_density`.
        df: [M] degrees of freedom, positive and at most 10^8 (a Gaussian from there on), float64 or the dtype of x. In
            float32 the density is nan or 0 where the squared distance over df overflows, or df is below 1e-38.
        engine: see `kernels`.

    Returns:
        [N, M] log-densities in nats, of the dtype of x (float64 from the reference).

    Raises:
        ValueError: as `gaussian_log_density`, and for a df that is not positive or above 10^8.
    """
    check.points(x)
    check.components(x, location, precision_chol, name="location")
    check.degrees_of_freedom(x, df, len(location))
    return _engine(engine, x).student_t_log_density(x, location, precision_chol, df)


def mixture_log_density(
    x: Tensor,
    log_weight: Tensor,
    location: Tensor,
    precision_chol: Tensor,
    df: Tensor | None = None,
    component_offsets: Tensor | None = None,
    *,
    group_offsets: Tensor | None = None,
    engine: str = "auto",
) -> Tensor:
    """Log-density of every point under mixtures of Gaussians (df None) or Student-t's; nothing of size N x M is stored.

        out[n] = log sum_m exp(log_weight_m) p_m(x_n)                 over all components;
        out[n, g] = the same over the components of group g           with `component_offsets`;
        out[n] = the same over the components of the point's group    with `component_offsets` and `group_offsets`.

    Args:
        x: [N, D] points, float32 or float64.
        log_weight: [M] log weights, not necessarily normalised; -inf is a weight of zero.
        location, precision_chol, df: as in `student_t_log_density` (`gaussian_log_density` with df None).
        component_offsets: [G + 1] int64, rising from 0 to M; a group without components has density zero.
        group_offsets: [G + 1] int64, rising from 0 to N.
        engine: see `kernels`.

    Returns:
        [N] or [N, G] log-densities in nats, of the dtype of x (float64 from the reference).

    Raises:
        ValueError: as `student_t_log_density`, and for offsets that are not as above or a log_weight of nan or +inf.
    """
    check.points(x)
    check.components(x, location, precision_chol, name="location")
    if df is not None:
        check.degrees_of_freedom(x, df, len(location))
    check.log_weights(x, log_weight, len(location))
    if component_offsets is not None:
        check.offsets(component_offsets, "component_offsets", len(location), x)
    if group_offsets is not None:
        check.offsets(group_offsets, "group_offsets", len(x), x)
        check.same_groups(group_offsets, component_offsets)
    return _engine(engine, x).mixture_log_density(
        x, log_weight, location, precision_chol, df, component_offsets, group_offsets=group_offsets
    )


def em_statistics(
    x: Tensor,
    log_weight: Tensor,
    mean: Tensor,
    precision_chol: Tensor,
    *,
    group_offsets: Tensor | None = None,
    component_offsets: Tensor | None = None,
    engine: str = "auto",
) -> EMStatistics:
    """The E-step of EM for Gaussian mixtures, and the moments that its M-step needs, for many groups at once.

        r_nm = exp(log_weight_m) N(x_n | m) / sum over the components m' of the point's group

    A point with density zero under all components of its group has no responsibilities (and log-likelihood -inf); those
    of any other add up to 1, however far it is. (On "triton" in float32 a component has moments of NaN if a point of
    the group differs from its mean by more than 3.4e38.) Memory: on "triton" a number for each point and component of
    its group, n_g K_g for all groups together; on "cpu" for one group a thread.

    Args:
        x: [N, D] points sorted by group, float32 or float64.
        log_weight: [M] log mixture weights, float32 or float64.
        mean, precision_chol: as in `gaussian_log_density`.
        group_offsets: [G + 1] int64, rising from 0 to N; None is one group.
        component_offsets: [G + 1] int64, rising from 0 to M; None is one group.
        engine: see `kernels`.

    Returns:
        EMStatistics of the dtype of x (float64 from the reference): counts [M], sums [M, D] about the given means,
        scatters [M, D, D] about the new means, log_likelihood [G] (float64, in nats).

    Raises:
        ValueError: as `mixture_log_density`.
    """
    check.points(x)
    check.components(x, mean, precision_chol, name="mean")
    check.log_weights(x, log_weight, len(mean))
    if group_offsets is not None:
        check.offsets(group_offsets, "group_offsets", len(x), x)
    if component_offsets is not None:
        check.offsets(component_offsets, "component_offsets", len(mean), x)
    check.same_groups(group_offsets, component_offsets)
    return _engine(engine, x).em_statistics(
        x, log_weight, mean, precision_chol, group_offsets=group_offsets, component_offsets=component_offsets
    )


def component_statistics(
    x: Tensor,
    labels: Tensor,
    n_components: int,
    *,
    group_offsets: Tensor | None = None,
    engine: str = "auto",
) -> ComponentStatistics:
    """Count, mean and scatter of the points of each label in each group, in float64.

    Args:
        x: [N, D] points sorted by group, float32 or float64.
        labels: [N] int64 in 0..n_components - 1.
        n_components: K, the number of rows to return for each group.
        group_offsets: [G + 1] int64, rising from 0 to N; None is one group.
        engine: see `kernels`.

    Returns:
        ComponentStatistics: counts [G, K] int64, means [G, K, D] and scatters about the mean [G, K, D, D], float64.

    Raises:
        ValueError: wrong shape, dtype or device, a non-finite point, a label out of range.
    """
    check.points(x)
    check.labels(labels, x, n_components)
    if group_offsets is not None:
        check.offsets(group_offsets, "group_offsets", len(x), x)
    return _engine(engine, x).component_statistics(x, labels, n_components, group_offsets=group_offsets)


def precision_cholesky(covariance: Tensor, *, engine: str = "auto") -> PrecisionCholesky:
    """From covariance (Student-t: scale) matrices to what the log-densities take.

        covariance_m = L_m L_m',    precision_chol_m = L_m^-1,    log_det_m = 2 log det L_m

    Computed in float64. A matrix that is not positive definite gives nan, so that one of many does no harm to the rest.

    Args:
        covariance: [M, D, D] float32 or float64; only the lower triangles are read.
        engine: see `kernels`.

    Returns:
        PrecisionCholesky: precision_chol [M, D, D] of the dtype of covariance (the reference: float64), lower
            triangular, the transpose of scikit-learn's `precisions_cholesky_`; log_det [M].

    Raises:
        ValueError: wrong shape or dtype, a non-finite value.
    """
    check.matrices(covariance)
    return _engine(engine, covariance).precision_cholesky(covariance)


def gibbs_sweep(
    state: GibbsState,
    x: Tensor,
    order: Tensor,
    uniforms: Tensor,
    alpha_noise: AlphaNoise | None = None,
    *,
    prior: NIWPrior,
    group_offsets: Tensor | None = None,
    block_size: int = 1,
    shared_new: bool = False,
    alpha_shape: int = 1,
    correction: Tensor | None = None,
    inverse_temperature: Tensor | None = None,
    engine: str = "auto",
) -> GibbsState:
    """Collapsed Gibbs sweeps of a Dirichlet-process Gaussian mixture for many groups at once.

    Each point of a group is visited once a sweep, in the given order, and its label drawn from

        P(label = k | rest) ~ n_k t_k(x)   for an occupied component,     alpha t_0(x)   for a new one,

    t_k the Student-t predictive of the component without the point, t_0 the prior's (Neal 2000, algorithm 3). The label
    is the first in slot order (a new component last) at which the cumulative probability exceeds the uniform; a new
    component takes the lowest empty slot, and slots are renumbered without gaps after each sweep, in order.

    With `block_size` b > 1, b points at a time are removed and drawn independently given the points outside the block:
    the published approximation, not an exact Gibbs step. Points of a block that choose a new component open one each,
    or all the same one with `shared_new`. With `correction` that draw is a Metropolis-Hastings proposal instead, which
    leaves the posterior invariant: it is accepted with probability

        min(1, pi(new) q(old) / (pi(old) q(new))),    pi the joint conditional of the block's labels, q = prod_i q_i

    or else the block keeps its labels. Only points of the block that share a component make the ratio differ from 1.

    Args:
        state: labels [N] int64, 0..K_g - 1 in each group without gaps, and alpha [G] float64, positive.
        x: [N, D] points sorted by group, float32 or float64. A group is computed in float64 anyhow on "triton", and on
            "cpu" if a point of it has (x - mu0)' S0^-1 (x - mu0) above 8e4, where float32 could not take it out of its
            component.
        order: [N] int64, or [T, N] for T >= 1 sweeps: a permutation of 0..n_g - 1 for each group, points in visiting
            order.
        uniforms: as order, float32 or float64 in [0, 1): the i-th is used for the i-th point visited.
        alpha_noise: random numbers that resample alpha after each sweep, or None to keep it.
        prior: NIWPrior of each group, float64: mu0 [G, D], kappa0 [G], nu0 [G], S0 [G, D, D], of which only the lower
            triangles are read.
        group_offsets: [G + 1] int64, rising from 0 to N, no group empty; None is one group.
        block_size: b, from 1 to 32.
        shared_new: see above.
        alpha_shape: a of the prior alpha ~ Gamma(a, 1), a positive integer.
        correction: as uniforms: the entry of a block's first point decides on the block. A group of at most b points is
            then visited one point at a time. Not with `shared_new`, and not on the "triton" engine.
        inverse_temperature: beta, [G] or [T, G] float64, not negative: the likelihood is raised to this power, so that
            n_k t_k(x)^beta and alpha t_0(x)^beta take the place of the weights above. None is 1, the posterior; other
            values make annealed starts.
        engine: see `kernels`.

    Returns:
        GibbsState after the sweep; after each of the T sweeps (labels [T, N], alpha [T, G]) if order is [T, N].

    Raises:
        ValueError: wrong shape, dtype or device; non-finite data; an order that is no permutation; a uniform outside
            [0, 1); alpha or kappa0 not positive; nu0 <= D - 1 or above 10^8; S0 not positive definite; block_size out
            of range; shared_new no bool; on "cpu", a point with (x - mu0)' S0^-1 (x - mu0) above 4.5e13, which float64
            cannot take out of its component; on "triton", one above 1e6.
    """
    check.points(x)
    check.gibbs(
        state, x, order, uniforms, alpha_noise, prior, group_offsets, block_size, alpha_shape, shared_new, correction
    )
    check.inverse_temperature(inverse_temperature, order, x, len(state.alpha))
    return _engine(engine, x).gibbs_sweep(
        state,
        x,
        order,
        uniforms,
        alpha_noise,
        prior=prior,
        group_offsets=group_offsets,
        block_size=block_size,
        shared_new=shared_new,
        alpha_shape=alpha_shape,
        correction=correction,
        inverse_temperature=inverse_temperature,
    )


def split_merge(
    state: GibbsState,
    x: Tensor,
    proposals: SplitMergeProposals,
    *,
    prior: NIWPrior,
    group_offsets: Tensor | None = None,
    engine: str = "auto",
) -> tuple[GibbsState, SplitMergeInfo]:
    """Split-merge moves of a Dirichlet-process Gaussian mixture, exact, for many groups at once (Jain & Neal 2004).

    A proposal names two points of a group, the anchors i and j. If they share a component, it is to be split, one part
    with each; if not, their components are to be united. Of the points that share a component with either, `candidates`
    start on the side that `launch` says, all others on the side of j; then S restricted Gibbs scans visit the
    candidates in order, each going to one of the two sides, by counts and predictives without the point itself:

        P(with i) ~ n_i t_i(x),    P(with j) ~ n_j t_j(x)

    The last scan draws the split, with probability q; for a merge, q is the probability that it would have drawn the
    present labels. The move is accepted with probability min(1, r) for a split and min(1, 1/r) for a merge,

        r = alpha Gamma(n_i) Gamma(n_j) / Gamma(n_i + n_j)  p(x_i) p(x_j) / p(x_ij)  / q

    p(.) the normal-inverse-Wishart marginal likelihood. A merge is refused if a point with i is not a candidate, as no
    split would lead back. This holds for any anchors, candidates and launch that do not depend on the labels: all other
    points with random sides are Jain & Neal's move; few, all with i, peel a small component off a large one.

    Args:
        state: as in `gibbs_sweep`.
        x: [N, D] points sorted by group, float32 or float64; all is computed in float64.
        proposals: SplitMergeProposals of P proposals a group, made in turn.
        prior, group_offsets: as in `gibbs_sweep`.
        engine: see `kernels`.

    Returns:
        GibbsState after all proposals (alpha is unchanged; a new component comes last, and after a merge the numbers
        above close the gap), and SplitMergeInfo.

    Raises:
        ValueError: as `gibbs_sweep`; anchors or candidates out of range, a candidate that is an anchor or named twice.
    """
    check.points(x)
    check.split_merge(state, x, proposals, prior, group_offsets)
    return _engine(engine, x).split_merge(state, x, proposals, prior=prior, group_offsets=group_offsets)


def log_joint(
    state: GibbsState,
    x: Tensor,
    *,
    prior: NIWPrior,
    group_offsets: Tensor | None = None,
    engine: str = "auto",
) -> Tensor:
    """Log of the joint density of the labels and the data of each group, given alpha.

        log Gamma(alpha) - log Gamma(alpha + n) + sum_k [log alpha + log Gamma(n_k) + log p(points of k)]

    The first terms are the probability of the partition under the Chinese restaurant process, the last the normal-
    inverse-Wishart marginal likelihood of each component.

    Args:
        state: labels [N] or [T, N] int64, without gaps in each group, and alpha [G] or [T, G] float64: a state, or T.
        x: [N, D] points sorted by group, float32 or float64; all is computed in float64.
        prior, group_offsets: as in `gibbs_sweep`.
        engine: see `kernels`.

    Returns:
        float64 of the shape of alpha, in nats.

    Raises:
        ValueError: as `gibbs_sweep`; labels and alpha of different numbers of states.
    """
    check.points(x)
    check.log_joint(state, x, prior, group_offsets)
    return _engine(engine, x).log_joint(state, x, prior=prior, group_offsets=group_offsets)


def unchecked(x: Tensor, engine: str = "auto") -> ModuleType:
    """The engine for tensors where x is, as a module with the same operations that does not check its arguments.

    For loops that call an operation on the same data many times: the checks read everything once more.
    Wrong arguments give wrong results or worse.
    """
    return _engine(engine, x)


def _engine(name: str, x: Tensor) -> ModuleType:
    """The module that implements the operations: each engine is one, with the functions of `kernels.reference`."""
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")
    if name == "auto":
        name = "cpu" if x.device.type == "cpu" else "triton"
    if name == "cpu" and x.device.type != "cpu":
        raise ValueError(f"engine 'cpu' needs tensors on the CPU, x is on {x.device}")
    try:
        return importlib.import_module(f"kernels.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"kernels.{name}":
            raise
        raise ValueError(f"engine {name!r} is not part of this version (x is on {x.device}); use 'reference'") from None
