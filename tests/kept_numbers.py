"""What the results that this repository keeps say in numbers: what README.md and FINDINGS.md are held to."""

import json
from functools import lru_cache

import numpy as np
from kept_files import CHECKOUT

from classfit import density_groups
from paper_repro import claims, statistics
from paper_repro.figures import RAW_PIXELS
from paper_repro.readme import BEGIN, END
from paper_repro.storage import read_arrays

RESULTS = CHECKOUT / "paper_repro" / "results"
A, B, R = "cifar100-laptop", "cifar100-resnet18", "cifar100-laptop-resnet50"
A1 = f"{A}-seed1"
LETTERS = {A: "A", A1: "A1", B: "B", R: "R"}
MIXED_BY_HAND = 7, 87, 98
"""Of the plain ConvNet: classes whose chains are in both states, and the least and most nats between them (item 10)."""


def missing_from(page, clauses):
    """The clauses that a page has not outside of what is generated."""
    text = page.read_text(encoding="utf-8")
    if BEGIN in text:
        text = text.split(BEGIN)[0] + text.split(END)[1]
    prose = " ".join(text.split())
    return [clause for clause in clauses if clause not in prose]


def path(network, figure, protocol="converged"):
    return RESULTS / network / protocol / f"figure_{figure}" / "numbers.npz"


@lru_cache
def stored(network, figure, protocol="converged"):
    return read_arrays(path(network, figure, protocol))


@lru_cache
def verdict(network, claim, protocol="converged"):
    rows = json.loads((RESULTS / network / protocol / "scorecard" / "scorecard.json").read_text(encoding="utf-8"))
    (found,) = (row["verdict"] for row in rows if row["name"] == claim)
    return {"reproduced": "yes", "not reproduced": "no", "inconclusive": "unclear"}[found]


def high(network, stage, protocol="converged"):
    """[G] bool: the classes above the largest gap."""
    return density_groups(stored(network, "a7", protocol)["mean"][stage - 1]).high


def gap(network, stage, protocol="converged"):
    """Between the sorted means of classes, in nats, and how often chance leaves one as large."""
    mean = stored(network, "a7", protocol)["mean"][stage - 1]
    return density_groups(mean).gap, statistics.gap_p_value(mean)


def groups(network, stage, protocol="converged"):
    """Whether there are two groups of classes at a stage, by the rule of C1."""
    at = stored(network, "a7", protocol)
    found = claims._two_groups(at["mean"][stage - 1], at["std"][stage - 1], "")
    return "yes" if found.found else "no" if found.excluded else "unclear"


def high_in_pixels():
    untrained = stored(A, "b9", "paper")
    return untrained["high"][untrained["places"] == RAW_PIXELS][0]


def high_in_convnet(where, layer=-1, protocol="converged"):
    return density_groups(stored(A, "a8", protocol)[f"{where}_mean"][layer]).high


def in_both_states(network):
    """[n, 2] which of stages 3 and 4, and class: of those whose chains are in both states."""
    fit = stored(network, "b3")
    shattered = fit["shattered"][2:]
    return np.argwhere((shattered > 0) & (shattered < fit["mean_log_joint"].shape[1]))


def _chains_by_state(network):
    """Of each class whose chains are in both states: mean log-densities of the collapsed and of the shattered ones."""
    shattered, density = (stored(network, "b3")[name][2:] for name in ("shattered", "mean_log_density"))
    C = density.shape[1]
    for s, g in in_both_states(network):
        yield np.split(np.sort(density[s, :, g]), [C - shattered[s, g]])  # the shattered ones are above


def chains_in_both_states():
    """The classes of R whose chains are in both states, and the least and most nats between these as fitted, of them
    and of those of the ConvNet."""
    classes, (_, least, most) = 0, MIXED_BY_HAND
    for lower, upper in _chains_by_state(R):
        classes, least, most = classes + 1, min(least, upper[0] - lower[-1]), max(most, upper[-1] - lower[0])
    return classes, least, most


def gains_of_shattered_chains(network):
    """Of each class whose chains are in both states: how many nats more the shattered ones give its points."""
    return [upper.mean() - lower.mean() for lower, upper in _chains_by_state(network)]


def transition(network):
    """The index of the first bin of mostly high classes."""
    return claims._transition({"figure_3": stored(network, "3"), "figure_a7": stored(network, "a7")})[0]


def own_class_removed(network):
    removed = 100 * stored(network, "3")["own_class_removed"][transition(network) :]
    return f"{removed.min():.0f} to {removed.max():.0f}%"


def drop_of_radius(network, name):
    bins, at = stored(network, "3"), transition(network)
    return f"{-statistics.difference(bins[name], bins['radius_std'], at)[0]:.2f}"


def word(n):
    return ("no", "one", "two", "three", "four")[n] if n <= 4 else str(n)


def all_of(n, total):
    return f"all {n}" if n == total else f"{n} of {total}"
