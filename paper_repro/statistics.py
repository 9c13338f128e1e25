"""The statistics of the scorecard: gaps that chance does not leave, and intervals."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

__all__ = [
    "LEAST_IN_GROUP",
    "LEVEL",
    "ORDER_OF_MAGNITUDE",
    "bins_a_side",
    "difference",
    "gap_p_value",
    "group_difference",
    "is_split",
    "least_a_side",
    "modes_p_value",
    "negative",
    "normal_interval",
    "p_words",
    "rank_correlation",
    "rank_correlation_interval",
    "resampled",
    "share_error",
    "unimodal_bandwidth",
]

N_BOOTSTRAP = 2000
MOST_BATCHES = 100
"""Of samples for a p-value: with them its standard error at 0.05 is 0.0005."""
LEVEL = 0.95
LEAST_IN_GROUP = 5
"""Of fewer units no interval is given: resampling hardly changes their mean (that of a single one never), as if it were
certain."""

LEAST_SHARE = 0.03
"""Fewer units on one side of a gap are outliers, no group. The p-value of a gap is that of one mode like the data's;
heavy tails leave gaps: of 150 samples of 100 each, of a normal, exponential, Student-t (4 and 2 degrees of freedom) and
log-normal distribution, 1, 11, 24, 53 and 38% had one with p < 0.05. With this 0, 0, 0, 1 and 2% are split."""
ORDER_OF_MAGNITUDE = 10**0.5
"""Ratios above it are nearer to ten than to one on a log scale."""

Interval = tuple[float, float, float]
"""A value, and the lower and the upper end of its 95% interval."""


def _n_modes(values: np.ndarray, bandwidth: float, n_grid: int = 1024) -> int:
    """Of a Gaussian kernel density of the values [n]."""
    low, high = values.min(), values.max()
    grid = np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), n_grid)
    rising = np.diff(np.exp(-0.5 * np.square((grid[:, None] - values) / bandwidth)).sum(1)) > 0
    return int((rising[:-1] & ~rising[1:]).sum())


def unimodal_bandwidth(values: np.ndarray) -> float:
    """The least bandwidth at which a Gaussian kernel density of the values [n] has a single mode (Silverman 1981)."""
    values = np.asarray(values, dtype=np.float64)
    spread = np.ptp(values)
    low, high = spread / (20 * len(values)), spread
    for _ in range(40):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if _n_modes(values, middle) > 1 else (low, middle)
    return float(high)


def _of_one_mode(values: np.ndarray, bandwidth: float, rng: np.random.Generator) -> np.ndarray:
    """N_BOOTSTRAP samples, as long as the values, of a kernel density of that bandwidth, shrunk to their variance (the
    smoothed bootstrap); at `unimodal_bandwidth` it is the density with a single mode that is nearest to the values."""
    chosen = values[rng.integers(len(values), size=(N_BOOTSTRAP, len(values)))]
    noise = bandwidth * rng.standard_normal(chosen.shape)
    return values.mean() + (chosen - values.mean() + noise) / np.sqrt(1 + bandwidth**2 / values.var())


def modes_p_value(values: np.ndarray) -> float:
    """How often a sample of one mode like the values' [n] needs more than their `unimodal_bandwidth` to have a single
    mode: Silverman's test (1981) that there is one mode, with N_BOOTSTRAP samples. It finds two groups of like size
    that overlap, where `gap_p_value` has little power; a few outliers are a mode for it as well.
    """
    values = np.asarray(values, dtype=np.float64)
    if np.ptp(values) == 0:
        return 1.0
    bandwidth = unimodal_bandwidth(values)
    drawn = _of_one_mode(values, bandwidth, np.random.default_rng(0))
    return (1 + sum(_n_modes(sample, bandwidth, 256) > 1 for sample in drawn)) / (N_BOOTSTRAP + 1)


def gap_p_value(values: np.ndarray, seed: int = 0) -> float:
    """How often chance alone leaves a gap as large as the largest one between the sorted values [n].

    Chance: n draws from the density with a single mode that is nearest to the values, a kernel density at
    `unimodal_bandwidth`, shrunk to their variance (Silverman's smoothed bootstrap). Samples are drawn N_BOOTSTRAP at a
    time until it is clear on which side of 1 - LEVEL the p-value lies (four standard errors), or MOST_BATCHES times.
    """
    return _gap_p_value(np.asarray(values, dtype=np.float64).tobytes(), seed)


@lru_cache(maxsize=256)  # a figure, its words, the table of classes and the scorecard ask for the same ones
def _gap_p_value(of: bytes, seed: int) -> float:
    values = np.frombuffer(of)
    if np.ptp(values) == 0:
        return 1.0
    bandwidth = unimodal_bandwidth(values)
    rng, gap = np.random.default_rng(seed), np.diff(np.sort(values)).max()
    as_large, p = 0, 1.0
    for n_drawn in range(N_BOOTSTRAP, (MOST_BATCHES + 1) * N_BOOTSTRAP, N_BOOTSTRAP):
        drawn = _of_one_mode(values, bandwidth, rng)
        as_large += int((np.diff(np.sort(drawn, axis=1), axis=1).max(1) >= gap).sum())
        p = (1 + as_large) / (n_drawn + 1)
        if abs(p - (1 - LEVEL)) > 4 * np.sqrt(p * (1 - p) / n_drawn):
            break
    return p


def p_words(p: float) -> str:
    """A p-value in words, with the digits that N_BOOTSTRAP samples tell; near 1 - LEVEL there are more of them."""
    if p <= 1 / (N_BOOTSTRAP + 1):
        return "p < 0.001"  # of none of 2000
    return f"p = {p:.3f}" if p < 0.01 or 0.04 <= p <= 0.06 else f"p = {p:.2f}"


def least_a_side(n: int) -> int:
    """How many of n units make a group."""
    return max(2, int(np.ceil(LEAST_SHARE * n)))


def is_split(values: np.ndarray, p: float) -> bool:
    """Whether the largest gap between the sorted values [n], of `gap_p_value` p, is one that chance seldom leaves, with
    a group on either side of it."""
    from classfit import density_groups

    n_high = int(density_groups(values).high.sum())
    return p < 1 - LEVEL and min(n_high, len(values) - n_high) >= least_a_side(len(values))


def _with_interval(value: float, draws: np.ndarray) -> Interval:
    """Draws in which the statistic does not exist, all units being alike, are left out; it has to be a number of all
    units, or what is left would be of those alone that make it one."""
    draws = draws[np.isfinite(draws)]
    if len(draws) == 0 or not np.isfinite(value):
        return value, float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return value, float(low), float(high)


def resampled(n: int, statistic: Callable[[np.ndarray], float]) -> Interval:
    """Value and 95% bootstrap interval of a statistic of n units, given as a function of their indices.

    The interval is nan with fewer units than LEAST_IN_GROUP. With few more it is too narrow: of 13 it covers 90%.
    """
    if n < LEAST_IN_GROUP:
        return statistic(np.arange(n)), float("nan"), float("nan")
    rng = np.random.default_rng(0)
    draws = np.array([statistic(rng.integers(n, size=n)) for _ in range(N_BOOTSTRAP)])
    return _with_interval(statistic(np.arange(n)), draws)


def normal_interval(value: float, error: float, at_once: int = 1) -> Interval:
    """95% interval; of `at_once` such intervals all hold what they should with that probability (Bonferroni)."""
    from scipy.stats import norm

    half = float(norm.isf((1 - LEVEL) / 2 / at_once)) * error
    return value, value - half, value + half


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import rankdata

    a, b = rankdata(a), rankdata(b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def rank_correlation_interval(a: np.ndarray, b: np.ndarray, *, size: bool = False) -> Interval:
    """Rank correlation of two numbers of n units, [n] each, or its size, and its 95% interval over them, as
    `resampled`."""
    from scipy.stats import rankdata

    value = rank_correlation(a, b)
    if len(a) < LEAST_IN_GROUP:
        return abs(value) if size else value, float("nan"), float("nan")
    rows = np.random.default_rng(0).integers(len(a), size=(N_BOOTSTRAP, len(a)))
    ranks = [rankdata(values[rows], axis=1) for values in (a, b)]
    x, y = (part - part.mean(1, keepdims=True) for part in ranks)
    with np.errstate(invalid="ignore"):  # all the same in a draw: nan, which is left out
        draws = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return _with_interval(abs(value), np.abs(draws)) if size else _with_interval(value, draws)


def bins_a_side(n_bins: int, at: int) -> int:
    """How many bins before `at`, and from it on, `difference` takes the means of."""
    return min(max(1, n_bins // 10), at, n_bins - at)


def difference(values: np.ndarray, errors: np.ndarray, at: int) -> Interval:
    """Mean over some bins from `at` on less the mean over as many before, with its normal interval."""
    width = bins_a_side(len(values), at)
    after, before = slice(at, at + width), slice(at - width, at)
    value = values[after].mean() - values[before].mean()
    variance = ((errors[after] ** 2).sum() + (errors[before] ** 2).sum()) / width**2
    return normal_interval(float(value), float(np.sqrt(variance)))


def group_difference(values: np.ndarray, high: np.ndarray) -> Interval:
    """Mean of the values [n] of the units that are high [n] less that of the others, given that split.

    The 95% interval is Welch's: a bootstrap interval would cover 86% with 5 normal values on one side of 100. It is nan
    with fewer than LEAST_IN_GROUP of either kind, and so is the value without both.
    """
    from scipy.stats import ttest_ind

    if high.all() or not high.any():
        return float("nan"), float("nan"), float("nan")
    with np.errstate(invalid="ignore"):  # of infinite values
        value = float(values[high].mean() - values[~high].mean())
        alike = np.ptp(values[high]) == 0 == np.ptp(values[~high])
    if min(high.sum(), (~high).sum()) < LEAST_IN_GROUP or alike or not np.isfinite(value):
        return value, float("nan"), float("nan")
    low, upper = ttest_ind(values[high], values[~high], equal_var=False).confidence_interval(LEVEL)
    return value, float(low), float(upper)


def negative(interval: Interval) -> Interval:
    value, low, high = interval
    return -value, -high, -low


def share_error(share: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Standard error of a share of n points after Agresti & Coull (1998): 0 and 1 are not taken for certain.

    For an F1 weighted over classes it is up to a quarter too small where few classes have most of the points.
    """
    p = (share * n + 2) / (n + 4)
    return np.sqrt(p * (1 - p) / (n + 4))
