"""Two groups of classes: the split of class means of log-density at their largest gap (figure 1 of the paper)."""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["DensityGroups", "density_groups"]


class DensityGroups(NamedTuple):
    """A split of classes into low- and high-density ones."""

    high: np.ndarray
    """[G] bool, True for a high-density class."""
    threshold: float
    """Middle of the gap, in nats."""
    gap: float
    """Width of the gap, in nats; 0 when all classes have the same mean, and then none is high."""


def density_groups(mean_log_density: Any) -> DensityGroups:
    """Split classes at the middle of the largest gap between their sorted mean log-densities.

    With the means sorted, l_(1) <= ... <= l_(G):

        i = argmax_i l_(i+1) - l_(i),    threshold = (l_(i) + l_(i+1)) / 2,    high_g = l_g >= l_(i+1)

    Of several equal gaps the uppermost is taken, so that fewer classes are called high. There always is a largest gap:
    whether it is larger than chance makes it is a question for a bootstrap, not answered here.

    Args:
        mean_log_density: [G] floats, G >= 2, mean log-density of each class in nats.

    Returns:
        DensityGroups(high [G] bool, threshold, gap), in the order of the classes given.

    Raises:
        ValueError: not one-dimensional, fewer than two classes, or a value that is not finite.
    """
    means = np.asarray(mean_log_density, dtype=np.float64)
    if means.ndim != 1 or len(means) < 2:
        raise ValueError(f"mean_log_density must have shape [G] with at least 2 classes, got {list(means.shape)}")
    bad = np.flatnonzero(~np.isfinite(means))
    if len(bad):
        raise ValueError(
            f"mean_log_density must be finite, got {len(bad)} non-finite values, the first at {bad[0]}: {means[bad[0]]}"
        )
    ordered = np.sort(means)
    gaps = np.diff(ordered)
    split = len(gaps) - 1 - int(np.argmax(gaps[::-1]))
    below, above = ordered[split], ordered[split + 1]
    # Not compared with the threshold: the middle of neighbouring floats rounds to one of them.
    high = (means >= above) & (above > below)
    return DensityGroups(high, float(below + gaps[split] / 2), float(gaps[split]))
