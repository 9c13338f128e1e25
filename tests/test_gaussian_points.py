"""Figure B.11 and its steps: points of one Gaussian a class, fitted as the classes are."""

import numpy as np
import pytest
from made_left_out import made_figure_b11
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL, assert_fitted_as_the_protocol
from scipy import stats
from test_figure_arguments import work_of
from tolerances import PEER_RELATIVE

from paper_repro import figure_arguments
from paper_repro.figures import figure_b5, figure_b11
from paper_repro.gaussian_points import gaussian_points
from paper_repro.inputs import labels_in
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import CONVERGED, EM, HELDOUT
from paper_repro.steps import Workspace, derived_seed
from paper_repro.storage import read_arrays

WORDS = {"subtitle": np.array("made"), "note": np.array("A note.")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The steps of the tiny profile up to the densities of points left out."""
    pipeline, workspace = Pipeline(TINY_PROFILE, TINY_PROTOCOL), Workspace(tmp_path_factory.mktemp("gaussian"))
    with workspace.lock():
        workspace.run(list(pipeline.gaussian.values()))
    return pipeline, workspace


def test_points_have_the_mean_and_covariance_and_no_clusters():
    rng = np.random.default_rng(0)
    side = rng.choice([-3.0, 3.0], size=(20_000, 1))
    x = side * [1, 0.5, 0] + rng.normal(size=(20_000, 3)) * [0.3, 1, 2] + [5, -1, 0]
    made = gaussian_points(x, np.random.default_rng(1))
    assert stats.kurtosis(x[:, 0]) < -1.8, "two clusters"
    np.testing.assert_allclose(stats.kurtosis(made), 0, atol=6 * np.sqrt(24 / len(x)))
    scale = x.std(0)
    np.testing.assert_allclose(made.mean(0), x.mean(0), atol=6 * scale.max() / np.sqrt(len(x)))
    error = 6 * np.sqrt(2 / len(x)) * np.outer(scale, scale)
    assert (np.abs(np.cov(made.T) - np.cov(x.T)) < error).all()


def test_points_of_a_singular_covariance_lie_where_the_class_does():
    x = np.random.default_rng(0).normal(size=(4, 6))
    made = gaussian_points(x, np.random.default_rng(1))
    _, _, directions = np.linalg.svd(x - x.mean(0))
    assert np.abs((made - x.mean(0)) @ directions[3:].T).max() < 1e-7
    assert np.linalg.matrix_rank(made - x.mean(0), tol=1e-6) == 3


def test_every_class_has_its_gaussian_in_the_order_of_the_images(run):
    pipeline, workspace = run
    labels = labels_in(workspace.folder(pipeline.dataset))
    for layer in ("layer3", "layer4"):
        x = read_arrays(workspace.folder(pipeline.representations) / f"{layer}.npz")["values"]
        found = read_arrays(workspace.folder(pipeline.gaussian["points"]) / f"{layer}.npz")
        assert found["values"].shape == x.shape
        for g in range(10):
            own = x[labels == g].astype(np.float64)
            rng = np.random.default_rng(derived_seed(0, "gaussian points", layer, g))
            np.testing.assert_allclose(found["values"][labels == g], gaussian_points(own, rng), rtol=1e-5, atol=1e-4)


def test_the_fits_are_those_of_the_protocol(run):
    assert_fitted_as_the_protocol(*run, "gaussian", run[0].gaussian, run[0].gaussian["points"])


def test_under_which_protocols_there_are_some():
    of_paper, strict = Pipeline(TINY_PROFILE, TINY_PROTOCOL), Pipeline(TINY_PROFILE, CONVERGED)
    assert strict.gaussian["posterior_layer4"].name == "converged/gaussian/posterior_layer4"
    assert strict.gaussian["posterior_layer4"].settings["density"] == "converged"
    assert strict.gaussian["points"].fingerprint == of_paper.gaussian["points"].fingerprint
    for pipeline in (of_paper, strict):
        step = pipeline.figures["figure_b11"]
        own = [pipeline.posteriors[3], pipeline.left_out[3], pipeline.posteriors[4], pipeline.left_out[4]]
        assert list(step.inputs) == [pipeline.dataset, *pipeline.gaussian.values(), *own]
        assert step in pipeline.steps
    for protocol, official in ((TINY_PROTOCOL, True), (HELDOUT, False), (EM, False)):
        pipeline = Pipeline(TINY_PROFILE, protocol, official=official)
        assert pipeline.gaussian == {}
        assert "figure_b11" not in pipeline.figures


def test_the_figure_has_either_fit_of_its_stage(tmp_path):
    apart, together = np.arange(4)[None], np.zeros((1, 4), int)
    files = {}
    for stage in (3, 4):
        edges = {"group_offsets": np.array([0, 2, 4])}
        files[f"posterior_stage_{stage}/posterior.npz"] = {"labels": together, **edges}
        files[f"posterior_layer{stage}/posterior.npz"] = {"labels": apart % 2, **edges}
        for k, kind in enumerate((f"stage_{stage}", f"layer{stage}")):
            values = {name: np.full(4, 10.0 * stage + k) for name in ("seen", "left_out", "effective_draws")}
            files[f"leave_one_out_{kind}/densities.npz"] = {**values, "labels": np.array([0, 0, 1, 1])}
    found = figure_arguments._figure_b11(work_of(tmp_path, {"stages": [3, 4], "dimensions": [2, 2]}, files))
    assert found["own"][3].tolist() == [30] * 4
    assert found["seen"][4].tolist() == [41] * 4
    assert found["own_small"][3].tolist() == [0, 0], "both points of a class in one component"
    assert found["small"][3].tolist() == [1, 1], "each in its own"
    assert found["labels"].tolist() == [0, 0, 1, 1]
    assert found["dimensions"] == {3: 2, 4: 2}


def test_figure_b11():
    made = made_figure_b11()
    stored = figure_b11.compute(**made) | WORDS
    b5 = figure_b5.compute(
        **{name: made[name] for name in ("seen", "left_out", "effective_draws", "labels", "class_names", "dimensions")}
    )
    np.testing.assert_array_equal(stored["seen_mean"], b5["seen_mean"])
    own = [made["own"][3][made["labels"] == g].mean() for g in range(10)]
    np.testing.assert_allclose(stored["own_mean"][0], own, rtol=PEER_RELATIVE)
    assert stored["between"][0, 0] == pytest.approx(stats.spearmanr(own, stored["seen_mean"][0]).statistic)
    words = figure_b11.finding(stored)
    assert "At stage 3 the points of 3 of 10 Gaussians are shattered, and the own points of 2 classes; of 2 cl" in words
    assert "of 2 classes both are, of 9 both or neither." in words
    gap = f"{stored['seen_gap'][0]:.1f} nats (p"
    assert f"Largest gap between sorted means of the Gaussians' points: as fitted {gap}" in words
    seen = stored["seen_mean"][0]
    assert f"The shattered ones have a mean log-density of {seen[7:].mean():.1f} as fitted" in words
    assert f"the others {seen[:7].mean():.1f} as fitted" in words
    rows = figure_b11.table(stored)
    assert rows[19]["share_in_small_components"] == 0.9
    assert rows[7]["own_share_in_small_components"] == 0.1
    drawn = figure_b11.draw(stored)
    assert len(drawn.axes) == 4
    below = drawn.axes[2]
    marks = {(line.get_marker(), line.get_markerfacecolor() == "none"): list(line.get_ydata()) for line in below.lines}
    assert marks["D", False] == stored["seen_mean"][0, 8:].tolist(), "both shattered"
    assert marks["D", True] == [stored["seen_mean"][0, 7]], "only the Gaussian's points"
    assert marks["o", False] == stored["seen_mean"][0, :7].tolist()
    assert marks["o", True] == []
