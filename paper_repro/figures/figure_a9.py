"""Figure A.9: figure A.7 for every block of a Vision Transformer, read as its class token."""

from matplotlib.figure import Figure

from paper_repro.figures import blocks
from paper_repro.figures.blocks import compute, finding, look_for
from paper_repro.figures.class_density import grid, table
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]


@styled
def draw(stored: Stored) -> Figure:
    return grid("figure_a9", stored, columns=3)


def caption(stored: Stored) -> str:
    return blocks.words(stored, "its class token")
