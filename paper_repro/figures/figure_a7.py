"""Figure A.7: class-conditional log-density of each class at all stages."""

from matplotlib.figure import Figure

from paper_repro.figures.class_density import compute, describe_gap, grid, largest_gaps, of_em, table
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]


@styled
def draw(stored: Stored) -> Figure:
    return grid("figure_a7", stored, columns=2)


def caption(stored: Stored) -> str:
    n = len(stored["stages"])
    every = {2: "both", 3: "all three", 4: "all four"}.get(n, f"all {n}")
    return (
        f"As figure 1, for {every} stages. Vertical axes differ: log-densities in different spaces cannot be compared "
        f"in level. {of_em(stored)}{stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "In the paper the two groups appear at stages 3 and 4 only. It uses D = 16 at stages 1 and 2 but D = 64 at "
        "stages 3 and 4, so depth and dimension change together."
    )


def finding(stored: Stored) -> str:
    return f"{largest_gaps(stored)} {describe_gap(stored)}"
