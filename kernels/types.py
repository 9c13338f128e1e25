"""The tuples that operations take and return. Shapes: G groups, N points, M components, D features, T sweeps."""

from typing import NamedTuple

from torch import Tensor


class NIWPrior(NamedTuple):
    """Normal-inverse-Wishart prior of each group, float64: mu | Sigma ~ N(mu0, Sigma / kappa0), Sigma ~ IW(nu0, S0)."""

    mu0: Tensor
    """[G, D] prior mean."""
    kappa0: Tensor
    """[G] prior strength of the mean, in points."""
    nu0: Tensor
    """[G] degrees of freedom, above D - 1 and at most 10^8."""
    S0: Tensor
    """[G, D, D] scale matrix, symmetric positive definite."""


class GibbsState(NamedTuple):
    """All a chain needs to go on: everything else follows from the labels and the data."""

    labels: Tensor
    """[N] int64 (or [T, N], after each of T sweeps): component of each point in its group, 0..K_g - 1, none empty."""
    alpha: Tensor
    """[G] float64 (or [T, G]): concentration of each group's Dirichlet process."""


class AlphaNoise(NamedTuple):
    """The random numbers that resample alpha once a sweep (Escobar & West 1995), under alpha ~ Gamma(a, 1)."""

    beta: Tensor
    """[N] or [T, N] standard exponentials, one a point, for eta ~ Beta(alpha + 1, n_g)."""
    gamma: Tensor
    """[N + a G] or [T, N + a G] standard exponentials for the Gamma draw, n_g + a a group."""
    choice: Tensor
    """[G] or [T, G] uniforms, for the choice between the two shapes."""


class SplitMergeProposals(NamedTuple):
    """P split-merge proposals for each of G groups, tried one after the other. Nothing in it may depend on labels."""

    anchors: Tensor
    """[P, G, 2] int64 points i and j of the group: together, they are to be parted; apart, united. i = j is none."""
    candidates: Tensor
    """[P, G, C] int64 other points of the group that may go with i, in visiting order; -1 past the last."""
    launch: Tensor
    """[P, G, C] bool: where a candidate starts from, with i (True) or with j."""
    uniforms: Tensor
    """[P, G, S, C] float64 uniforms of S restricted scans over the candidates; the last scan is the proposal."""
    accept: Tensor
    """[P, G] float64 uniforms of the Metropolis-Hastings decision."""


class SplitMergeInfo(NamedTuple):
    """What became of split-merge proposals."""

    split: Tensor
    """[P, G] bool: the anchors were together, so a split was proposed (else a merge, or nothing if i = j)."""
    log_ratio: Tensor
    """[P, G] float64 log of the Metropolis-Hastings ratio; -inf for a merge that no split could undo. A move that has
    none, because float64 could not take a point out of a component, has NaN and is not accepted."""
    accepted: Tensor
    """[P, G] bool."""


class EMStatistics(NamedTuple):
    """Moments of the responsibilities r_nm of one E-step."""

    counts: Tensor
    """[M] sum_n r_nm."""
    sums: Tensor
    """[M, D] sum_n r_nm (x_n - mean_m), about the mean that was passed in: the new mean is mean + sums / counts."""
    scatters: Tensor
    """[M, D, D] sum_n r_nm (x_n - new mean_m)(x_n - new mean_m)', about the new mean."""
    log_likelihood: Tensor
    """[G] sum over the group's points of log sum_m exp(log_weight_m) N(x_n | m), in nats."""


class PrecisionCholesky(NamedTuple):
    """What a log-density needs of a covariance matrix."""

    precision_chol: Tensor
    """[M, D, D] inverse of the lower Cholesky factor, lower triangular; nan where there is none."""
    log_det: Tensor
    """[M] float64 log determinant of the covariance matrix; nan where that is not positive definite."""


class ComponentStatistics(NamedTuple):
    """Moments of hard assignments; rows of labels that hold no point are zero."""

    counts: Tensor
    """[G, K] int64."""
    means: Tensor
    """[G, K, D] float64."""
    scatters: Tensor
    """[G, K, D, D] float64, about the mean."""
