"""Each figure is given the numbers of the right files of its steps."""

import numpy as np
import torch
from rich.console import Console

from paper_repro import figure_arguments
from paper_repro.attacks import ATTACKS
from paper_repro.steps import Work
from paper_repro.storage import write_arrays, write_json, write_tensors

LABELS = torch.tensor([0, 0, 1, 1])
RISING = np.arange(4.0)


def work_of(root, settings, files):
    """A step whose inputs hold these files, by folder and name, and a dataset of two points each of classes a and b."""
    files = {"dataset/dataset.json": {"class_names": ["a", "b"]}} | files
    inputs = {}
    for place, content in files.items():
        name, file = place.split("/")
        inputs[name] = root / name
        inputs[name].mkdir(exist_ok=True)
        (write_json if file.endswith(".json") else write_arrays)(inputs[name] / file, content)
    write_tensors(inputs["dataset"] / "data.safetensors", {"train_labels": LABELS})
    return Work(root, settings, inputs, Console(quiet=True))


def test_figure_2_has_the_relative_entropy_its_error_and_the_part_of_the_prior(tmp_path):
    entropy = {"value": [1.0, 2.0], "standard_error": [0.1, 0.2], "from_prior": [0.5, 1.5]}
    files = {
        "relative_entropy_stage_4/relative_entropy.npz": {name: np.array(each) for name, each in entropy.items()},
        "posterior_stage_4/density.npz": {"log_density": RISING},
        "representations/layer4.npz": {"values": RISING[:, None]},
    }
    found = figure_arguments._figure_2(work_of(tmp_path, {"stages": [4]}, files))
    names = {"relative_entropy": "value", "standard_error": "standard_error", "from_prior": "from_prior"}
    assert {name: found[name].tolist() for name in names} == {name: entropy[stored] for name, stored in names.items()}


def test_figure_3_has_radii_in_pixels_of_the_channel_that_varies_least(tmp_path):
    attacked = {name: RISING for name in ("rows", *ATTACKS, *(f"{name}_budgets" for name in ATTACKS))}
    files = {
        "dataset/dataset.json": {"class_names": ["a", "b"], "std": [0.3, 0.2, 0.25]},
        "memorization/scores.npz": {"value": RISING, "standard_error": RISING / 10},
        "posterior_stage_4/density.npz": {"log_density": RISING},
        "density_bins/bins.npz": {"bins": RISING, "predicted": RISING},
        "certification/certificates.npz": {"rows": RISING, "predicted": RISING, "radius": RISING},
        "attacks/attacks.npz": attacked,
    }
    settings = dict.fromkeys(("sigma", "n0", "n", "alpha", "n_trials", "networks"), 0)
    found = figure_arguments._figure_3(work_of(tmp_path, settings, files))
    assert found["pixels_per_unit"] == 0.2
    assert found["memorization_error"].tolist() == (RISING / 10).tolist()
    assert found["high"].tolist() == [False, True]
    assert found["control"] is None
    files["certification_control/certificates.npz"] = {"predicted": RISING + 2, "radius": RISING + 3}
    found = figure_arguments._figure_3(work_of(tmp_path, settings, files))
    assert [values.tolist() for values in found["control"]] == [(RISING + 2).tolist(), (RISING + 3).tolist()]


def test_figure_a8_has_what_is_read_before_the_relu_apart(tmp_path):
    """Log-densities of the k-th layer are all k, and it has k + 1 dimensions."""
    layers = ["conv1", "conv2", "relu1", "relu2"]
    files = {"network/network.json": {"train_accuracy": 1.0, "test_accuracy": 0.5}}
    for k, layer in enumerate(layers):
        files[f"posterior_{layer}/density.npz"] = {"log_density": np.full(4, k)}
        files[f"representations/{layer}.npz"] = {"values": np.zeros((4, k + 1))}
    found = figure_arguments._figure_a8(work_of(tmp_path, {"layers": layers, "network": "made"}, files))
    for part, density, dimensions in (("before", {1: 0, 2: 1}, {1: 1, 2: 2}), ("after", {1: 2, 2: 3}, {1: 3, 2: 4})):
        assert {number: values[0] for number, values in found[part]["log_density"].items()} == density
        assert found[part]["dimensions"] == dimensions
        assert found[part]["by_chain"] == {}
    for k, layer in enumerate(layers[:3]):
        files[f"posterior_{layer}/density.npz"]["mean_by_chain"] = np.full((4, 2), k)
    found = figure_arguments._figure_a8(work_of(tmp_path, {"layers": layers, "network": "made"}, files))
    assert {number: means[0, 0] for number, means in found["before"]["by_chain"].items()} == {1: 0, 2: 1}
    assert found["after"]["by_chain"] == {}
    words = "made; 100.0% of its training images and 50.0% of the test images are classified rightly"
    assert found["network"] == words


def test_figures_4_and_a11_have_the_scores_of_each_kind_of_points(tmp_path):
    rows = {f"{kind}_rows": np.array(own) for kind, own in (("most", [3]), ("random", [1]), ("least", [0]))}
    predicted = {f"{kind}_predicted": np.zeros((1, 1)) for kind in ("most", "random", "least")}
    of_stage = {
        f"{kind}_{name}_4": np.eye(2) for kind in ("most", "random", "least") for name in ("value", "standard_error")
    }
    files = {
        "memorization/scores.npz": {"value": RISING},
        "generative/generative.npz": rows | predicted,
        "kl_by_stage/kl.npz": rows | of_stage | {"classes": np.array([0, 1])},
    }
    settings = dict.fromkeys(("threshold", "least_points", "n_trials", "dimensions", "networks"), 0) | {"stages": [4]}
    work = work_of(tmp_path, settings, files)
    a11 = figure_arguments._figure_a11(work)
    for found in (a11, figure_arguments._figure_4(work)):
        assert {kind: own.tolist() for kind, own in found["memorization"].items()} == {
            "most": [3], "random": [1], "least": [0],
        }  # fmt: skip
    assert {kind: own.tolist() for kind, own in a11["labels"].items()} == {"most": [1], "random": [0], "least": [0]}
    assert a11["n_fitted"] == 1


def test_figures_b5_and_b8_have_points_as_fitted_and_left_out_apart(tmp_path):
    densities = {"seen": RISING, "left_out": -RISING, "effective_draws": 2 * RISING, "labels": LABELS.numpy()}
    files = {
        "leave_one_out_stage_4/densities.npz": densities,
        "representations/layer4.npz": {"values": RISING[:, None]},
        "test_densities/densities.npz": {"stage_4": 5 + RISING, "labels": RISING, "predicted": RISING},
    }
    work = work_of(tmp_path, {"stages": [4], "remark": ""}, files)
    b5, b8 = figure_arguments._figure_b5(work), figure_arguments._figure_b8(work)
    for name in ("seen", "left_out", "effective_draws"):
        assert b5[name][4].tolist() == densities[name].tolist()
    for name in ("seen", "left_out"):
        assert b8[name][4].tolist() == densities[name].tolist()


def test_figure_b3_has_shares_of_small_components_by_chain(tmp_path):
    """Of two chains, one with every point alone and one with all together, three labellings each are kept in turn."""
    labels = np.stack([np.arange(4), np.zeros(4, int)] * 3)
    stored = {"labels": labels, "group_offsets": np.array([0, 4])}
    folder = work_of(tmp_path, {}, {"posterior_stage_4/posterior.npz": stored}).input("posterior_stage_4")
    assert figure_arguments._small_share(folder, 2, 2).tolist() == [[1.0], [0.0]]
    assert figure_arguments._small_share(folder, 2, 1).tolist() == [[0.5]], "of both together"


def test_figure_b9_has_points_of_all_files_in_the_order_of_classes(tmp_path):
    densities = {name: RISING + k for k, name in enumerate(("seen", "left_out", "effective_draws"))}
    files = {
        "leave_one_out_pixels/densities.npz": densities | {"labels": LABELS.numpy()},
        "posterior_pixels/posterior.npz": {"labels": np.array([[0, 1, 0, 0]]), "group_offsets": np.array([0, 2, 4])},
        "memorization/scores.npz": {"value": RISING},
    }
    places = [{"name": "pixels", "title": "Raw pixels", "dimensions": 2}]
    settings = {"places": places, "n_bins": 2, "n_trials": 3, "networks": "small networks"}
    work = work_of(tmp_path, settings, files)
    write_tensors(tmp_path / "dataset" / "data.safetensors", {"train_labels": torch.tensor([1, 0, 1, 0])})
    found = figure_arguments._figure_b9(work)
    assert found["memorization"].tolist() == [1, 3, 0, 2]
    assert found["labels"].tolist() == LABELS.tolist()
    assert found["small"][0].tolist() == [1, 1, 0, 0]
    assert {name: found[name][0].tolist() for name in densities} == {name: v.tolist() for name, v in densities.items()}
    del settings["n_trials"]
    assert figure_arguments._figure_b9(work)["memorization"] is None
