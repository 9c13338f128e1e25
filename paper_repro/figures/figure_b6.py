"""Figure B.6: figure 4 with as many dimensions at every stage, so that depth and dimension do not change together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from paper_repro.figures import figure_4, heading, style
from paper_repro.figures.by_stage import KINDS, lines
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

RANDOM = list(KINDS).index("random")
SHADE = "#eef2f7"
"""Where figure 4 has as many dimensions."""


def compute(cells: Sequence[Sequence[int]], **numbers: Any) -> dict[str, np.ndarray]:
    """As figure 4, in each cell.

    Args:
        cells: C pairs of a stage and a number of dimensions.
        numbers: what `figure_4.compute` takes beside stages, with cells in their place; the scale's dimensions are
            those of figure 4, by stage.

    Returns:
        As there, with cells in the place of stages; and cell_dimensions [C].
    """
    stages, D = zip(*cells, strict=True)
    return figure_4.compute(stages, **numbers) | {"cell_dimensions": np.array(D)}


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a kind and cell."""
    rows = figure_4.table(stored)
    return [
        {"dimensions": int(D)} | row
        for row, D in zip(rows, np.tile(stored["cell_dimensions"], len(KINDS)), strict=True)
    ]


@styled
def draw(stored: Stored) -> Figure:
    dimensions = _dimensions(stored)
    figure = style.canvas(heading("figure_b6"), stored, width=4.6 * len(dimensions), height=4.1)
    panels = figure.subplots(1, len(dimensions), squeeze=False)[0]
    first, last = stored["stages"].min() - 0.4, stored["stages"].max() + 0.4
    for axes, D in zip(panels, dimensions, strict=True):
        own = stored["cell_dimensions"] == D
        for stage in stored["stages"][own]:
            if _as_in_figure_4(stored, stage, D):
                axes.axvspan(stage - 0.4, stage + 0.4, color=SHADE, zorder=0)
        lines(axes, stored["stages"][own].tolist(), stored["mean"][:, own], stored["std"][:, own])
        axes.set_xlim(first, last)
        axes.set_ylim(bottom=0)
        at = ", ".join(str(stage) for stage in stored["stages"][own])
        axes.set_title(f"D = {D} at stage{'s' if own.sum() > 1 else ''} {at}", fontweight="normal", fontsize=9)
    panels[0].set_ylabel("KL between classes, mean ± std over pairs (nats)")
    shade = Patch(color=SHADE, linewidth=0, label="as many dimensions as in figure 4")
    kinds, _ = panels[0].get_legend_handles_labels()
    figure.legend(handles=[*kinds, shade], loc="outside lower center", ncols=len(KINDS) + 1, fontsize=8.5)
    return figure


def caption(stored: Stored) -> str:
    return (
        "Beyond the paper. Figure 4 again, with one number of leading singular vectors at every stage; a stage with "
        "fewer channels is left out. Each panel has a vertical scale of its own. Shaded: as many dimensions as in "
        "figure 4. KL divergence between the predictive densities of two classes, mean (mark) and standard deviation "
        f"(bar) over all ordered pairs of {figure_4.points_of_each_kind(stored)} {stored['networks']} {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    kept = ", ".join(map(str, stored["dimensions"].tolist()))
    return (
        f"Whether classes part between stages 2 and 3 here too. Figure 4 has {kept} dimensions at its stages, and a "
        "divergence grows with their number; only within a panel is growth that of the stages."
    )


def finding(stored: Stored) -> str:
    return " ".join(_panel(stored, D) for D in _dimensions(stored))


def _panel(stored: Stored, D: int) -> str:
    own = stored["cell_dimensions"] == D
    stages, mean = stored["stages"][own], stored["mean"][:, own]
    at = f"stage{'s' if len(stages) > 1 else ''} {', '.join(map(str, stages))}"
    text = f"With D = {D} at {at}: random points {', '.join(f'{value:.1f}' for value in mean[RANDOM])} nats"
    if len(stages) > 1:
        text += f", {figure_4.growth(mean[RANDOM], stages)}"
    order = ", ".join(list(KINDS.values())[k][0] for k in np.argsort(-mean[:, -1]))
    return f"{text}; from the largest at stage {stages[-1]}: {order}."


def _dimensions(stored: Stored) -> list[int]:
    return sorted(set(stored["cell_dimensions"].tolist()))


def _as_in_figure_4(stored: Stored, stage: int, D: int) -> bool:
    """Figure 4's stages are 1, 2, ..., in the order of its dimensions."""
    return bool(stored["dimensions"][stage - 1] == D)
