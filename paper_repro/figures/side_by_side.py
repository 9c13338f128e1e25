"""Figures 1, 2, 4 and A.7 under several protocols: one column each, on common scales."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro.figures import by_stage, class_density, figure_2, label, style
from paper_repro.figures.style import Stored, styled

__all__ = ["DRAWN", "Column", "draw"]


MOST_UNEQUAL = 4
"""On a common scale every panel's classes take up at least one part in so many of the height."""


class Column(NamedTuple):
    title: str
    """Name of the protocol."""
    mark: str
    """What stands under it in figures 2 and 4."""
    stored: Stored
    """Numbers of the figure under that protocol."""


@styled
def draw(name: str, columns: Sequence[Column], subtitle: str) -> Figure:
    """The figure of that name, one column a protocol, as many panels in it as the figure has."""
    return DRAWN[name](f"{label(name)} under each protocol", columns, subtitle)


def _densities(row_height: float) -> Any:
    """Mean and spread of each class; rings mark those above the gap of the same stage in the first column."""

    def drawn(title: str, columns: Sequence[Column], subtitle: str) -> Figure:
        reference = columns[0].stored
        splits = [
            [class_density.parted(mean, std) for mean, std in zip(c.stored["mean"], c.stored["std"], strict=True)]
            for c in columns
        ]
        n_stages = len(reference["stages"])
        figure, panels = _panels(title, columns, subtitle, n_stages, row_height)
        for c, column in enumerate(columns):
            for s in range(n_stages):
                axes = panels[s, c]
                split, ringed = splits[c][s], splits[0][s].above
                order = class_density.points(axes, column.stored, s, split)
                counted = [f"{int(split.above.sum())} above it"] if split.above.any() else []
                if c and ringed.any():
                    again = int((split.above & ringed).sum())
                    counted.append(f"{again} of the {int(ringed.sum())} of {columns[0].title}")
                style.above(axes, "\n".join(filter(None, (split.words, split.spreads, ", ".join(counted)))))
                mean = column.stored["mean"][s]
                chosen = np.flatnonzero(ringed[order])
                if len(chosen):  # nothing, unclipped, upsets the layout
                    axes.plot(
                        chosen, mean[order][chosen], "o", markersize=8, markerfacecolor="none",
                        markeredgecolor=style.INK, markeredgewidth=0.8, linestyle="none", clip_on=False,
                    )  # fmt: skip
                axes.tick_params(labelsize=7)
            axes = panels[0, c]
            axes.set_title(column.title, pad=6 + 3 * style.LINE_POINTS)
            panels[-1, c].set_xlabel("class, sorted by mean", fontsize=8)
        for s, axes in enumerate(panels[:, 0]):
            unit = str(reference.get("unit", "stage")).capitalize()
            _common_scale(panels[s], [(c.stored["mean"][s], c.stored["std"][s]) for c in columns])
            axes.set_ylabel(
                f"{unit} {reference['stages'][s]} (D = {reference['dimensions'][s]})\nlog-density (nats)", fontsize=8
            )
        circle = Line2D(
            [], [], marker="o", markersize=8, markerfacecolor="none", markeredgecolor=style.INK, markeredgewidth=0.8,
            linestyle="none", label=f"above it under {columns[0].title}",
        )  # fmt: skip
        handles = class_density.key(*(column.stored for column in columns))
        if any(split.above.any() for split in splits[0]):
            handles.insert(2, circle)  # beside the marks
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
        return figure

    return drawn


def _common_scale(row: Sequence[Axes], statistics: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """One vertical scale for the panels of a stage, less those that do not go with that of the first."""
    ranges = [((mean - std).min(), (mean + std).max()) for mean, std in statistics]
    low, high = ranges[0]
    common = []
    for axes, (bottom, top) in zip(row, ranges, strict=True):
        union = max(ranges[0][1], top) - min(ranges[0][0], bottom)
        if union <= MOST_UNEQUAL * min(ranges[0][1] - ranges[0][0], top - bottom):
            common.append(axes)
            low, high = min(low, bottom), max(high, top)
        else:
            axes.annotate(
                "own scale", (1, 0.5), (4, 0), "axes fraction", "offset points", fontsize=7, color=style.MUTED,
                rotation=90, va="center", annotation_clip=False,
            )  # fmt: skip
    room = 0.05 * (high - low) or 1
    for axes in common:
        axes.set_ylim(low - room, high + room)
        axes.tick_params(labelleft=axes is row[0])


def _scatters(title: str, columns: Sequence[Column], subtitle: str) -> Figure:
    figure, panels = _panels(title, columns, subtitle, 2, 2.1, sharex=True, sharey="row")
    rows = (("mean_distance", None, "distance_line"), ("relative_entropy", "standard_error", "entropy_line"))
    for c, column in enumerate(columns):
        stored = column.stored
        for axes, (values, error, line) in zip(panels[:, c], rows, strict=True):
            figure_2.scatter(axes, stored, stored[values], stored[error] if error else None, stored[line])
            axes.set_xlabel("")
            axes.tick_params(labelsize=7)
        _heading(panels[0, c], column)
        panels[-1, c].set_xlabel("mean log-density (nats)", fontsize=8)
    panels[0, 0].set_ylabel("mean distance within the class", fontsize=8)
    panels[1, 0].set_ylabel("relative entropy (nats)", fontsize=8)
    marks = class_density.marks("class below the largest gap under that protocol", "class above it")
    handles = [*marks, figure_2.line_mark()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _divergences(title: str, columns: Sequence[Column], subtitle: str) -> Figure:
    figure, panels = _panels(title, columns, subtitle, 1, 2.9, sharey="row")
    for axes, column in zip(panels[0], columns, strict=True):
        stored = column.stored
        by_stage.lines(axes, stored["stages"].tolist(), stored["mean"], stored["std"])
        axes.tick_params(labelsize=7)
        _heading(axes, column)
    panels[0, 0].set_ylabel("KL between classes, mean ± std over pairs (nats)", fontsize=8)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


DRAWN: Mapping[str, Any] = {
    "figure_1": _densities(2.3),
    "figure_2": _scatters,
    "figure_4": _divergences,
    "figure_a7": _densities(1.85),
}
"""The figures that are drawn side by side."""


def _panels(
    title: str, columns: Sequence[Column], subtitle: str, n_rows: int, row_height: float, **shared: Any
) -> tuple[Figure, np.ndarray]:
    words = {"subtitle": np.array(subtitle)}
    figure = style.canvas(title, words, width=max(9.2, 2.3 * len(columns)), height=row_height * n_rows + 1.0)
    return figure, figure.subplots(n_rows, len(columns), squeeze=False, **shared)


def _heading(axes: Axes, column: Column) -> None:
    """The title of a column, above its mark."""
    axes.set_title(column.title, pad=6 + style.LINE_POINTS * (1 + column.mark.count("\n")))
    style.above(axes, column.mark)
