"""Figure 2: intra-class distance and relative entropy against mean log-density at stage 4."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_repro.figures import FIGURES, style
from paper_repro.figures.class_density import class_statistics, group_marks
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import rank_correlation

__all__ = ["caption", "compute", "draw", "finding", "look_for", "mean_distance", "scatter", "table"]


def mean_distance(points: np.ndarray) -> float:
    """Mean Euclidean distance over all pairs of different points [N, D]; nan for a single point."""
    from scipy.spatial.distance import pdist

    return float(pdist(points.astype(np.float64)).mean()) if len(points) > 1 else float("nan")


def compute(
    log_density: np.ndarray,
    representations: np.ndarray,
    labels: np.ndarray,
    relative_entropy: np.ndarray,
    standard_error: np.ndarray,
    from_prior: np.ndarray,
    class_names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Class by class: mean log-density, mean distance between its points, and relative entropy; and lines through them.

    Args:
        log_density: [N] in nats, of each training point under the density of its own class.
        representations: [N, D], the space of the densities.
        labels: [N] class of each point, 0..G - 1.
        relative_entropy, standard_error: [G] in nats, of each class's density from the diagonal Gaussian with the same
            mean and variances (equation 4), and the error of its Monte Carlo part.
        from_prior: [G] in nats, what the prior's component (the second term of equation 3) contributes to it.
        class_names: G names.

    Returns:
        class_names, mean_log_density, mean_distance, relative_entropy, standard_error, from_prior [G]; high [G]
        bool; and the least-squares line and the correlation, [3] = slope, intercept, r, of each: distance_line,
        entropy_line and, of relative entropy less from_prior, without_prior_line.
    """
    from classfit import density_groups

    mean, _ = class_statistics(log_density, labels, len(class_names))
    distance = np.array([mean_distance(representations[labels == g]) for g in range(len(class_names))])
    return {
        "class_names": np.array(class_names),
        "mean_log_density": mean,
        "mean_distance": distance,
        "relative_entropy": np.asarray(relative_entropy, dtype=np.float64),
        "standard_error": np.asarray(standard_error, dtype=np.float64),
        "from_prior": np.asarray(from_prior, dtype=np.float64),
        "high": density_groups(mean).high,
        "distance_line": _least_squares(mean, distance),
        "entropy_line": _least_squares(mean, relative_entropy),
        "without_prior_line": _least_squares(mean, relative_entropy - from_prior),
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a class."""
    return [
        {
            "class": str(name),
            "mean_log_density_nats": float(stored["mean_log_density"][g]),
            "mean_distance": float(stored["mean_distance"][g]),
            "relative_entropy_nats": float(stored["relative_entropy"][g]),
            "standard_error_nats": float(stored["standard_error"][g]),
            "from_prior_nats": float(stored["from_prior"][g]),
            "high_density": bool(stored["high"][g]),
        }
        for g, name in enumerate(stored["class_names"])
    ]


@styled
def draw(stored: Stored) -> Figure:
    figure = style.canvas(f"Figure 2 · {FIGURES['figure_2']}", stored, width=9.2, height=3.7)
    left, right = figure.subplots(1, 2)
    scatter(left, stored, stored["mean_distance"], None, stored["distance_line"])
    left.set(title="Mean intra-class distance", ylabel="mean distance (units of the space)")
    scatter(right, stored, stored["relative_entropy"], stored["standard_error"], stored["entropy_line"])
    right.set(title="Relative entropy", ylabel="relative entropy (nats)")
    marks = group_marks(stored["mean_log_density"], stored["high"], "the last stage", counted=True)
    figure.legend(handles=marks, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def caption(stored: Stored) -> str:
    return (
        "Each mark is a class at stage 4. Left: mean Euclidean distance between two of its training points. Right: "
        "relative entropy of its predictive density from the diagonal Gaussian with the same mean and variances "
        f"(equation 4), ± Monte Carlo standard error (at most {stored['standard_error'].max():.2g} nats). Both against "
        "the mean log-density of the class, with least-squares lines, Pearson's correlations r and rank correlations "
        "ρ, which the scorecard uses (C4): a few classes far from all others decide r. Circles are classes below the "
        f"largest gap between class means, diamonds those above it, as in figure 1. {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "In the paper relative entropy grows with mean log-density while the distance between points does not explain "
        "it: high-density classes are not merely tighter, they are further from a single Gaussian."
    )


def finding(stored: Stored) -> str:
    distance, entropy = stored["distance_line"], stored["entropy_line"]
    values, density = stored["relative_entropy"], stored["mean_log_density"]
    text = (
        f"Correlation with mean log-density over {len(values)} classes: {style.signed(distance[2])} for distance "
        f"(in ranks {style.signed(rank_correlation(stored['mean_distance'], density))}), {style.signed(entropy[2])} "
        f"for relative entropy (in ranks {style.signed(rank_correlation(values, density))}; slope "
        f"{style.signed(entropy[0])} nats a nat). "
        f"Relative entropies lie between {values.min():.1f} and {values.max():.1f} nats."
    )
    if stored["from_prior"].any():
        prior, without = stored["from_prior"], stored["without_prior_line"]
        text += (
            f" Of these, the prior's component (the second term of equation 3, wide and of little weight) contributes "
            f"{prior.min():.1f} to {prior.max():.1f}, in the median class {np.median(prior):.1f}; without that part "
            f"the correlation is {style.signed(without[2])} (slope {style.signed(without[0])})."
        )
    return text


def scatter(axes: Axes, stored: Stored, y: np.ndarray, error: np.ndarray | None, line: np.ndarray) -> None:
    """A mark a class at its mean log-density and y [G], in the look of its group, and the line through them."""
    x = stored["mean_log_density"]
    for high, colour in ((False, style.LOW), (True, style.HIGH)):
        chosen = stored["high"] == high
        axes.errorbar(
            x[chosen],
            y[chosen],
            yerr=None if error is None else error[chosen],
            fmt=style.MARKERS[high],
            color=colour,
            markersize=5.5,
            elinewidth=1.2,
            capsize=2,
        )
    slope, intercept, r = line
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, intercept + slope * ends, color=style.INK, linewidth=1, linestyle=style.DASHES, zorder=1)
    words = f"r = {style.signed(r)}, ρ = {style.signed(rank_correlation(x, y))}"
    axes.set_title(words, loc="right", fontweight="normal", fontsize=9)
    axes.set_xlabel("mean log-density of the class (nats)")
    axes.margins(0.08, 0.14)
    style.name_points(axes, x, y, [str(name) for name in stored["class_names"]])


def _least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slope, intercept = np.polyfit(x, y, 1)
    return np.array([slope, intercept, np.corrcoef(x, y)[0, 1]])
