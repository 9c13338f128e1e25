"""Figure B.11, beyond the paper: the same fits to points of one Gaussian a class, which have no clusters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro.chains import SHATTERED
from paper_repro.figures import figure_b5, heading, scores, style
from paper_repro.figures.class_density import beside_seen, class_statistics
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import p_words

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

LOOKS = {
    (False, False): ("neither is shattered", style.LOW, "o", True),
    (True, True): ("both are", style.HIGH, "D", True),
    (False, True): ("only the Gaussian's points", style.HIGH, "D", False),
    (True, False): ("only the class's own points", style.LOW, "o", False),
}
"""By whether the class's own points and those of its Gaussian are shattered: words, colour, mark, and whether it is
filled."""


def compute(
    own: Mapping[int, np.ndarray],
    seen: Mapping[int, np.ndarray],
    left_out: Mapping[int, np.ndarray],
    effective_draws: Mapping[int, np.ndarray],
    own_small: Mapping[int, np.ndarray],
    small: Mapping[int, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    dimensions: Mapping[int, int],
) -> dict[str, np.ndarray]:
    """Figure B.5 of points of one Gaussian a class, and each class beside its Gaussian.

    Args:
        own: by stage, [N] log-density of each training point as fitted, in nats.
        seen, left_out, effective_draws: by stage, [N] of the Gaussians' points, as in figure B.5.
        own_small, small: by stage, [G] share of the points of the class, and of its Gaussian, in components of fewer
            points than D.
        labels: [N] class of each point, 0..G - 1.
        class_names: G names.
        dimensions: by stage, D.

    Returns:
        What `compute` of figure B.5 returns of the Gaussians' points, with high of shattered ones, and own_mean,
        own_small, small [S, G]; between [S, 3]: Spearman's correlation of own_mean with seen_mean, and its 95%
        bootstrap interval over classes.
    """
    found = figure_b5.compute(seen, left_out, effective_draws, labels, class_names, dimensions)
    stages, G = found["stages"].tolist(), len(class_names)
    own_mean = np.stack([class_statistics(own[stage], labels, G)[0] for stage in stages])
    shares = {
        name: np.stack([values[stage] for stage in stages])
        for name, values in {"own_small": own_small, "small": small}.items()
    }
    between = [scores.correlation(*means) for means in zip(own_mean, found["seen_mean"], strict=True)]
    return {
        **found,
        **shares,
        "high": shares["small"] > SHATTERED,
        "own_mean": own_mean,
        "between": np.array(between),
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage and class."""
    rows = figure_b5.table(stored)
    beside = ("own_mean", "own_small", "small")
    names = ("own_mean_log_density_nats", "own_share_in_small_components", "share_in_small_components")
    for row, values in zip(rows, zip(*(stored[name].ravel() for name in beside), strict=True), strict=True):
        row |= dict(zip(names, map(float, values), strict=True))
    return rows


@styled
def draw(stored: Stored) -> Figure:
    S = len(stored["stages"])
    figure = style.canvas(heading("figure_b11"), stored, width=4.6 * S, height=7.0)
    panels = figure.subplots(2, S, squeeze=False)
    for s in range(S):
        beside_seen(panels[0, s], stored, s, {"left_out": (style.LINE, "s")}, bars=figure_b5.KINDS)
        panels[0, s].set_title(panels[0, s].get_title("left"), pad=style.LINE_POINTS + 6)
        style.above(panels[0, s], f"largest gap {_gap(stored, s)}")
        _beside_own(panels[1, s], stored, s)
    panels[0, 0].set_ylabel("log-density of the Gaussians' points (nats)")
    panels[1, 0].set_ylabel("mean of the Gaussian's points as fitted (nats)")
    above = (("as fitted", style.LOW, "o", True), ("as fitted, shattered", style.HIGH, "D", True))
    marks = [_mark(*look) for look in (*above, ("left out", style.LINE, "s", True))]
    panels[0, 0].legend(handles=marks, loc="upper left", fontsize=7.5, handlelength=1.2)
    marks = [_mark(*look) for look in LOOKS.values()]
    marks.append(Line2D([], [], color=style.MUTED, linewidth=1, linestyle=style.DASHES, label="equal"))
    figure.legend(handles=marks, loc="outside lower center", ncols=5, fontsize=8, handlelength=1.8)
    return figure


def _mark(words: str, colour: str, mark: str, filled: bool) -> Line2D:
    """For a legend."""
    face = colour if filled else "none"
    return Line2D([], [], linestyle="none", markersize=5, color=colour, marker=mark, markerfacecolor=face, label=words)


def _beside_own(axes: Axes, stored: Stored, s: int) -> None:
    own, gaussian = stored["own_mean"][s], stored["seen_mean"][s]
    for (of_own, of_gaussian), (_, colour, mark, filled) in LOOKS.items():
        chosen = (_shattered(stored, "own_small", s) == of_own) & (_shattered(stored, "small", s) == of_gaussian)
        axes.plot(
            own[chosen], gaussian[chosen], mark, color=colour, markersize=4.5, linestyle="none",
            markerfacecolor=colour if filled else "none",
        )  # fmt: skip
    ends = min(own.min(), gaussian.min()), max(own.max(), gaussian.max())
    axes.plot(ends, ends, color=style.MUTED, linewidth=1, linestyle=style.DASHES, zorder=0)
    axes.set_xlabel("mean of the class's own points as fitted (nats)")


def caption(stored: Stored) -> str:
    return (
        "Beyond the paper. As many points as each class has were drawn from one Gaussian with the mean and covariance "
        "of the class, and fitted as the classes are. A Gaussian has no clusters. Above: figure B.5 of these points "
        "(mean and standard deviation of the log-density of each class's points, sorted by the mean as fitted; orange "
        "diamonds: shattered ones; green squares: each point left out of its fit). "
        "Below: each class, its own points and those of its Gaussian. Shattered: more than half of the points are in "
        f"components of fewer points than dimensions. {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "Two groups above, as in figures 1 and B.5: what is there needs no structure within a class but its mean and "
        "covariance. Below, marks along the dashed line: the covariance decides which classes look dense. Marks far "
        "from it are classes whose density says something else."
    )


def finding(stored: Stored) -> str:
    return " ".join(_stage(stored, s) for s in range(len(stored["stages"])))


def _shattered(stored: Stored, name: str, s: int) -> np.ndarray:
    return stored[name][s] > SHATTERED


def _gap(stored: Stored, s: int) -> str:
    gaps = [
        f"{of} {float(stored[f'{kind}_gap'][s]):.1f} nats ({p_words(float(stored[f'{kind}_p'][s]))})"
        for kind, of in figure_b5.KINDS.items()
    ]
    return ", ".join(gaps)


def _stage(stored: Stored, s: int) -> str:
    own, gaussian = _shattered(stored, "own_small", s), _shattered(stored, "small", s)
    G, seen, left_out = len(own), stored["seen_mean"][s], stored["left_out_mean"][s]
    text = (
        f"At stage {stored['stages'][s]} the points of {gaussian.sum()} of {G} Gaussians are shattered, and the own "
        f"points of {own.sum()} classes; of {(own & gaussian).sum()} classes both are, of {(own == gaussian).sum()} "
        f"both or neither. Largest gap between sorted means of the Gaussians' points: {_gap(stored, s)}."
    )
    if gaussian.any() and not gaussian.all():
        (high, of_high), (low, of_low) = (
            (f"{style.nats(seen[which].mean())} as fitted, {style.nats(left_out[which].mean())} left out", which)
            for which in (gaussian, ~gaussian)
        )
        std = stored["seen_std"][s]
        text += (
            f" The shattered ones have a mean log-density of {high}, and a standard deviation as fitted of "
            f"{std[of_high].mean():.1f}; the others {low}, and {std[of_low].mean():.1f}."
        )
    between = scores.words(stored["between"][s])
    return f"{text} Rank correlation of a class's mean with that of its Gaussian: {between}."
