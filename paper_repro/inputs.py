"""What steps read from the folders of their inputs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.machine import density_device, network_device
from paper_repro.steps import Work, derived_seed
from paper_repro.storage import read_arrays, read_json, read_tensors

__all__ = [
    "build_network",
    "class_names",
    "labels_in",
    "load_network",
    "load_posterior",
    "log_density_of",
    "posterior_in",
    "read_dataset",
    "representation_of",
    "train_labels",
    "train_scores",
    "values_of",
]


def read_dataset(work: Work) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """The tensors of the dataset (bytes), and the function that makes bytes input of a network."""
    from paper_repro.datasets import normalised

    data, _ = read_tensors(work.inputs["dataset"] / "data.safetensors")
    about = read_json(work.inputs["dataset"] / "dataset.json")
    pixels = {name: about[name] for name in ("white", "mean", "std")}
    return data, partial(normalised, **pixels)


def build_network(work: Work, settings: Any, *, pretrained: bool = True) -> Any:
    """The network of these settings as it starts, on the device where it is trained."""
    from paper_repro.networks import build
    from paper_repro.networks.transformers import Resized

    about = read_json(work.inputs["dataset"] / "dataset.json")
    network = build(
        settings,
        image_shape=tuple(about["image_shape"]),
        n_classes=len(about["class_names"]),
        seed=derived_seed(settings["seed"], "weights"),
        pretrained=pretrained and settings.get("pretrained", True),
    )
    if isinstance(network, Resized):
        network.normalised_by(about["mean"], about["std"])
    return network.to(network_device())


def load_network(work: Work) -> Any:
    folder = work.input("network")
    network = build_network(work, read_json(folder / "network.json")["settings"], pretrained=False)
    network.load_state_dict(read_tensors(folder / "weights.safetensors")[0])
    return network


def class_names(work: Work) -> list[str]:
    return read_json(work.inputs["dataset"] / "dataset.json")["class_names"]


def train_labels(work: Work) -> np.ndarray:
    return labels_in(work.inputs["dataset"])


def labels_in(dataset: Path) -> np.ndarray:
    return read_tensors(dataset / "data.safetensors", ["train_labels"])[0]["train_labels"].numpy()


def representation_of(work: Work, layer: int | str) -> dict[str, np.ndarray]:
    name = f"layer{layer}" if isinstance(layer, int) else layer
    return read_arrays(work.input("representations") / f"{name}.npz")


def values_of(work: Work, layer: int | str) -> np.ndarray:
    return representation_of(work, layer)["values"]


def load_posterior(work: Work, layer: int | str) -> Any:
    name = f"stage_{layer}" if isinstance(layer, int) else layer
    return posterior_in(work.input(f"posterior_{name}"))


def posterior_in(folder: Path) -> Any:
    from classfit import Posterior

    posterior = Posterior.load(folder / "posterior.npz")
    return posterior.to(density_device(posterior.x.shape[1]))


def log_density_of(work: Work, stage: int) -> np.ndarray:
    return read_arrays(work.input(f"posterior_stage_{stage}") / "density.npz")["log_density"]


def train_scores(work: Work) -> dict[str, np.ndarray]:
    """Memorization of the training images: value and standard_error [N]."""
    return read_arrays(work.input("memorization") / "scores.npz")
