"""What figures A.9 and A.10 share: figure A.7 for every block of a network that is not a residual one."""

from collections.abc import Mapping, Sequence

import numpy as np

from paper_repro.figures import class_density, style
from paper_repro.figures.class_density import describe_gap, largest_gaps
from paper_repro.figures.style import Stored

__all__ = ["compute", "finding", "look_for", "words"]


def compute(
    log_density: Mapping[int, np.ndarray],
    labels: np.ndarray,
    class_names: Sequence[str],
    dimensions: Mapping[int, int],
    network: str,
    by_chain: Mapping[int, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """As `class_density.compute`, by block; network: what it is, in words."""
    found = class_density.compute(log_density, labels, class_names, dimensions, "block", by_chain)
    return {"network": np.array(network), **found}


def words(stored: Stored, read_as: str) -> str:
    """The caption; read_as: what of a block is read."""
    return (
        f"As figure A.7, for every block of another network, read as {read_as}: {stored['network']}. "
        f"Vertical axes differ. {style.of_the_run(stored)}"
    )


def look_for(stored: Stored) -> str:
    return (
        "Whether classes fall into two groups far apart at the last blocks, as they do in the paper's residual "
        "networks at stages 3 and 4: a gap many times the median gap, with far less spread above it than below."
    )


def finding(stored: Stored) -> str:
    return f"{largest_gaps(stored)} {describe_gap(stored)}"
