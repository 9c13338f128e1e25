"""Figure A.6: variance kept against number of singular vectors, stage by stage."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from paper_repro.figures import heading, style
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]


def compute(singular_values: Mapping[int, np.ndarray], dimensions: Mapping[int, int]) -> dict[str, np.ndarray]:
    """Cumulative share of squared singular values.

    Args:
        singular_values: by stage, all of them, falling, of the uncentred [N, C] matrix of pooled activations.
        dimensions: by stage, the number D that is kept.

    Returns:
        stages, dimensions, kept_at_cut [S]; widths [S] = number of singular values of each stage; kept [sum of widths]:
        the shares after 1, 2, ... vectors, stage after stage.
    """
    stages = sorted(singular_values)
    kept = []
    for stage in stages:
        squares = np.square(singular_values[stage].astype(np.float64))
        # Nothing is lost of a layer that gives zeros.
        kept.append(np.cumsum(squares) / squares.sum() if squares.any() else np.ones_like(squares))
    return {
        "stages": np.array(stages),
        "dimensions": np.array([dimensions[stage] for stage in stages]),
        "kept_at_cut": np.array([part[dimensions[stage] - 1] for stage, part in zip(stages, kept, strict=True)]),
        "widths": np.array([len(part) for part in kept]),
        "kept": np.concatenate(kept),
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage and number of vectors."""
    return [
        {"stage": int(stage), "n_vectors": n, "variance_kept": float(share), "chosen": n == int(cut)}
        for stage, cut, part in zip(stored["stages"], stored["dimensions"], _parts(stored), strict=True)
        for n, share in enumerate(part, start=1)
    ]


@styled
def draw(stored: Stored) -> Figure:
    figure = style.canvas(heading("figure_a6"), stored, width=9.2, height=2.9)
    panels = figure.subplots(1, len(stored["stages"]), sharey=True)
    lowest = min(float(part[0]) for part in _parts(stored))
    for s, (axes, part) in enumerate(zip(panels, _parts(stored), strict=True)):
        cut, kept = int(stored["dimensions"][s]), float(stored["kept_at_cut"][s])
        axes.plot(np.arange(1, len(part) + 1), part, color=style.LOW, linewidth=1.6)
        axes.plot(cut, kept, style.MARKERS[True], color=style.HIGH, markersize=6, clip_on=False)
        axes.vlines(cut, 0, kept, color=style.HIGH, linewidth=1, linestyle=style.DASHES)
        at = axes.get_xaxis_transform()
        text = f"{cut} of {len(part)}\nkeep {kept:.2%}"
        axes.annotate(text, (cut, 0.06), (-5, 0), at, "offset points", ha="right", va="bottom", fontsize=8.5)
        axes.set_title(f"Stage {stored['stages'][s]}")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("singular vectors")
        axes.set_ylim(np.floor(lowest * 10) / 10, 1.01)
    panels[0].set_ylabel("variance kept")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def caption(stored: Stored) -> str:
    return (
        "Share of the summed squared singular values of the pooled activations (training images, not centred, as in "
        "the published code) that the leading singular vectors keep, by stage. The diamond is the number that is "
        f"used. The horizontal axis is logarithmic; the vertical one does not start at zero. {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "A curve that is flat by the time it reaches the diamond: little is lost by the cut. Activations after a ReLU "
        "are not negative and the matrix is not centred, so the first vector, close to the mean, keeps much by itself."
    )


def finding(stored: Stored) -> str:
    kept = ", ".join(
        f"{share:.2%} at stage {stage} ({cut} of {width})"
        for stage, cut, width, share in zip(
            stored["stages"], stored["dimensions"], stored["widths"], stored["kept_at_cut"], strict=True
        )
    )
    return f"Variance kept: {kept}."


def _parts(stored: Stored) -> list[np.ndarray]:
    return np.split(stored["kept"], np.cumsum(stored["widths"])[:-1])
