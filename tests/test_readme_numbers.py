"""What README.md says in numbers of the kept results is what their files give.

Each function below makes clauses of the page anew: the numbers, and as many words around them as tell which they are.
Where results were computed anew, what fails here says what the page has to say instead. Not tested is what was measured
by hand (paper_repro/EVIDENCE.md says what); where the page puts both into one number, that is named here.
"""

import numpy as np
import pytest
from kept_files import CHECKOUT
from kept_numbers import (
    A1,
    MIXED_BY_HAND,
    A,
    B,
    R,
    chains_in_both_states,
    drop_of_radius,
    gap,
    groups,
    high,
    high_in_pixels,
    missing_from,
    own_class_removed,
    stored,
    word,
)

from paper_repro import claims, statistics
from paper_repro.figures import RAW_PIXELS


def dimensions_and_rule():
    for network in (A, B, R):
        first, second, third, fourth = stored(network, "a7")["dimensions"]
        assert (first, third) == (second, fourth), network
        yield f"singular vectors of its output are kept: {first} at stages 1 and 2, {third} at 3 and 4."
    level, least = f"{statistics.LEVEL:.0%}", statistics.least_a_side(100)
    yield f"wider than in {level} of samples of a distribution with one mode, with at least {least} of 100 classes on"
    yield f"lower end of a {level} interval, which needs {statistics.LEAST_IN_GROUP} classes on either side."


def two_groups():
    (a4, a3), (b4, b3), (r4, r3) = ([high(network, s).sum() for s in (4, 3)] for network in (A, B, R))
    yield (
        f"in A ({a3} high classes at stage 3, {a4} at stage 4), R ({r3} and {r4}) and perhaps B ({b3} and {b4}; "
        f"p = {gap(B, 4)[1]:.3f} at stage 4)."
    )
    a, b, r = (high(network, 4, "paper").sum() for network in (A, B, R))
    assert [groups(network, 3, "paper") == "yes" for network in (A, A1, B, R)] == [True, True, False, False]
    yield (
        f"The published sampler finds groups at stage 3 of A and A1, but leaves {a}, {r} and {b} classes (A, R, B) "
        "above the largest gap of stage 4."
    )


def chains_that_are_shattered():
    n_converged = 0
    for network in (A, A1, B, R):
        fit, above = stored(network, "b3"), np.stack([high(network, 3), high(network, 4)])
        C, shattered = fit["mean_log_joint"].shape[1], fit["shattered"][2:]  # of each class so many of C chains
        assert ((shattered > 0) == above).all(), f"{network}: others are shattered than are above the gap"
        n_converged += fit["converged"][2:][shattered > 0].sum()
    yield f"The high classes are those that are shattered in at least one of {word(C)} chains."
    yield f"{word(n_converged).capitalize()} shattered class passes the test of convergence."


def either_state():
    classes, least, most = chains_in_both_states()
    yield f"in both states ({classes + MIXED_BY_HAND[0]} classes of R and a plain ConvNet), "
    yield f"give its points {least:.0f} to {most:.0f} nats more as fitted,"


def raw_pixels():
    untrained = stored(A, "b9", "paper")
    (p,) = np.flatnonzero(untrained["places"] == RAW_PIXELS)
    yield f"In raw pixels {high_in_pixels().sum()} classes have a tenth of the others' standard deviation "
    yield f"standard deviation (gap {statistics.p_words(untrained['seen_p'][p])}, unclear"


def networks_agree():
    a, again, b, r = (high(network, 4) for network in (A, A1, B, R))
    assert (a & r).sum() == a.sum()
    yield (
        f"the {a.sum()} of A are all among the {r.sum()} of R, {(a & b).sum()} are among the {b.sum()} of B, and "
        f"{(a & again).sum()} are high with another seed (A1)."
    )


def certified_robustness():
    yield f"lack {own_class_removed(A)} (A) and {own_class_removed(R)} (R) of those points' own classes."
    control, bins = ([drop_of_radius(n, kind) for n in (A, R)] for kind in ("control_radius", "radius"))
    yield f"the radius drops by {control[0]} and {control[1]}, in place of {bins[0]} and {bins[1]} ("


def dimensions_and_depth():
    equal = stored(A, "b6", "paper")
    for D in (16, 64):
        cells = equal["cell_dimensions"] == D
        k = int(np.diff(equal["mean"][claims.RANDOM, cells]).argmax())
        before, after = equal["stages"][cells][k : k + 2]
        yield f"At equal D the divergence between classes grows most from stage {before} to {after},"


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
    either_state,
    raw_pixels,
    networks_agree,
    certified_robustness,
    dimensions_and_depth,
    exact_chains,
)


@pytest.mark.parametrize("clauses", CLAUSES, ids=lambda clauses: clauses.__name__)
def test_the_page_has_the_numbers_of_the_kept_files(clauses):
    missing = missing_from(CHECKOUT / "README.md", clauses())
    assert not missing, "README.md has not, and by the kept files should have: " + " | ".join(missing)
