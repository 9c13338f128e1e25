"""Networks trained on a part of the training images: for memorization trials and density bins.

Every network is trained on the CPU by one thread, in a process that `workers.run_tasks` starts, so that its weights do
not depend on how many of them are trained side by side.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from paper_repro.networks import residual_network
from paper_repro.storage import read_json, read_tensors, write_tensors
from paper_repro.training import TrainingSettings, train

__all__ = ["SubsetNetworks", "predict"]


@dataclass(frozen=True)
class SubsetNetworks:
    """How the networks of a dataset's subsets are built and trained."""

    dataset: Path
    """Folder of the step `dataset`."""
    blocks: tuple[int, ...]
    width: int
    training: TrainingSettings

    def data(self) -> tuple[Tensor, Tensor]:
        """Normalised training images [N, C, H, W] and their labels [N]."""
        return _data(self.dataset)

    def about(self) -> dict:
        return read_json(self.dataset / "dataset.json")

    def build(self, seed: int) -> nn.Module:
        about = self.about()
        return residual_network(
            self.blocks,
            width=self.width,
            n_classes=len(about["class_names"]),
            in_channels=about["image_shape"][0],
            seed=seed,
        )

    def fit(self, inside: np.ndarray, *, seed: int, noise: float = 0.0) -> nn.Module:
        """A network trained on the images inside [N] bool, in eval mode; noise as in `training.train`."""
        about, (images, labels) = self.about(), self.data()
        rows = torch.from_numpy(np.flatnonzero(inside))
        network = self.build(seed)
        black = -about["mean"] / about["std"]
        train(network, images[rows], labels[rows], self.training, black=black, seed=seed, noise=noise)
        return network.eval()

    def load(self, path: Path) -> nn.Module:
        """The network, in eval mode, that `save` wrote."""
        network = self.build(0)
        network.load_state_dict(read_tensors(path)[0])
        return network.eval()

    @staticmethod
    def save(network: nn.Module, path: Path) -> None:
        write_tensors(path, network.state_dict())


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor, batch_size: int = 512) -> np.ndarray:
    """[N] int64 class of each image."""
    return torch.cat([network(part).argmax(1) for part in images.split(batch_size)]).numpy()


@cache
def _data(dataset: Path) -> tuple[Tensor, Tensor]:
    tensors, _ = read_tensors(dataset / "data.safetensors")
    return tensors["train_images"], tensors["train_labels"]
