"""Figure 4: KL divergence between class densities by stage, for memorized and typical points."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from paper_repro.figures import heading, scores, style
from paper_repro.figures.by_stage import KINDS, lines, of_converged
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "growth", "look_for", "points_of_each_kind", "table"]

OF_PAPER = 100
"""Points of each kind that a class has to have."""


def compute(
    stages: Sequence[int],
    divergence: Mapping[str, np.ndarray],
    standard_error: Mapping[str, np.ndarray],
    memorization: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    n_classes: int,
    least_points: int,
    scale: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Mean and standard deviation over pairs of classes.

    Args:
        stages: S.
        divergence: by kind (most, random, least), [S, G, G] in nats: KL(p_row || p_column), fitted to that kind only.
        standard_error: likewise, by Monte Carlo.
        memorization: by kind, the scores of its points.
        class_names: of the G classes that have enough points of every kind.
        n_classes: of the dataset.
        least_points: what is enough.
        scale: what a caption says: threshold (nan if the most memorized are chosen by number), n_trials (0: scores
            were given), dimensions, and a sentence on the networks that the scores come from.

    Returns:
        stages [S]; divergence [3, S, G, G], in the order most, random, least; mean, std, error [3, S] over ordered
        pairs; class_names [G]; and for each kind its number of points and the range of their scores.
    """
    pairs = ~np.eye(len(class_names), dtype=bool)
    values = np.stack([divergence[kind][:, pairs] for kind in KINDS])
    errors = np.stack([standard_error[kind][:, pairs] for kind in KINDS])
    of_kind = [memorization[kind] for kind in KINDS]
    return {
        "stages": np.array(stages),
        "divergence": np.stack([divergence[kind] for kind in KINDS]),
        "mean": values.mean(-1),
        "std": values.std(-1),
        "error": errors.max(-1),
        "class_names": np.array(class_names),
        "n_classes": np.array(n_classes),
        "least_points": np.array(least_points),
        "n_points": np.array([len(part) for part in of_kind]),
        "lowest_score": np.array([part.min() for part in of_kind]),
        "mean_score": np.array([part.mean() for part in of_kind]),
        "highest_score": np.array([part.max() for part in of_kind]),
        **{name: np.array(value) for name, value in scale.items()},
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a kind and stage."""
    return [
        {
            "points": words,
            "stage": int(stage),
            "mean_kl_nats": float(stored["mean"][k, s]),
            "std_over_pairs_nats": float(stored["std"][k, s]),
            "largest_monte_carlo_standard_error_nats": float(stored["error"][k, s]),
            "n_points": int(stored["n_points"][k]),
            "mean_memorization": float(stored["mean_score"][k]),
        }
        for k, (words, _, _) in enumerate(KINDS.values())
        for s, stage in enumerate(stored["stages"])
    ]


@styled
def draw(stored: Stored) -> Figure:
    figure = style.canvas(heading("figure_4"), of_converged(stored), width=6.4, height=4.0)
    axes = figure.subplots()
    lines(axes, stored["stages"].tolist(), stored["mean"], stored["std"])
    axes.set_ylabel("KL between classes, mean ± std over pairs (nats)")
    chosen = f"{len(stored['class_names'])} classes with at least {int(stored['least_points'])} points of each kind"
    axes.set_title(f"{chosen} ({_in_the_paper(stored)})", fontweight="normal", fontsize=9)
    axes.legend(loc="upper left", fontsize=8.5)
    return figure


def caption(stored: Stored) -> str:
    return (
        "KL divergence between the predictive densities of two classes, mean (mark) and standard deviation (bar) over "
        f"all ordered pairs of {points_of_each_kind(stored)} Stages differ in dimension ("
        f"{', '.join(map(str, stored['dimensions'].tolist()))}). {stored['networks']} {stored['note']}"
    )


def growth(mean: np.ndarray, stages: np.ndarray) -> str:
    """Between which stages [S] the divergence [S] grows most, in words."""
    steps = np.diff(mean)
    s = int(np.argmax(steps))
    return f"the largest growth from {stages[s]} to {stages[s + 1]}" if steps[s] > 0 else "without growth"


def points_of_each_kind(stored: Stored) -> str:
    """Which classes and points the divergences are of: the sentences that follow "pairs of"."""
    threshold = float(stored["threshold"])
    chosen = (
        "the most memorized points are a fixed number (the paper: scores above 0.9)"
        if np.isnan(threshold)
        else f"the most memorized points have scores above {threshold:g}"
    )
    ranges = "; ".join(
        f"{words}, {n} points, {lowest:.2f} to {highest:.2f}"
        for (words, _, _), n, lowest, highest in zip(
            KINDS.values(), stored["n_points"], stored["lowest_score"], stored["highest_score"], strict=True
        )
    )
    return (
        f"{len(stored['class_names'])} of {int(stored['n_classes'])} classes: those with at least "
        f"{int(stored['least_points'])} points of each kind ({_in_the_paper(stored)}). Densities are fitted to the "
        f"points of one kind only; {chosen}, and there are as many of the other kinds before classes are left out. "
        f"Scores, {scores.origin(stored)}: {ranges}. {scores.EXTREMES}"
    )


def _in_the_paper(stored: Stored) -> str:
    return f"{OF_PAPER} in the paper, too" if int(stored["least_points"]) == OF_PAPER else f"the paper: {OF_PAPER}"


def look_for(stored: Stored) -> str:
    return (
        "In the paper the divergence grows mostly between stages 2 and 3, and is largest for the least memorized "
        "points and smallest for the most memorized. There the dimension changes from 16 to 64 as well."
    )


def finding(stored: Stored) -> str:
    mean, stages = stored["mean"], stored["stages"]
    words = []
    for k, (kind, _, _) in enumerate(KINDS.values()):
        words.append(
            f"{kind}: {mean[k, 0]:.1f} nats at stage {stages[0]}, {mean[k, -1]:.1f} at stage {stages[-1]}, "
            f"{growth(mean[k], stages)}"
        )
    order = ", ".join(list(KINDS.values())[k][0] for k in np.argsort(-mean[:, -1]))
    error = float(stored["error"].max())
    return (
        f"{'; '.join(words).capitalize()}. From the largest at the last stage: {order}. Monte Carlo errors of a pair "
        f"are at most {error:.2g} nats."
    )
