"""Figure B.7, beyond the paper: memorization in bins by log-density (figure 3), of points as fitted and left out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from paper_repro.density_bins import density_bins
from paper_repro.figures import heading, scores, style
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import bins_a_side, difference, rank_correlation

__all__ = ["caption", "compute", "draw", "finding", "look_for", "memorization_panel", "order_words", "table"]

KINDS = {"seen": ("as fitted", style.LOW, "o"), "left_out": ("left out", style.LINE, "s")}
MOSTLY = 0.5


def compute(
    seen: Mapping[int, np.ndarray],
    left_out: Mapping[int, np.ndarray],
    small: Mapping[int, np.ndarray],
    memorization: np.ndarray,
    dimensions: Mapping[int, int],
    n_bins: int,
    scale: Mapping[str, Any],
    remark: str = "",
) -> dict[str, np.ndarray]:
    """Means of each bin, in both orders of the points, and of the points of small components.

    Args:
        seen, left_out: by stage, [N] in nats: each training point under the predictive density of its own class, given
            all points of the class, and given all but itself.
        small: by stage, [N] share of the kept labellings in which the point is in a component of fewer than D points.
        memorization: [N] scores.
        dimensions: by stage, D of the space of the densities.
        n_bins: B.
        scale: what a caption says: n_trials (0: scores were given), and a sentence on the networks that the scores
            come from.
        remark: a sentence for the caption.

    Returns:
        stages, dimensions [S]; of each kind, seen and left_out: {kind}_density (nats), {kind}_memorization, its
        standard error {kind}_error, {kind}_small [S, B], means of the bins by that density; n_points; n_small [S], the
        points whose share is above one half; and means over those and over the others, by_size_{seen, left_out,
        memorization} [S, 2], nan where there are none.
    """
    stages = sorted(seen)
    found: dict[str, list[Any]] = {}
    for stage in stages:
        row: dict[str, Any] = {}
        for kind, density in (("seen", seen[stage]), ("left_out", left_out[stage])):
            bins = density_bins(density, n_bins)
            n = np.bincount(bins)
            mean = np.bincount(bins, memorization) / n
            row |= {
                f"{kind}_density": np.bincount(bins, density) / n,
                f"{kind}_memorization": mean,
                f"{kind}_small": np.bincount(bins, small[stage]) / n,
                f"{kind}_error": np.sqrt(np.bincount(bins, (memorization - mean[bins]) ** 2) / n / n),
            }
        mostly = small[stage] > MOSTLY
        row["n_small"] = mostly.sum()
        for name, values in (("seen", seen[stage]), ("left_out", left_out[stage]), ("memorization", memorization)):
            row[f"by_size_{name}"] = [values[own].mean() if own.any() else np.nan for own in (mostly, ~mostly)]
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {
        "stages": np.array(stages),
        "dimensions": np.array([dimensions[stage] for stage in stages]),
        "n_points": np.array(len(memorization)),
        "remark": np.array(remark),
        **{name: np.array(values) for name, values in found.items()},
        **{name: np.array(value) for name, value in scale.items()},
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage, order and bin."""
    return [
        {
            "stage": int(stage),
            "points": words,
            "bin": b + 1,
            "mean_log_density_nats": float(stored[f"{kind}_density"][s, b]),
            "mean_memorization": float(stored[f"{kind}_memorization"][s, b]),
            "standard_error_of_that_mean": float(stored[f"{kind}_error"][s, b]),
            "share_in_small_components": float(stored[f"{kind}_small"][s, b]),
        }
        for s, stage in enumerate(stored["stages"])
        for kind, (words, _, _) in KINDS.items()
        for b in range(stored[f"{kind}_density"].shape[1])
    ]


@styled
def draw(stored: Stored) -> Figure:
    n_stages = len(stored["stages"])
    figure = style.canvas(heading("figure_b7"), stored, width=9.2, height=5.4)
    panels = figure.subplots(2, n_stages, squeeze=False, sharex=True, sharey="row", height_ratios=(3, 2))
    x = np.arange(1, stored["seen_density"].shape[1] + 1)
    for s, (stage, D) in enumerate(zip(stored["stages"], stored["dimensions"], strict=True)):
        _lines(panels[0, s], stored, s, "memorization")
        _lines(panels[1, s], stored, s, "small")
        panels[0, s].set_title(f"Stage {stage}  (D = {D})")
        style.above(panels[1, s], "small components: of fewer points than dimensions")
        panels[1, s].set_xlabel("bin by log-density, lowest first")
        panels[1, s].set_xticks([1, *x[9::10]])
        panels[1, s].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0, 0].set_ylabel("mean memorization")
    panels[1, 0].set_ylabel("share of labellings\nin small components")
    panels[0, 0].legend(loc="best", fontsize=8.5)
    return figure


def memorization_panel(axes: Axes, stored: Stored, s: int) -> None:
    """The upper panel of stage `stages[s]`, with an axis of bins."""
    _lines(axes, stored, s, "memorization")
    axes.set_xlabel("bin by log-density, lowest first")
    axes.set_xticks([1, *range(10, stored["seen_density"].shape[1] + 1, 10)])


def _lines(axes: Axes, stored: Stored, s: int, name: str) -> None:
    """That number over the bins of both orders."""
    x = np.arange(1, stored["seen_density"].shape[1] + 1)
    for kind, (words, colour, mark) in reversed(KINDS.items()):  # as fitted above left out
        values = stored[f"{kind}_{name}"][s]
        axes.plot(x, values, color=colour, marker=mark, markersize=3, linewidth=1.2, label=words)


def caption(stored: Stored) -> str:
    error = max(float(stored[f"{kind}_error"].max()) for kind in KINDS)
    return (
        f"Beyond the paper. The {int(stored['n_points']):,} training points in {stored['seen_density'].shape[1]} bins "
        "by the log-density of each under its own class. As fitted (blue circles), as in figure 3: the density saw the "
        "point. Left out (green squares): it is given all others of the class, as in figure B.5. Above: mean "
        f"memorization, {scores.origin(stored)}; standard errors of a bin's mean are at most {error:.3f}. Below: the "
        "share of the kept labellings in which a point is in a component of fewer points than dimensions, whose "
        f"covariance is mostly the prior's, mean over the points of the bin. {_densest(stored)} {stored['remark']} "
        f"{stored['networks']} {stored['note']}"
    ).replace("  ", " ")


def _densest(stored: Stored) -> str:
    """Why the lower row may rise in the densest bin left out, at stages where such points are less dense on average."""
    small, memorization = stored["left_out_small"], stored["left_out_memorization"]
    few, others = stored["by_size_left_out"].T
    rises = (few < others) & (small[:, -1] > small[:, -2]) & (memorization.argmin(1) == memorization.shape[1] - 1)
    if not rises.any():
        return ""
    shares = " and ".join(
        f"{share:.0%} at stage {stage}" for share, stage in zip(small[rises, -1], stored["stages"][rises], strict=True)
    )
    return (
        "Left out, points mostly in small components are less dense on average (figure B.5 shows means of classes), "
        f"but not all of them are: in the densest bin left out the share is {shares}, more than in the bin before it, "
        "and its points are memorized least."
    )


def look_for(stored: Stored) -> str:
    return (
        "In the paper memorization falls with density and jumps up where high density begins. Whether it jumps as "
        "fitted, whether that is where points are in small components, and whether anything is left of it when each "
        "point is left out."
    )


def finding(stored: Stored) -> str:
    return " ".join(_stage(stored, s) for s in range(len(stored["stages"])))


def _stage(stored: Stored, s: int) -> str:
    n, n_small = int(stored["n_points"]), int(stored["n_small"][s])
    many = f"{n_small:,} of {n:,} points are" if n_small else "no point is"
    text = f"At stage {stored['stages'][s]} {many} mostly in components of fewer than {stored['dimensions'][s]} points"
    if 0 < n_small < n:
        pairs = {name: stored[f"by_size_{name}"][s] for name in ("seen", "left_out", "memorization")}
        seen, left_out = (" and ".join(style.nats(value) for value in pairs[name]) for name in ("seen", "left_out"))
        few, others = pairs["memorization"]
        text += (
            f": they and the others have a mean log-density of {seen} nats as fitted, {left_out} left out, and a mean "
            f"memorization of {few:.2f} and {others:.2f}"
        )
    return f"{text}. {order_words(stored, s, 'seen')} {order_words(stored, s, 'left_out')}"


def order_words(stored: Stored, s: int, kind: str) -> str:
    """How memorization goes over the bins of one order, and what it does where points of small components begin."""
    values, errors, small = (stored[f"{kind}_{name}"][s] for name in ("memorization", "error", "small"))
    order = KINDS[kind][0]
    at = int(np.argmax(small > MOSTLY))
    rank = _rank(values)
    if at == 0:  # no bin is mostly of such points, or the lowest is: there is nothing before it
        rise = np.ceil(100 * float(np.diff(values).max())) / 100
        rises = f"rises from one bin to the next by at most {style.signed(rise)}" if rise > 0 else "does not rise"
        return (
            f"In bins by density {order} the rank correlation of memorization with density is {rank}, and memorization "
            f"{rises}."
        )
    change, low, high = (style.signed(value) for value in difference(values, errors, at))
    lowest, step = int(np.argmin(values[:at])), style.signed(values[at] - values[at - 1])
    k = bins_a_side(len(values), at)
    return (
        f"In bins by density {order} the rank correlation of memorization with density is {_rank(values[:at])} up to "
        f"bin {at}, and memorization there is lowest in bin {lowest + 1}, {values[lowest]:.2f}. From bin {at} to bin "
        f"{at + 1}, the first of mostly such points, it changes by {step}, and its mean over {k} "
        f"bin{'s' if k > 1 else ''} on each side by {change} (95% interval over points, given classes and bins: {low} "
        f"to {high}). Over all bins the rank correlation is {rank}."
    )


def _rank(values: np.ndarray) -> str:
    """Rank correlation of memorization with density over bins in order of density."""
    return style.rank(rank_correlation(values, np.arange(len(values))))
