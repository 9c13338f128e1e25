"""Figure A.9: figure A.7 for every block of a Vision Transformer, read as its class token."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from paper_repro.figures import FIGURES, class_density
from paper_repro.figures.class_density import describe_gap, largest_gaps, table
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]


def compute(
    log_density: Mapping[int, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    dimensions: Mapping[int, int],
    network: str,
) -> dict[str, np.ndarray]:
    """As `class_density.compute`, by block; network: what it is, in words."""
    found = class_density.compute(log_density, labels, class_names, dimensions, unit="block")
    return {"network": np.array(network), **found}


@styled
def draw(stored: Stored) -> Figure:
    return class_density.grid(f"Figure A.9 · {FIGURES['figure_a9']}", stored, columns=3)


def caption(stored: Stored) -> str:
    return (
        f"As figure A.7, for every block of another network, read as its class token: {stored['network']}. "
        f"Classes are coloured in all panels by the split at the last block. Vertical axes differ. {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "Whether classes fall into two groups far apart at the last blocks, as they do in the paper's residual "
        "networks at stages 3 and 4: a gap many times the median gap, with far less spread above it than below."
    )


def finding(stored: Stored) -> str:
    return f"{largest_gaps(stored)} {describe_gap(stored)}"
