"""Figure B.4: is a class "high-density", or is it a state of the sampler? Controls of figure 1, beyond the paper."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap
from matplotlib.figure import Figure

from paper_repro.chains import SHATTERED
from paper_repro.controls import EXACT, PAPER, STATISTICS, VARIANTS
from paper_repro.figures import heading, style
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import rank_correlation_interval

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]


def compute(
    fits: Mapping[str, np.ndarray], class_names: Sequence[str], memorization: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Fits by cell (stage and dimensions), share of points that were fitted, and seed; and by variant.

    Args:
        fits: as the step `controls` stores them: stage, D, seed, share, variant [F]; its `STATISTICS` [F, G].
        class_names: G names.
        memorization: [G] mean memorization of each class, if known.

    Returns:
        class_names; cells [C, 2] (stage, D) and by cell, whole or four fifths of the points, seed and class:
        shattered [C, 2, S, G] bool, the other statistics [C, 2, S, G]; variants [V] and by cell with variants [U, 2]
        (variant_cells) and variant: variant_seeds (of each), variant_shattered [U, V] (mean over seeds of the number of
        shattered classes), variant_log_joint [U, V, G] (mean over seeds, nats); memorization [G], or empty.
    """
    main = fits["variant"] == PAPER
    by_dimension = sorted(set(zip(fits["D"][main].tolist(), fits["stage"][main].tolist(), strict=True)))
    cells = [(stage, D) for D, stage in by_dimension]
    shares = sorted(set(fits["share"][main].tolist()), reverse=True)
    seeds = sorted(set(fits["seed"][main].tolist()))
    rows = np.array(
        [
            [
                [
                    np.flatnonzero(
                        main
                        & (fits["stage"] == stage)
                        & (fits["D"] == D)
                        & (fits["share"] == share)
                        & (fits["seed"] == s)
                    )[0]
                    for s in seeds
                ]
                for share in shares
            ]
            for stage, D in cells
        ]
    )
    found = {name: fits[name][rows] for name in STATISTICS if name != "small_share"}
    shattered = fits["small_share"] > SHATTERED
    variants = [name for name in VARIANTS if name in fits["variant"]]
    n_variant_seeds = 1 + int(fits["seed"][~main].max())
    with_variants = [(stage, D) for stage, D in cells if (~main & (fits["stage"] == stage) & (fits["D"] == D)).any()]
    # The same seeds for every variant.
    compared = (fits["share"] == shares[0]) & (fits["seed"] < n_variant_seeds)
    of_variant = [
        [compared & (fits["stage"] == stage) & (fits["D"] == D) & (fits["variant"] == name) for name in variants]
        for stage, D in with_variants
    ]
    return found | {
        "class_names": np.array(class_names),
        "cells": np.array(cells),
        "fitted_shares": np.array(shares),
        "shattered": shattered[rows],
        "variants": np.array(variants),
        "variant_seeds": np.array(n_variant_seeds),
        "variant_cells": np.array(with_variants),
        "variant_shattered": np.array([[shattered[own].sum(1).mean() for own in cell] for cell in of_variant]),
        "variant_log_joint": np.array([[fits["log_joint"][own].mean(0) for own in cell] for cell in of_variant]),
        "memorization": np.empty(0) if memorization is None else np.asarray(memorization, dtype=np.float64),
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a cell, share of fitted points and class: both states side by side; nan for a state without a fit."""
    rows = []
    for c, (stage, D) in enumerate(stored["cells"].tolist()):
        for p, share in enumerate(stored["fitted_shares"].tolist()):
            for g, name in enumerate(stored["class_names"]):
                states = stored["shattered"][c, p, :, g]
                row: dict[str, Any] = {
                    "stage": stage,
                    "dimensions": D,
                    "share_of_points_fitted": share,
                    "class": str(name),
                    "n_seeds": len(states),
                    "n_shattered": int(states.sum()),
                }
                for state, chosen in (("shattered", states), ("collapsed", ~states)):
                    for key in ("log_joint", "mean_in", "std_in", "mean_out", "mean_left_out", "n_components"):
                        values = stored[key][c, p, chosen, g]
                        unit = "" if key == "n_components" else "_nats"
                        row[f"{state}_{key}{unit}"] = float(values.mean()) if len(values) else float("nan")
                rows.append(row)
    return rows


@styled
def draw(stored: Stored) -> Figure:
    seen = _cells_that_shatter(stored)
    figure = style.canvas(heading("figure_b4"), stored, width=9.2, height=8.6)
    heights = [0.34 * len(stored["cells"]) + 0.9, 3.1, 3.0]
    grid = figure.add_gridspec(3, 1, height_ratios=heights)
    _tendencies(figure.add_subplot(grid[0]), stored)
    panels = grid[1].subgridspec(1, len(seen)).subplots(squeeze=False)[0]
    for axes, c in zip(panels, seen, strict=True):
        _in_and_out(axes, stored, c)
    panels[0].set_ylabel("log-density of held-out points (nats)")
    known = len(stored["memorization"]) > 0
    panels = grid[2].subgridspec(1, 1 + known, width_ratios=[1.25, 1][: 1 + known]).subplots(squeeze=False)[0]
    _variants(panels[0], stored)
    if known:
        _memorization(panels[1], stored)
    return figure


def caption(stored: Stored) -> str:
    S, cells = stored["shattered"].shape[2], stored["cells"].tolist()
    known = len(stored["memorization"]) > 0
    where = ", ".join(f"stage {cells[c][0]} with D = {cells[c][1]}" for c in _cells_that_shatter(stored))
    V = int(stored["variant_seeds"])
    return (
        "A class is called shattered in a fit if more than half of its points lie in components of fewer points than "
        "dimensions. All fits are of the paper's protocol, but with seeds of their own, the bar of the paper's sampler "
        "too: which classes are shattered, and how many, need not be as in figure 1. "
        f"Top: with how many of {S} seeds each class is shattered, fitted to all its points; classes are sorted by "
        "the last row, those that are alike in it by the row above, and so on. Middle: mean log-density of each class "
        "and seed, fitted to four fifths of its points, on those points and on the others, which the fit never saw "
        f"({where}); orange diamonds are shattered, the line is where both are equal. Bottom: number of classes that "
        "are shattered under other samplers and priors ("
        + ("1 seed" if V == 1 else f"mean over {V} seeds")
        + ")"
        + (
            f"; and how often each class is shattered at stage {cells[_most_shattered(stored)][0]} over all seeds, "
            "fitted to all points or to four fifths, against its published mean memorization. "
            if known
            else ". "
        )
        + str(stored["note"])
    )


def look_for(stored: Stored) -> str:
    return (
        "If being high-density belonged to the class, the same classes would be orange at every seed, at the same "
        "stages in 16 as in 64 dimensions, under the exact sampler and nearby priors, and new points of those classes"
        " (new to the densities: the network was trained on them) would be dense as well. If it is a state of the "
        "sampler, the seed decides, it comes with the dimension, and in-sample density is paid for with held-out "
        "density."
    )


def finding(stored: Stored) -> str:
    sentences = []
    G = len(stored["class_names"])
    for c, (stage, D) in enumerate(stored["cells"].tolist()):
        numbers = [stored["shattered"][c, p].sum(1) for p in range(2)]
        if any(n.any() for n in numbers):
            whole, part = (_range(n) for n in numbers)
            sentences.append(
                f"stage {stage}, D = {D}: {whole} of {G} classes shattered, {part} with four fifths of the points"
            )
    if not sentences:
        return "No class is shattered in any fit."
    text = "By seed (others than figure 1's), " + "; ".join(sentences) + ". "
    if len(sentences) < len(stored["cells"]):
        text += "In the other cells no class is shattered. "
    c = _most_shattered(stored)
    stage, D = stored["cells"][c].tolist()
    shattered, cell_stage = stored["shattered"][c], stage
    for p, words in ((0, "all points"), (1, "four fifths of the points")):
        ever = int(shattered[p].any(0).sum())
        if ever:
            always, S = int(shattered[p].all(0).sum()), shattered.shape[1]
            text += (
                f"At stage {stage}, D = {D}, fitted to {words}, {ever} classes are shattered with some of these seeds "
                f"and {always} with all {S}{_overlap(shattered[p])}. "
            )
    for cell in _cells_that_shatter(stored):
        text += _held_out(stored, cell) + _left_out(stored, cell)
    text += _exact(stored)
    for (stage, D), numbers in zip(stored["variant_cells"].tolist(), stored["variant_shattered"], strict=True):
        others = {str(name): n for name, n in zip(stored["variants"], numbers, strict=True) if name != PAPER}
        most = max(others, key=lambda name: others[name])
        text += (
            f"At stage {stage}, D = {D}, other samplers and priors shatter between {min(others.values()):.3g} and "
            f"{others[most]:.3g} classes{f', most with {most}' if others[most] else ''}. "
        )
    if len(stored["memorization"]):
        tendency = _tendency(stored, c)
        value, low, high = rank_correlation_interval(tendency, stored["memorization"])
        if np.isfinite(value):
            text += (
                f"Rank correlation of a class's tendency to shatter at stage {cell_stage} with its published mean "
                "memorization: "
                f"{style.signed(value)} (95% interval {style.signed(low)} to {style.signed(high)})."
            )
    return text.strip()


def _range(numbers: np.ndarray) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"


def _overlap(shattered: np.ndarray) -> str:
    """Of [S, G] bool: how alike the sets of two seeds are, in words; nothing if there is a single seed."""
    shares = [float((a & b).sum() / (a | b).sum()) for a, b in combinations(shattered, 2) if (a | b).any()]
    return f" (two seeds share {np.mean(shares):.0%} of the classes that either shatters)" if shares else ""


def _held_out(stored: Stored, c: int) -> str:
    """Means over the fits of each state, on points that they saw and did not see."""
    state, inside, out = stored["shattered"][c, 1], stored["mean_in"][c, 1], stored["mean_out"][c, 1]
    if not state.any() or state.all():
        return ""
    stage, D = stored["cells"][c].tolist()
    # Classes with both states compare like with like.
    both = state.any(0) & ~state.all(0)
    text = (
        f"At stage {stage}, D = {D}, shattered fits have a mean log-density of {inside[state].mean():.1f} nats on "
        f"points that they saw and {out[state].mean():.1f} on others; collapsed fits {inside[~state].mean():.1f} and "
        f"{out[~state].mean():.1f}. "
    )
    if both.any():
        gaps = [out[state[:, g], g].mean() - out[~state[:, g], g].mean() for g in np.flatnonzero(both)]
        worse = int(np.sum(np.array(gaps) < 0))
        text += (
            f"Of {len(gaps)} classes with seeds of both kinds the shattered fits are worse on new points in {worse}, "
            f"by {-np.mean(gaps):.1f} nats on average. "
        ).replace("by -", "by −")
    return text


def _left_out(stored: Stored, c: int) -> str:
    """How far the estimate of figure B.5, from the points that were fitted, is from points that were not."""
    state = stored["shattered"][c, 1]
    error = stored["mean_left_out"][c, 1] - stored["mean_out"][c, 1]
    parts = []
    for words, fits in (("collapsed", ~state), ("shattered", state)):
        of_class = np.array([error[own, g].mean() for g, own in enumerate(fits.T) if own.any()])
        if len(of_class) > 1:
            spread = of_class.std(ddof=1) / np.sqrt(len(of_class))
            parts.append(f"{style.signed(of_class.mean(), 1)} ± {spread:.1f} nats in {words} fits")
    if not parts:
        return ""
    return (
        "Points left out as in figure B.5, by the same fits, differ from these others by "
        f"{' and '.join(parts)} (mean and standard error over classes). "
    )


def _exact(stored: Stored) -> str:
    """Whether the paper's blocks end where exact samplers of the same posterior do."""
    text, names = "", stored["variants"].tolist()
    for (stage, D), found in zip(stored["variant_cells"].tolist(), stored["variant_log_joint"], strict=True):
        for name in EXACT:
            gain = found[names.index(name)] - found[names.index(PAPER)]
            text += (
                f"At stage {stage}, D = {D}, with {name}, chains end at a higher log joint than the paper's in "
                f"{int((gain > 0).sum())} of {len(gain)} classes, by {style.signed(np.median(gain), 1)} nats in the "
                f"median and between {style.signed(gain.min(), 0)} and {style.signed(gain.max(), 0)}. "
            )
    return text


def _cells_that_shatter(stored: Stored) -> list[int]:
    """Cells in which some fit is shattered; the last one if none is."""
    found = np.flatnonzero(stored["shattered"].any((1, 2, 3))).tolist()
    return found[-3:] or [len(stored["cells"]) - 1]


def _most_shattered(stored: Stored) -> int:
    """Of the last two cells that in which more fits are shattered."""
    C = len(stored["cells"])
    return max(range(max(0, C - 2), C), key=lambda c: float(_tendency(stored, c).sum()))


def _tendency(stored: Stored, c: int) -> np.ndarray:
    """[G] share of a cell's fits in which each class is shattered."""
    return stored["shattered"][c].mean((0, 1))


def _tendencies(axes: Axes, stored: Stored) -> None:
    count, S = stored["shattered"][:, 0].sum(1), stored["shattered"].shape[2]  # [C, G]
    order = np.lexsort([*count, count[-1]])
    # One colour a number of seeds. A mesh, not an image: the SVG stays a drawing. Rows go down.
    colours = LinearSegmentedColormap.from_list("shattered", [style.GRID, style.HIGH], N=S + 1)
    norm = BoundaryNorm(np.arange(S + 2) - 0.5, S + 1)
    edges = (np.arange(n + 1) - 0.5 for n in (len(order), len(count)))
    shown = axes.pcolormesh(*edges, count[:, order], cmap=colours, norm=norm, edgecolors="face", linewidth=0.1)
    axes.set_ylim(len(count) - 0.5, -0.5)
    axes.set_yticks(range(len(count)), [f"stage {stage}, D = {D}" for stage, D in stored["cells"].tolist()])
    axes.grid(False)
    axes.tick_params(length=0)
    style.class_axis(axes, [str(name) for name in stored["class_names"][order]])
    axes.set_xlabel("class, sorted by the last row, then by those above it")
    axes.set_title("Number of seeds (others than figure 1's) with which a class is shattered")
    ticks = np.unique(np.linspace(0, S, min(S, 5) + 1).round().astype(int))
    key = axes.figure.colorbar(shown, ax=axes, pad=0.01, aspect=12, ticks=ticks)
    key.set_ticklabels([f"{n} of {S}" for n in ticks])
    key.minorticks_off()
    key.ax.tick_params(length=0)


def _in_and_out(axes: Axes, stored: Stored, c: int) -> None:
    state = stored["shattered"][c, 1].ravel()
    inside, out = stored["mean_in"][c, 1].ravel(), stored["mean_out"][c, 1].ravel()
    for high, colour in ((False, style.LOW), (True, style.HIGH)):
        chosen = state == high
        words = "shattered" if high else "collapsed"
        label = f"{words} ({int(chosen.sum())} fits)"
        axes.plot(inside[chosen], out[chosen], style.MARKERS[high], color=colour, markersize=3, alpha=0.6, label=label)
    ends = np.array([min(inside.min(), out.min()), max(inside.max(), out.max())])
    axes.plot(ends, ends, color=style.INK, linewidth=1, linestyle=style.DASHES, zorder=1, label="equal")
    axes.set_xlabel("log-density of fitted points (nats)")
    stage, D = stored["cells"][c].tolist()
    axes.set_title(f"Stage {stage}, D = {D}")
    axes.legend(loc="best", fontsize=7.5, handletextpad=0.2)


def _variants(axes: Axes, stored: Stored) -> None:
    every, U = stored["variant_shattered"], len(stored["variant_cells"])
    places, height = np.arange(every.shape[1])[::-1], 0.76 / U
    for u, ((stage, D), numbers) in enumerate(zip(stored["variant_cells"].tolist(), every, strict=True)):
        at = places + height * ((U - 1) / 2 - u)
        colour = style.HIGH if u == U - 1 else style.LINE
        axes.barh(at, numbers, color=colour, height=0.9 * height, label=f"stage {stage}, D = {D}")
        for place, number in zip(at, numbers, strict=True):
            axes.annotate(f"{number:.3g}", (number, place), (3, 0), textcoords="offset points", va="center", fontsize=7)
    names = {PAPER: "the paper's sampler,\nother seeds than figure 1's"}
    axes.set_yticks(places, [names.get(str(name), str(name)) for name in stored["variants"]])
    axes.set_xlim(0, max(1.0, float(every.max())) * 1.5)  # room for the key
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_xlabel(f"shattered classes of {len(stored['class_names'])}")
    axes.set_title("Other samplers and priors")
    axes.legend(fontsize=7.5, loc="lower right")


def _memorization(axes: Axes, stored: Stored) -> None:
    c = _most_shattered(stored)
    axes.plot(stored["memorization"], _tendency(stored, c), "o", color=style.LOW, markersize=4, alpha=0.7)
    axes.set(
        xlabel="published mean memorization of the class",
        ylabel=f"share of fits shattered, stage {stored['cells'][c][0]}",
    )
    axes.set_ylim(-0.05, 1.05)
    axes.set_title("Shattering and memorization")
