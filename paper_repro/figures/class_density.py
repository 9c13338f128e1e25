"""What figures 1 and A.7 share: mean and spread of class-conditional log-density, class by class, in sorted order."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro.figures import style
from paper_repro.figures.style import Stored
from paper_repro.statistics import LEVEL, gap_p_value, is_split, least_a_side, p_words

__all__ = [
    "beside_seen",
    "beside_seen_key",
    "class_statistics",
    "compute",
    "describe_gap",
    "grid",
    "group_marks",
    "key",
    "largest_gaps",
    "last_stage",
    "legend",
    "panel",
    "table",
]


def class_statistics(log_density: np.ndarray, labels: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [G], in nats, over the points of each class of log_density [N]."""
    by_class = [log_density[labels == g] for g in range(n_classes)]
    return np.array([part.mean() for part in by_class]), np.array([part.std() for part in by_class])


def compute(
    log_density: Mapping[int, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    dimensions: Mapping[int, int],
    unit: str = "stage",
) -> dict[str, np.ndarray]:
    """Statistics of each class at each stage, and the split of classes at the last stage.

    Args:
        log_density: by stage, [N] in nats: each training point under the predictive density of its own class.
        labels: [N] class of each point, 0..G - 1.
        class_names: G names.
        dimensions: by stage, D of the space of the densities.
        unit: what is numbered: "stage", "layer" or "block".

    Returns:
        unit, stages [S], dimensions [S], class_names [G], mean and std [S, G]; high [G] bool, threshold and gap of the
        last stage: classes above the middle of the largest gap between sorted means are high-density ones.
    """
    from classfit import density_groups

    stages = sorted(log_density)
    statistics = [class_statistics(log_density[stage], labels, len(class_names)) for stage in stages]
    groups = density_groups(statistics[-1][0])
    return {
        "unit": np.array(unit),
        "stages": np.array(stages),
        "dimensions": np.array([dimensions[stage] for stage in stages]),
        "class_names": np.array(class_names),
        "mean": np.stack([mean for mean, _ in statistics]),
        "std": np.stack([std for _, std in statistics]),
        "high": groups.high,
        "threshold": np.array(groups.threshold),
        "gap": np.array(groups.gap),
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage (or layer, or block) and class."""
    return [
        {
            _unit(stored): int(stage),
            "class": str(name),
            "mean_log_density_nats": float(stored["mean"][s, g]),
            "std_log_density_nats": float(stored["std"][s, g]),
            f"high_density_at_last_{_unit(stored)}": bool(stored["high"][g]),
        }
        for s, stage in enumerate(stored["stages"])
        for g, name in enumerate(stored["class_names"])
    ]


def panel(axes: Axes, stored: Stored, s: int, where: str = "") -> None:
    """Classes of stage `stages[s]` sorted by mean: a mark at the mean, a bar of one standard deviation to each side.

    Under the title, above the axes, stand the largest gap between the means and how often chance leaves one as large.
    """
    mean, std = stored["mean"][s], stored["std"][s]
    order = np.argsort(mean, kind="stable")
    ranks = np.arange(len(order))
    bar = min(5.0, 130 / len(order))
    for high, colour in ((False, style.LOW), (True, style.HIGH)):
        chosen = stored["high"][order] == high
        x, y, spread = ranks[chosen], mean[order][chosen], std[order][chosen]
        axes.vlines(x, y - spread, y + spread, color=colour, alpha=0.32, linewidth=bar, capstyle="butt")
        axes.plot(x, y, style.MARKERS[high], color=colour, markersize=min(5.5, bar + 1.5), linestyle="none")
    title = f"{_unit(stored).capitalize()} {stored['stages'][s]}{where}  (D = {stored['dimensions'][s]})"
    axes.set_title(title, pad=style.LINE_POINTS + 6)
    style.class_axis(axes, [str(name) for name in stored["class_names"][order]])
    axes.set_xlabel("class, sorted by mean")
    axes.ticklabel_format(axis="y", useOffset=False)
    style.above(axes, _gap_words(mean))
    if s == len(stored["stages"]) - 1:
        axes.axhline(float(stored["threshold"]), color=style.INK, linewidth=1, linestyle=style.DASHES)


def group_marks(mean: np.ndarray, high: np.ndarray, where: str, *, counted: bool) -> list[Line2D]:
    """The looks of classes below and above the largest gap between the means [G], with how many they are if `counted`.

    They are called low- and high-density only if they are groups, and chance does not often leave such a gap.
    """
    words = (f"low-density at {where}", f"high-density at {where}")
    if not is_split(mean, gap_p_value(mean)):
        words = (f"below the largest gap at {where}", "above it")
    marks = []
    for group, colour, label in zip((False, True), (style.LOW, style.HIGH), words, strict=True):
        if counted:
            label += f" ({int((high == group).sum())})"
        look: dict[str, Any] = {"color": colour, "marker": style.MARKERS[group], "markersize": 5, "linestyle": "none"}
        marks.append(Line2D([], [], **look, label=label))
    return marks


def key(stored: Stored, *, counted: bool) -> list[Line2D]:
    """The two groups of classes, with how many are in them if `counted`; the bars; the line at the gap."""
    return [
        *group_marks(stored["mean"][-1], stored["high"], last_stage(stored), counted=counted),
        Line2D([], [], color=style.MUTED, alpha=0.4, linewidth=5, label="± 1 standard deviation"),
        Line2D([], [], color=style.INK, linewidth=1, linestyle=style.DASHES, label="middle of the largest gap"),
    ]


def legend(figure: Figure, stored: Stored, *, counted: bool = True) -> None:
    """The key, in one line under the panels."""
    marks = key(stored, counted=counted)
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=8, handlelength=1.8)


def grid(heading: str, stored: Stored, columns: int) -> Figure:
    """One panel a stage, row by row, under the heading."""
    rows = -(-len(stored["stages"]) // columns)
    figure = style.canvas(heading, stored, width=9.2, height=2.5 * rows + 0.9)
    panels = figure.subplots(rows, columns, squeeze=False)
    for s, axes in enumerate(panels.flat):
        if s < len(stored["stages"]):
            panel(axes, stored, s)
        else:
            axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("log-density (nats)")
    figure.align_ylabels(panels[:, 0])
    legend(figure, stored)
    return figure


def beside_seen(
    axes: Axes, stored: Stored, s: int, others: Mapping[str, tuple[str, str]], bars: Collection[str]
) -> None:
    """Means of each class at stage s, sorted by the mean as fitted: low, high, and by kind the colour and mark of
    others; standard deviations of the kinds in `bars`."""
    order = np.argsort(stored["seen_mean"][s], kind="stable")
    ranks, high = np.arange(len(order)), stored["high"][s][order]
    bar = min(5.0, 130 / len(order))
    every = np.full(len(order), True)
    looks = [(~high, "seen", style.LOW, "o"), (high, "seen", style.HIGH, "D")]
    for chosen, kind, colour, mark in [*looks, *((every, kind, *look) for kind, look in others.items())]:
        x, mean = ranks[chosen], stored[f"{kind}_mean"][s][order][chosen]
        if kind in bars:
            std = stored[f"{kind}_std"][s][order][chosen]
            axes.vlines(x, mean - std, mean + std, color=colour, alpha=0.25, linewidth=bar, capstyle="butt")
        axes.plot(x, mean, mark, color=colour, markersize=min(5.0, bar + 1.2), linestyle="none")
    axes.set_title(f"Stage {stored['stages'][s]}  (D = {stored['dimensions'][s]})")
    style.class_axis(axes, [str(name) for name in stored["class_names"][order]])
    axes.set_xlabel("class, sorted by mean as fitted")


def beside_seen_key(others: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """For a legend of these: by words the colour and mark of others."""
    looks = {"as fitted, below the largest gap": (style.LOW, "o"), "as fitted, above it": (style.HIGH, "D"), **others}
    return [
        Line2D([], [], linestyle="none", markersize=5, color=colour, marker=mark, label=label)
        for label, (colour, mark) in looks.items()
    ]


def largest_gaps(stored: Stored) -> str:
    """The largest gap of every stage in words."""
    largest = ", ".join(f"{np.diff(np.sort(mean)).max():.1f}" for mean in stored["mean"])
    numbers = ", ".join(str(stage) for stage in stored["stages"])
    return f"Largest gap between sorted class means at {_unit(stored)}s {numbers}: {largest} nats."


def describe_gap(stored: Stored) -> str:
    """The split at the last stage in words."""
    high, std = stored["high"], stored["std"][-1]
    gaps = np.sort(np.diff(np.sort(stored["mean"][-1])))
    p = gap_p_value(stored["mean"][-1])
    names = ", ".join(str(name) for name in stored["class_names"][high])
    text = (
        f"At {last_stage(stored)} the largest gap between sorted class means is {float(stored['gap']):.1f} "
        f"nats ({p_words(p)}{'' if p < 1 - LEVEL else ', so chance may have left it'}); the median gap "
        f"is {np.median(gaps):.1f}. It leaves {int(high.sum())} of {len(high)} classes above it"
    )
    text += f": {names}." if high.sum() < style.MANY_CLASSES else "."
    if min(high.sum(), (~high).sum()) < least_a_side(len(high)):
        text += f" Fewer than {least_a_side(len(high))} classes on one side of it are outliers, no group."
    if high.any() and not high.all():
        text += (
            f" The mean standard deviation within a class is {std[high].mean():.1f} nats above the gap "
            f"and {std[~high].mean():.1f} below it."
        )
    return text


def _gap_words(mean: np.ndarray) -> str:
    return f"largest gap {np.diff(np.sort(mean)).max():.1f} nats, {p_words(gap_p_value(mean))}"


def last_stage(stored: Stored) -> str:
    """What classes are split at."""
    return f"{_unit(stored)} {stored['stages'][-1]}"


def _unit(stored: Stored) -> str:
    """What is numbered; numbers stored before other networks were drawn do not say."""
    return str(stored.get("unit", "stage"))
