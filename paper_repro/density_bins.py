"""Training points in equal bins by log-density, and what a network that never saw a bin makes of it (figure 3)."""

import numpy as np

__all__ = ["choose", "density_bins", "weighted_f1"]


def density_bins(log_density: np.ndarray, n_bins: int) -> np.ndarray:
    """[N] int64: the bin of each point, 0 for the lowest log-densities; sizes differ by at most one.

    Args:
        log_density: [N] in nats. Of equal values the earlier point comes first.
        n_bins: number of bins, at most N.

    Raises:
        ValueError: n_bins outside 1..N, or a value that is not finite.
    """
    N = len(log_density)
    if not 1 <= n_bins <= N:
        raise ValueError(f"n_bins must be in 1..{N}, got {n_bins}")
    if not np.isfinite(log_density).all():
        first = np.flatnonzero(~np.isfinite(log_density))[0]
        raise ValueError(f"log_density must be finite, got {log_density[first]} at {first}")
    bins = np.empty(N, dtype=np.int64)
    for b, rows in enumerate(np.array_split(np.argsort(log_density, kind="stable"), n_bins)):
        bins[rows] = b
    return bins


def weighted_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of each class that occurs among the labels, averaged with its number of points as weight.

    A prediction of -1 (abstained) is no class: it counts against recall.
    """
    total = 0.0
    for g, n in zip(*np.unique(labels, return_counts=True), strict=True):
        hits = ((predicted == g) & (labels == g)).sum()
        total += n * 2 * hits / ((predicted == g).sum() + n)
    return float(total / len(labels))


def choose(bins: np.ndarray, labels: np.ndarray, n_per_bin: int, *, seed: int) -> np.ndarray:
    """Points to spend a budget on: as many of each bin, and within a bin of each class in proportion.

    Within a bin the points are ordered by class, at random within a class, and every k-th is taken from a random start:
    systematic sampling, in which each point of the bin is equally likely and each class has its share within one point.

    Args:
        bins: [N] bin of each point.
        labels: [N] class of each point.
        n_per_bin: points a bin; a bin that has no more is taken whole.
        seed: of the order and the start.

    Returns:
        Indices of the points, bin after bin.

    Raises:
        ValueError: n_per_bin below 1.
    """
    if n_per_bin < 1:
        raise ValueError(f"n_per_bin must be at least 1, got {n_per_bin}")
    rng = np.random.default_rng(seed)
    chosen = []
    for b in range(int(bins.max()) + 1):
        rows = np.flatnonzero(bins == b)
        rows = rows[np.lexsort((rng.random(len(rows)), labels[rows]))]
        n = min(n_per_bin, len(rows))
        places = ((np.arange(n) + rng.random()) * len(rows) / n).astype(np.int64)
        chosen.append(np.sort(rows[places]))
    return np.concatenate(chosen)
