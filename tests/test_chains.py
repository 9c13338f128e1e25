"""What the chains of every class say: rows of the table of classes, the line above it, and figure B.3."""

import re

import numpy as np
import pytest
from made_chains import ONE_STOPPED, made_convergence, made_figure_b3, made_small_share, made_trace
from tolerances import PEER_RELATIVE

from classfit.convergence import MAX_RHAT, MIN_ESS, Convergence
from classfit.dpgmm import Trace
from paper_repro import storage
from paper_repro.chains import chain_rows, displayed, kept_rows, summary, tally
from paper_repro.figures import figure_b3, label

WORDS = {"subtitle": np.array("made numbers"), "note": np.array("Nothing follows from it.")}


def rows_of(trace, diagnostics=None, n_discard=None):
    """As they come back from classes.csv: words."""
    rows = chain_rows(trace, diagnostics or {}, n_discard)
    return [{"class": f"c{g}"} | {name: str(value) for name, value in row.items()} for g, row in enumerate(rows)]


def test_made_traces_have_the_fields_of_real_ones():
    assert set(made_convergence()) == set(Convergence._fields)
    assert set(made_trace()) == set(Trace._fields)


def test_several_chains():
    trace = made_convergence()
    rows = chain_rows(trace, {}, None)
    assert [row["verdict"] for row in rows] == ["converged"] * 5 + ["not converged"] * 5
    for g, row in enumerate(rows):
        t = ONE_STOPPED if g % 2 else 40
        assert row["rounds"] == t
        for c in range(4):
            mean = trace["log_joint"][t // 2 : t, c, g].mean()
            assert row[f"log_joint_nats_chain_{c + 1}"] == pytest.approx(mean, rel=PEER_RELATIVE)
    assert rows[7]["rhat_log_joint"] == trace["rhat_log_joint"][7]
    assert rows[7]["ess_n_components"] == 900
    assert rows[0]["split_acceptance"] == pytest.approx(0.02, rel=PEER_RELATIVE)
    assert np.isnan(rows[0]["merge_acceptance"])
    assert rows[0]["least_above_simple_nats"] == 5
    assert [rows[7][f"mean_log_density_nats_chain_{c}"] for c in (1, 2, 3, 4)] == [-7, -5, -3, -1]
    assert "folds" not in rows[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rhat_log_joint": MAX_RHAT}, "R-hat"),
        ({"rhat_n_components": np.inf}, "R-hat"),
        ({"ess_log_joint": MIN_ESS}, "ESS"),
        ({"rhat_log_joint": 1.2, "ess_n_components": 3.0}, "R-hat, ESS"),
    ],
)
def test_what_a_class_is_flagged_for(changes, reason):
    trace = made_convergence(1)
    trace["converged"] = np.array([False])
    for name, value in changes.items():
        trace[name] = np.array([value])
    assert chain_rows(trace, {}, None)[0]["flagged_for"] == reason
    assert chain_rows(made_convergence(1), {}, None)[0]["flagged_for"] == ""


def test_one_chain_is_judged_by_nothing():
    rows = chain_rows(made_trace(), {}, 8)
    assert rows[2].keys() == {"verdict", "log_joint_nats_chain_1"}
    assert rows[2]["verdict"] == "one chain"
    # Sweeps 10, 12, 14 and 16 are kept.
    assert rows[2]["log_joint_nats_chain_1"] == 13 - 3000
    assert kept_rows(made_trace(), 0, 8) == slice(4, 8)
    assert kept_rows(made_trace(), 0, 0) == slice(0, 8)


def test_held_out_fits_and_em():
    folds = {"converged": np.array([[True, False], [True, False], [False, False]])}
    rows = chain_rows(made_convergence(2), folds, None)
    assert [(row["folds"], row["folds_converged"]) for row in rows] == [(3, 2), (3, 0)]
    rows = chain_rows({}, {"converged": np.array([True, False])}, None)
    assert [row["verdict"] for row in rows] == ["EM converged", "EM not converged"]


@pytest.mark.parametrize(
    ("rows", "words", "flagged"),
    [
        (rows_of(made_convergence()), "5 of 10 classes converged.", [f"c{g}" for g in range(5, 10)]),
        (rows_of(made_convergence(5)), "5 of 5 classes converged.", []),
        (rows_of(made_convergence(1) | {"converged": np.array([False])}), "0 of 1 classes converged.", ["c0"]),
        (rows_of(made_trace(), n_discard=8), "One chain a class: whether it converged cannot be told from it.", []),
        (rows_of({}, {"converged": np.array([True, False])}), "EM reached its tolerance in 1 of 2 classes.", ["c1"]),
        (
            rows_of(made_convergence(2), {"converged": np.array([[True, False], [True, True]])}),
            "2 of 2 classes converged when fitted to all their points, and 3 of 4 fits that leave some out.",
            [],
        ),
        ([{"class": "c0", "mean_components": "1"}], "", []),
    ],
)
def test_the_line_above_the_table(rows, words, flagged):
    assert summary(rows) == {"words": words, "flagged": flagged}


def test_tallies():
    assert tally(rows_of(made_convergence())).kind == "several"
    assert tally(rows_of(made_convergence())).n_converged == 5
    assert tally(rows_of(made_trace(), n_discard=8)).kind == "one"
    assert tally([{"class": "c0"}]).kind == ""


def test_what_the_report_shows_of_the_chains():
    shown = displayed(rows_of(made_convergence() | {"rhat_log_joint": np.array([np.inf] * 10)}))
    assert shown[9]["class"] == "c9"
    assert shown[9]["flagged for"] == "R-hat"
    assert shown[0]["flagged for"] == "–"
    assert shown[9]["R-hat: log joint, components"] == "inf, 1.000"
    assert shown[9]["ESS: log joint, components"] == "500, 900"
    assert shown[9]["accepted: splits, merges"] == "2.00%, –"
    assert shown[9]["lowest above simple labellings (nats)"] == "5.0"
    assert shown[9]["mean log-density: highest less lowest chain (nats)"] == "6.0"
    assert re.fullmatch(r"−\d{3}\.\d", shown[2]["log joint of chain 4 (nats)"])
    assert displayed(rows_of(made_trace(), n_discard=8))[2] == {"class": "c2", "log joint (nats)": "−2,987.0"}
    assert displayed(rows_of({}, {"converged": np.array([True])})) == []
    assert displayed([{"class": "c0"}]) == []
    assert "1 of 2" in displayed(rows_of(made_convergence(1), {"converged": np.array([[True], [False]])}))[0].values()


def stored_b3(n_classes=10, **changes):
    return figure_b3.compute(**made_figure_b3(n_classes) | changes) | WORDS


def test_classes_at_the_quartiles_of_r_hat_and_the_worst_are_drawn():
    numbers = made_figure_b3(9)
    trace = numbers["traces"][2]
    # By the larger of the two: class 0 becomes the worst of all, class 8 stays in order.
    trace["rhat_n_components"][0] = np.inf
    stored = figure_b3.compute(**numbers) | WORDS
    assert stored["drawn"][0].tolist() == [2, 4, 6, 8]
    assert stored["drawn"][1].tolist() == [3, 5, 7, 0]
    assert stored["kept"][0, 0].tolist() == [21, 40]
    assert stored["kept"][1, 0].tolist() == [11, ONE_STOPPED]
    np.testing.assert_array_equal(stored["log_joint_2"][:, :, 3], trace["log_joint"][:, :, 0].astype(np.float32))
    np.testing.assert_array_equal(stored["n_components_2"][:, :, 0], trace["n_components"][:, :, 3])
    assert stored["mean_components"][0].tolist() == [4.5] * 9
    mean = trace["log_joint"][10:ONE_STOPPED, 2, 3].mean()
    assert stored["mean_log_joint"][1, 2, 3] == pytest.approx(mean, rel=PEER_RELATIVE)


def test_panels_of_several_chains():
    stored = stored_b3()
    panels = figure_b3.draw(stored).axes
    assert len(panels) == 4 * (4 * 2 + 1)
    above = panels[0]
    assert above.get_title(loc="left") == "class 2"
    for axes, name in ((above, "log_joint"), (panels[1], "n_components")):
        np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], stored[f"{name}_1"][:, :, 0].T)
    said = [text.get_text() for text in above.texts]
    assert said == ["converged\nR-hat 1.005 · ESS 500", "R-hat: lower quartile"]
    assert [text.get_text() for text in panels[6].texts] == ["not converged\nR-hat 1.019 · ESS 500", "R-hat: highest"]
    (shade,) = above.patches
    assert shade.get_extents().transformed(above.transData.inverted()).intervalx.tolist() == pytest.approx([21, 40])
    every = panels[8]
    drawn = {line.get_marker(): line.get_ydata() for line in every.lines}
    np.testing.assert_allclose(drawn["o"], stored["rhat_log_joint"][0, :5] - 1)
    np.testing.assert_allclose(drawn["D"], stored["rhat_log_joint"][0, 5:] - 1)
    assert drawn["None"] == pytest.approx([MAX_RHAT - 1] * 2)
    assert every.texts[0].get_text() == "5 of 10 converged"
    # A class that had stopped earlier is drawn to its end only.
    stopped = figure_b3.draw(stored_b3(9)).axes[2]
    assert stored_b3(9)["drawn"][0, 1] == 4
    assert all(len(line.get_xdata()) == 40 for line in stopped.lines)


def test_a_class_that_had_stopped_is_drawn_to_its_end():
    numbers = made_figure_b3(9)
    for trace in numbers["traces"].values():
        trace["rhat_log_joint"][3], trace["converged"][3] = 9.0, False
    panels = figure_b3.draw(figure_b3.compute(**numbers) | WORDS).axes
    assert panels[6].get_title(loc="left") == "class 3"
    assert all(np.isfinite(line.get_ydata()).all() for line in panels[6].lines)
    assert [len(line.get_xdata()) for line in panels[6].lines] == [ONE_STOPPED] * 4
    # Of all classes it is the last, among those that have not converged.
    marks = {line.get_marker(): list(line.get_xdata()) for line in panels[8].lines}
    assert (marks["o"], marks["D"]) == ([0, 1, 2, 3], [4, 5, 6, 7, 8])


def test_infinite_r_hat_is_at_the_upper_edge_and_said():
    numbers = made_figure_b3()
    for trace in numbers["traces"].values():
        trace["rhat_log_joint"][7:] = np.inf
    figure = figure_b3.draw(figure_b3.compute(**numbers) | WORDS)
    every = figure.axes[8]
    assert "infinite" in [label.get_text() for label in every.get_yticklabels()]
    assert all(np.isfinite(line.get_ydata()).all() for line in every.lines)
    assert figure.axes[6].texts[0].get_text() == "not converged\nR-hat infinite · ESS 500"


def test_one_chain_has_no_r_hat():
    traces = {stage: made_trace() for stage in (1, 2, 3, 4)}
    share = {stage: made_small_share(stage, 10, n_chains=1) for stage in (1, 2, 3, 4)}
    stored = stored_b3(traces=traces, n_discard=8, small_share=share)
    assert not {"rhat_log_joint", "converged", "max_rhat"} & set(stored)
    # In order of the number of components.
    assert stored["drawn"][0].tolist() == [2, 4, 7, 9]
    assert stored["kept"][0, 0].tolist() == [10, 16]
    figure = figure_b3.draw(stored)
    assert len(figure.axes) == 4 * 4 * 2
    said = " ".join(text.get_text() for axes in figure.axes for text in axes.texts)
    assert "mean 4.0 components" in said
    assert "components: lower quartile" in said
    assert "R-hat" not in said
    assert "no R-hat" in figure_b3.caption(stored)
    words = figure_b3.finding(stored)
    assert "2.0 to 11.0 at stage 4 (median 6.5)" in words
    assert "dimensions): 0 at stage 1, 0 at stage 2, 2 at stage 3, 0 at stage 4." in words
    assert not any("rhat" in name or name == "converged" for name in figure_b3.table(stored)[0])


@pytest.mark.parametrize("height", [0.0, 0.3, 1.0, 40.0])
def test_ticks_of_traces_are_whole_numbers(height):
    traces = {stage: made_trace() for stage in (1, 2, 3, 4)}
    for trace in traces.values():
        trace["log_joint"] = np.linspace(-7.4, -7.4 + height, 8)[:, None] + np.zeros(10)
        trace["n_components"] = np.full_like(trace["n_components"], 6)
    panels = figure_b3.draw(stored_b3(traces=traces, n_discard=8)).axes
    for axes in panels[:2]:
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)


@pytest.mark.parametrize("n_classes", [1, 2, 3])
def test_few_classes_are_all_drawn(n_classes):
    stored = stored_b3(n_classes)
    assert stored["drawn"].shape == (4, n_classes)
    assert len(figure_b3.draw(stored).axes) == 4 * (2 * n_classes + 1)
    assert "The classes are all there are" in figure_b3.caption(stored)


def test_numbers_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    trace = made_convergence(100, n_rounds=400)
    trace["log_joint"] = trace["log_joint"] + 50 * rng.normal(size=trace["log_joint"].shape)
    numbers = made_figure_b3(100) | {"traces": dict.fromkeys((1, 2, 3, 4), trace)}
    storage.write_arrays(tmp_path / "numbers.npz", figure_b3.compute(**numbers))
    assert (tmp_path / "numbers.npz").stat().st_size < 300_000
    assert len(figure_b3.table(storage.read_arrays(tmp_path / "numbers.npz") | WORDS)) == 400


def test_what_figure_b3_finds():
    words = figure_b3.finding(stored_b3())
    assert "Of 10 classes converged: 5 at stage 1, 5 at stage 2, 5 at stage 3, 5 at stage 4." in words
    # Chains of made traces are one nat apart, but for their noise.
    assert re.search(r"in the median class: [23]\.\d at stage 1", words)
    assert "): 0 and 0 at stage 1, 0 and 0 at stage 2, 1 and 1 at stage 3, 0 and 10 at stage 4." in words
    kept_before = {name: value for name, value in stored_b3().items() if name != "shattered"}
    assert "shattered" not in figure_b3.finding(kept_before)
    assert "chains_shattered" not in figure_b3.table(kept_before)[0]
    assert [row["chains_shattered"] for row in figure_b3.table(stored_b3())[-12:]] == [0, 0, *[3] * 10]


def test_how_far_chains_are_apart_in_what_other_figures_show():
    numbers = made_figure_b3()
    numbers["traces"][4]["mean_log_density"][3, 7] += 20
    stored = figure_b3.compute(**numbers) | WORDS
    assert "all chains together: 6.0 (at most 6.0) at stage 1" in figure_b3.finding(stored)
    assert "6.0 (at most 26.0) at stage 4 nats." in figure_b3.finding(stored)
    assert [figure_b3.table(stored)[37][f"mean_log_density_nats_chain_{c}"] for c in (1, 4)] == [-7, 19]
    # Of fits that were stored before these were, nothing.
    for trace in numbers["traces"].values():
        del trace["mean_log_density"]
    before = figure_b3.compute(**numbers) | WORDS
    assert "all chains together" not in figure_b3.finding(before)
    assert not any("mean_log_density" in name for name in figure_b3.table(before)[0])
    rows = rows_of(numbers["traces"][4])
    assert not any("mean_log_density" in name for name in rows[0])
    assert not any("mean log-density" in name for name in displayed(rows)[0])


def test_the_remark_of_held_out_fits():
    assert "Of the fit to all points." in figure_b3.caption(stored_b3(remark="Of the fit to all points."))
    assert "  " not in figure_b3.caption(stored_b3())


def test_labels_of_figures():
    assert [label(name) for name in ("figure_1", "figure_a10", "figure_b3")] == [
        "Figure 1",
        "Figure A.10",
        "Figure B.3",
    ]
