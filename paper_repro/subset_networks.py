"""Networks trained on a part of the training images: for memorization trials and density bins.

On a CPU each is trained by one thread, in a process that `workers.run_tasks` starts, so that its weights do not depend
on how many of them are trained side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paper_repro.datasets import normalised
from paper_repro.machine import network_device
from paper_repro.networks import BATCH_SIZE, build
from paper_repro.storage import read_json, read_tensors, write_tensors
from paper_repro.training import TrainingSettings, estimate_seconds, train
from paper_repro.workers import one_thread

__all__ = ["SubsetNetworks"]


@dataclass(frozen=True)
class SubsetNetworks:
    """How the networks of a dataset's subsets are built and trained; can be sent to another process."""

    dataset: Path
    """Folder of the step `dataset`."""
    settings: Mapping[str, Any]
    """Architecture, width, stem, and what `TrainingSettings` has."""

    @property
    def training(self) -> TrainingSettings:
        return TrainingSettings.of(self.settings)

    @property
    def about(self) -> dict[str, Any]:
        """What is known of the dataset: class_names, image_shape, white, mean, std."""
        return _read(self.dataset)[2]

    @property
    def labels(self) -> np.ndarray:
        """[N] int64 classes of the training images."""
        return _read(self.dataset)[1].numpy()

    def images(self, rows: np.ndarray) -> Tensor:
        """[n, C, H, W] float32: training images as the network gets them, on its device."""
        return self._prepare(_read(self.dataset)[0][torch.from_numpy(rows)].to(network_device()))

    def build(self, seed: int) -> nn.Module:
        """A freshly initialised network."""
        network = build(
            self.settings,
            image_shape=tuple(self.about["image_shape"]),
            n_classes=len(self.about["class_names"]),
            seed=seed,
        )
        return network.to(network_device())

    def fit(self, inside: np.ndarray, *, seed: int, noise: float = 0.0) -> nn.Module:
        """A trained network, in eval mode.

        Args:
            inside: [N] bool, the images that it is trained on.
            seed: of its weights, the order of the images, crops, flips and noise.
            noise: standard deviation of Gaussian noise that is added to each normalised image each time it is used.
        """
        images, labels, _ = _read(self.dataset)
        rows = torch.from_numpy(np.flatnonzero(inside))
        network = self.build(seed)
        generator = torch.Generator(network_device()).manual_seed(seed)

        def prepare(batch: Tensor) -> Tensor:
            prepared = self._prepare(batch)
            if noise > 0:
                prepared += noise * torch.randn(prepared.shape, generator=generator, device=prepared.device)
            return prepared

        train(network, images[rows], labels[rows], self.training, seed=seed, prepare=prepare)
        return network.eval()

    @torch.inference_mode()
    def predict(self, network: nn.Module, rows: np.ndarray) -> np.ndarray:
        """[n] int64 class that the network gives each of these images."""
        parts = np.array_split(rows, -(-len(rows) // BATCH_SIZE))
        return np.concatenate([network(self.images(part)).argmax(1).cpu().numpy() for part in parts])

    def save(self, network: nn.Module, path: Path) -> None:
        write_tensors(path, {name: tensor.cpu() for name, tensor in network.state_dict().items()})

    def load(self, path: Path) -> nn.Module:
        """The network, in eval mode, that `save` wrote."""
        network = self.build(0)
        network.load_state_dict(read_tensors(path)[0])
        return network.eval()

    def estimate_seconds(self, n_images: int) -> float:
        """Seconds that training on so many images would take, from a few timed updates on one thread."""
        images, labels, _ = _read(self.dataset)
        with one_thread():
            network = self.build(0)
            return estimate_seconds(network, images[:n_images], labels[:n_images], self.training, self._prepare)

    def _prepare(self, images: Tensor) -> Tensor:
        return normalised(images, **{name: self.about[name] for name in ("white", "mean", "std")})


@cache
def _read(dataset: Path) -> tuple[Tensor, Tensor, dict[str, Any]]:
    tensors, _ = read_tensors(dataset / "data.safetensors")
    return tensors["train_images"], tensors["train_labels"], read_json(dataset / "dataset.json")
