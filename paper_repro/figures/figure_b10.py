"""Figure B.10, beyond the paper: the evidence of the two states of each class, each between two bounds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_repro.chains import SHATTERED
from paper_repro.figures import heading, style
from paper_repro.figures.style import Stored, styled

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]

BOUNDS = ("many_lower", "many_upper", "few_lower", "few_upper")
VERDICTS = {1: "shattered", -1: "collapsed", 0: "open"}
NOT_FOUND = "no two states"
NEAR_NATS = 40
"""By less than this it may be decided with some random numbers and open with others (EVIDENCE.md, item 4)."""
LINEAR_NATS = 100
"""Below it the axis is linear, above it logarithmic."""


def compute(
    evidence: Mapping[int, Stored],
    small_share: Mapping[int, np.ndarray],
    class_names: Sequence[str],
    dimensions: Mapping[int, int],
) -> dict[str, np.ndarray]:
    """The bounds of each class at each stage, and which state the chains of its fit are in.

    Args:
        evidence: by stage, what is stored of a `classfit.StateEvidence`.
        small_share: by stage, [C, G] share of each class's points in components of fewer than D points, by chain.
        class_names: G names.
        dimensions: by stage, D.

    Returns:
        stages, dimensions [S], class_names [G], n_chains; [S, G] the bounds in nats, two_states (whether both were
        found), verdict (1: the shattered state has the larger evidence, -1: the collapsed one, 0: open) and shattered,
        the number of chains that are.
    """
    from classfit import StateEvidence

    stages = sorted(evidence)
    found = [StateEvidence(**{name: evidence[stage][name] for name in StateEvidence._fields}) for stage in stages]
    return {
        "stages": np.array(stages),
        "dimensions": np.array([dimensions[stage] for stage in stages]),
        "class_names": np.array(class_names),
        "n_chains": np.array(len(small_share[stages[0]])),
        **{name: np.stack([getattr(one, name) for one in found]) for name in BOUNDS},
        "two_states": np.stack([one.two_states for one in found]),
        "verdict": np.stack([one.verdict() for one in found]),
        "shattered": np.stack([(small_share[stage] > SHATTERED).sum(0) for stage in stages]),
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a stage and class."""
    return [
        {
            "stage": int(stage),
            "class": str(name),
            "larger_evidence": VERDICTS[int(stored["verdict"][s, g])] if stored["two_states"][s, g] else NOT_FOUND,
            **{f"log_evidence_{bound}_nats": float(stored[bound][s, g]) for bound in BOUNDS},
            "chains_shattered": int(stored["shattered"][s, g]),
        }
        for s, stage in enumerate(stored["stages"])
        for g, name in enumerate(stored["class_names"])
    ]


@styled
def draw(stored: Stored) -> Figure:
    figure = style.canvas(heading("figure_b10"), stored, width=9.2, height=4.0)
    panels = figure.subplots(1, len(stored["stages"]), squeeze=False)[0]
    for s, axes in enumerate(panels):
        _panel(axes, stored, s)
    panels[0].set_ylabel("log evidence less that of a collapsed labelling (nats)", fontsize=8)
    n_chains, both = int(stored["n_chains"]), stored["two_states"]
    handles = [Line2D([], [], color=style.LOW, alpha=0.5, linewidth=5, label="collapsed state, between its bounds")]
    if both.any():
        label = "shattered state, likewise"
        handles.append(Line2D([], [], color=style.HIGH, alpha=0.5, linewidth=5, label=label))
    for words, chosen, colour, mark in _marks(stored["shattered"], n_chains):
        if (chosen & both).any():
            handles.append(_mark(mark, colour, f"{words} shattered"))
    if not both.all():
        handles.append(_mark("x", style.MUTED, f"{NOT_FOUND} found"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, handlelength=1.8)
    return figure


def _mark(mark: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=mark, markersize=4, linestyle="none", label=label)


def _marks(shattered: np.ndarray, n_chains: int) -> tuple[tuple[str, np.ndarray, str, str], ...]:
    """How many chains, which classes these are, their colour and mark."""
    return (
        ("no chain", shattered == 0, style.LOW, "o"),
        ("some chains", (shattered > 0) & (shattered < n_chains), style.INK, "s"),
        (f"all {n_chains} chains", shattered == n_chains, style.HIGH, "D"),
    )


def _panel(axes: Axes, stored: Stored, s: int) -> None:
    many, few = (
        np.stack([stored[f"{kind}_lower"][s], stored[f"{kind}_upper"][s]]) - stored["few_lower"][s]
        for kind in ("many", "few")
    )
    both = stored["two_states"][s]
    order = np.argsort(np.where(both, many.mean(0), -np.inf), kind="stable")
    ranks, shattered, both = np.arange(len(order)), stored["shattered"][s][order], both[order]
    width = min(5.0, 200 / len(order))
    style.bars(axes, ranks, *few[:, order], color=style.LOW, alpha=0.5, linewidth=width)
    style.bars(axes, ranks[both], *many[:, order[both]], color=style.HIGH, alpha=0.5, linewidth=width)
    axes.plot(ranks[~both], np.zeros((~both).sum()), "x", color=style.MUTED, markersize=4, linestyle="none")
    middle = many.mean(0)[order]
    for _, chosen, colour, mark in _marks(shattered, int(stored["n_chains"])):
        chosen = chosen & both
        axes.plot(ranks[chosen], middle[chosen], mark, color=colour, markersize=3, linestyle="none")
    axes.set_yscale("symlog", linthresh=LINEAR_NATS)
    low, high = many[0, order[both]].min(initial=0), max(many.max(), few.max())
    axes.set_ylim(low * 1.3 - 20, high * 1.3 + 20)
    axes.yaxis.set_major_formatter("{x:,.0f}")  # with a true minus
    axes.axhline(0, color=style.INK, linewidth=0.9, linestyle=style.DASHES)
    style.class_axis(axes, [str(name) for name in stored["class_names"][order]])
    axes.set_title(f"Stage {stored['stages'][s]}  (D = {stored['dimensions'][s]})", pad=style.LINE_POINTS + 6)
    axes.set_xlabel("class, sorted by the middle of the bounds")
    style.above(axes, _counted(stored, s))


def _counted(stored: Stored, s: int) -> str:
    n, n_not_found = _numbers(stored, s)
    said = [f"{n[v]} {words}" for v, words in VERDICTS.items()] if sum(n.values()) else []
    return ", ".join(said + ([f"{n_not_found} with {NOT_FOUND} found"] if n_not_found else []))


def _near(stored: Stored, s: int) -> str:
    """In how many classes it is decided by a few nats, in words; nothing if in none."""
    apart = np.maximum(stored["many_lower"] - stored["few_upper"], stored["few_lower"] - stored["many_upper"])[s]
    n = int((stored["two_states"][s] & (apart > 0) & (apart < NEAR_NATS)).sum())
    if n == 0:
        return ""
    return f"In {n} it is decided by less than {NEAR_NATS} nats, which other random numbers may turn to open. "


def _numbers(stored: Stored, s: int) -> tuple[dict[int, int], int]:
    """Classes by verdict, and those of which no two states were found."""
    both = stored["two_states"][s]
    return {v: int((stored["verdict"][s][both] == v).sum()) for v in VERDICTS}, int((~both).sum())


def caption(stored: Stored) -> str:
    n_chains = int(stored["n_chains"])
    return (
        "Beyond the paper. How probable the two states of a class are under its posterior, which chains do not tell "
        "because they do not move between them: the log evidence of the shattered state (many small components; "
        "orange) and of the collapsed one (few large ones; blue), each between a lower and an upper bound. Those of "
        "the shattered state are weights of annealing and of annealing backwards, from where it led; those of the "
        "collapsed one the joint density of one labelling, which is 0 here, and annealing backwards from it. They hold "
        "but for a few nats by chance, and the upper ones as far as what is annealed backwards is a typical labelling "
        f"of its state. Marks, in the middle of the bounds: how many of the {n_chains} chains of the fit are "
        f"shattered. The axis is linear up to {LINEAR_NATS} nats and logarithmic beyond. {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "Orange bars wholly above the blue ones: classes whose posterior is shattered. Orange bars wholly below: "
        "classes whose posterior is collapsed. Where they overlap it is open. Marks that contradict the bars are "
        "chains that chose the less probable state."
    )


def finding(stored: Stored) -> str:
    C, said = int(stored["n_chains"]), []
    for s, stage in enumerate(stored["stages"]):
        (n, n_not_found), both = _numbers(stored, s), stored["two_states"][s]
        without = f" In {n_not_found} no two states were found." if n_not_found else ""
        if not both.any():
            said.append(f"At stage {stage} no two states were found, in any class.")
            continue
        verdict, shattered = stored["verdict"][s][both], stored["shattered"][s][both]
        chosen = {
            v: f"{((verdict == v) & (shattered == C)).sum()} and {((verdict == v) & (shattered == 0)).sum()}"
            for v in VERDICTS
        }
        widths = [np.median((stored[f"{kind}_upper"] - stored[f"{kind}_lower"])[s][both]) for kind in ("many", "few")]
        said.append(
            f"At stage {stage} the shattered state has the larger evidence in {n[1]} of {len(both)} classes, the "
            f"collapsed one in {n[-1]}; in {n[0]} it is open.{without} Classes of these of which all {C} chains and of "
            f"which none are shattered: {chosen[1]}, {chosen[-1]}, {chosen[0]}. {_near(stored, s)}The bounds are "
            f"{widths[0]:.0f} nats apart in the median class for the shattered state, {widths[1]:.0f} for the "
            "collapsed one."
        )
    return " ".join(said)
