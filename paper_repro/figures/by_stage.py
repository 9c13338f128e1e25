"""What figures 4, A.11 and B.6 share: a line a kind of points (most memorized, random, least memorized) over stages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from paper_repro.figures import style
from paper_repro.figures.style import Stored

__all__ = ["KINDS", "lines", "of_converged"]

KINDS = {
    "most": ("most memorized", style.INK, "^"),
    "random": ("random", style.MUTED, "s"),
    "least": ("least memorized", "#cc79a7", "v"),
}
"""Words, colour and mark of each kind of points: not those of the two groups of classes, or of points left out."""


def of_converged(stored: Stored) -> Stored:
    """These numbers, of a figure that is the same under heldout, where the line under the title says so."""
    words = str(stored["subtitle"]).replace("protocol heldout", "protocol heldout (densities of converged)")
    return {**stored, "subtitle": np.array(words)}


def lines(axes: Axes, stages: Sequence[int], mean: np.ndarray, spread: np.ndarray) -> None:
    """A line a kind through mean [3, S], with bars of spread [3, S] to each side, side by side at each stage."""
    for k, (words, colour, marker) in enumerate(KINDS.values()):
        x = np.asarray(stages) + 0.07 * (k - 1)
        look: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 5.5,
            "linewidth": 1.4,
            "elinewidth": 1.2,
            "capsize": 2,
        }
        axes.errorbar(x, mean[k], yerr=spread[k], label=words, **look)
    axes.set_xticks(stages, [str(stage) for stage in stages])
    axes.set_xlabel("stage")
