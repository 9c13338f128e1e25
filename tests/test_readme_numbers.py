"""What README.md says in numbers of the kept results is what their files give.

Each function below makes clauses of the page anew: the numbers, and as many words around them as tell which they are.
Where results were computed anew, what fails here says what the page has to say instead. Not tested is what was measured
by hand (paper_repro/EVIDENCE.md says what); where the page puts both into one number, that is named here.
"""

from functools import lru_cache

import numpy as np
import pytest
from kept_files import CHECKOUT

from classfit import density_groups
from paper_repro import claims, statistics
from paper_repro.figures import RAW_PIXELS, figure_b10
from paper_repro.readme import BEGIN, END
from paper_repro.statistics import rank_correlation
from paper_repro.storage import read_arrays

A, B, R = "cifar100-laptop", "cifar100-resnet18", "cifar100-laptop-resnet50"
A1 = f"{A}-seed1"
MIXED_BY_HAND = 7, 87, 98
"""Of the plain ConvNet: classes whose chains are in both states, and the least and most nats between them (item 10)."""


def path(network, figure, protocol="converged"):
    return CHECKOUT / "paper_repro" / "results" / network / protocol / f"figure_{figure}" / "numbers.npz"


@lru_cache
def stored(network, figure, protocol="converged"):
    return read_arrays(path(network, figure, protocol))


def high(network, stage, protocol="converged"):
    """[G] bool: the classes above the largest gap."""
    return density_groups(stored(network, "a7", protocol)["mean"][stage - 1]).high


def word(n):
    return ("no", "one", "two", "three", "four")[n] if n <= 4 else str(n)


def all_of(n, total):
    return f"all {n}" if n == total else f"{n} of {total}"


def dimensions_and_rule():
    for network in (A, B, R):
        first, second, third, fourth = stored(network, "a7")["dimensions"]
        assert (first, third) == (second, fourth), network
        yield f"singular vectors of its output are kept: {first} at stages 1 and 2, {third} at 3 and 4."
    level, least = f"{statistics.LEVEL:.0%}", statistics.least_a_side(100)
    yield f"than in {level} of samples of a distribution with one mode, with {least} of 100 classes on either side"
    yield f"lower end of a {level} interval, which needs {statistics.LEAST_IN_GROUP} classes on either side."


def two_groups():
    (a4, a3), (b4, b3), (r4, r3) = ([high(network, s).sum() for s in (4, 3)] for network in (A, B, R))
    p = statistics.gap_p_value(stored(B, "a7")["mean"][3])
    yield (
        f"in A ({a4} classes at stage 4, {a3} at stage 3), in R ({r4} and {r3}), and in B but for a p-value of {p:.3f} "
        f"({b4} and {b3})."
    )
    a, b, r = (high(network, 4, "paper").sum() for network in (A, B, R))
    yield f"The published sampler alone leaves {a}, {b} and {r} classes above the largest gap of stage 4 (A, B, R)."


def chains_that_are_shattered():
    in_all, n_converged = {}, 0
    for network in (A, B, R):
        fit, above = stored(network, "b3"), np.stack([high(network, 3), high(network, 4)])
        C, shattered = fit["mean_log_joint"].shape[1], fit["shattered"][2:]  # of each class so many of C chains
        assert ((shattered > 0) == above).all(), f"{network}: others are shattered than are above the gap"
        in_all[network] = (shattered[1] == C).sum()
        n_converged += fit["converged"][2:][shattered > 0].sum()
    a, b, r = in_all.values()
    yield f"shattered in at least one of {word(C)} chains (at stage 4 in all {word(C)}: {a}, {r} and {b} in A, R and B)"
    yield f"In {word(n_converged)} shattered class did the chains converge;"


def evidence_of_either_state():
    n, not_found = figure_b10._numbers(stored(R, "b10"), -1)
    yield f"of R {n[1]} classes are shattered at stage 4, {n[-1]} collapsed, {n[0]} open, and of {not_found} no "
    if path(A, "b10").is_file():  # else by hand (item 4)
        n, not_found = figure_b10._numbers(stored(A, "b10"), -1)
        yield f"was found; of A {n[1]}, {n[-1]}, {n[0]} and {not_found};"


def chains_in_both_states():
    n, least, most = MIXED_BY_HAND
    shattered, density = (stored(R, "b3")[name][2:] for name in ("shattered", "mean_log_density"))
    C = density.shape[1]
    for s, g in np.argwhere((shattered > 0) & (shattered < C)):
        lower, upper = np.split(np.sort(density[s, :, g]), [C - shattered[s, g]])  # the shattered ones are above
        n, least, most = n + 1, min(least, upper[0] - lower[-1]), max(most, upper[-1] - lower[0])
    yield f"in both states ({n} classes of R and a plain ConvNet), "
    yield f"give its points {least:.0f} to {most:.0f} nats more as fitted,"


def high_in_pixels():
    untrained = stored(A, "b9", "paper")
    return untrained["high"][untrained["places"] == RAW_PIXELS][0]


def raw_pixels():
    untrained = stored(A, "b9", "paper")
    (p,) = np.flatnonzero(untrained["places"] == RAW_PIXELS)
    yield f"In raw pixels {high_in_pixels().sum()} classes have a tenth of the others' standard deviation"
    yield f"standard deviation (`paper`; gap {statistics.p_words(untrained['seen_p'][p])}, "


def networks_agree():
    a, b, r = (high(network, 4) for network in (A, B, R))
    yield (
        f"{all_of((a & r).sum(), a.sum())} of A at stage 4 are among the {r.sum()} of R and {(a & b).sum()} among the "
        f"{b.sum()} of B, and B and R share {(b & r).sum()}."
    )
    again = high(A1, 4)
    yield (
        f"With another seed (A1) there are {again.sum()} as well, {(a & again).sum()} of them those of A, and "
        f"{all_of((again & r).sum(), again.sum())} are among those of R."
    )
    before, after = (density_groups(stored(A, "a8")[f"{where}_mean"][-1]).high for where in ("before", "after"))
    yield (
        f"A plain ConvNet has {all_of((a & after).sum(), a.sum())} of A and {(r & after).sum()} of R's {r.sum()} among "
        f"the {after.sum()} that are high after its last ReLU ({a.sum() * after.mean():.2g} and "
        f"{r.sum() * after.mean():.2g} by chance; before it {before.sum()} are high)."
    )
    pixels = high_in_pixels()
    shared = "{}, {} and {}".format(*((of & pixels).sum() for of in (a, b, r)))
    expected = "{:.1f}, {:.1f} and {:.1f}".format(*(of.sum() * pixels.mean() for of in (a, b, r)))
    yield f"The {pixels.sum()} of raw pixels hold {shared} of those of A, B and R ({expected} by chance)."


def certified_robustness():
    lacking, drops = {}, {}
    for network in (A, R):
        bins = stored(network, "3")
        at, _ = claims._transition({"figure_3": bins, "figure_a7": stored(network, "a7")})
        removed, width = 100 * bins["own_class_removed"][at:], statistics.bins_a_side(len(bins["radius"]), at)
        lacking[network] = f"{removed.min():.0f} to {removed.max():.0f}%"
        for name in ("radius", "control_radius"):
            change, _, _ = statistics.difference(bins[name], bins["radius_std"], at)
            drops[network, name] = f"{-change:.2f}"
    yield f"lack {lacking[A]} (A) and {lacking[R]} (R) of those points' own classes."
    yield (
        f"the radius drops as well, by {drops[A, 'control_radius']} and {drops[R, 'control_radius']}, where with the "
        f"networks without a bin it drops by {drops[A, 'radius']} and {drops[R, 'radius']} (means of {word(width)} "
        "bins on each side)."
    )
    radius = stored(A, "3", "heldout")["radius"]
    first, last = radius[:5], radius[-4:]
    yield (
        f"it is {first.mean():.2f} in the mean of the first five bins of {len(radius)}, {last.min():.2f} to "
        f"{last.max():.2f} in the last four."
    )


def dimensions_and_depth():
    convnet = stored(A, "a8", "paper")
    means = convnet["before_mean"][convnet["before_dimensions"] == 64]
    first, second, third = (density_groups(mean).high.sum() for mean in means)
    yield f"The ConvNet has them at its layers with 64: under `paper` {first}, {second} and {third} classes before the "
    equal = stored(A, "b6", "paper")
    for D in (16, 64):
        cells = equal["cell_dimensions"] == D
        k = int(np.diff(equal["mean"][claims.RANDOM, cells]).argmax())
        before, after = equal["stages"][cells][k : k + 2]
        yield f"At equal D the divergence between classes grows most from stage {before} to {after},"


def distance_and_density():
    below, above, left_out = {}, {}, {}
    for network in (A, B, R):
        classes, others = stored(network, "2"), stored(network, "b5")["left_out_mean"][-1]
        density, distance, own = classes["mean_log_density"], classes["mean_distance"], classes["high"]
        below[network] = f"{rank_correlation(distance[~own], density[~own]):.2f}"
        above[network] = f"{rank_correlation(distance[own], density[own]):.2f}"
        left_out[network] = f"{rank_correlation(distance, others):.2f}"
    yield (
        f"(rank correlations below and above the gap, A: {below[A]} and {above[A]}; R: {below[R]} below it; "
        f"B: {below[B]} and {above[B]},"
    )
    yield f"once points are left out (A, B, R: {left_out[A]}, {left_out[B]}, {left_out[R]})."


def exact_chains():
    samplers = stored(A, "b4", "paper")
    joint = dict(zip(samplers["variants"].tolist(), samplers["variant_log_joint"][0], strict=True))
    single, corrected = (
        (joint[name] > joint["as the paper"]).sum()
        for name in ("single points instead of blocks of 4", "blocks of 4, corrected to be exact")
    )
    yield f"exact chains end at a higher log joint in {single} (single points) and {corrected} (corrected blocks),"


CLAUSES = (
    dimensions_and_rule,
    two_groups,
    chains_that_are_shattered,
    evidence_of_either_state,
    chains_in_both_states,
    raw_pixels,
    networks_agree,
    certified_robustness,
    dimensions_and_depth,
    distance_and_density,
    exact_chains,
)


@pytest.mark.parametrize("clauses", CLAUSES, ids=lambda clauses: clauses.__name__)
def test_the_page_has_the_numbers_of_the_kept_files(clauses):
    before, rest = (CHECKOUT / "README.md").read_text(encoding="utf-8").split(BEGIN)
    prose = " ".join((before + rest.split(END)[1]).split())
    missing = [clause for clause in clauses() if clause not in prose]
    assert not missing, "README.md has not, and by the kept files should have: " + " | ".join(missing)
