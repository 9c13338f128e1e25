"""Figure B.8, beyond the paper: log-density of test images, which neither the network nor the fit has seen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from paper_repro.density_bins import density_bins
from paper_repro.figures import heading, scores, style
from paper_repro.figures.class_density import beside_seen, beside_seen_key, class_statistics
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import LEVEL, gap_p_value, group_difference, p_words, rank_correlation, share_error

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

TEST = "#a0548b"
"""Between the colours of points as fitted and left out, and darker: told apart from both."""
N_BINS = 10
ACCURACY: Any = {"color": style.MUTED, "linewidth": 0.8, "linestyle": style.DASHES}
"""The line of all test images."""


def compute(
    seen: Mapping[int, np.ndarray],
    left_out: Mapping[int, np.ndarray],
    labels: np.ndarray,
    test: Mapping[int, np.ndarray],
    test_labels: np.ndarray,
    right: np.ndarray,
    class_names: Sequence[str],
    dimensions: Mapping[int, int],
    remark: str = "",
) -> dict[str, np.ndarray]:
    """Class means of training points as fitted and left out and of test images, and accuracy by density of the latter.

    Args:
        seen, left_out: by stage, [N] in nats: each training point under the predictive density of its own class, given
            all points of the class, and given all but itself.
        labels: [N] class of each point, 0..G - 1.
        test: by stage, [T] in nats: each test image under that density of its own class.
        test_labels: [T]; every class has test images.
        right: [T] bool, the network gives the image its class.
        class_names: G names.
        dimensions: by stage, D of the space of the densities.
        remark: a sentence for the caption.

    Returns:
        stages, dimensions [S]; class_names [G]; {seen, left_out, test}_mean, test_std [S, G]; high [S, G] bool: above
        the largest gap of the means as fitted; test_gap and test_p [S]: the largest gap between sorted means of test
        images, and how often chance leaves one as large; {seen, left_out}_correlation [S, 3]: Spearman's, of the mean
        of test images with that one, with its 95% bootstrap interval over classes; accuracy [G]: share of test images
        of each class that are classified rightly; bin_density (nats) and bin_accuracy with its standard error
        bin_error [S, B]: of test images in bins by density; n_test; remark.

    Raises:
        ValueError: a class without test images.
    """
    from classfit import density_groups

    stages, G = sorted(seen), len(class_names)
    n_of_class = np.bincount(test_labels, minlength=G)
    if not n_of_class.all():
        raise ValueError(f"every class must have test images, {class_names[int(np.argmin(n_of_class))]} has none")
    n_bins = min(N_BINS, len(right))
    found: dict[str, list[Any]] = {}
    for stage in stages:
        mean, std = class_statistics(test[stage], test_labels, G)
        others = {
            kind: class_statistics(values[stage], labels, G)[0]
            for kind, values in {"seen": seen, "left_out": left_out}.items()
        }
        bins = density_bins(test[stage], n_bins)
        n = np.bincount(bins)
        share = np.bincount(bins, right) / n
        row: dict[str, Any] = {
            "test_mean": mean,
            "test_std": std,
            "test_gap": density_groups(mean).gap,
            "test_p": gap_p_value(mean),
            "high": density_groups(others["seen"]).high,
            "bin_density": np.bincount(bins, test[stage]) / n,
            "bin_accuracy": share,
            "bin_error": share_error(share, n),
        }
        for kind, other in others.items():
            row |= {f"{kind}_mean": other, f"{kind}_correlation": scores.correlation(mean, other)}
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return {
        "stages": np.array(stages),
        "dimensions": np.array([dimensions[stage] for stage in stages]),
        "class_names": np.array(class_names),
        "accuracy": np.bincount(test_labels, right, minlength=G) / n_of_class,
        "n_test": np.array(len(right)),
        "remark": np.array(remark),
        **{name: np.array(values) for name, values in found.items()},
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage and class."""
    return [
        {
            "stage": int(stage),
            "class": str(name),
            "mean_log_density_as_fitted_nats": float(stored["seen_mean"][s, g]),
            "mean_log_density_left_out_nats": float(stored["left_out_mean"][s, g]),
            "mean_log_density_of_test_images_nats": float(stored["test_mean"][s, g]),
            "std_log_density_of_test_images_nats": float(stored["test_std"][s, g]),
            "test_accuracy": float(stored["accuracy"][g]),
            "high_density_as_fitted": bool(stored["high"][s, g]),
        }
        for s, stage in enumerate(stored["stages"])
        for g, name in enumerate(stored["class_names"])
    ]


@styled
def draw(stored: Stored) -> Figure:
    figure = style.canvas(heading("figure_b8"), stored, width=9.2, height=6.2)
    panels = figure.subplots(2, len(stored["stages"]), squeeze=False, height_ratios=(3, 2))
    for s in range(len(stored["stages"])):
        beside_seen(panels[0, s], stored, s, {"left_out": (style.LINE, "s"), "test": (TEST, "^")}, bars=["test"])
        panels[0, s].set_title(panels[0, s].get_title("left"), pad=style.LINE_POINTS + 6)
        words = f"{stored['test_gap'][s]:.1f} nats ({p_words(stored['test_p'][s])})"
        style.above(panels[0, s], f"largest gap of test images {words}")
        _bins(panels[1, s], stored, s)
        panels[1, s].sharey(panels[1, 0])
    panels[0, 0].set_ylabel("mean log-density, own class (nats)")
    panels[1, 0].set_ylabel("classified rightly")
    marks = beside_seen_key({"left out": (style.LINE, "s"), "test images (± 1 standard deviation)": (TEST, "^")})
    marks.append(Line2D([], [], **ACCURACY, label="share of all test images classified rightly"))
    figure.legend(handles=marks, loc="outside lower center", ncols=3, fontsize=8, handlelength=1.8)
    return figure


def caption(stored: Stored) -> str:
    stages = " and ".join(str(stage) for stage in stored["stages"])
    n_bins = stored["bin_density"].shape[1]
    return (
        f"Beyond the paper. Above: mean log-density of each class at stages {stages}, classes sorted by the mean of "
        "training points as fitted (orange diamonds above the largest gap between these means, whether it parts groups "
        "or not, blue circles below it); the same points left out of the fit, as in figure B.5 (green squares); and "
        "test images (purple triangles; bars: their standard deviation), each under the density of its own class, with "
        "the projection of the training points. The network was trained on all the training points, left out or not, "
        "and on none of the test images. Above each panel stands the largest gap between means of test images. "
        f"Below: share of the {int(stored['n_test']):,} test images that the network classifies rightly, in {n_bins} "
        "bins by that density, with its standard error; dashed: of all of them. An image that is taken for one of "
        "another class may lie among that one's. "
        f"{stored['remark']} {stored['note']}"
    ).replace("  ", " ")


def look_for(stored: Stored) -> str:
    return (
        "Whether images that nothing was fitted to show the two groups (a jump of the triangles where diamonds begin), "
        "whether points left out are a fair stand-in for them, and whether density says which of them the network gets "
        "right."
    )


def finding(stored: Stored) -> str:
    return " ".join(_stage(stored, s) for s in range(len(stored["stages"])))


def _stage(stored: Stored, s: int) -> str:
    high, test, accuracy = stored["high"][s], stored["test_mean"][s], stored["accuracy"]
    words = (
        f"At stage {stored['stages'][s]} the largest gap between sorted class means of test images is "
        f"{stored['test_gap'][s]:.1f} nats ({p_words(stored['test_p'][s])})."
    )
    if high.any() and not high.all():
        n = int(high.sum())
        means = [
            f"{style.nats(values[high].mean())} and {style.nats(values[~high].mean())}"
            for values in (stored["seen_mean"][s], stored["left_out_mean"][s], test)
        ]
        words += (
            f" The {n} {'class' if n == 1 else 'classes'} above the gap as fitted and the others have a mean "
            f"log-density of {means[0]} as fitted, {means[1]} left out, {means[2]} in test images: there a difference "
            f"(nats, {LEVEL:.0%} interval over classes, for this split) of "
            f"{scores.words(group_difference(test, high), 1)}. The network classifies {accuracy[high].mean():.1%} and "
            f"{accuracy[~high].mean():.1%} of their test images rightly: a difference of "
            f"{scores.words(group_difference(accuracy, high))}."
        )
    share = stored["bin_accuracy"][s]
    rank = rank_correlation(share, np.arange(len(share)))
    with_left_out, with_seen = (scores.words(stored[f"{kind}_correlation"][s]) for kind in ("left_out", "seen"))
    return (
        f"{words} Rank correlation over classes of the mean of test images: {with_left_out} with that left out, "
        f"{with_seen} with that as fitted. From the lowest to the highest of {len(share)} bins by density the share "
        f"classified rightly goes from {share[0]:.2f} to {share[-1]:.2f} (rank correlation {style.rank(rank)})."
    )


def _bins(axes: Axes, stored: Stored, s: int) -> None:
    share, error = stored["bin_accuracy"][s], stored["bin_error"][s]
    x = np.arange(1, len(share) + 1)
    axes.axhline(share.mean(), **ACCURACY)
    axes.errorbar(x, share, error, color=TEST, marker="^", markersize=4.5, linewidth=1.2, elinewidth=1.0)
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xticks(x)
    axes.set_xlabel("bin of test images by log-density, lowest first")
