"""Sentences on what changes from protocol to protocol: right for none, one and many."""

import re

import numpy as np
import pytest
from made_protocols import made_densities
from tolerances import PEER_RELATIVE

from paper_repro.chains import Tally
from paper_repro.claims import CLAIMS
from paper_repro.protocol_words import facts_of, overlap_row, paragraph
from paper_repro.statistics import gap_p_value


def chains(kind="several", good=30, n=30, fits=0, fits_good=0):
    return Tally(kind, [f"c{g}" for g in range(good, n)], n, fits, fits_good)


BOTH = (chains(), chains())
"""All classes of both stages converged."""


def facts(name="paper", high=(27, 28, 29), verdicts=None, tallies=BOTH, stale=(), **made):
    return facts_of(
        name, made_densities(high, **made), {"C1": "reproduced"} if verdicts is None else verdicts, tallies, stale
    )


def said(*of_protocols, not_run=()):
    text = paragraph(of_protocols, not_run)
    assert not re.search(r"nan|None|inf\b|\{|\}|  |\.\.|,,", text)
    assert text.endswith(".")
    assert text.count("`") % 2 == 0
    return text


def test_numbers_of_one_protocol():
    made = made_densities((27, 28, 29))
    found = facts_of("paper", made, {}, (), ())
    assert found.high == {"c27", "c28", "c29"}
    assert found.stage == 4
    assert found.gap == pytest.approx(60 + 3 / 29, rel=PEER_RELATIVE)
    assert found.p == gap_p_value(made["mean"][-1])
    assert found.ratio == pytest.approx(10, rel=PEER_RELATIVE)
    # The last stage counts.
    made["mean"][0] = -1.0
    assert facts_of("paper", made, {}, (), ()).mean == found.mean


@pytest.mark.parametrize("high", [(), range(30)])
def test_without_both_kinds_of_classes_there_is_no_ratio(high):
    assert np.isnan(facts_of("paper", made_densities(high), {}, (), ()).ratio)


def test_a_spread_of_zero_gives_no_ratio():
    made = made_densities((1, 2))
    made["std"][-1, 1] = 0.0
    assert np.isnan(facts_of("paper", made, {}, (), ()).ratio)


def test_overlap():
    row = overlap_row(facts(), facts("converged", high=(28, 29, 3, 4)))
    assert (row["of"], row["high_density_classes"], row["found_again"]) == (3, 4, 2)
    assert row["jaccard"] == pytest.approx(2 / 5, rel=PEER_RELATIVE)
    mean = np.linspace(0, 3, 30)[27:].mean() + 60 * 2 / 3
    assert row["mean_log_density_of_those_nats"] == pytest.approx(mean, rel=PEER_RELATIVE)
    assert row["names"] == "c3; c4; c28; c29"
    assert row["classes_converged"] == 30
    itself = overlap_row(facts(), facts())
    assert (itself["found_again"], itself["jaccard"]) == (3, 1.0)


def test_overlap_that_does_not_exist():
    nothing = facts(high=())
    assert overlap_row(nothing, facts("em", high=()))["jaccard"] is None
    assert overlap_row(nothing, facts("em"))["mean_log_density_of_those_nats"] is None
    others = facts("em", names=[f"d{g}" for g in range(30)])
    row = overlap_row(facts(), others)
    assert (row["found_again"], row["jaccard"], row["mean_log_density_of_those_nats"]) == (None, None, None)
    assert overlap_row(facts(), facts("em", tallies=()))["classes_converged"] is None
    assert overlap_row(facts(), facts("em", tallies=(chains("one"),)))["classes_converged"] is None
    assert overlap_row(facts(), facts("em", tallies=(chains("em", good=29),)))["classes_converged"] == 29


def test_how_many_are_high_density_and_found_again():
    text = said(facts(), facts("converged", high=(29, 1)), facts("em", high=()))
    assert text.startswith(
        "Classes above the largest gap at stage 4: 3 of 30 under `paper`, 2 of 30 under `converged` and 0 of 30 "
        "under `em`. "
        "Above it under `paper` and under the other as well: 1 of 3 for `converged` (Jaccard index 0.25) and "
        "0 of 3 for `em` (Jaccard index 0.00)."
    )


def test_one_class_and_none():
    text = said(facts(high=(29,), level=60), facts("em", high=(29,), level=-97.5))
    assert "and under the other as well: 1 of 1 for `em` (Jaccard index 1.00)." in text
    assert (
        "The class that is above it under `paper` has a mean log-density, in nats, of 63.0 under `paper` and −94.5 "
        "under `em`." in text
    )
    text = said(facts(high=()), facts("em", high=()))
    assert "`paper` has no class above a gap that could be above one elsewhere." in text
    assert "mean log-density" not in text
    assert "There is no such ratio of standard deviations under `paper` and `em`." in text


def test_levels_of_several():
    text = said(facts(), facts("heldout", high=(1, 2)))
    assert (
        "The classes that are above it under `paper` have a mean log-density, in nats, of 62.9 under `paper` and "
        "2.9 under `heldout`." in text
    )


def test_other_classes_cannot_be_compared():
    text = said(facts(), facts("em", names=[f"d{g}" for g in range(30)]), facts("heldout"))
    assert "The classes of `em` are others and cannot be compared with those of `paper`." in text
    assert "3 of 3 for `heldout`" in text
    text = said(facts(), facts("em", names=[f"d{g}" for g in range(30)]))
    assert "as well" not in text


EVEN = {"high": (), "level": 0.0}


def test_gaps_by_chance_and_not():
    assert facts(**EVEN).p > 0.05 > 0.001 > facts().p
    both = said(facts(), facts("em", **EVEN))
    assert (
        "The largest gap between sorted class means is 60.1 nats under `paper` (p = 0.001) and 0.1 nats under" in both
    )
    assert re.search(r"under `em` \(p = [01]\.\d{2}\)", both)
    assert "larger than by chance, and has at least 2 classes on either side, under `paper`, but not" in both
    assert "too few" not in both
    assert "on either side, under all of them." in said(facts(), facts("em"))
    assert "on either side, under none of them." in said(facts(**EVEN), facts("em", **EVEN))
    few = said(facts(high=(), level=0.0, n_classes=10), facts("em", high=(), level=0.0, n_classes=10))
    assert "10 classes are too few to tell a gap from chance." in few


@pytest.mark.parametrize(("ratio", "words"), [(14.2, "14"), (9.87, "9.9"), (1.0, "1"), (0.83, "0.83"), (150.0, "150")])
def test_ratios(ratio, words):
    text = said(facts(ratio=ratio), facts("em", high=()))
    assert f"in classes below over those above the largest gap (the paper: about ten): {words} under `paper`." in text
    assert "There is no such ratio of standard deviations under `em`." in text


def test_claims_that_change():
    titles = {name: test.title[0].lower() + test.title[1:] for name, test in CLAIMS.items()}
    text = said(
        facts(verdicts={"C1": "reproduced", "C2": "reproduced", "C4": "reproduced", "C7": "reproduced"}),
        facts("converged", verdicts={"C1": "inconclusive", "C2": "reproduced", "C4": "not reproduced"}),
        facts("em", verdicts={"C1": "reproduced", "C2": "reproduced"}),
    )
    assert (
        f"Verdicts that change: C1 ({titles['C1']}) is reproduced under `paper` and `em`, inconclusive under "
        f"`converged`; C4 ({titles['C4']}) is reproduced under `paper`, not reproduced under `converged`. "
        "Verdicts that do not: C2." in text
    )
    assert "C7" not in text


def test_claims_that_do_not_change_and_missing_scorecards():
    same = {"C1": "inconclusive", "C2": "reproduced"}
    text = said(facts(verdicts=same), facts("em", verdicts=same))
    assert "No claim that can be compared changes its verdict (C1, C2)." in text
    assert "scorecard" not in text
    assert "No scorecard is stored for `em`." in said(facts(verdicts=same), facts("em", verdicts={}))
    text = said(facts(verdicts={}), facts("em", verdicts={}))
    assert "No scorecard is stored, so no verdicts can be compared." in text
    assert "erdicts that" not in text


def test_convergence():
    text = said(
        facts(tallies=(chains("one"),) * 2),
        facts("converged", tallies=(chains(good=7), chains(good=0))),
        facts("heldout", tallies=(chains(fits=150, fits_good=4), chains(good=29, fits=150, fits_good=1))),
        facts("em", tallies=(chains("em", good=29), chains("em"))),
    )
    assert "`paper` has one chain a class, which cannot tell whether it converged." in text
    assert (
        "Under `converged` the chains converged for 0 of 30 classes at stage 4, and for 7 of 60 at all stages "
        "together; what it says of the others depends on the chain." in text
    )
    assert (
        "Under `heldout` the chains converged for 29 of 30 classes at stage 4, and for 59 of 60 at all stages "
        "together; of 300 fits that leave points out 5 did; what it says of the others" in text
    )
    assert "EM reached its tolerance in 59 of 60 fits." in text


def test_all_converged_and_unknown():
    text = said(facts(), facts("em", tallies=()), facts("heldout", tallies=(chains(""),)))
    assert "for 30 of 30 classes at stage 4, and for 60 of 60 at all stages together." in text
    assert "depends on the chain" not in text
    assert "Whether fits converged is not stored for `em` and `heldout`." in text


def test_what_is_out_of_date_is_said_first():
    text = said(facts(), facts("em", stale=("figure_a7", "scorecard")), facts("heldout", stale=("classes",)))
    assert text.startswith(
        "Out of date: figure_a7, scorecard under `em` and classes under `heldout`, made with other settings, another "
    )
    assert "Out of date" not in said(facts(), facts("em"))


def test_what_was_not_run_is_said_last():
    assert said(facts(), facts("em"), not_run=["converged", "heldout"]).endswith(
        "No results are stored for `converged` and `heldout`."
    )
    assert said(facts(), facts("em"), not_run=["heldout"]).endswith("No results are stored for `heldout`.")
    assert "No results" not in said(facts(), facts("em"))
