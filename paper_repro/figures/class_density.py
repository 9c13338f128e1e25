"""What figures of densities share: mean and spread of class-conditional log-density, class by class, sorted by mean."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro.chains import columns_of_chains
from paper_repro.figures import heading, style
from paper_repro.figures.style import Stored
from paper_repro.statistics import LEVEL, ORDER_OF_MAGNITUDE, gap_p_value, is_split, least_a_side, p_words

__all__ = [
    "Parted",
    "beside_seen",
    "beside_seen_key",
    "chains_in_words",
    "class_statistics",
    "compute",
    "describe_gap",
    "grid",
    "group_marks",
    "has_chains",
    "key",
    "largest_gaps",
    "last_stage",
    "legend",
    "marks",
    "of_em",
    "panel",
    "parted",
    "points",
    "spreads",
    "table",
]


CHAINS_WIDTH = 0.9
"""Of the line from the lowest to the highest chain, in points."""
ABOVE = f"above the largest gap, if p < {1 - LEVEL:.2f} or spreads over {ORDER_OF_MAGNITUDE:.1f} times smaller"
"""Which classes are `parted`, in a legend."""


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
    by_chain: Mapping[int, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Statistics of each class at each stage, and the split of classes at the last stage.

    Args:
        log_density: by stage, [N] in nats: each training point under the predictive density of its own class.
        labels: [N] class of each point, 0..G - 1.
        class_names: G names.
        dimensions: by stage, D of the space of the densities.
        unit: what is numbered: "stage", "layer" or "block".
        by_chain: by stage, [C, G] mean of each class under each of several chains alone; None or empty if there is one.

    Returns:
        unit, stages [S], dimensions [S], class_names [G], mean and std [S, G]; high [G] bool and gap of the last
        stage: classes above the middle of the largest gap between sorted means are high-density ones; of several
        chains mean_by_chain [S, C, G].
    """
    from classfit import density_groups

    stages = sorted(log_density)
    statistics = [class_statistics(log_density[stage], labels, len(class_names)) for stage in stages]
    groups = density_groups(statistics[-1][0])
    several = {"mean_by_chain": np.stack([by_chain[stage] for stage in stages])} if by_chain else {}
    return {
        "unit": np.array(unit),
        "stages": np.array(stages),
        "dimensions": np.array([dimensions[stage] for stage in stages]),
        "class_names": np.array(class_names),
        "mean": np.stack([mean for mean, _ in statistics]),
        "std": np.stack([std for _, std in statistics]),
        "high": groups.high,
        "gap": np.array(groups.gap),
        **several,
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage (or layer, or block) and class."""
    from classfit import density_groups

    return [
        {
            _unit(stored): int(stage),
            "class": str(name),
            "mean_log_density_nats": float(mean),
            "std_log_density_nats": float(std),
            "above_largest_gap": bool(high),
            **(columns_of_chains(stored["mean_by_chain"][s, :, g]) if has_chains(stored) else {}),
        }
        for s, stage in enumerate(stored["stages"])
        for g, (name, mean, std, high) in enumerate(
            zip(
                stored["class_names"], stored["mean"][s], stored["std"][s], density_groups(stored["mean"][s]).high,
                strict=True,
            )
        )
    ]  # fmt: skip


def has_chains(stored: Stored) -> bool:
    """Whether means under single chains are known."""
    return "mean_by_chain" in stored


class Parted(NamedTuple):
    """The classes of a stage above its largest gap, if that is one."""

    above: np.ndarray
    """[G] bool; none where chance may have left the gap and spreads are alike on either side of it."""
    middle: float
    """Of the gap, in nats."""
    words: str
    """How wide it is, and how often chance leaves one as large."""
    spreads: str
    """As `spreads` says."""


def parted(mean: np.ndarray, std: np.ndarray) -> Parted:
    """By mean and standard deviation [G] of the log-density of each class.

    Spreads are alike if their ratio (of geometric means) is below the square root of ten. This is for the eye: the
    scorecard asks for an interval above that, and for classes enough on either side.
    """
    from classfit import density_groups

    groups, p = density_groups(mean), gap_p_value(mean)
    high = groups.high
    if p >= 1 - LEVEL and high.any():
        high = high & (_spread_ratio(std, high) > ORDER_OF_MAGNITUDE)
    return Parted(high, groups.threshold, f"largest gap {groups.gap:.1f} nats, {p_words(p)}", spreads(mean, std))


def spreads(mean: np.ndarray, std: np.ndarray) -> str:
    """How much smaller the spreads of classes are above the largest gap, in words, by mean and standard deviation [G].

    Empty where that does not part classes, and if there is no class above it, or one has no spread.
    """
    from classfit import density_groups

    high = density_groups(mean).high
    if not high.any() or not (std > 0).all():
        return ""
    times = _spread_ratio(std, high)
    if times <= ORDER_OF_MAGNITUDE:
        return ""
    return f"spreads {times:.{1 if times < 9.95 else 0}f} times smaller above it"


def _spread_ratio(std: np.ndarray, high: np.ndarray) -> float:
    """Of standard deviations [G], in classes that are not high over those that are (geometric means)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # classes without spread
        return float(np.exp(np.log(std[~high]).mean() - np.log(std[high]).mean()))


def panel(axes: Axes, stored: Stored, s: int, where: str = "") -> None:
    """Classes of stage `stages[s]` sorted by mean: a mark at the mean, a bar of one standard deviation to each side.

    Those above the largest gap have a look of their own, and a line lies in the middle of it; under the title, above
    the axes, stand how wide it is, how often chance leaves one as large, how many classes are above it, and, where that
    parts them, how much smaller spreads are there.
    """
    split = parted(stored["mean"][s], stored["std"][s])
    points(axes, stored, s, split)
    title = f"{_unit(stored).capitalize()} {stored['stages'][s]}{where}  (D = {stored['dimensions'][s]})"
    axes.set_title(title, pad=2 * style.LINE_POINTS + 6)
    axes.set_xlabel("class, sorted by mean")
    counted = f", {int(split.above.sum())} above it" if split.above.any() else ""
    style.above(axes, f"{split.words}{counted}\n{split.spreads}")


def points(axes: Axes, stored: Stored, s: int, split: Parted) -> np.ndarray:
    """The marks and bars of a panel, and the line in the gap; [G] classes in the order in which they are drawn.

    Of several chains, a thin line from the lowest to the highest of them.
    """
    mean, std = stored["mean"][s], stored["std"][s]
    order = np.argsort(mean, kind="stable")
    ranks = np.arange(len(order))
    bar = min(5.0, 130 / len(order))
    for high, colour in ((False, style.LOW), (True, style.HIGH)):
        chosen = split.above[order] == high
        x, y, spread = ranks[chosen], mean[order][chosen], std[order][chosen]
        style.bars(axes, x, y - spread, y + spread, color=colour, alpha=0.32, linewidth=bar)
        axes.plot(x, y, style.MARKERS[high], color=colour, markersize=min(5.5, bar + 1.5), linestyle="none")
    if has_chains(stored):
        means = stored["mean_by_chain"][s][:, order]
        style.bars(axes, ranks, means.min(0), means.max(0), color=style.INK, linewidth=CHAINS_WIDTH, zorder=1.5)
    style.class_axis(axes, [str(name) for name in stored["class_names"][order]])
    axes.ticklabel_format(axis="y", useOffset=False)
    if split.above.any():
        axes.axhline(split.middle, color=style.INK, linewidth=1, linestyle=style.DASHES)
    return order


def group_marks(mean: np.ndarray, high: np.ndarray, where: str) -> list[Line2D]:
    """The looks of classes below and above the largest gap between the means [G], with how many they are.

    They are called low- and high-density only if they are groups, and chance does not often leave such a gap; if not,
    it stands there how often.
    """
    words, p = (f"low-density at {where}", f"high-density at {where}"), gap_p_value(mean)
    if not is_split(mean, p):
        words = (f"below the largest gap ({p_words(p)}) at {where}", "above it")
    below, above = (f"{label} ({int((high == group).sum())})" for group, label in enumerate(words))
    return marks(below, above)


def marks(below: str, above: str) -> list[Line2D]:
    """The looks of classes below and above a gap, under these words."""
    return [
        Line2D([], [], color=colour, marker=style.MARKERS[high], markersize=5, linestyle="none", label=label)
        for high, colour, label in ((False, style.LOW, below), (True, style.HIGH, above))
    ]


def key(*drawn: Stored) -> list[Line2D]:
    """What is drawn in panels of these: classes and their bars; where there are any, the marks of classes that are
    `parted` with the line in the gap, and the line between chains."""
    below, above = marks("class", ABOVE)
    bar = Line2D([], [], color=style.MUTED, alpha=0.4, linewidth=5, label="± 1 standard deviation")
    middle = Line2D([], [], color=style.INK, linewidth=1, linestyle=style.DASHES, label="middle of the gap")
    between = Line2D(
        [], [], color=style.INK, marker="|", markersize=9, markeredgewidth=CHAINS_WIDTH, linestyle="none",
        label="lowest to highest chain",
    )  # fmt: skip
    some = any(parted(*of).above.any() for stored in drawn for of in zip(stored["mean"], stored["std"], strict=True))
    several = any(map(has_chains, drawn))
    return [below, *([above] if some else []), bar, *([middle] if some else []), *([between] if several else [])]


def legend(figure: Figure, *drawn: Stored) -> None:
    """The key, under the panels: in one line, if it has room there."""
    handles = key(*drawn)
    ncols = 4 if len(handles) <= 4 else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, fontsize=8, handlelength=1.8)


def chains_in_words(stored: Stored) -> str:
    """What a caption says of the line between chains; nothing if there is none."""
    if not has_chains(stored):
        return ""
    C = stored["mean_by_chain"].shape[1]
    return (
        f"A thin dark line goes from the mean of a class under the lowest of its {C} chains, each by itself, to that "
        "under the highest. Where none is seen, these means differ by less than a mark is high, which does not say "
        "that the chains have converged (figure B.3). The mark is of all of them together, a mean of densities over "
        f"more labellings: it lies at most log {C} = {np.log(C):.1f} nats below the highest chain, and mostly somewhat "
        "above it, since points that one chain gives little another gives more. "
    )


def of_em(stored: Stored) -> str:
    """What a caption says of long bars under the protocol em; nothing under others."""
    if style.protocol(stored) != "em":
        return ""
    return (
        "BIC chooses the number of Gaussians of a class: where one is enough for most classes, the few long bars are "
        "of classes for which it chose several. "
    )


def grid(name: str, stored: Stored, columns: int) -> Figure:
    """The figure of that name: one panel a stage, row by row."""
    rows = -(-len(stored["stages"]) // columns)
    figure = style.canvas(heading(name), stored, width=9.2, height=2.5 * rows + 0.9)
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
            style.bars(axes, x, mean - std, mean + std, color=colour, alpha=0.25, linewidth=bar)
        axes.plot(x, mean, mark, color=colour, markersize=min(5.0, bar + 1.2), linestyle="none")
    axes.set_title(f"Stage {stored['stages'][s]}  (D = {stored['dimensions'][s]})")
    style.class_axis(axes, [str(name) for name in stored["class_names"][order]])
    axes.set_xlabel("class, sorted by mean as fitted")


def beside_seen_key(others: Mapping[str, tuple[str, str]], *, of_parted: bool = False) -> list[Line2D]:
    """For a legend of these: by words the colour and mark of others; high are classes above the largest gap, or only
    those that are `parted`."""
    below, above = (
        ("as fitted", f"as fitted, {ABOVE}")
        if of_parted
        else ("as fitted, below the largest gap", "as fitted, above it")
    )
    looks = {below: (style.LOW, "o"), above: (style.HIGH, "D"), **others}
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
    text += f": {names}." if 0 < high.sum() < style.MANY_CLASSES else "."
    if min(high.sum(), (~high).sum()) < least_a_side(len(high)):
        text += f" Fewer than {least_a_side(len(high))} classes on one side of it are outliers, no group."
    if high.any() and not high.all():
        text += (
            f" The mean standard deviation within a class is {std[high].mean():.1f} nats above the gap "
            f"and {std[~high].mean():.1f} below it."
        )
    return text + _chains_apart(stored)


def _chains_apart(stored: Stored) -> str:
    """How far the chains of a class are apart at the last stage, in words."""
    from classfit import density_groups

    if not has_chains(stored):
        return ""
    means = stored["mean_by_chain"][-1]
    apart, above = np.ptp(means, axis=0), means > density_groups(stored["mean"][-1]).threshold
    n_both = int((above.any(0) & ~above.all(0)).sum())
    return (
        f" Each by itself, the {len(means)} chains of a class give it means that are {np.median(apart):.1f} nats apart "
        f"in the median class and {apart.max():.1f} in {stored['class_names'][apart.argmax()]}; in {n_both} of "
        f"{len(apart)} classes some are above the middle of the gap and others below it."
    )


def last_stage(stored: Stored) -> str:
    """What classes are split at."""
    return f"{_unit(stored)} {stored['stages'][-1]}"


def _unit(stored: Stored) -> str:
    """What is numbered; numbers stored before other networks were drawn do not say."""
    return str(stored.get("unit", "stage"))
