"""Figure B.4: is a class "high-density", or is it a state of the sampler? Controls of figure 1, beyond the paper."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from paper_repro.controls import PAPER, VARIANTS
from paper_repro.figures import FIGURES, style
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import rank_correlation, resampled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

SHATTERED = 0.5
"""Share of points in components of fewer points than dimensions, above which a class is called shattered."""


def compute(
    fits: Mapping[str, np.ndarray], class_names: Sequence[str], memorization: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Fits by cell (stage and dimensions), share of points that were fitted, and seed; and by variant.

    Args:
        fits: as the step `controls` stores them: stage, D, seed, share, variant [F]; mean_in, std_in, mean_out,
            log_joint (nats), n_components, small_share [F, G].
        class_names: G names.
        memorization: [G] mean memorization of each class, if known.

    Returns:
        class_names; cells [C, 2] (stage, D) and by cell, whole or four fifths of the points, seed and class:
        shattered [C, 2, S, G] bool, mean_in, std_in, mean_out, log_joint, n_components [C, 2, S, G]; variants [V] and
        by variant: variant_seeds [V], variant_shattered, variant_mean_in [V] (mean over seeds of the number of
        shattered classes, and over fits of the log-density); memorization [G], or empty.
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
    found = {name: fits[name][rows] for name in ("mean_in", "std_in", "mean_out", "log_joint", "n_components")}
    shattered = fits["small_share"] > SHATTERED
    variants = [name for name in VARIANTS if name in fits["variant"]]
    at = (fits["stage"] == cells[-1][0]) & (fits["D"] == cells[-1][1]) & (fits["share"] == shares[0])
    of_variant = [at & (fits["variant"] == name) for name in variants]
    n_variant_seeds = min(int(own.sum()) for own in of_variant)
    # The same seeds for every variant.
    of_variant = [own & (fits["seed"] < n_variant_seeds) for own in of_variant]
    return found | {
        "class_names": np.array(class_names),
        "cells": np.array(cells),
        "fitted_shares": np.array(shares),
        "shattered": shattered[rows],
        "variants": np.array(variants),
        "variant_seeds": np.array(n_variant_seeds),
        "variant_shattered": np.array([shattered[own].sum(1).mean() for own in of_variant]),
        "variant_mean_in": np.array([fits["mean_in"][own].mean() for own in of_variant]),
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
                    for key in ("log_joint", "mean_in", "std_in", "mean_out", "n_components"):
                        values = stored[key][c, p, chosen, g]
                        unit = "" if key == "n_components" else "_nats"
                        row[f"{state}_{key}{unit}"] = float(values.mean()) if len(values) else float("nan")
                rows.append(row)
    return rows


@styled
def draw(stored: Stored) -> Figure:
    seen = _cells_that_shatter(stored)
    figure = style.canvas(f"Figure B.4 · {FIGURES['figure_b4']}", stored, width=9.2, height=8.6)
    heights = [0.34 * len(stored["cells"]) + 0.9, 3.1, 3.0]
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=heights, squeeze=False)[:, 0]
    _tendencies(top.subplots(), stored)
    panels = middle.subplots(1, len(seen), squeeze=False)[0]
    for axes, c in zip(panels, seen, strict=True):
        _in_and_out(axes, stored, c)
    panels[0].set_ylabel("log-density of held-out points (nats)")
    known = len(stored["memorization"]) > 0
    panels = bottom.subplots(1, 2 if known else 1, squeeze=False, width_ratios=[1.25, 1] if known else [1])[0]
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
        f"dimensions. All fits are of the paper's protocol. Top: share of {S} seeds in which each class is shattered, "
        "fitted to all its points; classes in the order of the last row. Middle: mean log-density of each class and "
        "seed, fitted to four fifths of its points, on those points and on the others, which the fit never saw "
        f"({where}); orange diamonds are shattered, the line is where both are equal. Bottom: number of classes that "
        f"are shattered at stage {cells[-1][0]} with D = {cells[-1][1]} under other samplers and priors ("
        + ("1 seed" if V == 1 else f"mean over {V} seeds")
        + ")"
        + (
            "; and how often each class is shattered over all seeds of that cell, fitted to all points or to four "
            "fifths, against its published mean memorization. "
            if known
            else ". "
        )
        + str(stored["note"])
    )


def look_for(stored: Stored) -> str:
    return (
        "If being high-density belonged to the class, the same classes would be orange at every seed, at the same "
        "stages in 16 as in 64 dimensions, under the exact sampler and nearby priors, and new points of those classes "
        "would be dense as well. If it is a state of the sampler, the seed decides, it comes with the dimension, and "
        "in-sample density is paid for with held-out density."
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
    text = "By seed, " + "; ".join(sentences) + ". "
    if len(sentences) < len(stored["cells"]):
        text += "In the other cells no class is shattered. "
    c = _cells_that_shatter(stored)[-1]
    stage, D = stored["cells"][c].tolist()
    shattered = stored["shattered"][c]
    for p, words in ((0, "all points"), (1, "four fifths of the points")):
        ever = int(shattered[p].any(0).sum())
        if ever:
            always, S = int(shattered[p].all(0).sum()), shattered.shape[1]
            text += (
                f"At stage {stage}, D = {D}, fitted to {words}, {ever} classes are shattered with some seed and "
                f"{always} with all {S}{_overlap(shattered[p])}. "
            )
    for c in _cells_that_shatter(stored):
        text += _held_out(stored, c)
    most = int(np.argmax(stored["variant_shattered"]))
    text += (
        f"Under other samplers and priors between {stored['variant_shattered'].min():.3g} and "
        f"{stored['variant_shattered'].max():.3g} classes are shattered, most with {stored['variants'][most]}. "
    )
    if len(stored["memorization"]):
        tendency = _tendency(stored, -1)
        value, low, high = resampled(G, lambda rows: rank_correlation(tendency[rows], stored["memorization"][rows]))
        if np.isfinite(value):
            text += (
                "Rank correlation of a class's tendency to shatter with its published mean memorization: "
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


def _cells_that_shatter(stored: Stored) -> list[int]:
    """Cells in which some fit is shattered; the last one if none is."""
    found = np.flatnonzero(stored["shattered"].any((1, 2, 3))).tolist()
    return found[-3:] or [len(stored["cells"]) - 1]


def _tendency(stored: Stored, c: int) -> np.ndarray:
    """[G] share of a cell's fits in which each class is shattered."""
    return stored["shattered"][c].mean((0, 1))


def _tendencies(axes: Axes, stored: Stored) -> None:
    share = stored["shattered"][:, 0].mean(1)  # [C, G]
    order = np.lexsort([*share, share[-1]])
    colours = LinearSegmentedColormap.from_list("shattered", [style.GRID, style.HIGH])
    shown = axes.imshow(share[:, order], aspect="auto", cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks(range(len(share)), [f"stage {stage}, D = {D}" for stage, D in stored["cells"].tolist()])
    axes.grid(False)
    axes.tick_params(length=0)
    style.class_axis(axes, [str(name) for name in stored["class_names"][order]])
    axes.set_xlabel("class, in the order of the last row")
    axes.set_title("Share of seeds in which a class is shattered")
    axes.figure.colorbar(shown, ax=axes, pad=0.01, aspect=12)


def _in_and_out(axes: Axes, stored: Stored, c: int) -> None:
    state = stored["shattered"][c, 1].ravel()
    inside, out = stored["mean_in"][c, 1].ravel(), stored["mean_out"][c, 1].ravel()
    for high, colour in ((False, style.LOW), (True, style.HIGH)):
        chosen = state == high
        words = "shattered" if high else "collapsed"
        label = f"{words} ({int(chosen.sum())} fits)"
        axes.plot(inside[chosen], out[chosen], style.MARKERS[high], color=colour, markersize=3, alpha=0.6, label=label)
    ends = np.array([min(inside.min(), out.min()), max(inside.max(), out.max())])
    axes.plot(ends, ends, color=style.INK, linewidth=1, linestyle=style.DASHES, zorder=1)
    axes.set_xlabel("log-density of fitted points (nats)")
    stage, D = stored["cells"][c].tolist()
    axes.set_title(f"Stage {stage}, D = {D}")
    axes.legend(loc="best", fontsize=7.5, handletextpad=0.2)


def _variants(axes: Axes, stored: Stored) -> None:
    numbers = stored["variant_shattered"]
    places = np.arange(len(numbers))[::-1]
    axes.barh(places, numbers, color=style.HIGH, height=0.6)
    for place, number in zip(places, numbers, strict=True):
        axes.annotate(f"{number:.3g}", (number, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, [str(name) for name in stored["variants"]])
    axes.set_xlim(0, max(1.0, float(numbers.max())) * 1.12)
    axes.grid(False)
    axes.tick_params(length=0)
    stage, D = stored["cells"][-1].tolist()
    axes.set_xlabel(f"shattered classes of {len(stored['class_names'])}, stage {stage}, D = {D}")
    axes.set_title("Other samplers and priors")


def _memorization(axes: Axes, stored: Stored) -> None:
    axes.plot(stored["memorization"], _tendency(stored, -1), "o", color=style.LINE, markersize=4, alpha=0.7)
    axes.set(xlabel="published mean memorization of the class", ylabel="share of fits that shatter it")
    axes.set_ylim(-0.05, 1.05)
    axes.set_title("Shattering and memorization")
