"""Figure B.1, beyond the paper: log-density of each class against its published memorization."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from paper_repro.figures import class_density, heading, scores, style
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import LEAST_IN_GROUP, group_difference

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

KINDS = {"mean": "mean log-density of the class (nats)", "std": "standard deviation within the class (nats)"}


def compute(
    log_density: Mapping[int, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    dimensions: Mapping[int, int],
    memorization: np.ndarray,
) -> dict[str, np.ndarray]:
    """As `class_density.compute`, and how its numbers go with memorization.

    Args:
        log_density, labels, class_names, dimensions: as there.
        memorization: [G] published mean score of each class.

    Returns:
        What is returned there, memorization [G], and with their 95% bootstrap intervals over classes: mean_correlation,
        std_correlation [S, 3], Spearman's rank correlation of memorization with the mean and with the standard
        deviation of log-density.
    """
    found = class_density.compute(log_density, labels, class_names, dimensions)
    memorization = np.asarray(memorization, dtype=np.float64)
    return found | {
        "memorization": memorization,
        **{
            f"{kind}_correlation": np.stack([scores.correlation(values, memorization) for values in found[kind]])
            for kind in KINDS
        },
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage and class."""
    published = dict(zip(stored["class_names"].tolist(), stored["memorization"].tolist(), strict=True))
    return [{**row, "published_mean_memorization": published[row["class"]]} for row in class_density.table(stored)]


@styled
def draw(stored: Stored) -> Figure:
    stages = stored["stages"]
    figure = style.canvas(heading("figure_b1"), stored, width=9.2, height=6.4)
    panels = figure.subplots(len(KINDS), len(stages), sharey=True, squeeze=False)
    for row, (kind, label) in zip(panels, KINDS.items(), strict=True):
        for s, axes in enumerate(row):
            if kind == "std" and (stored[kind] > 0).all():
                _logarithmic(axes)  # groups may differ in it by an order of magnitude
            _scatter(axes, stored, stored[kind][s])
            axes.set_xlabel(label)
            axes.set_title(scores.short(stored[f"{kind}_correlation"][s]), loc="right", fontweight="normal", fontsize=9)
        row[0].set_ylabel("published mean memorization")
    for s, axes in enumerate(panels[0]):
        axes.set_title(f"Stage {stages[s]}  (D = {stored['dimensions'][s]})")
    if _few(stored) is None:
        _group_means(panels[0, -1], stored)
    _legend(figure, stored)
    return figure


def caption(stored: Stored) -> str:
    stages = " and ".join(str(stage) for stage in stored["stages"])
    means = ", and there dashed lines are at the mean memorization of both groups" if _few(stored) is None else ""
    return (
        f"Beyond the paper. Each mark is a class. Vertical: {scores.PUBLISHED}, over its training points. Horizontal: "
        "mean (upper panels) and standard deviation (lower panels; where they are positive, on a logarithmic axis) of "
        f"the log-density of the class's own training points at stages {stages}. Classes are coloured in all panels by "
        f"the largest gap at stage {stored['stages'][-1]}, whether it parts groups or not{means}. ρ is Spearman's rank "
        "correlation over classes with its 95% bootstrap interval. The scores are of another network than the "
        f"densities. {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "In the paper's figure 3 memorization falls with log-density among low-density points and jumps up where "
        "high-density classes begin. Class by class that would be circles that fall to the right, and diamonds above "
        "their end, with small standard deviations. If which classes are dense is up to the chance of a chain, their "
        "published memorization, which owes nothing to our chains, shows no difference between the groups."
    )


def finding(stored: Stored) -> str:
    high, memorization = stored["high"], stored["memorization"]
    parts = []
    for kind, what in (("mean", "mean log-density"), ("std", "its standard deviation within the class")):
        found = zip(stored["stages"], stored[f"{kind}_correlation"], strict=True)
        parts.append(f"with {what} " + ", ".join(f"{scores.words(rho)} at stage {stage}" for stage, rho in found))
    text = f"Rank correlation of published memorization over {len(high)} classes (95% interval): {'; '.join(parts)}. "
    if high.all() or not high.any():
        return text + "The last stage has no two groups of classes to compare."
    few = _few(stored)
    if few is not None:
        named = zip(stored["class_names"][few], memorization[few], strict=True)
        side = f"{'is' if few.sum() == 1 else 'are'} {'above' if high[few].all() else 'below'} the largest gap"
        return text + (
            f"Only {', '.join(f'{name} ({value:.2f})' for name, value in named)} {side} at stage "
            f"{stored['stages'][-1]}, too few for a mean; the mean memorization of the other {int((~few).sum())} is "
            f"{memorization[~few].mean():.2f}."
        )
    return text + (
        f"The {int(high.sum())} classes above the largest gap at stage {stored['stages'][-1]} have a mean memorization "
        f"of {memorization[high].mean():.2f}, the {int((~high).sum())} below it of {memorization[~high].mean():.2f}: a "
        f"difference of {scores.words(group_difference(memorization, high))}."
    )


def _few(stored: Stored) -> np.ndarray | None:
    """[G] bool, the classes of the smaller group if they are too few for a mean."""
    high = stored["high"]
    few = high if high.sum() <= (~high).sum() else ~high
    return few if few.sum() < LEAST_IN_GROUP else None


def _scatter(axes: Axes, stored: Stored, x: np.ndarray) -> None:
    for high, colour in ((False, style.LOW), (True, style.HIGH)):
        chosen = stored["high"] == high
        look: dict[str, Any] = {"color": colour, "markersize": 5, "linestyle": "none", "alpha": 0.85}
        axes.plot(x[chosen], stored["memorization"][chosen], style.MARKERS[high], **look)
    axes.margins(0.06, 0.1)
    style.name_points(axes, x, stored["memorization"], [str(name) for name in stored["class_names"]])


def _group_means(axes: Axes, stored: Stored) -> None:
    for high, colour in ((False, style.LOW), (True, style.HIGH)):
        mean = stored["memorization"][stored["high"] == high].mean()
        axes.axhline(mean, color=colour, linewidth=1.2, linestyle=style.DASHES, zorder=1)


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, stored: Stored) -> None:
    few, high = _few(stored), stored["high"]
    marks = class_density.group_marks(stored["mean"][-1], high, f"stage {stored['stages'][-1]}")
    if few is None:
        mean: dict[str, Any] = {"color": style.MUTED, "linewidth": 1.2, "linestyle": style.DASHES}
        marks.append(Line2D([], [], **mean, label="mean of the group"))
    elif few.any():
        small = marks[int(high[few].all())]
        small.set_label(f"{small.get_label()}: {', '.join(stored['class_names'][few].tolist())}")
    figure.legend(handles=marks, loc="outside lower center", ncols=3, fontsize=8, handlelength=1.8)
