"""Figure A.8: figure A.7 for a plain network of eight convolutions, read before batch norm and ReLU, and after them.

The published code reads its residual networks after the ReLU and the plain one before; with both, what the plain
network lacks can be told from where it was read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from paper_repro.figures import class_density, heading, style
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

WHERE = {"before": "before ReLU", "after": "after ReLU"}


def compute(
    before: Mapping[str, Mapping[int, Any]],
    after: Mapping[str, Mapping[int, Any]],
    labels: np.ndarray,
    class_names: Sequence[str],
    network: str,
) -> dict[str, np.ndarray]:
    """As `class_density.compute`, with "before_" or "after_" in front of the names.

    Args:
        before: log_density, dimensions and by_chain by layer, of the outputs of the convolutions.
        after: the same after batch norm and ReLU.
        labels: [N] class of each point.
        class_names: G names.
        network: what it is, in words.
    """
    found: dict[str, np.ndarray] = {"network": np.array(network)}
    for where, numbers in (("before", before), ("after", after)):
        part = class_density.compute(**numbers, labels=labels, class_names=class_names, unit="layer")
        found |= {f"{where}_{name}": values for name, values in part.items()}
    return found


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a layer and class, first those before batch norm and ReLU."""
    return [
        {"read": words, **row} for where, words in WHERE.items() for row in class_density.table(_part(stored, where))
    ]


@styled
def draw(stored: Stored) -> Figure:
    columns = 4
    rows = -(-len(stored["before_stages"]) // columns)
    figure = style.canvas(heading("figure_a8"), stored, width=11.6, height=2 * 2.3 * rows + 0.5)
    panels = figure.subplots(2 * rows, columns, squeeze=False)
    for i, (where, words) in enumerate(WHERE.items()):
        part = _part(stored, where)
        for s in range(len(part["stages"])):
            axes = panels[i * rows + s // columns, s % columns]
            class_density.panel(axes, part, s, f", {words}")
            axes.set_xlabel("")
    for axes in panels[:, 0]:
        axes.set_ylabel("log-density (nats)")
    for axes in panels[-1]:
        axes.set_xlabel("class, sorted by mean")
    figure.align_ylabels(panels[:, 0])
    class_density.legend(figure, *(_part(stored, where) for where in WHERE))
    return figure


def caption(stored: Stored) -> str:
    return (
        f"As figure A.7, for every layer of another network: {stored['network']}. Upper half: read before batch norm "
        "and ReLU, as in the published code. Lower half: after them, as residual networks are read. "
        f"{class_density.of_em(stored)}{style.of_the_run(stored)}"
    )


def look_for(stored: Stored) -> str:
    return (
        "In the paper the plain network has no two groups of classes at any layer, and a small spread within classes. "
        "If groups show up after the ReLU but not before it, it is the place of reading and not the architecture that "
        "makes the difference."
    )


def finding(stored: Stored) -> str:
    words = []
    for where, name in WHERE.items():
        part = _part(stored, where)
        words.append(
            f"{name[0].upper()}{name[1:]}: {class_density.largest_gaps(part)} {class_density.describe_gap(part)}"
        )
    return " ".join(words)


def _part(stored: Stored, where: str) -> dict[str, np.ndarray]:
    prefix = f"{where}_"
    return {name.removeprefix(prefix): values for name, values in stored.items() if name.startswith(prefix)}
