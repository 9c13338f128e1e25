"""The paper's figures and, beyond them, B.1 to B.11; one file each.

A figure's module has
    compute(...)     numbers from numbers: a dict of arrays, which is stored
    table(stored)    the same as rows of a CSV
    draw(stored)     a matplotlib Figure from what was stored, and from nothing else
    caption(stored)  what is shown
    look_for(stored) what a reader should look for, and what the paper says
    finding(stored)  what these numbers say
`stored` is what `compute` returned, plus "subtitle", one line that says what was run, and "note", what a reader must
know of the run.
"""

import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = ["FIGURES", "RAW_PIXELS", "heading", "label", "module", "title"]

FIGURES = {
    "figure_1": "Class-conditional log-density of each class, stages 3 and 4",
    "figure_2": "Intra-class distance and relative entropy against log-density, stage 4",
    "figure_3": "Memorization and robustness in bins by log-density",
    "figure_4": "KL divergence between classes by stage",
    "figure_a5": "The network and where representations are read",
    "figure_a6": "Variance kept against number of singular vectors",
    "figure_a7": "Class-conditional log-density of each class, all stages",
    "figure_a8": "Class-conditional log-density of each class, plain ConvNet",
    "figure_a9": "Class-conditional log-density of each class, Vision Transformer",
    "figure_a10": "Class-conditional log-density of each class, MLP-Mixer",
    "figure_a11": "Generative classification by stage and memorization",
    "figure_b1": "Log-density of each class against its published memorization",
    "figure_b2": "Our and published memorization of each class",
    "figure_b3": "Traces of the chains",
    "figure_b4": "Are the high-density classes a state of the sampler?",
    "figure_b5": "Log-density of each class, of points as fitted and left out",
    "figure_b6": "KL divergence between classes by stage, at equal numbers of dimensions",
    "figure_b7": "Memorization in bins by log-density, of points as fitted and left out",
    "figure_b8": "Log-density of test images, and how many of them the network classifies rightly",
    "figure_b9": "The same fits without any training",
    "figure_b10": "Evidence of the two states of each class",
    "figure_b11": "The same fits to points of one Gaussian a class",
}
"""In the order of the paper, and then B, beyond it: name of the module, and title."""

RAW_PIXELS = "Raw pixels"
"""The place of figure B.9 that is no network."""


def label(name: str) -> str:
    """Its name in words: "Figure B.10" of figure_b10."""
    number = name.removeprefix("figure_")
    return f"Figure {number[0].upper()}.{number[1:]}" if number[0].isalpha() else f"Figure {number}"


def title(name: str, stages: Iterable[int]) -> str:
    """The title of a figure of these stages: of a network that is given they are others than the paper's."""
    of_paper = {"figure_1": "3 and 4", "figure_2": "4"}
    words = " and ".join(str(stage) for stage in stages)
    return FIGURES[name].replace(of_paper[name], words) if name in of_paper else FIGURES[name]


def heading(name: str, stages: Iterable[int] = ()) -> str:
    """Label and title of a figure, which stand above it."""
    return f"{label(name)} · {title(name, stages)}"


def module(name: str) -> ModuleType:
    """The module of a figure; imported late, because it brings in matplotlib."""
    return importlib.import_module(f"paper_repro.figures.{name}")
