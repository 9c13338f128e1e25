"""Figure B.8: test images, beside training points as fitted and left out."""

import re

import numpy as np
import pytest
from made_left_out import made_figure_b8
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL
from safetensors.numpy import load_file
from scipy.stats import spearmanr
from tolerances import PEER_RELATIVE

from classfit import Posterior
from paper_repro.figures import figure_b8, scores, style
from paper_repro.pipeline import Pipeline
from paper_repro.statistics import gap_p_value, share_error
from paper_repro.steps import Workspace
from paper_repro.storage import read_arrays

WORDS = {"subtitle": np.array("made"), "note": np.array("A note.")}


def test_numbers_of_the_classes():
    numbers = made_figure_b8()
    stored = figure_b8.compute(**numbers)
    labels = {"seen": numbers["labels"], "left_out": numbers["labels"], "test": numbers["test_labels"]}
    for s, stage in enumerate((3, 4)):
        for kind, own in labels.items():
            values = numbers[kind][stage]
            assert np.allclose(stored[f"{kind}_mean"][s], [values[own == g].mean() for g in range(8)])
        test = numbers["test"][stage]
        assert np.allclose(stored["test_std"][s], [test[labels["test"] == g].std() for g in range(8)])
        assert stored["test_gap"][s] == pytest.approx(np.diff(np.sort(stored["test_mean"][s])).max())
        assert stored["test_p"][s] == gap_p_value(stored["test_mean"][s])
        assert stored["high"][s].tolist() == [False] * 5 + [True] * 3
        for kind in ("seen", "left_out"):
            expected = spearmanr(stored["test_mean"][s], stored[f"{kind}_mean"][s]).statistic
            assert stored[f"{kind}_correlation"][s, 0] == pytest.approx(expected)
    assert np.allclose(stored["accuracy"], [numbers["right"][labels["test"] == g].mean() for g in range(8)])
    rows = figure_b8.table(stored)
    assert len(rows) == 16
    assert rows[15]["class"] == "c7"
    assert rows[15]["mean_log_density_of_test_images_nats"] == stored["test_mean"][1, 7]
    assert rows[15]["test_accuracy"] == stored["accuracy"][7]
    assert (rows[15]["high_density_as_fitted"], rows[0]["high_density_as_fitted"]) == (True, False)


def test_accuracy_in_bins():
    """At stage 4 those above the median are classified rightly: the last five of ten bins, in bins of that stage."""
    numbers = made_figure_b8()
    stored = figure_b8.compute(**numbers)
    assert stored["bin_accuracy"][1].tolist() == [0] * 5 + [1] * 5
    assert np.allclose(stored["bin_density"][1], np.sort(numbers["test"][4]).reshape(10, 4).mean(1))
    assert stored["bin_error"] == pytest.approx(share_error(stored["bin_accuracy"], np.full(10, 4)))
    assert (np.diff(stored["bin_density"]) > 0).all()
    assert 0 < stored["bin_accuracy"][0, 5] < 1 or 0 < stored["bin_accuracy"][0, 4] < 1


def test_a_class_without_test_images():
    numbers = made_figure_b8()
    keep = numbers["test_labels"] != 2
    numbers["test"] = {stage: values[keep] for stage, values in numbers["test"].items()}
    numbers |= {"test_labels": numbers["test_labels"][keep], "right": numbers["right"][keep]}
    with pytest.raises(ValueError, match="every class must have test images, c2 has none"):
        figure_b8.compute(**numbers)


def test_words():
    stored = figure_b8.compute(**made_figure_b8()) | WORDS
    words = figure_b8.finding(stored)
    assert words.count("The 3 classes above the gap as fitted and the others have a mean log-density of") == 2
    assert re.search(r"in test images: there a difference \(nats.*?\) of −\d+\.\d \(too few classes", words)
    seen, left_out, test = (
        " and ".join(style.nats(stored[f"{kind}_mean"][0, own].mean()) for own in (slice(5, 8), slice(5)))
        for kind in ("seen", "left_out", "test")
    )
    assert f"have a mean log-density of {seen} as fitted, {left_out} left out, {test} in test images:" in words
    with_left_out, with_seen = (scores.words(stored[f"{kind}_correlation"][0]) for kind in ("left_out", "seen"))
    assert f"of test images: {with_left_out} with that left out, {with_seen} with that as fitted." in words
    assert "goes from 0.00 to 1.00 (rank correlation +0.87)." in words
    assert "The 1 class above the gap" in figure_b8.finding(figure_b8.compute(**made_figure_b8(high=1)))
    many = figure_b8.finding(figure_b8.compute(**made_figure_b8(high=5, n_classes=10)))
    assert re.search(r"of −\d+\.\d \(−\d+\.\d to −\d+\.\d\)\. The network classifies 0\.0% and 100\.0% of", many)
    caption = figure_b8.caption(stored)
    assert "share of the 40 test images that the network classifies rightly, in 10 bins" in caption
    assert caption.endswith("among that one's. A note.")
    remark = figure_b8.compute(**made_figure_b8(), remark="Of all points.") | WORDS
    assert "Of all points. A note." in figure_b8.caption(remark)
    assert "triangles" in figure_b8.look_for(stored)


def test_marks_lie_where_the_numbers_are():
    stored = figure_b8.compute(**made_figure_b8()) | WORDS
    figure = figure_b8.draw(stored)
    panels = figure.axes
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert key[-1] == "share of all test images classified rightly"
    for s, (axes, below) in enumerate(zip(panels[:2], panels[2:], strict=True)):
        order = np.argsort(stored["seen_mean"][s])
        low, high, left_out, test = (line.get_xydata() for line in axes.lines)
        assert np.allclose(np.concatenate([low, high])[:, 1], stored["seen_mean"][s][order])
        assert np.allclose(left_out[:, 1], stored["left_out_mean"][s][order])
        assert np.allclose(test[:, 1], stored["test_mean"][s][order])
        all_of_them, by_bin = below.lines[:2]
        assert np.allclose(all_of_them.get_ydata(), 0.5)
        assert np.allclose(by_bin.get_ydata(), stored["bin_accuracy"][s])


def test_test_images_go_through_the_projection_of_the_training_images(tmp_path):
    """Densities and classes of a tiny run, against what the network and the posterior say of each image."""
    import torch

    from paper_repro.inputs import load_network, read_dataset

    pipeline, workspace = Pipeline(TINY_PROFILE, TINY_PROTOCOL), Workspace(tmp_path / "tiny")
    figure = pipeline.figures["figure_b8"]
    workspace.run([figure])
    data, prepare = read_dataset(workspace.work(pipeline.network))
    network = load_network(workspace.work(pipeline.representations)).eval()
    pooled = {}
    for stage in (3, 4):
        layer = getattr(network, f"layer{stage}")
        layer.register_forward_hook(lambda _, __, out, stage=stage: pooled.update({stage: out.mean((2, 3))}))
    with torch.no_grad():
        outputs = network(prepare(data["test_images"]))
    truth = load_file(workspace.folder(pipeline.dataset) / "data.safetensors")["test_labels"]
    stored = read_arrays(workspace.folder(figure) / "numbers.npz")
    for s, stage in enumerate((3, 4)):
        components = read_arrays(workspace.folder(pipeline.representations) / f"layer{stage}.npz")["components"]
        x = (pooled[stage].double().numpy() @ components.T).astype(np.float32)
        posterior = Posterior.load(workspace.folder(pipeline.posteriors[stage]) / "posterior.npz")
        density = posterior.log_density(x, truth)
        expected = [density[truth == g].mean() for g in range(10)]
        assert stored["test_mean"][s] == pytest.approx(expected, rel=1000 * PEER_RELATIVE)
    right = outputs.argmax(1).numpy() == truth
    assert stored["accuracy"] == pytest.approx([right[truth == g].mean() for g in range(10)])
    assert 0 < right.mean() < 1
    for name in ("test_representations", f"{pipeline.folder}/test_densities"):
        (step,) = (step for step in pipeline.steps if step.name == name)
        assert step.estimate(workspace.work(step)) > 0
