"""Figures 3, 4, A.11, B.6 and B.7: what is computed from made numbers, and what is said of it."""

import re

import numpy as np
import pytest
from made_published import MADE_PUBLISHED
from made_robustness import (
    CELLS,
    MADE_ROBUSTNESS,
    N_BINS,
    STAGES,
    made_figure_3,
    made_figure_4,
    made_figure_a11,
    made_figure_b6,
    made_figure_b7,
)
from tolerances import PEER_RELATIVE

from paper_repro.certification import certify
from paper_repro.figures import figure_3, figure_4, figure_a11, figure_b6, figure_b7, module
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PROFILES, PROTOCOLS
from paper_repro.statistics import bins_a_side, difference, share_error

WORDS = {"subtitle": np.array("made"), "note": np.array("A note.")}


def test_figure_3_bins():
    numbers = made_figure_3()
    stored = figure_3.compute(**numbers) | WORDS
    for b in range(N_BINS):
        own = numbers["bins"] == b
        assert stored["log_density_mean"][b] == pytest.approx(numbers["log_density"][own].mean(), rel=PEER_RELATIVE)
        assert stored["memorization_std"][b] == pytest.approx(numbers["memorization"][own].std(), rel=PEER_RELATIVE)
    assert stored["f1"].tolist() == [1.0] * 5 + [0.0]
    assert stored["smoothed_f1"].tolist() == [1.0] * 5 + [0.0]
    assert stored["not_abstained"].tolist() == [1.0] * 5 + [0.0]
    assert stored["radius"].tolist() == pytest.approx([0.8] * 5 + [0.0])
    # The network beside them abstains in the first bin.
    assert stored["control_smoothed_f1"].tolist() == stored["control_not_abstained"].tolist() == [0.0] + [1.0] * 5
    assert stored["control_radius"].tolist() == pytest.approx([0.0] + [0.6] * 5)
    assert stored["control_right_radius"].tolist() == stored["control_radius"].tolist()
    assert stored["high_share"].tolist() == [0.5] * 6
    bins, labels = numbers["bins"], numbers["labels"]
    shares = [[(labels[bins == b] == g).sum() / (labels == g).sum() for g in range(labels.max() + 1)] for b in range(6)]
    expected = [np.mean([shares[b][g] for g in labels[bins == b]]) for b in range(6)]
    assert stored["own_class_removed"] == pytest.approx(expected)
    assert stored["right_outside"] == pytest.approx([numbers["right_outside"][bins == b].mean() for b in range(6)])
    rows = figure_3.table(stored)
    assert rows[0]["certified_radius_pixels"] == pytest.approx(0.2)
    assert [row["bin"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert "0.80 in the lowest bin, 0.00 in the highest, rank" in figure_3.finding(stored)
    peaked = figure_3.finding({**stored, "f1": np.array([0.2, 0.1, 0.9, 0.8, 0.7, 0.6])})
    assert "without the bin: 0.20 in the lowest bin, 0.60 in the highest (least 0.10 in bin 2, most 0.90 in bin 3)" in (
        peaked
    )
    by_control = figure_3.finding(stored).split("By a network that lacks the certified points alone, ")[1]
    assert by_control.startswith("certified radius: 0.00 in the lowest bin, 0.60 in the highest, rank correlation with")
    words = figure_3.caption(stored)
    assert "at stage 4 (under the protocol heldout of a fit that leaves the point out; the paper has 50 bins)" in words
    for said in (
        "6 bins of 20",
        "60 networks",
        "n = 1,000 (the paper: 100,000)",
        "10 points a bin",
        "made up",
        "A note.",
    ):
        assert said in words


@pytest.mark.parametrize("n_trials", [60, 0])
@pytest.mark.parametrize("name", ["figure_3", "figure_4", "figure_a11", "figure_b2", "figure_b6", "figure_b7"])
def test_where_scores_come_from(name, n_trials):
    stored = module(name).compute(**(MADE_ROBUSTNESS | MADE_PUBLISHED)[name]()) | WORDS
    caption = module(name).caption(stored | {"n_trials": np.array(n_trials)})
    assert ("estimated from 60 networks trained on random 70% subsets" in caption) == (n_trials > 0)
    assert ("given, not estimated here" in caption) == (n_trials == 0)
    assert not re.search(r"\b0 (networks|trials)\b", caption)


def test_scores_without_standard_errors():
    stored = figure_3.compute(**made_figure_3() | {"memorization_error": np.full(120, np.nan)}) | WORDS
    words = figure_3.finding(stored)
    assert "standard error" not in words
    assert "nan" not in words + figure_3.caption(stored)
    known = figure_3.finding(figure_3.compute(**made_figure_3()))
    assert " The standard error of a single point's memorization is 0.10 on average. A network without a bin" in known
    added = figure_3.REMOVED | figure_3.CONTROL
    before = {name: values for name, values in stored.items() if name not in added}  # as in older runs
    assert "without a bin" not in figure_3.finding(before)
    assert "alone" not in figure_3.finding(before) + figure_3.caption(before)
    assert figure_3.table(stored)[0]["share_of_own_class_removed"] == stored["own_class_removed"][0]
    unknown = figure_3.compute(**made_figure_3() | {"right_outside": np.full(120, np.nan)}) | WORDS
    for numbers, n_lines in ((stored, 2), (unknown, 1), (before, 1)):
        panel = next(axes for axes in figure_3.draw(numbers).axes if axes.get_title(loc="left") == "F1 without the bin")
        assert len(panel.lines) == n_lines
        assert ("dashed" in figure_3.caption(numbers)) == (n_lines == 2)
    for numbers, n_lines in ((stored, 2), (before, 1)):
        drawn = {axes.get_title(loc="left"): len(axes.lines) for axes in figure_3.draw(numbers).axes}
        assert drawn["Certified radius, mean"] == drawn["F1 of the smoothed classifier"] == n_lines
        assert ("Dashed are certificates" in figure_3.caption(numbers)) == (n_lines == 2)
    assert not set(added.values()) & set(figure_3.table(before)[0])


@pytest.mark.parametrize(("sigma", "n", "alpha"), [(0.5, 1000, 0.001), (0.25, 20, 0.01), (1.0, 5, 0.001)])
@pytest.mark.filterwarnings("ignore:5 draws")
def test_figure_3_says_the_largest_radius(sigma, n, alpha):
    about = {"sigma": sigma, "n": n, "alpha": alpha}
    stored = figure_3.compute(**made_figure_3()) | WORDS | {name: np.array(value) for name, value in about.items()}
    votes = np.array([[n, 0]])
    (radius,) = certify(votes, votes, sigma=sigma, alpha=alpha).radius
    assert figure_3._largest_radius(stored) == pytest.approx(radius, rel=PEER_RELATIVE)
    assert f"where all n draws agree it is {radius:.2f}, the largest there can be." in figure_3.caption(stored)


def test_figure_3_counts_what_attacks_are_tried_on():
    numbers = made_figure_3()
    standing = {title: values.copy() for title, values in numbers["survived"].items()}
    for values in standing.values():
        values[:3] = False  # of the first bin
    stored = figure_3.compute(**numbers | {"survived": standing}) | WORDS
    assert [row["n_attacked_rightly_classified"] for row in figure_3.table(stored)] == [7, 10, 10, 10, 10, 10]
    assert "of 10 points a bin, of which 7 to 10 are rightly classified" in figure_3.caption(stored)


def test_figure_3_spreads_and_shares_of_a_bin():
    """Of the ten points of the first bin that are certified and attacked, with radii of 0 to 0.9, three are wrong."""
    numbers = made_figure_3()
    smoothed = numbers["smoothed"].copy()
    smoothed[:3] = -1
    standing = {title: values.copy() for title, values in numbers["survived"].items()}
    for values in standing.values():
        values[:3] = False
        values[3:5, 1:] = False
    changes = {"radius": np.arange(60) / 10, "smoothed": smoothed, "survived": standing}
    stored = figure_3.compute(**numbers | changes)
    assert stored["log_density_std"][0] == pytest.approx(np.std(np.arange(20) / 2))
    assert stored["radius_std"][0] == pytest.approx(np.std(np.arange(10) / 10))
    assert stored["right_radius"][0] == pytest.approx(sum(range(3, 10)) / 10 / 10)
    # Of the seven that are right without an attack.
    assert stored["attack_success"][:, 0] == pytest.approx([2 / 7] * 4)


def test_figure_3_has_each_number_in_its_panel_and_column():
    numbers = figure_3.compute(**made_figure_3()) | WORDS
    rng = np.random.default_rng(0)
    stored = {
        n: rng.random(v.shape) if v.dtype == float and v.shape[-1:] == (N_BINS,) else v for n, v in numbers.items()
    }
    stored["robust_accuracy_by_group"] = rng.random((4, 3, 2))
    panels = {axes.get_title(loc="left"): axes for axes in figure_3.draw(stored).axes}
    for title, name in {
        "Log-density, mean ± std": "log_density_mean",
        "Memorization, mean ± std": "memorization_mean",
        "F1 without the bin": "f1",
        "Certified radius, mean": "radius",
        "Classification rate (not abstained)": "not_abstained",
        "F1 of the smoothed classifier": "smoothed_f1",
    }.items():
        assert panels[title].lines[0].get_ydata().tolist() == stored[name].tolist()
        if f"control_{name}" in stored:
            assert panels[title].lines[1].get_ydata().tolist() == stored[f"control_{name}"].tolist()
        if "±" in title:
            (band,) = panels[title].collections
            top = (stored[name] + stored[name.replace("mean", "std")]).max()
            assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(top)
    (pixels,) = panels["Certified radius, mean"].child_axes
    pixels.apply_aspect()  # until then it has no limits
    assert pixels.get_ylim()[1] == pytest.approx(0.25 * panels["Certified radius, mean"].get_ylim()[1])
    below, above = panels["Points by class, below or above the gap"].containers
    assert (below.get_label(), above.get_label()) == ("below the gap", "above it")
    assert [bar.get_height() for bar in above] == pytest.approx(stored["high_share"])
    assert [bar.get_height() for bar in below] == pytest.approx(1 - stored["high_share"])
    for line, success in zip(
        panels["Success of attacks (not in the paper)"].lines, stored["attack_success"], strict=True
    ):
        assert line.get_label().endswith(", 0.1")  # the middle budget
        assert line.get_ydata().tolist() == success.tolist()
    curves = {
        line.get_label(): line.get_ydata().tolist()
        for norm in ("L∞", "L2")
        for line in panels[f"Accuracy under {norm} attacks (not in the paper)"].lines
    }
    assert curves == {
        f"{title}, {group}": stored["robust_accuracy_by_group"][a, :, g].tolist()
        for a, title in enumerate(stored["attack_titles"])
        for g, group in enumerate(("below", "above"))
    }
    row = figure_3.table(stored)[2]
    columns = {
        "std_memorization": "memorization_std",
        "mean_standard_error_of_memorization": "memorization_error",
        "f1_without_the_bin": "f1",
        "certified_radius_normalised": "radius",
        "certified_radius_wrong_as_0_normalised": "right_radius",
        "classification_rate": "not_abstained",
        "f1_smoothed": "smoothed_f1",
        "share_of_high_density_classes": "high_share",
        "control_certified_radius_normalised": "control_radius",
        "control_certified_radius_wrong_as_0_normalised": "control_right_radius",
        "control_classification_rate": "control_not_abstained",
        "control_f1_smoothed": "control_smoothed_f1",
    }
    assert {column: row[column] for column in columns} == {c: stored[name][2] for c, name in columns.items()}


def test_figure_3_attacks():
    stored = figure_3.compute(**made_figure_3()) | WORDS
    assert stored["attack_success"].tolist() == [[0, 0, 0, 0, 0, 1.0]] * 4
    assert stored["robust_accuracy"].shape == (4, 3, N_BINS)
    assert stored["robust_accuracy"][0, 2].tolist() == [1, 1, 0, 0, 0, 0]
    # Points are every second one: all of classes 0 and 2, which are low-density.
    by_group = stored["robust_accuracy_by_group"]
    assert by_group[0, :, 0].tolist() == pytest.approx([1, 5 / 6, 2 / 6])
    assert np.isnan(by_group[:, :, 1]).all()
    assert [figure_3._budget(value) for value in (2 / 255, 8 / 255, 0.01, 0.5)] == ["2/255", "8/255", "0.01", "0.5"]


def test_figure_4_is_over_pairs():
    numbers = made_figure_4()
    numbers["divergence"]["most"][0, 0, 1] = 40.0
    stored = figure_4.compute(**numbers) | WORDS
    assert stored["mean"][1].tolist() == pytest.approx([15 * s for s in STAGES])
    assert stored["mean"][0, 0] == pytest.approx((40 + 5 * 10) / 6)
    assert stored["std"][0, 0] == pytest.approx(np.std([40, 10, 10, 10, 10, 10]))
    assert stored["std"][2].tolist() == pytest.approx([0] * 4)
    assert "least memorized, random, most memorized" in figure_4.finding(stored)
    words = figure_4.caption(stored)
    assert "3 of 5 classes: those with at least 2 points" in words
    assert "are a fixed number" in words
    ranges = ["most memorized, 2 points, 0.90 to 1.00", "random, 2 points, 0.00 to 0.40"]
    assert f": {'; '.join(ranges)}; least memorized, 2 points, -0.10 to 0.00. " in words
    assert "of points chosen as extremes are too extreme (regression to the mean)" in words
    threshold = figure_4.caption({**stored, "threshold": np.array(0.9)})
    assert "have scores above 0.9" in threshold


@pytest.mark.parametrize(
    ("name", "mean", "spread"),
    [("figure_4", "mean", "std"), ("figure_b6", "mean", "std"), ("figure_a11", "f1", "error")],
)
def test_lines_are_those_of_their_kind_with_its_spread(name, mean, spread):
    stored = module(name).compute(**MADE_ROBUSTNESS[name]()) | WORDS
    stored[spread] = 1 + np.arange(stored[mean].size).reshape(stored[mean].shape) / 100
    axes = module(name).draw(stored).axes[0]
    kinds = ["most memorized", "random", "least memorized"]
    assert [bars.get_label() for bars in axes.containers] == kinds
    for k, bars in enumerate(axes.containers):
        line, _, (both_ways,) = bars.lines
        assert line.get_ydata().tolist() == stored[mean][k, :4].tolist()
        ends = np.array(both_ways.get_segments())[:, :, 1]
        assert np.diff(ends, axis=1)[:, 0] / 2 == pytest.approx(stored[spread][k, :4])
    rows = module(name).table(stored)
    columns = {"mean": "mean_kl_nats", "std": "std_over_pairs_nats", "f1": "f1", "error": "standard_error"}
    for numbers in (mean, spread):
        assert [row[columns[numbers]] for row in rows] == stored[numbers].ravel().tolist()


def test_figure_4_has_the_largest_error_of_the_pairs():
    numbers = made_figure_4()
    numbers["standard_error"]["random"][2, 0, 1] = 3.0
    assert figure_4.compute(**numbers)["error"].tolist() == [[0.5] * 4, [0.5, 0.5, 3.0, 0.5], [0.5] * 4]


def test_growth_is_said_where_there_is_some():
    stages = np.arange(1, 5)
    assert figure_4.growth(np.array([1.0, 2.0, 9.0, 4.0]), stages) == "the largest growth from 2 to 3"
    assert figure_4.growth(np.array([9.0, 4.0, 4.0, 1.0]), stages) == "without growth"


def test_figure_b6_has_each_number_of_dimensions_apart():
    stored = figure_b6.compute(**made_figure_b6()) | WORDS
    assert figure_b6.finding(stored) == (
        "With D = 16 at stages 1, 2, 3, 4: random points 15.0, 30.0, 45.0, 60.0 nats, the largest growth from 1 to 2; "
        "from the largest at stage 4: least memorized, random, most memorized. "
        "With D = 64 at stages 3, 4: random points 45.0, 160.0 nats, the largest growth from 3 to 4; "
        "from the largest at stage 4: least memorized, random, most memorized."
    )
    rows = figure_b6.table(stored)
    assert [(row["dimensions"], row["stage"]) for row in rows[:6]] == [tuple(cell[::-1]) for cell in CELLS]
    assert rows[5]["mean_kl_nats"] == pytest.approx(140)
    assert "3 of 5 classes: those with at least 2 points" in figure_b6.caption(stored)
    figure = figure_b6.draw(stored)
    left, right = figure.axes
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["D = 16 at stages 1, 2, 3, 4", "D = 64 at stages 3, 4"]
    figure.draw_without_rendering()
    (key,) = figure.legends
    assert key.get_texts()[-1].get_text() == "as many dimensions as in figure 4"
    assert not any(axes.get_legend() or key.get_window_extent().overlaps(axes.bbox) for axes in (left, right))
    assert [len(axes.patches) for axes in (left, right)] == [2, 2]  # shaded: as in figure 4, 16, 16, 64, 64
    for axes, random in ((left, [15, 30, 45, 60]), (right, [45, 160])):
        assert axes.containers[1].lines[0].get_ydata().tolist() == pytest.approx(random)


def test_figure_b7_bins_points_in_both_orders():
    numbers = made_figure_b7()
    stored = figure_b7.compute(**numbers) | WORDS
    memorization = numbers["memorization"].reshape(20, 5)
    assert stored["seen_memorization"][1] == pytest.approx(memorization.mean(1))
    # Left out the last ten points come first.
    assert stored["left_out_memorization"][1] == pytest.approx(np.roll(memorization.mean(1), 2))
    assert stored["seen_error"][1] == pytest.approx(memorization.std(1) / np.sqrt(5))
    assert stored["seen_small"][1].tolist() == [0] * 18 + [0.75] * 2
    assert stored["left_out_small"][1].tolist() == [0.75] * 2 + [0] * 18
    assert stored["seen_density"][1, -1] == pytest.approx(97 + 50)
    assert stored["n_small"].tolist() == [0, 10]
    assert stored["by_size_left_out"][1] == pytest.approx([94.5 - 200, 44.5])
    assert np.isnan(stored["by_size_seen"][0, 0])
    rows = figure_b7.table(stored)
    assert len(rows) == 2 * 2 * 20
    assert (rows[60]["stage"], rows[60]["points"], rows[60]["share_in_small_components"]) == (4, "left out", 0.75)
    columns = {"mean_log_density_nats": "density", "mean_memorization": "memorization"}
    for column, name in (columns | {"standard_error_of_that_mean": "error"}).items():
        assert rows[60][column] == stored[f"left_out_{name}"][1, 0]


def test_figure_b7_draws_memorization_above_and_small_components_below():
    stored = figure_b7.compute(**made_figure_b7()) | WORDS
    panels = figure_b7.draw(stored).axes
    for name, row in (("memorization", panels[:2]), ("small", panels[2:])):
        for s, axes in enumerate(row):
            drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
            assert drawn == {
                words: stored[f"{kind}_{name}"][s].tolist() for kind, (words, *_) in figure_b7.KINDS.items()
            }


def test_figure_b7_says_why_the_densest_left_out_may_be_in_small_components():
    """At stage 4 the two last of 20 bins left out are made to be in them, and the last is memorized least."""
    stored = figure_b7.compute(**made_figure_b7()) | WORDS
    said = "less dense on average (figure B.5 shows means of classes), but not all of them are"
    assert said not in figure_b7.caption(stored)
    small, memorization = (stored[f"left_out_{name}"].copy() for name in ("small", "memorization"))
    small[1, -1], memorization[1, -1] = 0.25, 0.0
    caption = figure_b7.caption(stored | {"left_out_small": small, "left_out_memorization": memorization})
    assert said in caption
    assert "in the densest bin left out the share is 25% at stage 4, more than in the bin before it" in caption


def test_figure_b7_says_what_its_densities_are_of():
    caption = figure_b7.caption(figure_b7.compute(**made_figure_b7(), remark="Of all points.") | WORDS)
    assert "mean over the points of the bin. Of all points. Networks are made up. A note." in caption
    for protocol, said in (("heldout", True), ("converged", False)):
        settings = Pipeline(PROFILES["digits"], PROTOCOLS[protocol]).figures["figure_b7"].settings
        assert ("of the fit to all points" in settings["remark"]) == said


@pytest.mark.parametrize("name", ["figure_4", "figure_a11"])
def test_figures_say_where_holding_out_changes_nothing(name):
    notes = {
        protocol: Pipeline(PROFILES["digits"], PROTOCOLS[protocol]).figures[name].settings["note"]
        for protocol in ("converged", "heldout")
    }
    said = "The densities, and so the whole figure, are those of the protocol converged."
    assert notes["heldout"] == " ".join(filter(None, (said, notes["converged"])))
    assert said not in notes["converged"]
    for protocol, more in (("converged", ""), ("heldout", " (densities of converged)")):
        words = {"subtitle": np.array(f"Images · protocol {protocol} · seed 0"), "note": np.array("")}
        figure = module(name).draw(module(name).compute(**MADE_ROBUSTNESS[name]()) | words)
        assert figure.texts[1].get_text() == f"Images · protocol {protocol}{more} · seed 0"


def test_memorization_that_only_falls_does_not_rise():
    stored = figure_b7.compute(**made_figure_b7()) | WORDS
    bins = stored["seen_memorization"].shape[1]
    falls = {f"{kind}_memorization": np.linspace([1.0] * 2, [0.0] * 2, bins, axis=1) for kind in ("seen", "left_out")}
    assert "is −1.00, and memorization does not rise." in figure_b7.finding(stored | falls)


def test_figure_b7_in_words():
    words = figure_b7.finding(figure_b7.compute(**made_figure_b7()) | WORDS)
    of_3, of_4 = words.split(" At stage 4 ")
    assert of_3.startswith("At stage 3 no point is mostly in components of fewer than 16 points. In bins by")
    assert of_3.count("is −0.85, and memorization rises from one bin to the next by at most +0.45.") == 2
    assert of_4.startswith(
        "10 of 100 points are mostly in components of fewer than 64 points: they and the others have a mean "
        "log-density of 144.5 and 44.5 nats as fitted, −105.5 and 44.5 left out, and a mean "
        "memorization of 0.55 and 0.55."
    )
    # From 0.13 to 0.58; and two bins before and after: of 0.58 and 0.53 less 0.18 and 0.13, on average.
    assert (
        "is −1.00 up to bin 18, and memorization there is lowest in bin 18, 0.13. From bin 18 to bin 19, the first of "
        "mostly such points, it changes by +0.45, and its mean over 2 bins on each side by +0.40 (95% interval over "
        "points, given classes and bins: +0.39 to +0.41). Over all bins"
    ) in of_4
    # Left out they come first: there is nothing before them.
    assert re.search(
        r"by density left out the rank correlation of memorization with density is −0\.\d\d, and memorization", of_4
    )


def test_half_of_the_labellings_are_not_most_of_them():
    small = dict.fromkeys((3, 4), 0.5 + 0.25 * (np.arange(100) >= 95))
    stored = figure_b7.compute(**made_figure_b7() | {"small": small}) | WORDS
    assert stored["n_small"].tolist() == [5, 5]
    assert "From bin 19 to bin 20, the first of mostly such points," in figure_b7.finding(stored)


def test_figure_b7_after_a_single_bin():
    small = dict.fromkeys((3, 4), 1.0 * (np.arange(100) >= 5))
    words = figure_b7.finding(figure_b7.compute(**made_figure_b7() | {"small": small}) | WORDS)
    assert "with density is undefined up to bin 1, and memorization there is lowest in bin 1, 0.98" in words
    assert "over 1 bin on each side" in words
    assert "nan" not in words


@pytest.mark.parametrize(("n_bins", "at"), [(50, 44), (50, 2), (50, 47), (6, 3), (20, 10)])
def test_the_bins_a_side_are_those_of_the_difference(n_bins, at):
    values = np.random.default_rng(0).random(n_bins)
    k = bins_a_side(n_bins, at)
    means = values[at : at + k].mean() - values[at - k : at].mean()
    assert difference(values, np.full(n_bins, 0.1), at)[0] == pytest.approx(means, rel=PEER_RELATIVE)


def test_figure_a11_f1():
    stored = figure_a11.compute(**made_figure_a11()) | WORDS
    assert stored["f1"][1:].tolist() == [[1.0] * 4] * 2
    assert stored["f1"][0, -1] == 1
    assert stored["f1"][0, 0] == pytest.approx(2 / 3, abs=0.05)
    assert (stored["error"][0, :3] > 0).all()
    # Where all are right resampling leaves no error: it is that of the share of as many points.
    assert stored["error"][1:].ravel().tolist() == [share_error(1.0, 30)] * 8
    assert stored["error"][0, -1] == share_error(1.0, 30)
    assert stored["error"][0, 0] >= share_error(2 / 3, 30)
    assert "most memorized: 0.67, 0.67, 0.67, 1.00" in figure_a11.finding(stored)
    words = figure_a11.caption(stored)
    assert "and of those that are left as many at random" in words
    assert "random 70% subsets): most memorized, 0.00 to 1.00; random, 0.00" in words
    assert "Among points with equal scores the choice is random; and scores are estimates" in words


def test_figure_a11_errors_are_those_of_resampled_points():
    """With most of the points in one class they are up to a quarter more than that of the share."""
    labels = np.repeat([0, 1, 2, 3], [210, 30, 30, 30])
    predicted = np.where(np.random.default_rng(0).random(300) < 0.5, 0, labels)
    numbers = {"labels": labels, "predicted": np.stack([predicted] * 4), "memorization": np.zeros(300)}
    of_kinds = {name: dict.fromkeys(("most", "random", "least"), values) for name, values in numbers.items()}
    error = figure_a11.compute(**made_figure_a11() | of_kinds)["error"]
    assert (error > 1.1 * share_error((predicted == labels).mean(), 300)).all()
