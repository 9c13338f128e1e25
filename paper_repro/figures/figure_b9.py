"""Figure B.9, beyond the paper: the same fits without training, to raw pixels and to an untrained network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro.figures import RAW_PIXELS, figure_b5, figure_b7, heading, scores, style
from paper_repro.figures.class_density import beside_seen, beside_seen_key, parted, spreads
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import least_a_side, p_words

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]


def compute(
    places: Sequence[str],
    dimensions: Sequence[int],
    seen: Sequence[np.ndarray],
    left_out: Sequence[np.ndarray],
    effective_draws: Sequence[np.ndarray],
    small: Sequence[np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    n_bins: int,
    memorization: np.ndarray | None = None,
    scale: dict[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Figures B.5 and B.7 of P spaces that no training has touched.

    Args:
        places: P words, as in "Raw pixels".
        dimensions: P, D of the space of the densities.
        seen, left_out, effective_draws, small: P of [N], as in figures B.5 and B.7.
        labels: [N] class of each point, 0..G - 1.
        class_names: G names.
        n_bins: B.
        memorization, scale: as in figure B.7; None where points have no scores.

    Returns:
        places [P], and what `compute` of figure B.5 returns, and with memorization that of figure B.7, with the numbers
        0..P - 1 in place of stages; high is of `parted` classes.
    """

    def numbered(values: Sequence[Any]) -> dict[int, Any]:
        return dict(enumerate(values))

    D = numbered(dimensions)
    found = figure_b5.compute(numbered(seen), numbered(left_out), numbered(effective_draws), labels, class_names, D)
    if memorization is not None:
        found |= figure_b7.compute(
            numbered(seen), numbered(left_out), numbered(small), memorization, D, n_bins, scale or {}
        )
    # Colours are for classes that stand apart, as in figure 1.
    apart = [parted(mean, std).above for mean, std in zip(found["seen_mean"], found["seen_std"], strict=True)]
    return found | {"places": np.array(places), "high": np.array(apart)}


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a place and class."""
    return [{"place": str(stored["places"][row.pop("stage")]), **row} for row in figure_b5.table(stored)]


@styled
def draw(stored: Stored) -> Figure:
    P, scored = len(stored["places"]), "n_points" in stored
    figure = style.canvas(heading("figure_b9"), stored, width=3.1 * P, height=5.8 if scored else 3.6)
    panels = figure.subplots(2 if scored else 1, P, squeeze=False)
    for p, title in enumerate(stored["places"]):
        beside_seen(panels[0, p], stored, p, {"left_out": (style.LINE, "s")}, bars=("seen", "left_out"))
        panels[0, p].set_title(f"{title}  (D = {stored['dimensions'][p]})", pad=2 * style.LINE_POINTS + 6)
        style.above(panels[0, p], f"{_gap(stored, p)}\n{spreads(stored['seen_mean'][p], stored['seen_std'][p])}")
        if scored:
            figure_b7.memorization_panel(panels[1, p], stored, p)
            first = int(np.argmax(stored["seen_small"][p] > figure_b7.MOSTLY))
            if first:
                panels[1, p].axvline(first + 0.5, color=style.INK, linewidth=1, linestyle=style.DASHES)
    panels[0, 0].set_ylabel("log-density of own training points (nats)")
    marks = beside_seen_key({"left out": (style.LINE, "s")}, of_parted=True)
    marks.append(Line2D([], [], color=style.MUTED, alpha=0.4, linewidth=5, label="± 1 standard deviation"))
    if scored:
        for axes in panels[1, 1:]:
            axes.sharey(panels[1, 0])
        panels[1, 0].set_ylabel("mean memorization")
        words = "from here on mostly points in components of fewer than D points"
        marks.append(Line2D([], [], color=style.INK, linewidth=1, linestyle=style.DASHES, label=words))
    figure.align_ylabels(panels[:, 0])
    ncols = 2 if P > 2 else 1  # words of one column take half of the width of three panels
    figure.legend(handles=marks, loc="outside lower center", ncols=ncols, fontsize=8, handlelength=1.8)
    return figure


def caption(stored: Stored) -> str:
    pixels = "the images themselves, and of " if RAW_PIXELS in stored["places"] else ""
    text = (
        "Beyond the paper. Above: figure B.5 (mean and standard deviation of the log-density of each class's own "
        "training points, sorted by the mean as fitted; orange diamonds: above the largest gap, where it parts "
        "classes as in figure 1, by the numbers above the panel; green squares: each point left out of its fit), in "
        f"spaces that know nothing of the classes: leading singular vectors of {pixels}the network before its first "
        "update (random weights; its batch norm has the means and variances of some training images). Every panel has "
        "a scale of its own, so that only shapes can be compared."
    )
    if "n_points" in stored:
        text += (
            f" Below: the {int(stored['n_points']):,} training points in {stored['seen_density'].shape[1]} bins by "
            "the density as fitted (blue circles) and left out (green squares), as in figure B.7, and their mean "
            f"memorization, {scores.origin(stored)}. {stored['networks']}"
        )
    return f"{text} {style.of_the_run(stored)}".strip()


def look_for(stored: Stored) -> str:
    return (
        "What is there without training: groups of classes with a small spread above others with a large one, and "
        "memorization that falls with density and jumps up where the dense classes begin. What is there is by itself "
        "no evidence of how a network fits a class; what figures B.5 and B.7 alone show may be."
    )


def finding(stored: Stored) -> str:
    return " ".join(_place(stored, p) for p in range(len(stored["places"])))


def _gap(stored: Stored, p: int) -> str:
    return f"largest gap {float(stored['seen_gap'][p]):.1f} nats, {p_words(float(stored['seen_p'][p]))}"


def _place(stored: Stored, p: int) -> str:
    high, std, left_out = stored["high"][p], stored["seen_std"][p], stored["left_out_mean"][p]
    text = f"{stored['places'][p]}: {_gap(stored, p)}, between sorted class means as fitted"
    if high.any():
        n = int(high.sum())
        text += (
            f"; the {n} of {len(high)} classes above it {'has' if n == 1 else 'have'} a mean standard deviation within "
            f"a class of {std[high].mean():.1f} nats, the others {std[~high].mean():.1f}, and left out a mean "
            f"log-density of {style.nats(left_out[high].mean())}, the others {style.nats(left_out[~high].mean())}."
        )
        if min(n, len(high) - n) < least_a_side(len(high)):
            text += f" Fewer than {least_a_side(len(high))} classes on one side are outliers, no group."
    else:
        text += ", with like spreads within the classes on either side of it."
    text += (
        f" Left out it is {float(stored['left_out_gap'][p]):.1f} ({p_words(float(stored['left_out_p'][p]))}); the "
        f"density of {stored['few_draws'][p]:.0%} of the points rests on fewer than {figure_b5.FEW_DRAWS} effective "
        "labellings then."
    )
    if "n_points" in stored:
        text += f" {figure_b7.order_words(stored, p, 'seen')} {figure_b7.order_words(stored, p, 'left_out')}"
    return text
