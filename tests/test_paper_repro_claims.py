"""The scorecard: its tests on numbers made to show what the paper says, its opposite, and nothing."""

import csv
import json
import re
import warnings

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import norm, spearmanr
from tolerances import PEER_RELATIVE

from paper_repro import claims
from paper_repro.claims import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED, assess, scorecard
from paper_repro.statistics import (
    difference,
    gap_p_value,
    group_difference,
    is_split,
    least_a_side,
    modes_p_value,
    negative,
    normal_interval,
    p_words,
    rank_correlation,
    rank_correlation_interval,
    resampled,
    share_error,
    unimodal_bandwidth,
)
from paper_repro.steps import Work
from paper_repro.storage import read_json, write_arrays


def verdict(name, figure, stored):
    (found,) = [claim for claim in assess({figure: stored}) if claim.name == name]
    return found.verdict


def parts_of(name, figures):
    (found,) = [claim for claim in assess(figures) if claim.name == name]
    return found.parts


def with_groups(stored):
    """Figure 3 with classes that fall into two groups."""
    return {"figure_3": stored, "figure_a7": density_figure(80, 20, 10.0)}


def density_figure(n_low, n_high, ratio, *, gap=60.0, seed=0, grouped=(False, False, True, True)):
    """Figure A.7 with two groups of classes at the stages where `grouped` says so."""
    rng = np.random.default_rng(seed)
    G = n_low + n_high
    high = np.arange(G) >= n_low
    mean, std = rng.standard_normal((4, G)) * 5, np.exp(3 + 0.1 * rng.standard_normal((4, G)))
    for s, has_groups in enumerate(grouped):
        mean[s] += gap * high * has_groups
        std[s] /= np.where(high & has_groups, ratio, 1.0)
    return {
        "stages": np.arange(1, 5),
        "dimensions": np.array([16, 16, 64, 64]),
        "class_names": np.arange(G).astype(str),
        "mean": mean,
        "std": std,
    }


def test_two_groups_and_none_before():
    stored = density_figure(80, 20, 10.0)
    assert verdict("C1", "figure_a7", stored) == REPRODUCED
    assert verdict("C2", "figure_a7", stored) == REPRODUCED


def test_no_groups_at_the_last_stage():
    assert verdict("C1", "figure_a7", density_figure(80, 20, 10.0, grouped=(False,) * 4)) == NOT_REPRODUCED


def test_a_gap_with_equal_spread_on_both_sides_is_not_what_the_paper_says():
    assert verdict("C1", "figure_a7", density_figure(80, 20, 1.2)) == NOT_REPRODUCED


def test_groups_at_every_stage_contradict_c2():
    assert verdict("C2", "figure_a7", density_figure(80, 20, 10.0, grouped=(True,) * 4)) == NOT_REPRODUCED


def test_classes_of_one_mean_are_no_groups():
    stored = density_figure(80, 20, 10.0)
    same = stored | {"mean": np.zeros_like(stored["mean"]), "high": np.full(100, False), "gap": np.array(0.0)}
    assert verdict("C1", "figure_a7", same) == NOT_REPRODUCED


def test_an_outlier_is_no_group():
    assert verdict("C1", "figure_a7", density_figure(99, 1, 10.0)) == NOT_REPRODUCED


@pytest.mark.parametrize(("ratio", "expected"), [(10.0, INCONCLUSIVE), (1.2, REPRODUCED)])
def test_an_outlier_as_alike_as_a_group_is_not_none_either(ratio, expected):
    stored = density_figure(98, 2, ratio, grouped=(False, True, True, True))
    (claim,) = [claim for claim in assess({"figure_a7": stored}) if claim.name == "C2"]
    assert claim.verdict == expected
    first, second = claim.parts
    assert first.outcome == "holds"
    assert "stage 2: no two groups (of at least 3 classes each, " in second.statement
    assert re.search(r"largest gap \([\d.]+ nats, 2 of 100 classes above it; p [=<] 0\.0", second.statistic)


@pytest.mark.parametrize(
    ("n_far", "ratio", "expected"), [(1, 15.0, INCONCLUSIVE), (1, 1.2, NOT_REPRODUCED), (3, 15.0, INCONCLUSIVE)]
)
def test_a_class_far_from_two_groups_does_not_make_them_one(n_far, ratio, expected):
    """The largest gap is below it; three far ones are a group themselves, and spreads that are alike make none."""
    stored = density_figure(60, 40, ratio, gap=40.0, seed=1, grouped=(False, True, True, True))
    stored["mean"][:, :n_far] = stored["mean"].min(1, keepdims=True) - 60.0
    c1, c2 = assess({"figure_a7": stored})
    assert c1.verdict == expected
    if (n_far, ratio) == (1, 15.0):
        assert c2.verdict == expected
        assert c2.parts[0].outcome == "holds"  # no groups at stage 1, the far class set aside
        said = "without a class far from the others there may be two groups: largest gap "
        assert f"stage 4: {said}" in c1.remark
        assert f"stage 2: {said}" in c2.remark
        assert "stage 1" not in c2.remark
        assert "40 of 99 classes above it, p " in c1.remark
    else:
        assert "far from the others" not in c1.remark + c2.remark


def test_no_more_than_outliers_are_set_aside():
    """Two far classes on one side and two on the other are more than are fewer than a group."""
    stored = density_figure(60, 40, 15.0, gap=40.0, seed=1)
    for g, far in ((0, -400.0), (1, -399.0), (98, 400.0), (99, 399.0)):
        stored["mean"][:, g] = far
    (c1, _) = assess({"figure_a7": stored})
    assert c1.verdict == NOT_REPRODUCED
    stored["mean"][:, [1, 98]] = 0.0  # one on either side
    (c1, _) = assess({"figure_a7": stored})
    assert c1.verdict == INCONCLUSIVE
    assert "stage 4: without 2 classes far from the others there may be two groups" in c1.remark
    assert "of 98 classes above it" in c1.remark


def test_spreads_that_differ_by_far_keep_a_gap_that_may_be_chance_from_being_none():
    """Two groups of like size, not far apart: the test of the gap has little power there."""
    stored = density_figure(35, 65, 10.0, gap=30.0, seed=2, grouped=(False, True, True, True))
    assert gap_p_value(stored["mean"][-1]) > 0.05
    c1, c2 = assess({"figure_a7": stored})
    assert (c1.verdict, c2.verdict) == (INCONCLUSIVE, INCONCLUSIVE)
    gap, ratio = c1.parts
    assert (gap.outcome, ratio.outcome) == ("unclear", "holds")
    assert "and does not decide here: p < 0.001. At stage 3: " in c1.remark
    assert "Silverman" not in assess({"figure_a7": density_figure(80, 20, 10.0)})[0].remark


def test_why_nothing_could_be_tested_is_in_the_table(tmp_path):
    inputs = {}
    (tmp_path / "scorecard").mkdir()
    for name, stored in with_groups({"high_share": np.array([0.0, 0.1, 0.3])}).items():
        folder = inputs[f"paper/{name}"] = tmp_path / name
        folder.mkdir()
        write_arrays(folder / "numbers.npz", stored)
    scorecard(Work(tmp_path / "scorecard", {}, inputs, Console(quiet=True)))
    rows = list(csv.DictReader((tmp_path / "scorecard" / "scorecard.csv").open(newline="")))
    untested = [row for row in rows if row["claim"] in ("C5", "C6")]
    assert len(untested) == 2
    for row in untested:
        assert row["statement"].endswith("there is no transition to look at (the highest bin has 30% of them).")


def test_figures_that_allow_no_claim_leave_a_scorecard_without_rows(tmp_path):
    for name in ("scorecard", "figure_3"):
        (tmp_path / name).mkdir()
    write_arrays(tmp_path / "figure_3" / "numbers.npz", bins(1))
    inputs = {"paper/figure_3": tmp_path / "figure_3"}
    scorecard(Work(tmp_path / "scorecard", {}, inputs, Console(quiet=True)))
    assert read_json(tmp_path / "scorecard" / "scorecard.json") == []
    (header,) = (tmp_path / "scorecard" / "scorecard.csv").read_text().splitlines()
    assert header == "claim,title,verdict,statement,statistic,value,low,high,outcome"


def test_few_high_density_classes_have_no_interval():
    (claim,) = [claim for claim in assess({"figure_a7": density_figure(97, 3, 10.0)}) if claim.name == "C1"]
    gap, ratio = claim.parts
    assert (gap.outcome, ratio.outcome, claim.verdict) == ("holds", "unclear", INCONCLUSIVE)
    assert ratio.value == pytest.approx(10, rel=0.2)
    assert np.isnan([ratio.low, ratio.high]).all()


@pytest.mark.parametrize("of", [0, 99])
def test_a_class_without_spread_leaves_the_ratio_unclear(of):
    """A class of one point, say, with low or high density: resamples of classes that miss it tell nothing of all."""
    stored = density_figure(80, 20, 10.0)
    stored["std"][-1, of] = 0
    claim = assess({"figure_a7": stored})[0]
    gap, ratio = claim.parts
    assert (gap.outcome, ratio.outcome, claim.verdict) == ("holds", "unclear", INCONCLUSIVE)
    assert np.isnan([ratio.value, ratio.low, ratio.high]).all()


def test_a_distance_that_is_no_number_leaves_c4_unclear():
    stored = {
        "class_names": np.arange(30).astype(str), "mean_log_density": np.arange(30.0), "high": np.arange(30) > 25,
        "relative_entropy": np.arange(30.0), "mean_distance": np.random.default_rng(0).random(30),
    }  # fmt: skip
    stored["mean_distance"][3] = np.nan
    (claim,) = assess({"figure_2": stored})
    assert [part.outcome for part in claim.parts] == ["holds", "unclear"]
    assert np.isnan(claim.parts[1][2:5]).all()


@pytest.mark.parametrize(("ratio", "gap"), [(10.0, 8.0), (10.0, 60.0), (1.2, 60.0)])
def test_few_classes_are_inconclusive_whatever_they_show(ratio, gap):
    c1, c2 = assess({"figure_a7": density_figure(8, 2, ratio, gap=gap)})
    assert (c1.verdict, c2.verdict) == (INCONCLUSIVE, INCONCLUSIVE)
    assert {part.outcome for part in (*c1.parts, *c2.parts)} == {"unclear"}
    few = "10 classes are too few to tell a gap from chance."
    assert c1.remark.startswith(f"{few} At stage 3: largest gap ")
    assert c2.remark.startswith(few)


def test_c1_also_says_what_the_stage_before_the_last_shows():
    grouped = density_figure(80, 20, 10.0, grouped=(False, False, True, False))
    (claim,) = [claim for claim in assess({"figure_a7": grouped}) if claim.name == "C1"]
    assert claim.verdict == NOT_REPRODUCED
    found = re.search(
        r"At stage 3: largest gap ([\d.]+) nats, 20 of 100 classes above it, p [=<] 0\.0\d+; ", claim.remark
    )
    assert float(found[1]) == pytest.approx(np.diff(np.sort(grouped["mean"][2])).max(), abs=0.05)
    assert float(claim.remark.rsplit("ratio of spreads ")[1].rstrip(".")) == pytest.approx(10, rel=0.2)


@pytest.mark.parametrize(("grouped", "expected"), [(False, REPRODUCED), (True, NOT_REPRODUCED)])
def test_plain_network(grouped, expected):
    plain = density_figure(80, 20, 10.0, grouped=(False,) * 4)
    other = density_figure(80, 20, 10.0, grouped=(False, False, False, grouped), seed=1)
    stored = {f"before_{name}": values for name, values in plain.items()}
    stored |= {f"after_{name}": values for name, values in other.items()}
    assert verdict("C3", "figure_a8", stored) == expected


@pytest.mark.parametrize(
    ("entropy", "distance", "expected"),
    [
        (1.0, 0.0, REPRODUCED),
        (-1.0, 0.0, NOT_REPRODUCED),
        (0.3, 1.0, NOT_REPRODUCED),
        (1.0, -0.5, NOT_REPRODUCED),  # less than relative entropy, but far more than nothing
        (1.0, -0.12, INCONCLUSIVE),
    ],
)
def test_relative_entropy(entropy, distance, expected):
    rng = np.random.default_rng(0)
    density = rng.standard_normal(100)
    stored = {
        "mean_log_density": density,
        "relative_entropy": entropy * density + 0.2 * rng.standard_normal(100),
        "mean_distance": distance * density + 0.2 * rng.standard_normal(100),
        "high": density > 1.5,
    }
    (claim,) = assess({"figure_2": stored})
    assert claim.verdict == expected
    low = ~stored["high"]
    every, among_low = (spearmanr(stored["mean_distance"][own], density[own]).statistic for own in (low | True, low))
    assert claim.parts[1].value == pytest.approx(abs(every), rel=PEER_RELATIVE)
    said = re.sub(r" \([^)]*\)", "", claim.remark).replace("−", "-")
    assert f": {every:+.2f} over all classes, {among_low:+.2f} over the {low.sum()} below the largest gap." in said


def test_relative_entropy_and_points_left_out():
    """Its correlation with the density that it is made of is not all there is to say."""
    rng = np.random.default_rng(0)
    density = rng.standard_normal(100)
    left_out = np.stack([rng.standard_normal(100), -density])
    stored = {
        "mean_log_density": density,
        "relative_entropy": density + 0.2 * rng.standard_normal(100),
        "mean_distance": 0.2 * rng.standard_normal(100),
        "high": density > 1.5,
    }
    (alone,) = assess({"figure_2": stored})
    (claim,) = assess({"figure_2": stored, "figure_b5": {"left_out_mean": left_out}})
    assert claim.parts == alone.parts
    said = re.sub(r" \([^)]*\)", "", claim.remark.removeprefix(alone.remark)).replace("−", "-")
    by_entropy, by_distance = (
        spearmanr(stored[name], left_out[1]).statistic for name in ("relative_entropy", "mean_distance")
    )
    assert f"its rank correlation is {by_entropy:+.2f}, and that of the distance {by_distance:+.2f}." in said


def test_classes_at_the_same_distance():
    stored = {"mean_log_density": np.arange(30.0), "relative_entropy": np.arange(30.0), "mean_distance": np.ones(30)}
    (claim,) = assess({"figure_2": stored | {"high": np.arange(30) > 20}})
    assert claim.verdict == INCONCLUSIVE
    assert "undefined over all classes" in claim.remark


def bins(direction, high_from=35):
    """Figure 3: numbers that fall with density and jump up at the transition, or the other way round."""
    rng = np.random.default_rng(0)
    b = np.arange(50)
    shape = np.where(b < high_from, 0.6 - 0.015 * b, 0.7)
    memorization = 0.5 + direction * (shape - 0.5) + 0.01 * rng.standard_normal(50)
    return {
        "high_share": np.where(b < high_from, 0.02, 0.9),
        "memorization_mean": memorization,
        "memorization_std": np.full(50, 0.3),
        "n_points": np.full(50, 1000),
        "f1": 1 - memorization,
        "n_certified": np.full(50, 200),
        "radius": 1 - memorization,
        "radius_std": np.full(50, 0.3),
        "smoothed_f1": 1 - memorization,
    }


@pytest.mark.parametrize("name", ["C5", "C6"])
@pytest.mark.parametrize(("direction", "expected"), [(1, REPRODUCED), (-1, NOT_REPRODUCED)])
def test_bins(name, direction, expected):
    (claim,) = [claim for claim in assess(with_groups(bins(direction))) if claim.name == name]
    assert claim.verdict == expected


@pytest.mark.parametrize(
    ("name", "changed", "failing"),
    [("C5", "memorization_mean", [0, 1]), ("C5", "f1", [2, 3]), ("C6", "radius", [0]), ("C6", "smoothed_f1", [1])],
)
def test_each_part_is_of_its_own_numbers(name, changed, failing):
    stored = bins(1)
    stored[changed] = 1 - stored[changed]
    parts = parts_of(name, with_groups(stored))
    assert [p for p, part in enumerate(parts) if part.outcome == "does not hold"] == failing
    assert {part.outcome for part in parts} == {"holds", "does not hold"}


def test_radii_that_are_all_0_neither_drop_nor_rise():
    stored = bins(1) | {"radius": np.zeros(50), "radius_std": np.zeros(50)}
    part = parts_of("C6", with_groups(stored))[0]
    assert part[2:] == (0.0, 0.0, 0.0, "unclear")


def test_half_of_the_points_are_not_most():
    stored = bins(1)
    stored["high_share"][34] = 0.5
    assert claims._transition(with_groups(stored))[0] == 35


@pytest.mark.parametrize("name", ["C5", "C6"])
@pytest.mark.parametrize("high_from", [0, 50])
def test_without_a_transition_there_is_nothing_to_say(name, high_from):
    (claim,) = [claim for claim in assess(with_groups(bins(1, high_from))) if claim.name == name]
    assert (claim.verdict, claim.parts) == (INCONCLUSIVE, ())
    assert "no transition" in claim.remark


@pytest.mark.parametrize("name", ["C5", "C6"])
@pytest.mark.parametrize(
    ("classes", "why"),
    [
        (density_figure(8, 2, 10.0), "10 classes are too few to tell a gap from chance."),
        (density_figure(80, 20, 10.0, grouped=(False,) * 4), "at the last stage there are no two groups (C1)."),
    ],
)
def test_without_two_groups_of_classes_there_is_no_transition(name, classes, why):
    """Whatever the bins show: the largest gap is there always."""
    (claim,) = [claim for claim in assess({"figure_3": bins(1), "figure_a7": classes}) if claim.name == name]
    assert (claim.verdict, claim.parts) == (INCONCLUSIVE, ())
    assert claim.remark == f"There is no transition to look at: {why}"


@pytest.mark.parametrize("name", ["C5", "C6"])
@pytest.mark.parametrize(("n_far", "least"), [(1, "1 class"), (3, "3 classes")])
def test_classes_far_from_all_others_are_no_transition(name, n_far, least):
    """C1 is inconclusive then; were the edge of so few classes looked at, the claims would not be reproduced."""
    classes = density_figure(60, 40, 10.0)
    classes["mean"][-1, :n_far] -= 200
    found = {claim.name: claim for claim in assess({"figure_3": bins(-1), "figure_a7": classes})}
    assert (found["C1"].verdict, found[name].verdict, found[name].parts) == (INCONCLUSIVE, INCONCLUSIVE, ())
    assert f"no group, only {least} (C1)" in found[name].remark


@pytest.mark.parametrize(("n_layers", "stages", "expected"), [(2, [], INCONCLUSIVE), (3, [1], REPRODUCED)])
def test_layers_with_groups_are_not_called_early(n_layers, stages, expected):
    """The last two are where the paper sees groups; an analysis of two layers has no others."""
    classes = density_figure(80, 20, 10.0)
    classes |= {name: classes[name][-n_layers:] for name in ("dimensions", "mean", "std")}
    classes["stages"] = np.arange(1, n_layers + 1)
    c1, c2 = [claim for claim in assess({"figure_a7": classes}) if claim.name in ("C1", "C2")]
    assert (c1.verdict, c2.verdict) == (REPRODUCED, expected)
    assert [part.statement.split(":")[0] for part in c2.parts] == [f"stage {stage}" for stage in stages]
    assert "stage 4" not in c2.remark
    assert c2.remark


def test_a_gap_that_may_be_chance_between_spreads_that_differ_by_far_is_a_transition():
    unclear = density_figure(35, 65, 10.0, gap=30.0, seed=2, grouped=(False, True, True, True))
    c1, c5 = [c for c in assess({"figure_3": bins(1), "figure_a7": unclear}) if c.name in ("C1", "C5")]
    assert (c1.verdict, c5.verdict) == (INCONCLUSIVE, REPRODUCED)
    assert "lacks" not in c5.remark


@pytest.mark.parametrize("name", ["C5", "C6"])
def test_classes_that_leave_the_training_with_a_bin_are_remarked_upon(name):
    stored = bins(1) | {"own_class_removed": np.where(np.arange(50) < 35, 0.02, 0.6)}
    (claim,) = [claim for claim in assess(with_groups(stored)) if claim.name == name]
    assert "lacks 2% of the images of a point's own class before it, and 60% from there on" in claim.remark


def test_f1_at_the_transition_beside_networks_that_lack_points_at_random():
    control = np.where(np.arange(50) < 35, 0.6, 0.5)
    (c5,) = [claim for claim in assess(with_groups(bins(1) | {"right_outside": control})) if claim.name == "C5"]
    assert re.search(r"Across it F1 changes by -0\.\d\d, the accuracy .*, by -0\.10\.$", c5.remark)
    (c5,) = [
        claim for claim in assess(with_groups(bins(1) | {"right_outside": control * np.nan})) if claim.name == "C5"
    ]
    assert "Across it" not in c5.remark


def test_certificates_at_the_transition_beside_a_network_that_lacks_the_certified_points_alone():
    stored = bins(1)
    (c6,) = [claim for claim in assess(with_groups(stored)) if claim.name == "C6"]
    assert "alone" not in c6.remark
    control = {
        "control_radius": np.where(np.arange(50) < 35, 0.6, 0.5),
        "control_radius_std": np.full(50, 0.2),
        "control_smoothed_f1": np.where(np.arange(50) < 35, 0.9, 0.6),
    }
    (c6,) = [claim for claim in assess(with_groups(stored | control)) if claim.name == "C6"]
    # Five bins on either side, each a mean of n points.
    half = 1.959964 * np.sqrt(2 * 0.2**2 / stored["n_certified"][0] / 5)
    by_radius = f"the radius drops by 0.10 ({0.1 - half:.2f} to {0.1 + half:.2f}) and F1 of the smoothed"
    assert f"By one network that lacks the certified points alone, about as many of every class, {by_radius}" in (
        c6.remark
    )
    assert "by 0.30 (" in c6.remark


def test_changes_at_the_transition_have_the_errors_of_the_means_of_bins():
    """Of five bins on each side: of 900 points with a spread of 0.3 each, or of 100 radii with one of 0.2."""
    stored = bins(1) | {"n_points": np.full(50, 900), "n_certified": np.full(50, 100), "radius_std": np.full(50, 0.2)}
    c5, c6 = (parts_of(name, with_groups(stored)) for name in ("C5", "C6"))
    half = [(part.high - part.low) / 2 for part in (c5[1], c6[0])]
    assert half == pytest.approx([1.96 * np.sqrt(2 / 5) * error for error in (0.3 / 30, 0.2 / 10)], rel=1e-3)
    for part, name, n in ((c5[3], "f1", 900), (c6[1], "smoothed_f1", 100)):
        assert part[2:5] == pytest.approx(negative(difference(stored[name], share_error(stored[name], n), 35)))


def test_few_bins_show_no_trend():
    (claim,) = [claim for claim in assess(with_groups(bins(1, 5))) if claim.name == "C5"]
    assert claim.verdict == INCONCLUSIVE
    assert [part.outcome for part in claim.parts] == ["unclear", "holds", "unclear", "holds"]


def by_stage(order, third_step):
    """Figure 4: [3, S, G, G] divergences of most, random and least memorized points."""
    rng = np.random.default_rng(0)
    level = np.array([10.0, 20.0, 20.0 + third_step, 30.0 + third_step])
    offset = order * np.array([-15.0, 0.0, 15.0])
    values = level[None, :, None, None] + offset[:, None, None, None] + rng.standard_normal((3, 4, 30, 30))
    return {"divergence": values, "dimensions": np.array([16, 16, 64, 64])}


@pytest.mark.parametrize(
    ("order", "third_step", "expected"), [(1, 80.0, REPRODUCED), (-1, 80.0, NOT_REPRODUCED), (1, 0.0, NOT_REPRODUCED)]
)
def test_divergence_by_stage(order, third_step, expected):
    assert verdict("C7", "figure_4", by_stage(order, third_step)) == expected


def test_divergences_of_a_class_from_itself_count_for_nothing():
    stored = by_stage(1, 80.0)
    again = stored["divergence"].copy()
    again[..., np.arange(30), np.arange(30)] = 0.0
    assert parts_of("C7", {"figure_4": stored | {"divergence": again}}) == parts_of("C7", {"figure_4": stored})


@pytest.mark.parametrize(("kind", "stage", "outcome"), [(0, 1, "holds"), (slice(None), 3, "does not hold")])
def test_the_third_step_is_the_largest_of_random_points(kind, stage, outcome):
    """Another step may be larger of the most memorized points alone; of all points none may, be it the last."""
    stored = by_stage(1, 80.0)
    stored["divergence"][kind, stage] += 500.0
    assert parts_of("C7", {"figure_4": stored})[0].outcome == outcome


@pytest.mark.parametrize(("stage", "outcome"), [(0, "holds"), (3, "does not hold")])
def test_divergences_are_ordered_at_the_last_stage(stage, outcome):
    """Most and least memorized points change places at one stage."""
    stored = by_stage(1, 80.0)
    stored["divergence"][:, stage] = stored["divergence"][::-1, stage].copy()
    assert {part.outcome for part in parts_of("C7", {"figure_4": stored})[1:]} == {outcome}


def test_two_classes_cannot_decide_on_divergences():
    stored = by_stage(1, 80.0)
    (claim,) = assess({"figure_4": stored | {"divergence": stored["divergence"][..., :2, :2]}})
    assert claim.verdict == INCONCLUSIVE
    assert {part.outcome for part in claim.parts} == {"unclear"}
    assert claim.remark == (
        "2 classes have enough points of every kind: too few for intervals. "
        "Dimensions are 16, 16, 64, 64 at these stages; under `paper`, "
        "figure B.6 has them equal."
    )
    (claim,) = assess({"figure_4": stored | {"dimensions": np.array([16, 16, 16, 16])}})
    assert claim.remark == ""


@pytest.mark.parametrize(("n", "said"), [(4, "too few for"), (5, "over so few are too"), (19, "over so few"), (20, "")])
def test_few_classes_are_said_beside_divergences(n, said):
    stored = by_stage(1, 80.0)
    few = {"divergence": stored["divergence"][..., :n, :n], "dimensions": np.array([16] * 4)}
    (claim,) = assess({"figure_4": few})
    assert claim.remark.startswith(f"{n} classes have enough points of every kind" if said else "")
    assert said in claim.remark
    assert bool(claim.remark) == bool(said)


@pytest.mark.parametrize(
    ("sign", "error", "expected"), [(1, 0.01, REPRODUCED), (-1, 0.01, NOT_REPRODUCED), (1, 0.5, INCONCLUSIVE)]
)
def test_generative_f1(sign, error, expected):
    f1 = np.array([[0.2, 0.2, 0.3, 0.4], [0.4, 0.5, 0.6, 0.7], [0.6, 0.7, 0.8, 0.9]])
    stored = {"f1": 0.5 + sign * (f1 - 0.5), "error": np.full((3, 4), error)}
    assert verdict("C8", "figure_a11", stored) == expected


@pytest.mark.parametrize(
    ("kind", "stage", "value", "part"),
    [(1, 1, 0.35, 0), (2, 0, 0.35, 1), (0, 2, 0.65, 2)],  # a step back; two kinds the other way round at a stage
)
def test_generative_f1_at_every_stage(kind, stage, value, part):
    f1 = np.array([[0.2, 0.3, 0.4, 0.5], [0.4, 0.5, 0.6, 0.7], [0.6, 0.7, 0.8, 0.9]])
    f1[kind, stage] = value
    (claim,) = assess({"figure_a11": {"f1": f1, "error": np.full((3, 4), 0.01)}})
    assert claim.verdict == NOT_REPRODUCED
    assert [p.outcome for p in claim.parts] == ["does not hold" if p == part else "holds" for p in range(3)]
    assert claim.parts[part].value == pytest.approx(-0.05)


def test_a_larger_difference_that_is_less_certain_decides():
    f1 = np.array([[0.2, 0.25, 0.3, 0.35], [0.4, 0.45, 0.55, 0.65], [0.6, 0.7, 0.8, 0.9]])
    error = np.full((3, 4), 0.001)
    error[1, 3] = 0.2
    (part, *_) = parts_of("C8", {"figure_a11": {"f1": f1, "error": error}})
    assert (part.outcome, part.value) == ("unclear", pytest.approx(0.1))  # the first step is 0.05, and certain


def test_differences_of_f1_have_both_errors_and_hold_all_at_once():
    """At four stages, with three steps between them."""
    f1 = np.array([[0.2, 0.3, 0.4, 0.5], [0.4, 0.5, 0.6, 0.7], [0.6, 0.7, 0.8, 0.9]])
    error = np.array([[0.03] * 4, [0.04] * 4, [0.05] * 4])
    parts = parts_of("C8", {"figure_a11": {"f1": f1, "error": error}})
    expected = [(0.1, np.hypot(0.04, 0.04), 3), (0.2, np.hypot(0.05, 0.04), 4), (0.2, np.hypot(0.04, 0.03), 4)]
    for part, of in zip(parts, expected, strict=True):
        assert part[2:5] == pytest.approx(normal_interval(*of))


def test_claims_whose_figures_are_missing_are_left_out():
    assert [claim.name for claim in assess({"figure_3": bins(1)})] == []
    assert [claim.name for claim in assess(with_groups(bins(1)))] == ["C1", "C2", "C5", "C6"]
    assert assess({}) == []


def test_what_heldout_shares_with_converged_is_said_of_those_claims_alone(tmp_path):
    inputs = {f"of/{name}": tmp_path / name for name in ("figure_a7", "figure_a11")}
    f1 = np.array([[0.2, 0.3, 0.4, 0.5], [0.4, 0.5, 0.6, 0.7], [0.6, 0.7, 0.8, 0.9]])
    stored = (density_figure(80, 20, 10.0), {"f1": f1, "error": np.full((3, 4), 0.01)})
    for folder, numbers in zip(inputs.values(), stored, strict=True):
        folder.mkdir()
        write_arrays(folder / "numbers.npz", numbers)
    marked = {}
    for name, settings in {"converged": {}, "heldout": {"of_converged": ["figure_4", "figure_a11"]}}.items():
        (tmp_path / name).mkdir()
        scorecard(Work(tmp_path / name, settings, inputs, Console(quiet=True)))
        found = read_json(tmp_path / name / "scorecard.json")
        marked[name] = [claim["name"] for claim in found if claim["remark"].startswith(claims.AS_CONVERGED)]
    assert [claim["name"] for claim in found] == ["C1", "C2", "C8"]
    assert marked == {"converged": [], "heldout": ["C8"]}


def test_the_scorecard_is_valid_json():
    found = assess({"figure_a7": density_figure(80, 20, 10.0), "figure_3": bins(1, 0)})
    stored = json.loads(json.dumps(claims.as_json(found), allow_nan=False))
    assert [claim["name"] for claim in stored] == ["C1", "C2", "C5", "C6"]
    assert stored[0]["parts"][0]["low"] is None
    assert stored[0]["parts"][1]["low"] < stored[0]["parts"][1]["value"] < stored[0]["parts"][1]["high"]


def test_difference_of_two_groups():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(60)
    for n_high in (0, 1, 4, 5, 30, 56, 60):
        high = np.arange(60) < n_high
        value, low, above = group_difference(values, high)
        if 0 < n_high < 60:
            assert value == pytest.approx(values[high].mean() - values[~high].mean(), rel=PEER_RELATIVE)
        else:
            assert np.isnan(value)
        assert (low < value < above) == (5 <= n_high <= 55)
    with warnings.catch_warnings(action="error"):  # logs of the spreads of classes that have none
        assert np.isnan(group_difference(np.full(60, -np.inf), np.arange(60) < 30)).all()
    # Normal values: the interval of a difference of means has the width that everybody knows, off by some 1 / sqrt(n).
    _, low, above = group_difference(values, np.arange(60) < 30)
    assert (above - low) / (2 * 1.96 * np.sqrt(2 / 30)) == pytest.approx(1, abs=2 / np.sqrt(60))


def test_the_interval_of_a_difference_of_few_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    high = np.arange(100) < 5
    found = [group_difference(rng.standard_normal(100) + high, high) for _ in range(1000)]
    assert np.mean([low < 1 < above for _, low, above in found]) == pytest.approx(0.95, abs=0.02)


def test_intervals_for_several_at_once():
    rng = np.random.default_rng(2)
    assert normal_interval(1.0, 0.5)[1:] == pytest.approx((1 - 0.98, 1 + 0.98), abs=1e-4)
    errors = rng.standard_normal((4000, 4))
    low, above = np.array([[normal_interval(e, 1.0, at_once=4)[1:] for e in row] for row in errors]).transpose(2, 0, 1)
    assert ((low < 0) & (above > 0)).all(1).mean() == pytest.approx(0.95, abs=0.02)


def test_the_error_of_a_share_is_agresti_and_coulls():
    """Two successes and two failures are added: to 96 points, 2, 50 and 98 of 100."""
    expected = [np.sqrt(0.02 * 0.98 / 100), np.sqrt(0.5 * 0.5 / 100), np.sqrt(0.98 * 0.02 / 100)]
    assert share_error(np.array([0.0, 0.5, 1.0]), np.full(3, 96)) == pytest.approx(expected)


def test_bootstrap_intervals_are_of_95_percent():
    """Of a mean as wide as the normal one; of the rank correlation of independent numbers, 2 x 1.96 / sqrt(n - 1)."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(200)
    _, low, high = resampled(200, lambda rows: float(values[rows].mean()))
    assert (high - low) / (2 * 1.96 * values.std() / np.sqrt(200)) == pytest.approx(1, abs=0.08)
    ends = np.array([rank_correlation_interval(rng.random(200), rng.random(200))[1:] for _ in range(10)])
    assert np.diff(ends).mean() / (2 * 1.96 / np.sqrt(199)) == pytest.approx(1, abs=0.08)


def test_the_interval_of_a_rank_correlation_is_the_resampled_one():
    rng = np.random.default_rng(0)
    values = np.round(3 * rng.standard_normal(40))  # with ties
    others = rng.standard_normal(40) - values
    found = resampled(40, lambda rows: rank_correlation(values[rows], others[rows]))
    assert rank_correlation_interval(values, others) == pytest.approx(found, rel=1e-12)
    of_size = resampled(40, lambda rows: abs(rank_correlation(values[rows], others[rows])))
    assert found[0] == -of_size[0]
    assert rank_correlation_interval(values, others, size=True) == pytest.approx(of_size, rel=1e-12)
    # All units of a draw are often alike.
    found = resampled(6, lambda rows: rank_correlation(rows % 2, rows))
    assert rank_correlation_interval(np.arange(6) % 2, np.arange(6)) == pytest.approx(found, rel=1e-12)


def test_a_difference_across_a_bin_without_a_value_has_none():
    assert np.isnan(difference(np.array([1.0, np.nan, 2.0, 3.0]), np.ones(4), 2)).all()
    assert difference(np.arange(4.0), np.array([9.0, 3.0, 4.0, 9.0]), 2) == normal_interval(1.0, 5.0)
    assert difference(np.array([np.nan, 1.0, 2.0, 3.0]), np.full(4, 0.5), 2) == normal_interval(1.0, 0.5 * np.sqrt(2))


def test_bandwidth_of_one_and_of_two_modes():
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal(200), np.concatenate([rng.standard_normal(100), 10 + rng.standard_normal(100)])
    # A mixture of two equal Gaussians 2a apart has one mode when its standard deviation is at least a (here 5).
    assert unimodal_bandwidth(one) < 0.6
    assert 4.5 < unimodal_bandwidth(two) < 5.2


@pytest.mark.parametrize("tail", ["normal", "t4", "t2", "lognormal"])
def test_tails_are_no_groups(tail):
    """They leave gaps that one mode with a normal's tails does not, but with few units beyond them."""
    rng = np.random.default_rng(0)
    draw = {
        "normal": lambda: rng.standard_normal(100),
        "t4": lambda: rng.standard_t(4, 100),
        "t2": lambda: rng.standard_t(2, 100),
        "lognormal": lambda: rng.lognormal(size=100),
    }[tail]
    n_split, n_beyond_chance = 0, 0
    for _ in range(40):
        values = draw()
        p = gap_p_value(values)
        n_split += is_split(values, p)
        n_beyond_chance += p < 0.05
    # A rate of 5% stays there in 99% of all cases.
    assert n_split <= 5
    if tail != "normal":
        assert n_beyond_chance > 5


def test_groups_are_split():
    rng = np.random.default_rng(0)
    for n_high, expected in ((2, False), (3, True), (30, True), (97, True), (98, False)):
        values = rng.standard_normal(100) + 12 * (np.arange(100) < n_high)
        assert is_split(values, gap_p_value(values)) == expected
    assert [least_a_side(n) for n in (10, 60, 100, 101)] == [2, 2, 3, 4]


def test_few_units_have_no_interval():
    values = np.arange(5.0)
    for n, known in ((4, False), (5, True)):
        for found in (
            resampled(n, lambda rows: float(rows.mean())),
            rank_correlation_interval(values[:n], values[:n] ** 2),
        ):
            assert np.isfinite(found[0])
            assert np.isfinite(found[1:]).all() == known


def test_modes_by_chance_and_not_by_chance():
    """Groups of like size that overlap: no gap between them, and two modes."""
    rng = np.random.default_rng(0)
    assert min(modes_p_value(rng.standard_normal(60)) for _ in range(4)) > 0.02
    overlapping = rng.standard_normal(100) + 4 * (np.arange(100) < 50)
    assert modes_p_value(overlapping) < 0.01
    assert gap_p_value(overlapping) > 0.05
    assert modes_p_value(np.ones(10)) == 1.0


def test_p_values_in_words():
    numbers = {
        1 / 2001: "p < 0.001",
        2 / 2001: "p = 0.001",
        4 / 2001: "p = 0.002",
        0.0304: "p = 0.03",
        0.0528: "p = 0.053",
        0.4477: "p = 0.45",
    }
    assert {p: p_words(p) for p in numbers} == numbers


def test_gaps_by_chance_and_not_by_chance():
    rng = np.random.default_rng(0)
    by_chance = [gap_p_value(rng.standard_normal(100)) for _ in range(40)]
    assert sum(p < 0.05 for p in by_chance) <= 5
    assert gap_p_value(np.concatenate([rng.standard_normal(90), 9 + rng.standard_normal(10)])) < 0.01
    assert gap_p_value(np.ones(10)) == 1.0


@pytest.mark.parametrize(("gap", "above"), [(1.3, True), (1.35, False)])
def test_a_p_value_near_the_level_is_drawn_until_the_seed_does_not_decide(gap, above):
    values = norm.ppf((np.arange(100) + 0.5) / 100) + gap * (np.arange(100) >= 70)
    found = [gap_p_value(values, seed=seed) for seed in range(4)]
    assert {p > 0.05 for p in found} == {above}
    assert np.ptp(found) < 0.005
