"""Figure 2: intra-class distance and relative entropy against mean log-density at the last stage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro.figures import heading, style
from paper_repro.figures.class_density import class_statistics, group_marks
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import rank_correlation

__all__ = ["caption", "compute", "draw", "finding", "line_mark", "look_for", "mean_distance", "scatter", "table"]

LEAST_CLASSES = 3
"""Through fewer there is always a line, and the correlation is 1 or -1."""
LINE: Any = {"color": style.INK, "linewidth": 1, "linestyle": style.DASHES}


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
    stage: int,
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
        stage: where the representations are read.

    Returns:
        stage; class_names, mean_log_density, mean_distance, relative_entropy, standard_error, from_prior [G]; high [G]
        bool; and the least-squares line and the correlation, [3] = slope, intercept, r, of each: distance_line,
        entropy_line and, of relative entropy less from_prior, without_prior_line. A class of one point has no distance
        (nan) and does not count in its line; nan are lines of fewer than LEAST_CLASSES.
    """
    from classfit import density_groups

    mean, _ = class_statistics(log_density, labels, len(class_names))
    distance = np.array([mean_distance(representations[labels == g]) for g in range(len(class_names))])
    return {
        "stage": np.array(stage),
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
    figure = style.canvas(heading("figure_2", [_stage(stored)]), stored, width=9.2, height=3.7)
    left, right = figure.subplots(1, 2)
    scatter(left, stored, stored["mean_distance"], None, stored["distance_line"])
    left.set(title="Mean intra-class distance", ylabel="mean distance (units of the space)")
    scatter(right, stored, stored["relative_entropy"], stored["standard_error"], stored["entropy_line"])
    of = "\nof the fit to all points" if style.protocol(stored) == "heldout" else ""
    right.set(title="Relative entropy", ylabel=f"relative entropy{of} (nats)")
    marks = group_marks(stored["mean_log_density"], stored["high"], "the last stage")
    figure.legend(handles=[*marks, line_mark()], loc="outside lower center", ncols=3, fontsize=8)
    return figure


def caption(stored: Stored) -> str:
    return (
        f"Each mark is a class at stage {_stage(stored)}. Left: mean Euclidean distance between two of its training "
        "points. Right: relative entropy of its predictive density (under the protocol heldout of the fit to all "
        "points) from the diagonal Gaussian with the same mean and variances (equation 4), ± Monte Carlo standard "
        f"error (at most {stored['standard_error'].max():.2g} nats). "
        "Both against the mean log-density of the class, with least-squares lines, Pearson's correlations r and rank "
        "correlations ρ, which the scorecard uses (C4): a few classes far from all others decide r. Circles are "
        "classes below the largest gap between class means, diamonds those above it; there always are some: whether "
        f"the gap parts two groups, figure 1 and the scorecard say. {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "In the paper relative entropy grows with mean log-density while the distance between points does not explain "
        "it: high-density classes are not merely tighter, they are further from a single Gaussian."
    )


def finding(stored: Stored) -> str:
    values, distance, entropy = stored["relative_entropy"], stored["mean_distance"], stored["entropy_line"]
    slope = f"; slope {style.signed(entropy[0])} nats a nat"
    text = (
        f"Correlation with mean log-density over {len(values)} classes: "
        f"{_correlation(stored, 'distance', distance, stored['distance_line'])}, "
        f"{_correlation(stored, 'relative entropy', values, entropy, slope)}."
    )
    if n_without := int(np.isnan(distance).sum()):
        text += f" Left out for distance: {n_without}, since in a class of one point there is none."
    text += f" Relative entropies lie between {values.min():.1f} and {values.max():.1f} nats."
    if stored["from_prior"].any():
        prior, without = stored["from_prior"], stored["without_prior_line"]
        text += (
            f" Of these, the prior's component (the second term of equation 3, wide and of little weight) contributes "
            f"{prior.min():.1f} to {prior.max():.1f}, in the median class {np.median(prior):.1f}"
        )
        if np.isfinite(without[2]):
            text += (
                f"; without that part the correlation is {style.signed(without[2])} (slope {style.signed(without[0])})"
            )
        text += "."
    return text


def _correlation(stored: Stored, of: str, values: np.ndarray, line: np.ndarray, more: str = "") -> str:
    known = np.isfinite(values)
    if not np.isfinite(line[2]):
        return f"none for {of}" + (" (of too few classes)" if known.sum() < LEAST_CLASSES else "")
    ranks = rank_correlation(values[known], stored["mean_log_density"][known])
    return f"{style.signed(line[2])} for {of} (in ranks {style.signed(ranks)}{more})"


def scatter(axes: Axes, stored: Stored, y: np.ndarray, error: np.ndarray | None, line: np.ndarray) -> None:
    """A mark a class at its mean log-density and y [G], in the look of its group, and the line through them.

    Classes without y (nan) are left out.
    """
    known = np.isfinite(y)
    x, y, in_high = stored["mean_log_density"][known], y[known], stored["high"][known]
    for high, colour in ((False, style.LOW), (True, style.HIGH)):
        chosen = in_high == high
        axes.errorbar(
            x[chosen],
            y[chosen],
            yerr=None if error is None else error[known][chosen],
            fmt=style.MARKERS[high],
            color=colour,
            markersize=5.5,
            elinewidth=1.2,
            capsize=2,
        )
    slope, intercept, r = line
    words = "no r, no ρ"
    if np.isfinite(r):
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, intercept + slope * ends, **LINE, zorder=1)
        words = f"r = {style.signed(r)}, ρ = {style.signed(rank_correlation(x, y))}"
    if not known.all():
        words += f" ({known.sum()} of {len(known)} classes)"
    axes.set_title(words, loc="right", fontweight="normal", fontsize=9)
    axes.set_xlabel("mean log-density of the class (nats)")
    axes.margins(0.08, 0.14)
    style.name_points(axes, x, y, [str(name) for name in stored["class_names"][known]])


def line_mark() -> Line2D:
    """Of a legend: the line through the classes."""
    return Line2D([], [], **LINE, label="least-squares line")


def _least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    known = np.isfinite(y)
    if known.sum() < LEAST_CLASSES:
        return np.full(3, np.nan)
    x, y = x[known], y[known]
    slope, intercept = np.polyfit(x, y, 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # of values that are all the same: nan
        return np.array([slope, intercept, np.corrcoef(x, y)[0, 1]])


def _stage(stored: Stored) -> int:
    """Numbers stored before other networks' layers were drawn do not say."""
    return int(stored.get("stage", 4))
