"""What paper_repro/FINDINGS.md says in numbers of the kept results is what their files give, as `test_readme_numbers`.

Numbers that are in no kept file are by hand (paper_repro/EVIDENCE.md says which) and not tested; of EVIDENCE.md itself
only those are that stood in README.md once.
"""

import numpy as np
import pytest
from kept_files import CHECKOUT
from kept_numbers import (
    A1,
    LETTERS,
    MIXED_BY_HAND,
    A,
    B,
    R,
    all_of,
    chains_in_both_states,
    drop_of_radius,
    gains_of_shattered_chains,
    gap,
    groups,
    high,
    high_in_convnet,
    high_in_pixels,
    in_both_states,
    missing_from,
    own_class_removed,
    path,
    stored,
    transition,
    verdict,
)

from paper_repro import claims, statistics
from paper_repro.figures import RAW_PIXELS, figure_b10


def groups_in_words(network, stage, protocol):
    """'A: yes, 11 above 60.0', and the p-value."""
    (width, p), answer = gap(network, stage, protocol), groups(network, stage, protocol)
    assert stage == 3 or answer == verdict(network, "C1", protocol)
    return f"{LETTERS[network]}: {answer}, {high(network, stage, protocol).sum()} above {width:.1f}", p


def means(network, stage, protocol):
    """'38.0 and 51.3': of high classes and the others, left out."""
    above, mean = high(network, stage, protocol), stored(network, "b5", protocol)["left_out_mean"][stage - 3]
    return f"{mean[above].mean():.1f} and {mean[~above].mean():.1f}"


def published_sampler():
    a, b, r, again = (high(network, 4, "paper").sum() for network in (A, B, R, A1))
    yield f"at stage 4 it leaves {a}, {b} and {r} classes above the largest gap (A, B, R; {again} of A1),"
    a, again = (high(network, 3, "paper").sum() for network in (A, A1))
    assert [groups(network, 3, "paper") == "yes" for network in (A, A1, B, R)] == [True, True, False, False]
    yield f"and groups at stage 3 of A and A1 ({a} and {again} high classes), but at stage 4"


def less_dense_than_others():
    shares = []
    for figure, kind, networks in (("b5", "left_out", (A, A1, B, R)), ("b8", "test", (A, A1, R))):
        found = []
        for network in networks:
            numbers = stored(network, figure)
            assert numbers[f"{kind}_p"].min() > 0.05, "no gap remains"
            for stage, mean in zip((3, 4), numbers[f"{kind}_mean"], strict=True):
                above = high(network, stage)
                found.append(100 * (mean[above][:, None] < mean[~above]).mean())
        shares.append(f"{min(found):.0f} to {max(found):.0f}%")
    yield f"*less* dense than another class in {shares[0]} of such pairs left out, and in {shares[1]} of them in test "


def either_state():
    classes, least, most = chains_in_both_states()
    yield f"({classes} classes of R, {MIXED_BY_HAND[0]} of a plain ConvNet),"
    yield f"give its points {least:.0f} to {most:.0f} nats more as fitted than those in the collapsed one,"
    apart = gains_of_shattered_chains(A1)
    yield f"(In {len(apart)} classes of A1 it is {apart[0]:.0f} and {apart[1]:.0f} nats more as fitted, "
    yield f"in the {len(in_both_states(A)) + len(in_both_states(B))} such classes of A and B it was not measured.)"


def convnet():
    layers = {
        (where, protocol): [high_in_convnet(where, layer, protocol).sum() for layer in (-3, -2, -1)]
        for where, protocol in (("before", "paper"), ("before", "converged"), ("after", "converged"))
    }
    a, b, c = layers["before", "paper"]
    d, e, f = layers["before", "converged"]
    yield (
        f"under `paper` {a}, {b} and {c} high classes (before the ReLU, as the paper reads it), under `converged` {d}, "
        f"{e} and {f}, nearly all."
    )
    after = ", ".join(map(str, layers["after", "converged"]))
    numbers = stored(A, "a8")
    p = max(statistics.gap_p_value(mean) for where in ("before", "after") for mean in numbers[f"{where}_mean"][-3:])
    yield f"no, {d}, {e}, {f} high classes at layers 6 to 8 before the ReLU, {after} after it (p at most {p:.3f};"
    assert verdict(A, "C3") == verdict(A, "C3", "paper") == "no"


def raw_pixels():
    untrained, above = stored(A, "b9", "paper"), high_in_pixels()
    (p,) = np.flatnonzero(untrained["places"] == RAW_PIXELS)
    spread, width = untrained["seen_std"][p], untrained["seen_gap"][p]
    yield (
        f"{above.sum()} classes have a standard deviation within a class of {spread[above].mean():.1f} nats and "
        f"{(~above).sum()} of {spread[~above].mean():.1f}, with a gap of {width:.1f} "
        f"({statistics.p_words(untrained['seen_p'][p])}, so unclear"
    )


def networks_agree():
    a, again, b, r = (high(network, 4) for network in (A, A1, B, R))
    G, three = len(a), (a & b & r).sum()
    yield (
        f"{all_of((a & r).sum(), a.sum())} of A at stage 4 are among the {r.sum()} of R and {(a & b).sum()} among the "
        f"{b.sum()} of B, B and R share {(b & r).sum()}, and {three} are high in all three "
        f"({a.sum() * b.sum() * r.sum() / G**2:.1f} by chance)."
    )
    assert (a & again == a & b & r).all()
    yield (
        f"there are {again.sum()} again; {(a & again).sum()} are those of A, the same {three}, and "
        f"{all_of((again & r).sum(), again.sum())} are among those of R ({a.sum() * again.mean():.1f} and "
        f"{r.sum() * again.mean():.1f} by chance;"
    )
    after = high_in_convnet("after")
    chance = [of.sum() * after.mean() for of in (a, r, b)]
    yield (
        f"of the {after.sum()} that are high after its last ReLU {(a & after).sum()} are the {a.sum()} of A, "
        f"{(r & after).sum()} are of the {r.sum()} of R and {(b & after).sum()} of the {b.sum()} of B "
        f"({chance[0]:.2g}, {chance[1]:.2g} and {chance[2]:.2g} by chance)."
    )
    pixels = high_in_pixels()
    shared = "{}, {} and {}".format(*((of & pixels).sum() for of in (a, b, r)))
    expected = "{:.1f}, {:.1f} and {:.1f}".format(*(of.sum() * pixels.mean() for of in (a, b, r)))
    yield (
        f"The {pixels.sum()} of raw pixels hold {shared} of the high classes of A, B and R, nearly all there are "
        f"({expected} by chance),"
    )


def accuracy_on_test_images():
    found = []
    for network, others in ((A, " of the others"), (R, "")):
        above, right = high(network, 3), 100 * stored(network, "b8")["accuracy"]
        found.append(f"{right[above].mean():.1f} against {right[~above].mean():.1f}%{others}")
    yield f"fewer test images of the high classes of stage 3 rightly ({', '.join(found)});"


def certified_robustness():
    yield f"those bins hold {own_class_removed(A)} (A) and {own_class_removed(R)} (R) of their points' own classes,"
    control, bins = ([drop_of_radius(n, kind) for n in (A, R)] for kind in ("control_radius", "radius"))
    yield f"(by {control[0]} and {control[1]}; by {bins[0]} and {bins[1]} with the networks that lack a bin)."
    yield f"A -{control[0]}, R -{control[1]}, where with them it is -{bins[0]} and -{bins[1]} (means of two bins"
    assert [statistics.bins_a_side(len(stored(n, "3")["radius"]), transition(n)) for n in (A, R)] == [2, 2]
    held_out = stored(A, "3", "heldout")
    f1, first, last = held_out["f1"], held_out["radius"][:5].mean(), held_out["radius"][-1]
    yield f"F1 rises from {f1[0]:.2f} to {f1[-1]:.2f}, and neither it nor the radius drops at the end"
    yield f"(the radius is {first:.2f} in bins 1 to 5, {last:.2f} in the last)."
    yield f"radius {first:.2f} in bins 1 to 5, {last:.2f} in the last (7, 20)"


def evidence_of_either_state():
    (three, not_three), (four, not_four) = (figure_b10._numbers(stored(R, "b10"), s) for s in (0, 1))
    yield (
        f"in R the shattered state has the larger evidence in {three[1]} of 100 classes at stage 3 and in {four[1]} at "
        f"stage 4, the collapsed one in {three[-1]} and {four[-1]}, {three[0]} and {four[0]} are open, and of "
        f"{not_three} and {not_four} no shattered state was found;"
    )
    if path(A, "b10").is_file():  # else by hand (item 4)
        n, not_found = figure_b10._numbers(stored(A, "b10"), 1)
        yield f"in A at stage 4 it is {n[1]}, {n[-1]}, {n[0]} and {not_found}."


def chains_in_one_state():
    apart = np.median(np.ptp(stored(R, "b3")["mean_log_density"], axis=1), axis=1)[2:]
    yield f"by {apart.min():.1f} to {apart.max():.1f} nats in the median class at stages 3 and 4 of R"


def claim_1():
    def row(protocol, networks, stage=4):
        return [groups_in_words(network, stage, protocol) for network in networks]

    (a, p), (again, _), (b, _), (r, _) = row("paper", (A, A1, B, R))
    a = a.replace(" above", " classes above")
    yield f"| C1 two groups at stage 4 | {a} nats, p = {p:.2f}. {again}. {b}. {r} | "
    (a, pa), (again, pb), (b, pc), (r, pd) = row("converged", (A, A1, B, R))
    words = [statistics.p_words(p) for p in (pa, pb, pc, pd)]
    yield f"{a}, {words[0]}. {again}, {words[1]}. {b}, {words[2]}. {r}, {words[3]} | no high class passed the test"
    (a, pa), (again, pg), (b, pb), (r, pr) = row("paper", (A, A1, B, R), 3)
    again = f"{again}, {statistics.p_words(pg)}"
    yield f"| the same at stage 3 | {a}, p = {pa:.2f}. {again}. {b}, p = {pb:.2f}. {r}, p = {pr:.2f} | "
    (a, _), (again, pg), (b, pb), (r, pr) = row("converged", (A, A1, B, R), 3)
    again = f"{again}, {statistics.p_words(pg)}"
    yield f"{a}. {again}. {b}, p = {pb:.2f}. {r}, p = {pr:.2f} | under `paper` which classes"
    protocols, networks = ("paper", "converged"), (A, A1, B, R)
    means_of = [stored(n, "a7", protocol)["mean"][2] for n in networks for protocol in protocols]
    yield f"(Silverman's test of one mode: at most {max(map(statistics.modes_p_value, means_of)):.3f} in every case)"


def left_out():
    yield f"A, B, stage 3: {means(A, 3, 'paper')}, {means(B, 3, 'paper')}. "
    yield f"R, stages 3 and 4: {means(R, 3, 'paper')}, {means(R, 4, 'paper')}. "
    yield f"and B (1 class): {means(A, 4, 'paper')}, {means(B, 4, 'paper')} | "
    a, b, r = (f"{means(network, 3, 'converged')}, {means(network, 4, 'converged')}" for network in (A, B, R))
    yield f"| A: {a} at stages 3 and 4. B: {b}. R: {r} | "
    p = [gap(A, stage, "heldout")[1] for stage in (3, 4)]
    yield f"`heldout`: no gap, p = {p[0]:.2f} and {p[1]:.2f} at stages 3 and 4 (A)"


def claims_2_and_4():
    assert {verdict(network, "C2", protocol) for network in (A, B, R) for protocol in ("paper", "converged")} == {"yes"}
    yield "| C2 none at stages 1 and 2 | A, B, R: yes | A, B, R: yes |"
    answers = {
        protocol: [verdict(network, "C4", protocol) for network in (A, B, R)] for protocol in ("paper", "converged")
    }
    assert answers == {"paper": ["no", "unclear", "no"], "converged": ["unclear", "yes", "yes"]}
    yield "| C4 relative entropy, not distance | A, R: no. B: unclear | A: unclear. B, R: yes |"


def where_high_classes_begin():
    assert {verdict(network, claim) for network in (A, R) for claim in ("C5", "C6")} == {"yes"}
    found = {}
    for network in (A, R):
        bins, before = stored(network, "3"), transition(network) - 1
        after = int((bins["high_share"] > 0.9).argmax())
        memorized, f1, radius = (
            f"{bins[name][before]:.2f} to {bins[name][after]:.2f}" for name in ("memorization_mean", "f1", "radius")
        )
        found[network] = memorized, f1, radius, f"from bin {before + 1} to {after + 1}"
    memorized, f1, radius, where = found[A]
    yield f"A: yes: memorization {memorized}, F1 {f1}, certified radius {radius}, {where} of 20."
    yield f"R: yes: {', '.join(found[R])} |"


def with_depth():
    def step(network, protocol):
        steps = np.diff(stored(network, "4", protocol)["mean"][claims.RANDOM])
        return f"{steps[1]:.0f}", f"{steps[1] - max(steps[0], steps[2]):.0f} more"

    assert {verdict(network, "C7", "paper") for network in (A, A1, R)} == {"yes"}
    (a, more), again, r = (step(network, "paper") for network in (A, A1, R))
    yield (
        f"A: yes, a step of {a} nats, {more} than any other. A1: yes, {', '.join(again)}. R: yes, {', '.join(r)} | "
        f"A: {verdict(A, 'C7')}, {' nats, '.join(step(A, 'converged'))}. "
        f"R: {verdict(R, 'C7')}, {', '.join(step(R, 'converged'))} |"
    )

    def rises(network, protocol):
        first, last = stored(network, "a11", protocol)["f1"][claims.RANDOM, [0, -1]]
        return f"{LETTERS[network]}: {verdict(network, 'C8', protocol)}, {first:.2f} to {last:.2f}"

    a, again, b, r = (rises(network, "paper") for network in (A, A1, B, R))
    yield f"{a}. {again} (whether random points are above the most memorized ones at stage 4). {b}. {r} |"
    yield f"| {'. '.join(rises(network, 'converged') for network in (A, A1, R))} | the network"


def distance_and_density():
    below, above, left_out, n_high = {}, {}, {}, {}

    def words(x, y):
        return "{:.2f} ({:.2f} to {:.2f})".format(*statistics.rank_correlation_interval(x, y))

    for network in (A, B, R):
        classes, others = stored(network, "2"), stored(network, "b5")["left_out_mean"][-1]
        density, distance, own = classes["mean_log_density"], classes["mean_distance"], classes["high"]
        below[network], above[network] = (words(distance[which], density[which]) for which in (~own, own))
        left_out[network], n_high[network] = words(distance, others), own.sum()
    yield f"{below[A]} for distance within the {100 - n_high[A]} low-density classes, {above[A]} within the {n_high[A]}"
    yield f"that of the distance {left_out[A]}; on B"
    yield f"and {left_out[B]}. So of points left out"
    yield f"low-density classes distance has {below[B]} and within the {n_high[B]} high-density ones {above[B]},"
    yield f"but {below[R]} over the {100 - n_high[R]} classes below the gap, and with density left out {left_out[R]},"


CLAUSES = (
    published_sampler,
    less_dense_than_others,
    either_state,
    convnet,
    raw_pixels,
    networks_agree,
    accuracy_on_test_images,
    certified_robustness,
    evidence_of_either_state,
    chains_in_one_state,
    claim_1,
    left_out,
    claims_2_and_4,
    where_high_classes_begin,
    with_depth,
)


@pytest.mark.parametrize("clauses", CLAUSES, ids=lambda clauses: clauses.__name__)
def test_the_page_has_the_numbers_of_the_kept_files(clauses):
    missing = missing_from(CHECKOUT / "paper_repro" / "FINDINGS.md", clauses())
    assert not missing, "FINDINGS.md has not, and by the kept files should have: " + " | ".join(missing)


def test_the_evidence_has_how_distance_goes_with_density():
    missing = missing_from(CHECKOUT / "paper_repro" / "EVIDENCE.md", distance_and_density())
    assert not missing, "EVIDENCE.md has not, and by the kept files should have: " + " | ".join(missing)
