"""What captions say of memorization scores, and a value with its interval in words."""

import numpy as np

from paper_repro.figures import style
from paper_repro.figures.style import Stored
from paper_repro.statistics import Interval, rank_correlation_interval

__all__ = ["EXTREMES", "PUBLISHED", "correlation", "origin", "short", "words"]

PUBLISHED = "the mean of the memorization scores that the paper's authors published for ResNet18 on CIFAR-100"

EXTREMES = (
    "Among points with equal scores the choice is random; and scores are estimates, so those of points chosen as "
    "extremes are too extreme (regression to the mean)."
)
"""What a caption says of the most and the least memorized points."""


def origin(stored: Stored) -> str:
    """Where the scores of a figure come from: the number of networks, n_trials, is 0 if they were read from a file."""
    n = int(stored["n_trials"])
    return f"estimated from {n} networks trained on random 70% subsets" if n else "given, not estimated here"


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[3] Spearman's rank correlation of two numbers of each class [G], and its 95% bootstrap interval over classes.

    nan if one of the numbers is the same for all classes.
    """
    return np.array(rank_correlation_interval(a, b))


def short(found: np.ndarray) -> str:
    """For the corner of a panel."""
    return f"ρ {_equal(found)}" if np.isfinite(found[0]) else "no ρ"


def words(found: np.ndarray | Interval, digits: int = 2) -> str:
    """For a sentence."""
    return _equal(found, digits).removeprefix("= ") if np.isfinite(found[0]) else "undefined"


def _equal(found: np.ndarray | Interval, digits: int = 2) -> str:
    value, low, high = (style.signed(number, digits) for number in found)
    interval = f"{low} to {high}" if np.isfinite(found).all() else "too few classes for an interval"
    return f"= {value} ({interval})"
