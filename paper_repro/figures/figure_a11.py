"""Figure A.11: generative classification by stage, for memorized and typical points."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from paper_repro.density_bins import weighted_f1
from paper_repro.figures import heading, scores, style
from paper_repro.figures.by_stage import KINDS, lines, of_converged
from paper_repro.figures.style import Stored, styled
from paper_repro.statistics import share_error

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

N_BOOTSTRAP = 200


def compute(
    stages: Sequence[int],
    predicted: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    memorization: Mapping[str, np.ndarray],
    n_fitted: int,
    scale: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """F1 by kind of points and stage.

    Args:
        stages: S.
        predicted: by kind (most, random, least), [S, n] classes.
        labels: by kind, [n] true classes.
        memorization: by kind, [n] scores.
        n_fitted: points that the densities are fitted to.
        scale: what a caption says: n_trials (0: scores were given), and a sentence on the networks that the scores
            come from.

    Returns:
        stages [S]; f1, error [3, S], the error being the standard deviation over resampled points, and at least that
        of the share that is right: where all points are right, resampling leaves none.
    """
    rng = np.random.default_rng(0)
    f1, error = np.empty((3, len(stages))), np.empty((3, len(stages)))
    for k, kind in enumerate(KINDS):
        again = rng.integers(len(labels[kind]), size=(N_BOOTSTRAP, len(labels[kind])))
        for s in range(len(stages)):
            f1[k, s] = weighted_f1(labels[kind], predicted[kind][s])
            error[k, s] = np.std([weighted_f1(labels[kind][rows], predicted[kind][s][rows]) for rows in again])
        right = (predicted[kind] == labels[kind]).mean(1)
        error[k] = np.maximum(error[k], share_error(right, np.array(len(labels[kind]))))
    of_kind = [memorization[kind] for kind in KINDS]
    return {
        "stages": np.array(stages),
        "f1": f1,
        "error": error,
        "n_points": np.array([len(part) for part in of_kind]),
        "lowest_score": np.array([part.min() for part in of_kind]),
        "highest_score": np.array([part.max() for part in of_kind]),
        "n_fitted": np.array(n_fitted),
        **{name: np.array(value) for name, value in scale.items()},
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a kind and stage."""
    return [
        {
            "points": words,
            "stage": int(stage),
            "f1": float(stored["f1"][k, s]),
            "standard_error": float(stored["error"][k, s]),
            "n_points": int(stored["n_points"][k]),
        }
        for k, (words, _, _) in enumerate(KINDS.values())
        for s, stage in enumerate(stored["stages"])
    ]


@styled
def draw(stored: Stored) -> Figure:
    figure = style.canvas(heading("figure_a11"), of_converged(stored), width=6.4, height=4.0)
    axes = figure.subplots()
    lines(axes, stored["stages"].tolist(), stored["f1"], stored["error"])
    axes.set_ylabel("F1 of generative classification")
    n = int(stored["n_points"][0])
    in_the_paper = "as in the paper" if n == 1000 else "the paper: 1,000"
    axes.set_title(f"{n:,} points of each kind ({in_the_paper})", fontweight="normal", fontsize=9)
    axes.legend(loc="lower right", fontsize=8.5)
    return figure


def caption(stored: Stored) -> str:
    ranges = "; ".join(
        f"{words}, {lowest:.2f} to {highest:.2f}"
        for (words, _, _), lowest, highest in zip(
            KINDS.values(), stored["lowest_score"], stored["highest_score"], strict=True
        )
    )
    return (
        "Each point is given the class with the largest density times prior. The densities are fitted to the other "
        f"{int(stored['n_fitted']):,} training points; held out of the fit, though not of the network's training, are "
        f"the {int(stored['n_points'][0]):,} most memorized points, of the others as many with memorization nearest to "
        "0, and of those that are left as many at random (the paper: 1,000 each). F1 is averaged over classes by "
        f"their number of points; bars are one standard deviation over {N_BOOTSTRAP} resamplings of the points, and at "
        f"least the standard error of the share classified rightly. Scores ({scores.origin(stored)}): {ranges}. "
        f"{scores.EXTREMES} {stored['networks']} {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "In the paper F1 rises from stage to stage, latest for the most memorized points, whose labels appear only "
        "deep in the network; the least memorized are ahead of random ones throughout."
    )


def finding(stored: Stored) -> str:
    parts = [
        f"{words}: {', '.join(f'{value:.2f}' for value in stored['f1'][k])}"
        for k, (words, _, _) in enumerate(KINDS.values())
    ]
    stages = ", ".join(str(stage) for stage in stored["stages"])
    return f"F1 at stages {stages}: {'; '.join(parts)}."
