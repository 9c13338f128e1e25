"""Figure B.9 and its steps: what is fitted to pixels and to a network before its first update."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_left_out import made_figure_b9
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL, assert_fitted_as_the_protocol
from rich.console import Console

from paper_repro.datasets import normalised
from paper_repro.figures import figure_b5, figure_b7, figure_b9
from paper_repro.networks import build
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import CONVERGED, EM, HELDOUT
from paper_repro.steps import Work, Workspace, derived_seed
from paper_repro.storage import read_arrays, read_json, read_tensors
from paper_repro.untrained import BATCH, N_BATCHES

WORDS = {"subtitle": np.array("made"), "note": np.array("A note.")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The steps of the tiny profile up to the densities of points left out."""
    pipeline, workspace = Pipeline(TINY_PROFILE, TINY_PROTOCOL), Workspace(tmp_path_factory.mktemp("untrained"))
    with workspace.lock():
        workspace.run(list(pipeline.untrained.values()))
    return pipeline, workspace


def images_of(workspace, pipeline):
    folder = workspace.folder(pipeline.dataset)
    about = read_json(folder / "dataset.json")
    data = read_tensors(folder / "data.safetensors")[0]
    return data, normalised(data["train_images"], **{name: about[name] for name in ("white", "mean", "std")}), about


def test_pixels_are_projected_on_their_leading_singular_vectors(run):
    pipeline, workspace = run
    pixels = images_of(workspace, pipeline)[1].flatten(1).double().numpy()
    U, singular_values, _ = np.linalg.svd(pixels, full_matrices=False)
    found = read_arrays(workspace.folder(pipeline.untrained["representations"]) / "pixels.npz")
    assert found["values"].shape == (len(pixels), 4)
    np.testing.assert_allclose(found["singular_values"], singular_values, atol=1e-8 * singular_values[0])
    np.testing.assert_allclose(np.abs(found["values"]), np.abs(U * singular_values)[:, :4], rtol=1e-3, atol=1e-4)


def test_the_network_is_the_one_that_training_starts_from(run):
    """Its weights are drawn by the seed of the trained one; batch norm has the mean over batches of random images."""
    pipeline, workspace = run
    data, x, about = images_of(workspace, pipeline)
    settings = pipeline.network.settings
    network = build(
        settings,
        image_shape=tuple(about["image_shape"]),
        n_classes=len(about["class_names"]),
        seed=derived_seed(settings["seed"], "weights"),
    )
    rows = np.random.default_rng(derived_seed(0, "untrained")).permutation(len(x))[: BATCH * N_BATCHES]
    batches = x[torch.from_numpy(rows)].split(BATCH)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    seen = []
    with torch.no_grad():
        for batch in batches:
            network.train()(batch)
            seen.append([(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms])
        for k, norm in enumerate(norms):
            norm.running_mean.copy_(sum(each[k][0] for each in seen) / len(seen))
            norm.running_var.copy_(sum(each[k][1] for each in seen) / len(seen))
        pooled = []
        network.eval().get_submodule("layer4").register_forward_hook(lambda *args: pooled.append(args[2].mean((2, 3))))
        network(x)
    U, singular_values, _ = np.linalg.svd(pooled[0].double().numpy(), full_matrices=False)
    found = read_arrays(workspace.folder(pipeline.untrained["representations"]) / "layer4.npz")
    assert found["values"].shape == (len(x), 8)
    np.testing.assert_allclose(found["singular_values"], singular_values, rtol=1e-3)
    np.testing.assert_allclose(np.abs(found["values"][:, 0]), np.abs(U[:, 0] * singular_values[0]), rtol=1e-3)
    assert data["train_labels"].shape == (len(x),)


def test_larger_images_have_no_pixels(tmp_path, run):
    """Whoever has none has the same layers, and an estimate of less."""
    pipeline, workspace = run
    settings = pipeline.untrained["representations"].settings
    without = {**settings, "dimensions": {"layer3": 8, "layer4": 8}}
    step = replace(pipeline.untrained["representations"], settings=without)
    work = Work(tmp_path, step.settings, {"dataset": workspace.folder(pipeline.dataset)}, Console(quiet=True))
    assert 0 < step.estimate(work) < 60
    step.compute(work)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layer3.npz", "layer4.npz"]
    kept = workspace.folder(pipeline.untrained["representations"])
    for layer in ("layer3", "layer4"):
        values = read_arrays(tmp_path / f"{layer}.npz")["values"]
        np.testing.assert_array_equal(values, read_arrays(kept / f"{layer}.npz")["values"])
    assert pipeline.untrained["representations"].estimate(replace(work, settings=settings)) > 0


def test_the_fits_are_those_of_the_protocol(run):
    assert_fitted_as_the_protocol(*run, "untrained", run[0].untrained, run[0].untrained["representations"])


def test_the_strict_protocol_has_them_too():
    pipeline = Pipeline(TINY_PROFILE, CONVERGED)
    posterior = pipeline.untrained["posterior_pixels"]
    assert posterior.name == "converged/untrained/posterior_pixels"
    assert posterior.settings["density"] == "converged"
    of_paper = Pipeline(TINY_PROFILE, TINY_PROTOCOL)
    assert pipeline.untrained["representations"].fingerprint == of_paper.untrained["representations"].fingerprint
    assert "figure_b9" in pipeline.figures


@pytest.mark.parametrize("protocol", [HELDOUT, EM])
def test_there_are_none_under_other_protocols(protocol):
    for pipeline in (
        Pipeline(TINY_PROFILE, protocol),
        Pipeline(TINY_PROFILE, TINY_PROTOCOL, official=True),
        Pipeline(replace(TINY_PROFILE, untrained={}), TINY_PROTOCOL),
    ):
        assert pipeline.untrained == {}
        assert "figure_b9" not in pipeline.figures


def test_the_figure_needs_nothing_of_the_trained_network():
    pipeline = Pipeline(TINY_PROFILE, TINY_PROTOCOL)
    needed = {step.name for step in pipeline.figures["figure_b9"].inputs}
    made = {
        f"paper/untrained/{kind}_{layer}" for kind in ("posterior", "leave_one_out") for layer in TINY_PROFILE.untrained
    }
    assert needed == {"dataset", "memorization", *made}
    without = Pipeline(replace(TINY_PROFILE, robustness=None, n_control_seeds=0), TINY_PROTOCOL).figures["figure_b9"]
    assert {step.name for step in without.inputs} == needed - {"memorization"}
    assert "n_trials" not in without.settings


def test_numbers_are_those_of_figures_b5_and_b7():
    made = made_figure_b9()
    stored = figure_b9.compute(**made)
    numbered = {name: dict(enumerate(made[name])) for name in ("seen", "left_out", "effective_draws", "small")}
    D = {0: 32, 1: 64}
    parts = figure_b5.compute(
        *(numbered[name] for name in ("seen", "left_out", "effective_draws")), made["labels"], made["class_names"], D
    ) | figure_b7.compute(
        *(numbered[name] for name in ("seen", "left_out", "small")), made["memorization"], D, 20, made["scale"]
    )
    assert stored.keys() == parts.keys() | {"places"}
    assert (parts["high"] == stored["high"]).all()
    for name, values in parts.items():
        np.testing.assert_array_equal(stored[name], values)
    rows = figure_b9.table(stored)
    assert [row["place"] for row in rows] == ["Raw pixels"] * 10 + ["Stage 4, untrained"] * 10
    assert rows[12]["seen_mean_log_density_nats"] == stored["seen_mean"][1, 2]


def test_words():
    stored = figure_b9.compute(**made_figure_b9()) | WORDS
    words = figure_b9.finding(stored)
    std = stored["seen_std"][0]
    assert re.search(
        r"^Raw pixels: largest gap \d+\.\d nats, p = 0\.01, between sorted class means as fitted; the 3 of 10 classes "
        rf"above it have a mean standard deviation within a class of {std[7:].mean():.1f} nats, the others "
        rf"{std[:7].mean():.1f}, and left out a mean log-density of −\d+\.\d, the others \d+\.\d\. Left out it is "
        r"\d+\.\d \(p = 0\.\d+\); the density of 0% of the points rests on fewer than 5 effective labellings then\. In "
        r"bins by density as fitted the rank correlation of memorization with density is −\d\.\d+ up to bin 14, ",
        words,
    )
    assert words.count("In bins by density left out") == 2
    assert "estimated from 60 networks" in figure_b9.caption(stored)
    alike = made_figure_b9(scored=False)
    alike["seen"][0] = alike["labels"] + np.random.default_rng(0).normal(size=len(alike["labels"]))
    stored = figure_b9.compute(**alike) | WORDS
    assert not stored["high"][0].any()
    assert stored["high"][1].tolist() == [False] * 7 + [True] * 3
    assert re.match(
        r"Raw pixels: largest gap \d\.\d nats, p = 0\.\d+, between sorted class means as fitted, with like spreads "
        r"within the classes on either side of it\. Left out it is \d",
        figure_b9.finding(stored),
    )
    assert "bins" not in figure_b9.finding(stored) + figure_b9.caption(stored)


def test_a_single_class_is_an_outlier_and_a_run_without_pixels_says_nothing_of_them():
    made = made_figure_b9()
    labels = made["labels"]
    made["seen"][0] = labels + 300.0 * (labels == 9) + np.random.default_rng(0).normal(size=len(labels))
    made["effective_draws"][0] = np.where(np.arange(len(labels)) < len(labels) // 4, 2.0, 20.0)
    stored = figure_b9.compute(**made) | WORDS
    words = figure_b9.finding(stored)
    assert "; the 1 of 10 classes above it has a mean standard deviation" in words
    assert "Fewer than 2 classes on one side are outliers, no group." in words
    assert "the density of 25% of the points rests on fewer than 5 effective labellings then." in words
    assert "the images themselves" in figure_b9.caption(stored)
    stored = figure_b9.compute(**made | {"places": ["Stage 3, untrained", "Stage 4, untrained"]}) | WORDS
    assert "images themselves" not in figure_b9.caption(stored)


def test_the_picture_has_a_column_for_each_space_and_memorization_where_it_is_known():
    for scored, rows in ((True, 2), (False, 1)):
        figure = figure_b9.draw(figure_b9.compute(**made_figure_b9(scored)) | WORDS)
        titles = [axes.get_title("left") for axes in figure.axes]
        assert titles == ["Raw pixels  (D = 32)", "Stage 4, untrained  (D = 64)"] + [""] * 2 * (rows - 1)
        first, second = figure.axes[0].texts[0].get_text().split("\n")
        assert first.startswith("largest gap ")
        assert second == ""
        if scored:
            _, as_fitted, first = figure.axes[2].lines
            assert set(first.get_xdata()) == {14.5}
            assert len(figure.axes[3].lines) == 2
            np.testing.assert_array_equal(
                as_fitted.get_ydata(), figure_b9.compute(**made_figure_b9())["seen_memorization"][0]
            )
            assert figure.axes[2].get_ylim() == figure.axes[3].get_ylim()
