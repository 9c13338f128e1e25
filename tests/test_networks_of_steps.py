"""Networks that steps train: how, which one is kept, and what is read from it; on a hundred digits, in seconds."""

import numpy as np
import pytest
import torch
from rich.console import Console

from classfit import extract_representations
from paper_repro import analyze, computations, datasets
from paper_repro.inputs import build_network, load_network, read_dataset
from paper_repro.networks import accuracy
from paper_repro.steps import Work, derived_seed
from paper_repro.storage import read_arrays, read_json, read_tensors, write_json, write_tensors
from paper_repro.subset_networks import SubsetNetworks
from paper_repro.training import TrainingSettings, train

SETTINGS = {
    "architecture": "resnet10",
    "width": 8,
    "stem": "cifar",
    "epochs": 2,
    "batch_size": 32,
    "peak_learning_rate": 0.1,
    "crop_padding": 1,
    "seed": 3,
}
N = 96


def work_of(root, name, settings):
    (root / name).mkdir(exist_ok=True)
    inputs = {step: root / step for step in ("dataset", "network")}
    return Work(root / name, settings, inputs, Console(quiet=True))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of a dataset and of a network that the step has trained on it."""
    root = tmp_path_factory.mktemp("networks")
    data = datasets.load("digits", test_fraction=0.2, seed=0)
    tensors = {"train_images": data.train_images[:N], "train_labels": data.train_labels[:N]}
    tensors |= {"test_images": data.test_images[:50], "test_labels": data.test_labels[:50]}
    mean, std = datasets.pixel_statistics(tensors["train_images"], data.white)
    about = {"class_names": data.class_names, "image_shape": [1, 8, 8], "white": data.white, "mean": mean, "std": std}
    (root / "dataset").mkdir()
    write_tensors(root / "dataset" / "data.safetensors", tensors)
    write_json(root / "dataset" / "dataset.json", about)
    computations.network(work_of(root, "network", SETTINGS))
    return root


def test_accuracies_are_of_the_images_that_they_are_said_to_be(root):
    work = work_of(root, "network", SETTINGS)
    data, prepare = read_dataset(work)
    network, said = load_network(work), read_json(root / "network" / "network.json")
    for part in ("train", "test"):
        expected = accuracy(network, data[f"{part}_images"], data[f"{part}_labels"], prepare=prepare)
        assert said[f"{part}_accuracy"] == expected
    assert said["train_accuracy"] != said["test_accuracy"]


def test_accuracies_are_of_weights_as_they_are_kept(root, monkeypatch):
    """In half precision."""
    measured = []
    monkeypatch.setattr("paper_repro.networks.accuracy", lambda network, *_, **__: measured.append(network) or 0.0)
    work = work_of(root, "again", SETTINGS)
    computations.network(work)
    kept = read_tensors(work.folder / "weights.safetensors")[0]["fc.weight"]
    assert all(torch.equal(network.fc.weight, kept.float()) for network in measured)
    assert len(measured) == 2


def test_a_network_is_trained_on_normalised_images_in_an_order_of_its_seed(root):
    work = work_of(root, "network", SETTINGS)
    data, prepare = read_dataset(work)
    again, seed = build_network(work, SETTINGS), derived_seed(SETTINGS["seed"], "training")
    images, labels = data["train_images"], data["train_labels"]
    train(again, images, labels, TrainingSettings.of(SETTINGS), seed=seed, prepare=prepare)
    assert torch.equal(again.fc.weight.half(), load_network(work).fc.weight.half())


def test_representations_are_of_normalised_images_of_any_model(root):
    """Of the networks trained here, and of those that `analyze` is given, which has layers by the names of files."""
    work = work_of(root, "representations", {"dimensions": {"layer4": 4}})
    data, prepare = read_dataset(work)
    network = load_network(work)
    expected = extract_representations(network, [prepare(data["train_images"])], ["layer4"], n_components=4)["layer4"]
    computations.representations(work)
    given = work_of(root, "representations", {"dimensions": {"layer1": 4}, "layers": {"layer1": "layer4"}})
    probe = {"layer4": np.arange(6.0).reshape(2, 3)}
    analyze._representations(network, probe, given)
    assert read_arrays(work.folder / analyze.PROBE)["layer4"].tolist() == probe["layer4"].tolist()
    for file in ("layer4.npz", "layer1.npz"):
        np.testing.assert_allclose(read_arrays(work.folder / file)["values"], expected.values, atol=1e-4)


def test_a_network_of_a_subset_is_in_eval_mode_and_sees_noise_where_asked(root, monkeypatch):
    networks, seen = SubsetNetworks(root / "dataset", SETTINGS), []
    assert not networks.fit(np.ones(N, bool), seed=0).training

    def watched(network, images, labels, settings, *, prepare, **rest):
        seen.append(prepare(images))

    monkeypatch.setattr("paper_repro.subset_networks.train", watched)
    for noise in (0.0, 0.5):
        networks.fit(np.arange(N) < 90, seed=0, noise=noise)
    assert torch.equal(seen[0], networks.images(np.arange(90)))
    assert float((seen[1] - seen[0]).std()) == pytest.approx(0.5, rel=0.05)
