"""Figure 1: class-conditional log-density of each class at the last two stages."""

from matplotlib.figure import Figure

from paper_repro.figures import heading, style
from paper_repro.figures.class_density import chains_in_words, compute, describe_gap, legend, of_em, panel, table
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]


@styled
def draw(stored: Stored) -> Figure:
    figure = style.canvas(heading("figure_1", stored["stages"]), stored, width=9.2, height=3.8)
    panels = figure.subplots(1, len(stored["stages"]))
    for s, axes in enumerate(panels):
        panel(axes, stored, s)
    held_out = style.protocol(stored) == "heldout"
    points = "training points\nheld out of the fit" if held_out else "own training points"
    panels[0].set_ylabel(f"log-density of {points} (nats)")
    legend(figure, stored)
    return figure


def caption(stored: Stored) -> str:
    stages = " and ".join(str(stage) for stage in stored["stages"])
    return (
        "Mean (mark) and standard deviation (bar) of the log-density of each class's own training points at stages "
        f"{stages}, under the class's density (posterior predictive, equation 3; under the protocol heldout of a "
        "fit that leaves the point out, under em the mixture that EM fits). Classes are sorted by mean in each panel; "
        "above it stand the largest gap between means and how often draws from the nearest density with one mode "
        "leave one as large. Where that is seldom (p < 0.05), or standard deviations are smaller above the gap by "
        "more than the square root of ten (geometric means; how much then stands there too), a dashed line lies in "
        "it, and classes above it are orange diamonds; a class may be on another side in the other panel. "
        f"{of_em(stored)}{chains_in_words(stored)}{stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "A jump in the sorted means, with bars above it about an order of magnitude shorter than below it: the "
        "paper's two modes of class fitting. A largest gap always exists; "
        "a smooth rise with bars of similar length is no sign of two modes."
    )


def finding(stored: Stored) -> str:
    return describe_gap(stored)
