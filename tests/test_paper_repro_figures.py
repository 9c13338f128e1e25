"""Figures, on made numbers: what is computed, and that drawing needs nothing but what was stored."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from made_chains import made_figure_b3
from made_controls import made_figure_b4
from made_left_out import made_figure_b5, made_figure_b8, made_figure_b9, made_figure_b11
from made_published import MADE_PUBLISHED
from made_robustness import MADE_ROBUSTNESS
from made_states import made_figure_b10
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats
from tolerances import PEER_RELATIVE

from classfit import density_groups
from paper_repro import storage
from paper_repro.figures import (
    FIGURES,
    figure_1,
    figure_2,
    figure_a5,
    figure_a6,
    figure_a7,
    figure_a8,
    figure_b3,
    figure_b4,
    module,
    style,
    title,
)
from paper_repro.figures.class_density import parted
from paper_repro.networks import residual_network
from paper_repro.profiles import PROFILES
from paper_repro.report import inline_svg, sparkline

STAGES = (1, 2, 3, 4)
WORDS = {"subtitle": np.array("made numbers · protocol none"), "note": np.array("Nothing follows from it.")}


def made(n_classes=10, stages=STAGES, n_points=30):
    """Log-densities of `n_classes` classes by stage; at the last, classes 2 and 5 are far above the others."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(n_classes), n_points))
    level = {stage: rng.normal(10 * stage, 2, n_classes) for stage in stages}
    level[stages[-1]][[2, 5]] += 60
    log_density = {stage: level[stage][labels] + rng.normal(0, 3, len(labels)) for stage in stages}
    names = [f"{g}" for g in range(n_classes)]
    return {
        "log_density": log_density,
        "labels": labels,
        "class_names": names,
        "dimensions": dict.fromkeys(stages, 16),
    }


def made_figure_2(n_classes=10):
    numbers = made(n_classes, (4,))
    rng = np.random.default_rng(1)
    mean = np.array([numbers["log_density"][4][numbers["labels"] == g].mean() for g in range(n_classes)])
    return {
        "log_density": numbers["log_density"][4],
        "labels": numbers["labels"],
        "class_names": numbers["class_names"],
        "representations": rng.normal(size=(len(numbers["labels"]), 5)).astype(np.float32),
        "relative_entropy": 3 + 0.5 * mean,
        "standard_error": np.full(n_classes, 0.25),
        "from_prior": np.linspace(0.5, 1.5, n_classes),
        "stage": 4,
    }


def made_figure_a8():
    after = made(stages=range(1, 9))
    # Before the ReLU there are no groups: class means in even steps.
    even = after["labels"] + np.random.default_rng(2).normal(0, 0.1, len(after["labels"]))
    before = {"log_density": dict.fromkeys(range(1, 9), even), "dimensions": after["dimensions"]}
    part = {name: after.pop(name) for name in ("log_density", "dimensions")}
    return {"before": before, "after": part, "network": "a plain network", **after}


def stored_figure(name):
    """What a run would have stored."""
    if name in MADE_ROBUSTNESS:
        return module(name).compute(**MADE_ROBUSTNESS[name]()) | WORDS
    if name in MADE_PUBLISHED:
        return module(name).compute(**MADE_PUBLISHED[name]()) | WORDS
    if name == "figure_b4":
        numbers = made_figure_b4()
    elif name in ("figure_1", "figure_a7"):
        numbers = made(stages=(3, 4) if name == "figure_1" else STAGES)
    elif name == "figure_2":
        numbers = made_figure_2()
    elif name == "figure_a8":
        numbers = made_figure_a8()
    elif name == "figure_b3":
        numbers = made_figure_b3()
    elif name == "figure_b5":
        numbers = made_figure_b5(n_classes=10)
    elif name == "figure_b8":
        numbers = made_figure_b8(n_classes=10)
    elif name == "figure_b9":
        numbers = made_figure_b9()
    elif name == "figure_b10":
        numbers = made_figure_b10()
    elif name == "figure_b11":
        numbers = made_figure_b11()
    elif name in ("figure_a9", "figure_a10"):
        numbers = made(stages=range(1, 7)) | {"network": "a small network"}
    elif name == "figure_a5":
        network = residual_network((2, 2, 1, 3), width=8, n_classes=10, in_channels=1, seed=0)
        read = {f"layer{stage}": 4 for stage in STAGES}
        numbers = {"network": network, "image_shape": (1, 8, 8), "read": read}
    else:
        values = {stage: np.linspace(5, 0.1, 8 * stage) for stage in STAGES}
        numbers = {"singular_values": values, "dimensions": dict.fromkeys(STAGES, 6)}
    return module(name).compute(**numbers) | WORDS


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_from_what_was_stored_alone(name, tmp_path):
    storage.write_arrays(tmp_path / "numbers.npz", stored_figure(name))
    stored = storage.read_arrays(tmp_path / "numbers.npz")
    for folder in (tmp_path / "first", tmp_path / "again"):
        folder.mkdir()
        figure = module(name).draw(stored)
        assert isinstance(figure, Figure)
        style.save(figure, folder, name)
    for kind in ("svg", "png"):
        first, again = ((tmp_path / folder / f"{name}.{kind}").read_bytes() for folder in ("first", "again"))
        assert len(first) > 10_000
        assert first == again
    texts = [text.get_text() for text in figure.texts]
    assert FIGURES[name] in texts[0]
    assert texts[1] == str(WORDS["subtitle"])


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_explains_itself(name):
    stored = stored_figure(name)
    for words in (module(name).caption(stored), module(name).look_for(stored), module(name).finding(stored)):
        assert len(words) > 20
        assert words.endswith(".")
        assert not re.search(r"\{|\}|nan|array\(|np\.", words)
    assert str(WORDS["note"]) in module(name).caption(stored)
    rows = module(name).table(stored)
    assert all(row.keys() == rows[0].keys() for row in rows)


def test_class_statistics_and_the_split():
    numbers = made()
    stored = figure_a7.compute(**numbers)
    for s, stage in enumerate(STAGES):
        for g in range(10):
            own = numbers["log_density"][stage][numbers["labels"] == g]
            assert stored["mean"][s, g] == pytest.approx(own.mean(), rel=PEER_RELATIVE)
            assert stored["std"][s, g] == pytest.approx(np.sqrt(((own - own.mean()) ** 2).mean()), rel=PEER_RELATIVE)
    assert np.flatnonzero(stored["high"]).tolist() == [2, 5]
    means = np.sort(stored["mean"][-1])
    assert float(stored["gap"]) == pytest.approx(means[8] - means[7], rel=PEER_RELATIVE)
    words = figure_a7.finding(stored)
    assert f"largest gap between sorted class means is {float(stored['gap']):.1f} nats" in words
    assert "2 of 10 classes above it: 2, 5." in words


def test_figure_1_is_the_last_two_stages_of_figure_a7():
    both = figure_1.compute(**made(stages=(3, 4))), figure_a7.compute(**made())
    assert both[0]["stages"].tolist() == [3, 4]
    assert both[0]["mean"].shape == (2, 10)
    assert len(figure_1.table(both[0])) == 20
    assert len(figure_a7.table(both[1])) == 40


def densities_with_a_tenth_of_the_spread(name="figure_1"):
    """In the two classes above the gap, at the last stage alone."""
    stored = stored_figure(name)
    last = np.arange(len(stored["stages"]))[:, None] == len(stored["stages"]) - 1
    return stored | {"std": np.where(last & stored["high"], stored["std"] / 10, stored["std"])}


def test_panels_show_sorted_classes_and_a_line_in_the_gap_where_there_is_one():
    stored = densities_with_a_tenth_of_the_spread()
    panels = figure_1.draw(stored).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["Stage 3  (D = 16)", "Stage 4  (D = 16)"]
    for s, panel in enumerate(panels):
        names = [label.get_text() for label in panel.get_xticklabels()]
        assert names == [str(g) for g in np.argsort(stored["mean"][s])]
        marks = {line.get_marker(): line for line in panel.lines if line.get_marker() in ("o", "D")}
        drawn = np.full(10, np.nan)
        for line in marks.values():
            drawn[np.asarray(line.get_xdata(), dtype=int)] = line.get_ydata()
        np.testing.assert_array_equal(drawn, np.sort(stored["mean"][s]))
        assert marks["D"].get_xdata().tolist() == ([8, 9] if s == 1 else [])
        assert [marks[mark].get_color() for mark in ("o", "D")] == [style.LOW, style.HIGH]
        std = stored["std"][s][np.argsort(stored["mean"][s])]
        for bars, mark in zip(panel.patches, (marks["o"], marks["D"]), strict=True):
            x, y = mark.get_data()
            wanted = np.array([[x, y - std[x]], [x, y + std[x]]]).transpose(2, 0, 1)
            path = bars.get_path()
            np.testing.assert_allclose(path.vertices.reshape(wanted.shape), wanted, rtol=PEER_RELATIVE)
            assert path.codes.tolist() == [path.MOVETO, path.LINETO] * len(x)
    lines = [[line for line in panel.lines if line.get_linestyle() == "--"] for panel in panels]
    assert lines[0] == []
    assert lines[1][0].get_ydata()[0] == density_groups(stored["mean"][1]).threshold
    first, second = zip(*(panel.texts[0].get_text().split("\n") for panel in panels), strict=True)
    assert [words.endswith(", 2 above it") for words in first] == [False, True]
    logs, high = np.log(stored["std"][1]), stored["high"]
    assert second[1] == f"spreads {np.exp(logs[~high].mean() - logs[high].mean()):.0f} times smaller above it"


def made_with_chains(stages=STAGES):
    """Chain c is c nats above the mean of a class; at the last stage one chain of class 5 is 50 below it."""
    numbers = made(stages=stages)
    mean = figure_a7.compute(**numbers)["mean"]
    by_chain = {stage: mean[s] + np.arange(4.0)[:, None] for s, stage in enumerate(stages)}
    by_chain[stages[-1]][0, 5] -= 50
    return numbers | {"by_chain": by_chain}


def test_a_thin_line_goes_from_the_lowest_to_the_highest_chain():
    stored = figure_1.compute(**made_with_chains((3, 4))) | WORDS
    figure = figure_1.draw(stored)
    for s, panel in enumerate(figure.axes):
        order = np.argsort(stored["mean"][s])
        line = panel.patches[-1]
        assert line.get_edgecolor()[:3] == pytest.approx(to_rgb(style.INK))
        assert line.get_linewidth() < 1
        low = np.where((order == 5) & (s == 1), -50, 0)
        wanted = stored["mean"][s][order, None] + np.stack([low, np.full(10, 3)], axis=1)
        vertices = line.get_path().vertices.reshape(10, 2, 2)
        assert np.array_equal(vertices[:, :, 0], np.arange(10)[:, None] + np.zeros(2))
        assert np.allclose(vertices[:, :, 1], wanted, rtol=PEER_RELATIVE)
    assert labels_of_the_key(figure)[-1] == "lowest to highest chain"
    assert "its 4 chains, each by itself" in figure_1.caption(stored)
    words = "nats apart in the median class and 53.0 in 5; in 1 of 10 classes some are above the middle of the gap"
    assert f"give it means that are 3.0 {words} and others below it." in figure_1.finding(stored)
    row = figure_1.table(stored)[15]
    chains = [row[f"mean_log_density_nats_chain_{c}"] - row["mean_log_density_nats"] for c in (1, 2, 3, 4)]
    assert chains == pytest.approx([-50, 1, 2, 3], rel=PEER_RELATIVE)


def test_one_chain_has_no_line_between_chains():
    stored = stored_figure("figure_1")
    figure = figure_1.draw(stored)
    assert [len(panel.patches) for panel in figure.axes] == [2, 2]
    assert "lowest to highest chain" not in labels_of_the_key(figure)
    assert "chain" not in figure_1.caption(stored) + figure_1.finding(stored)
    assert not any("chain" in name for name in figure_1.table(stored)[0])


def test_figure_a8_has_the_chains_of_either_place():
    numbers, chains = made_figure_a8(), made_with_chains(range(1, 9))["by_chain"]
    places = {"before": chains, "after": {k: 2 * means for k, means in chains.items()}}
    for place, by_chain in places.items():
        numbers[place]["by_chain"] = by_chain
    stored = figure_a8.compute(**numbers) | WORDS
    for place, by_chain in places.items():
        assert np.array_equal(stored[f"{place}_mean_by_chain"], np.stack(list(by_chain.values())))
    assert labels_of_the_key(figure_a8.draw(stored))[-1] == "lowest to highest chain"
    assert figure_a8.finding(stored).count("nats apart in the median class") == 2


@pytest.mark.parametrize(
    ("step", "below", "found"),
    [(100, 1, True), (2, 1, False), (2, 3, False), (2, 3.3, True), (2, 0.1, False), (2, np.inf, True)],
)
def test_classes_are_parted_by_a_gap_that_chance_seldom_leaves_or_by_spreads(step, below, found):
    """30 classes at 0, 1, 2, ... nats, less the upper 10, which are higher by `step`."""
    high = np.arange(30) >= 20
    mean = np.arange(30.0) + step * high
    std = np.where(high, 2, 2 * below) if np.isfinite(below) else np.where(high, 0, 2)
    split = parted(mean, std)
    assert split.above.tolist() == (high & found).tolist()
    assert split.middle == 19.5 + step / 2
    assert split.words.startswith(f"largest gap {step + 1:.1f} nats, p ")
    assert split.spreads == ("spreads 3.3 times smaller above it" if below == 3.3 else "")


def test_names_of_classes_may_have_dollar_signs(tmp_path):
    """They are no formulas."""
    stored = stored_figure("figure_1")
    stored["class_names"] = np.array(["$_$", "US$ or C$", *stored["class_names"][2:]])
    style.save(figure_1.draw(stored), tmp_path, "figure_1")


def test_nothing_is_above_a_gap_between_equal_means():
    stored = stored_figure("figure_1")
    words = figure_1.finding(stored | {"mean": 0 * stored["mean"], "high": np.full(10, False), "gap": np.array(0.0)})
    assert "It leaves 0 of 10 classes above it. Fewer than 2 classes" in words


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_channels_of_a_profile_are_those_of_its_network(name):
    profile = PROFILES[f"cifar100-{name}"]
    kind, blocks = {"resnet18": (False, (1, 1, 1, 1)), "resnet50": (True, (1, 1, 1, 1))}[name]
    network = residual_network(blocks, width=64, n_classes=2, in_channels=3, seed=0, bottleneck=kind)
    shapes = []
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        layer.register_forward_hook(lambda module, given, output: shapes.append(output.shape[1]))
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert profile.channels == shapes


def test_classes_of_one_mean_are_not_parted():
    assert not parted(np.full(30, 4.0), np.arange(30.0)).above.any()


def test_the_axis_of_means_that_hardly_differ_has_no_offset():
    """It would be printed over the words above the panel."""
    stored = stored_figure("figure_1")
    stored |= {"mean": 33.49 + 1e-6 * stored["mean"], "std": 1e-7 * stored["std"]}
    figure = figure_1.draw(stored)
    figure.draw_without_rendering()
    assert [panel.yaxis.get_offset_text().get_text() for panel in figure.axes] == ["", ""]


def test_the_table_has_each_class_at_each_stage():
    stored = stored_figure("figure_a7")
    rows = figure_a7.table(stored)
    assert [(row["stage"], row["class"]) for row in rows[9:11]] == [(1, "9"), (2, "0")]
    for name in ("mean", "std"):
        assert [row[f"{name}_log_density_nats"] for row in rows] == stored[name].ravel().tolist()
    above = [density_groups(mean).high for mean in stored["mean"]]
    assert [row["above_largest_gap"] for row in rows] == np.concatenate(above).tolist()


def labels_of_the_key(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_key_has_what_is_drawn_and_nothing_else():
    above = "above the largest gap, if p < 0.05 or spreads over 3.2 times smaller"
    classes, gap = ["class", "± 1 standard deviation"], [above, "middle of the gap"]
    with_gap = densities_with_a_tenth_of_the_spread()
    without = with_gap | {"mean": np.zeros((2, 10))}
    assert labels_of_the_key(figure_1.draw(without)) == classes
    assert labels_of_the_key(figure_1.draw(with_gap)) == [classes[0], gap[0], classes[1], gap[1]]
    # In either half of figure A.8.
    stored = stored_figure("figure_a8")
    for where in ("before", "after"):
        other = {"before": "after", "after": "before"}[where]
        n, G = stored[f"{where}_mean"].shape
        half = {f"{where}_mean": np.zeros((n, G)), f"{other}_mean": np.zeros((n, G))}
        assert labels_of_the_key(figure_a8.draw(stored | half)) == classes
        far = np.where(np.arange(G) < 5, 0.0, 100.0) + np.arange(G) + np.zeros((n, 1))
        spread = np.where(np.arange(G) < 5, 10.0, 1.0) + np.zeros((n, 1))
        parted_half = half | {f"{where}_mean": far, f"{where}_std": spread}
        assert gap[0] in labels_of_the_key(figure_a8.draw(stored | parted_half))


def assert_gaps_are_said_beside_the_data(figure, n_panels):
    """One label of the largest gap above each panel, where it covers no panel, title or other text."""
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.get_visible()]
    texts = {text: axes for axes in panels for text in (*axes.texts, axes.title, axes._left_title, axes._right_title)}
    boxes = {text: text.get_window_extent() for text in texts if text.get_text()}
    gaps = [text for text in boxes if text.get_text().startswith("largest gap")]
    assert len(gaps) == len({texts[gap] for gap in gaps}) == n_panels
    for gap in gaps:
        assert boxes[gap].y0 >= texts[gap].bbox.y1
        assert not any(boxes[gap].overlaps(axes.bbox) for axes in panels)
        assert not any(boxes[gap].overlaps(box) for text, box in boxes.items() if text is not gap), gap.get_text()


@pytest.mark.parametrize(("name", "n_panels"), [("figure_1", 2), ("figure_a7", 4), ("figure_a8", 16), ("figure_a9", 6)])
def test_the_largest_gap_is_said_beside_the_data(name, n_panels):
    assert_gaps_are_said_beside_the_data(module(name).draw(stored_figure(name)), n_panels)


def test_four_chains_have_four_colours():
    figure = figure_b3.draw(stored_figure("figure_b3"))
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert colours == list(figure_b3.CHAINS)
    assert len(set(colours)) == 4
    assert not {style.LOW, style.HIGH} & set(colours)  # these are of classes that have converged, or not
    assert [line.get_color() for line in figure.legends[0].get_lines()[:4]] == colours


def test_every_number_of_seeds_has_a_colour():
    top, *_, key = figure_b4.draw(stored_figure("figure_b4")).axes
    top, key = next((axes, axes.collections[0].colorbar) for axes in (top, key) if axes.collections)
    assert [label.get_text() for label in key.ax.get_yticklabels()] == [f"{n} of 3" for n in range(4)]
    mesh = top.collections[0]
    assert {int(n) for n in np.unique(mesh.get_array())} == {0, 1, 3}  # one class with one seed, two with all three
    colours = [to_hex(mesh.cmap(mesh.norm(n))) for n in range(4)]
    assert len(set(colours)) == mesh.cmap.N == 4
    assert (colours[0], colours[3]) == (style.GRID, style.HIGH)


def test_a_picture_of_few_colours_keeps_those_of_a_few_marks(tmp_path):
    style.save(figure_b3.draw(stored_figure("figure_b3")), tmp_path, "figure_b3")
    with Image.open(tmp_path / "figure_b3.png") as picture:
        palette = np.array(picture.getpalette()).reshape(-1, 3)
    for colour in (style.LOW, style.HIGH, style.GRID, *figure_b3.CHAINS):
        wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert np.abs(palette - wanted).max(1).min() <= 5, colour


def test_captions_hold_for_every_protocol_and_seed():
    said = figure_1.caption(stored_figure("figure_1"))
    assert "(posterior predictive, equation 3; under the protocol heldout of a fit that leaves the point out" in said
    assert "leaves the point out, under em the mixture that EM fits)" in said
    said = figure_2.caption(stored_figure("figure_2"))
    assert "relative entropy of its predictive density (under the protocol heldout of the fit to all points)" in said
    words = module("figure_b4").caption(stored_figure("figure_b4"))
    assert (
        "with seeds of their own, the bar of the paper's sampler too: which classes are shattered, and how many"
        in words
    )


def of_protocol(name, protocol):
    return stored_figure(name) | {"subtitle": np.array(f"Images · protocol {protocol} · seed 0")}


def test_axes_say_what_is_held_out():
    label = {"converged": "log-density of own training points (nats)",
             "heldout": "log-density of training points\nheld out of the fit (nats)"}  # fmt: skip
    of = {"converged": "relative entropy (nats)", "heldout": "relative entropy\nof the fit to all points (nats)"}
    for protocol in label:
        assert figure_1.draw(of_protocol("figure_1", protocol)).axes[0].get_ylabel() == label[protocol]
        figure = figure_2.draw(of_protocol("figure_2", protocol))
        assert figure.axes[1].get_ylabel() == of[protocol]
        assert labels_of_the_key(figure)[-1] == "least-squares line"


@pytest.mark.parametrize("name", ["figure_1", "figure_a7", "figure_a8"])
def test_long_bars_are_explained_under_em(name):
    said = "the few long bars are of classes for which it chose several."
    assert said in module(name).caption(of_protocol(name, "em"))
    assert said not in module(name).caption(of_protocol(name, "paper"))
    assert said not in module(name).caption(stored_figure(name))


def test_many_classes_are_not_named():
    stored = figure_1.compute(**made(n_classes=100, stages=(3, 4))) | WORDS
    assert all(len(panel.get_xticklabels()) < 12 for panel in figure_1.draw(stored).axes)
    scatter = figure_2.compute(**made_figure_2(100)) | WORDS
    assert all(not panel.texts for panel in figure_2.draw(scatter).axes)


def test_figure_2_numbers():
    numbers = made_figure_2()
    stored = figure_2.compute(**numbers)
    points = numbers["representations"][numbers["labels"] == 3].astype(np.float64)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(points, 2)]
    assert stored["mean_distance"][3] == pytest.approx(np.mean(distances), rel=PEER_RELATIVE)
    # The made relative entropies lie on a line.
    assert stored["entropy_line"].tolist() == pytest.approx([0.5, 3.0, 1.0], rel=PEER_RELATIVE)
    x, y = stored["mean_log_density"], stored["mean_distance"]
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert stored["distance_line"][0] == pytest.approx(slope, rel=PEER_RELATIVE)
    assert stored["distance_line"][1] == pytest.approx(y.mean() - slope * x.mean(), rel=PEER_RELATIVE)
    assert "at most 0.25 nats" in figure_2.caption(stored | WORDS)
    rest = numbers["relative_entropy"] - numbers["from_prior"]
    fit = stats.linregress(stored["mean_log_density"], rest)
    assert stored["without_prior_line"].tolist() == pytest.approx([fit.slope, fit.intercept, fit.rvalue])
    words = figure_2.finding(stored | WORDS)
    assert "contributes 0.5 to 1.5, in the median class 1.0; without that part the correlation is" in words
    official = figure_2.compute(**numbers | {"from_prior": np.zeros(10)})
    assert "prior" not in figure_2.finding(official | WORDS)
    assert np.isnan(figure_2.mean_distance(points[:1]))


def test_figure_2_draws_both_numbers_with_lines_of_their_own():
    stored = stored_figure("figure_2")
    panels = figure_2.draw(stored).axes
    names = [("mean_distance", "distance_line"), ("relative_entropy", "entropy_line")]
    for axes, (values, line) in zip(panels, names, strict=True):
        for group, own in enumerate((~stored["high"], stored["high"])):
            marks = axes.containers[group].lines[0]
            np.testing.assert_array_equal(marks.get_xdata(), stored["mean_log_density"][own])
            np.testing.assert_array_equal(marks.get_ydata(), stored[values][own])
            assert marks.get_color() == (style.LOW, style.HIGH)[group]
        x, y = next(line for line in axes.lines if line.get_linestyle() == "--").get_data()
        assert y == pytest.approx(np.polyval(stored[line][:2], x), rel=PEER_RELATIVE)
        assert axes.get_title(loc="right").startswith(f"r = {style.signed(stored[line][2])}, ")
    columns = ("mean_distance", "relative_entropy_nats", "standard_error_nats", "from_prior_nats")
    for column in columns:
        assert [row[column] for row in figure_2.table(stored)] == stored[column.removesuffix("_nats")].tolist()


def test_words_are_of_the_stages_that_were_read():
    one = figure_1.compute(**made(stages=(2, 3))) | WORDS
    two = figure_2.compute(**made_figure_2() | {"stage": 3}) | WORDS
    every = figure_a7.compute(**made(stages=(1, 2, 3))) | WORDS
    assert figure_1.draw(one).texts[0].get_text().endswith("of each class, stages 2 and 3")
    assert figure_2.draw(two).texts[0].get_text().endswith("against log-density, stage 3")
    assert figure_2.caption(two).startswith("Each mark is a class at stage 3. ")
    assert figure_a7.caption(every).startswith("As figure 1, for all three stages. ")
    assert "for both stages" in figure_a7.caption(one)
    assert "for all 5 stages" in figure_a7.caption(figure_a7.compute(**made(stages=range(1, 6))) | WORDS)


def test_words_of_the_papers_stages():
    """Numbers that were stored before do not have the stage of figure 2."""
    assert title("figure_1", (3, 4)) == FIGURES["figure_1"]
    stored = stored_figure("figure_2")
    del stored["stage"]
    assert figure_2.draw(stored).texts[0].get_text().endswith(FIGURES["figure_2"])
    assert figure_2.caption(stored).startswith("Each mark is a class at stage 4. ")
    assert figure_a7.caption(stored_figure("figure_a7")).startswith("As figure 1, for all four stages. ")


def figure_2_with_single_points(n_classes, alone):
    """Of the first classes alone, with one point left of some."""
    numbers = made_figure_2()
    labels = numbers["labels"]
    rows = (labels < n_classes) & ~np.isin(labels, alone)
    rows[[np.flatnonzero(labels == g)[0] for g in alone]] = True
    by_point = {name: numbers[name][rows] for name in ("log_density", "representations", "labels")}
    by_class = ("relative_entropy", "standard_error", "from_prior", "class_names")
    return figure_2.compute(**numbers | by_point | {name: numbers[name][:n_classes] for name in by_class}) | WORDS


def test_figure_2_leaves_classes_of_one_point_out():
    stored = figure_2_with_single_points(10, [1, 2])
    known = np.isfinite(stored["mean_distance"])
    assert np.flatnonzero(~known).tolist() == [1, 2]
    x, y = stored["mean_log_density"][known], stored["mean_distance"][known]
    fit = stats.linregress(x, y)
    assert stored["distance_line"].tolist() == pytest.approx([fit.slope, fit.intercept, fit.rvalue])
    words = figure_2.finding(stored)
    r, rho = style.signed(fit.rvalue), style.signed(stats.spearmanr(x, y).statistic)
    assert f"over 10 classes: {r} for distance (in ranks {rho}), +" in words
    assert "Left out for distance: 2, since in a class of one point there is none." in words
    assert "nan" not in words
    left, right = figure_2.draw(stored).axes
    assert left.get_title(loc="right") == f"r = {r}, ρ = {rho} (8 of 10 classes)"
    assert "classes" not in right.get_title(loc="right")
    assert {text.get_text() for text in left.texts} == {"0", *"3456789"}


@pytest.mark.parametrize("alone", [[0], [0, 1, 2]])
def test_figure_2_has_no_correlation_of_too_few_classes(alone, tmp_path):
    stored = figure_2_with_single_points(3, alone)
    words = figure_2.finding(stored)
    assert "over 3 classes: none for distance (of too few classes), +" in words
    assert f"Left out for distance: {len(alone)}, " in words
    figure = figure_2.draw(stored)
    style.save(figure, tmp_path, "figure_2")
    titles = [axes.get_title(loc="right") for axes in figure.axes]
    assert titles[0] == f"no r, no ρ ({3 - len(alone)} of 3 classes)"
    assert titles[1].startswith("r = ")
    assert "nan" not in " ".join([words, *titles])


def test_figure_2_of_two_classes_has_no_correlation():
    stored = figure_2_with_single_points(2, [])
    words = figure_2.finding(stored)
    assert "none for distance (of too few classes), none for relative entropy (of too few classes). Rel" in words
    assert words.endswith("in the median class 0.6.")
    assert [axes.get_title(loc="right") for axes in figure_2.draw(stored).axes] == 2 * ["no r, no ρ"]


def test_figure_a6_numbers():
    stored = figure_a6.compute({3: np.array([2.0, 1.0, 1.0]), 4: np.array([3.0, 4.0, 0.0, 0.0])}, {3: 2, 4: 1})
    assert stored["kept"].tolist() == pytest.approx([4 / 6, 5 / 6, 1, 9 / 25, 1, 1, 1], rel=PEER_RELATIVE)
    assert stored["kept_at_cut"].tolist() == pytest.approx([5 / 6, 9 / 25], rel=PEER_RELATIVE)
    chosen = [(row["stage"], row["n_vectors"]) for row in figure_a6.table(stored) if row["chosen"]]
    assert chosen == [(3, 2), (4, 1)]
    for axes, cut, share in zip(figure_a6.draw(stored | WORDS).axes, (2, 1), (5 / 6, 9 / 25), strict=True):
        curve, diamond = (dict(line.get_xydata().tolist()) for line in axes.lines)
        assert min(curve) == 1
        assert curve[cut] == diamond[cut] == pytest.approx(share)


def test_a_layer_of_zeros_loses_nothing():
    stored = figure_a6.compute({1: np.zeros(3), 2: np.ones(2)}, {1: 2, 2: 1})
    assert stored["kept_at_cut"].tolist() == [1, 0.5]
    assert "nan" not in figure_a6.finding(stored | WORDS)


def test_figure_a5_is_of_the_network_itself():
    network = residual_network((2, 2, 1, 3), width=8, n_classes=10, in_channels=1, seed=0)
    network.train()
    stored = figure_a5.compute(network, (1, 8, 8), {"layer2": 5})
    assert stored["names"].tolist() == ["conv1", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    assert stored["channels"].tolist() == [8, 8, 16, 32, 64, 64, 10]
    assert stored["sizes"].tolist() == [8, 8, 4, 2, 1, 1, 1]
    assert stored["blocks"].tolist() == [0, 2, 2, 1, 3, 0, 0]
    assert stored["kept"].tolist() == [0, 0, 5, 0, 0, 0, 0]
    assert stored["texts"][0] == "3 × 3 convolution"
    assert int(stored["n_parameters"]) == sum(parameter.numel() for parameter in network.parameters())
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(
        bool((module.running_mean == 0).all())
        for module in network.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    )


def test_names_keep_apart_where_they_can():
    figure = style.canvas("title", WORDS, width=5, height=4)
    axes = figure.subplots()
    x, y = np.array([40.0, 40.5, 41.0, 70.0]), np.array([6.3, 6.15, 6.0, 9.0])
    axes.plot(x, y, "o")
    style.name_points(axes, x, y, ["a", "b", "c", "d"])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    marks = axes.transData.transform(np.column_stack([x, y]))
    assert not any(box.contains(*mark) for box in boxes for mark in marks)


def test_signed():
    assert style.signed(-0.456) == "−0.46"
    assert style.signed(1.0) == "+1.00"
    assert [style.rank(value) for value in (1.0, 0.997, -0.9951, 0.99)] == ["+1.00", "+0.997", "−0.995", "+0.99"]


def test_inline_svg_is_self_contained_and_follows_the_page(tmp_path):
    style.save(module("figure_1").draw(stored_figure("figure_1")), tmp_path, "figure_1")
    svg = inline_svg((tmp_path / "figure_1.svg").read_text(), "figure_1")
    assert svg.startswith("<svg")
    assert not re.search(r"<svg[^>]*\bheight=", svg)
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert ids
    assert all(name.startswith("figure_1-") for name in ids)
    used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    assert used
    assert used <= set(ids)
    classes = set(re.findall(r'class="([^"]+)"', svg))
    assert classes
    assert classes == set(re.findall(r"}\.([^{]+){", svg))
    assert all(name.startswith("figure_1-") for name in classes)
    assert "var(--low)" in svg
    assert "var(--high)" in svg
    assert style.LOW not in svg


def points_of(spark):
    """The points [n, 2] of each line of a sparkline."""
    (path,) = re.findall(r'<path d="([^"]+)"', spark)
    lines = []
    for line in path.split("M")[1:]:
        start, *steps = re.findall(r"[a-z]?[^a-z]+", line)
        points = [np.array([int(n) for n in start.split()])]
        for step in steps:
            if step[0] == "h":
                points += [points[-1] + (k, 0) for k in range(1, int(step[1:]) + 1)]
            else:
                points.append(points[-1] + [int(n) for n in re.findall(r"(?<=l)1|[ -]\d+", step)])
        lines.append(np.array(points))
    return lines


def test_sparklines():
    spark = sparkline(np.linspace(3, 1, 400))
    (line,) = points_of(spark)
    np.testing.assert_array_equal(line[:, 0], np.arange(110))
    # Nothing adds up: each point is where it belongs, to half a unit.
    np.testing.assert_allclose(line[:, 1], 4 + 36 * np.round(np.linspace(0, 399, 110)) / 399, atol=0.51)
    assert 'viewBox="0 0 109 44" preserveAspectRatio="none"' in spark
    assert 'aria-label="from 3 to 1"' in spark
    assert "nan" not in sparkline(np.ones(5))
    low, high = points_of(sparkline(np.array([[1.0, 2.0], [np.nan, np.nan]])))
    assert (low.tolist(), high.tolist()) == ([[0, 40]], [[0, 4]])
    level, rising = points_of(sparkline(np.array([[2.0, 1], [2, 1], [2, 3]])))
    assert level.tolist() == [[0, 22], [1, 22], [2, 22]]
    assert rising.tolist() == [[0, 40], [1, 40], [2, 4]]


def test_drawing_leaves_pyplot_alone():
    code = "import sys; from paper_repro.figures import FIGURES, module; [module(n) for n in FIGURES]; " \
        "import paper_repro.report; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figure_a8_keeps_both_places_of_reading_apart():
    stored = stored_figure("figure_a8")
    assert stored["before_mean"].shape == stored["after_mean"].shape == (8, 10)
    assert np.flatnonzero(stored["after_high"]).tolist() == [2, 5]
    assert float(stored["after_gap"]) > 10 > float(stored["before_gap"])
    rows = figure_a8.table(stored)
    assert len(rows) == 2 * 8 * 10
    assert [row["read"] for row in (rows[0], rows[-1])] == ["before ReLU", "after ReLU"]
    assert {row["layer"] for row in rows} == set(range(1, 9))
    panels = figure_a8.draw(stored).axes
    titles = [axes.get_title(loc="left") for axes in panels]
    for axes, mean in ((panels[0], stored["before_mean"][0]), (panels[15], stored["after_mean"][7])):
        drawn = np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() in ("o", "D")])
        np.testing.assert_array_equal(np.sort(drawn), np.sort(mean))
    assert titles[0] == "Layer 1, before ReLU  (D = 16)"
    assert titles[15] == "Layer 8, after ReLU  (D = 16)"
    words = figure_a8.finding(stored)
    assert "Before ReLU: Largest gap" in words
    assert "After ReLU: Largest gap" in words
    assert "a plain network" in figure_a8.caption(stored)
    # What a run says of its own network does not stand there as if it were of this one.
    assert figure_a8.caption(stored).endswith(f". Of the run as a whole: {WORDS['note']}")
    assert "Of the run" not in figure_a8.caption(stored | {"note": np.array("")})


def test_blocks_are_numbered_and_the_last_one_has_the_line():
    stored = stored_figure("figure_a9")
    panels = module("figure_a9").draw(stored).axes
    assert [axes.get_title(loc="left") for axes in panels] == [f"Block {k}  (D = 16)" for k in range(1, 7)]
    lines = [sum(line.get_linestyle() == "--" for line in axes.lines) for axes in panels]
    assert lines == [0, 0, 0, 0, 0, 1]
    assert "At block 6 the largest gap" in module("figure_a9").finding(stored)
    assert "a small network" in module("figure_a10").caption(stored)
