"""Image datasets as tensors of bytes: one module each, by name.

digits         embedded in scikit-learn
cifar100       torchvision's files, a folder or zip of class folders, or Hugging Face parquet files
mini-imagenet  class folders, the few-shot pickles, or Hugging Face parquet files
image-folder   any folder or zip of class folders
made           random images, for a dry run
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paper_repro.datasets.images import Dataset, DatasetError, shown_on

__all__ = ["DATASETS", "Dataset", "DatasetError", "load", "normalised", "pixel_statistics", "shown_on"]

DATASETS = ("digits", "cifar100", "mini-imagenet", "image-folder", "made")


def load(name: str, *, source: Path | None = None, **options: Any) -> Dataset:
    """The dataset of that name.

    Args:
        name: one of `DATASETS`.
        source: the file or folder to read; None looks in the usual places, which the message of a failure names.
        options: test_fraction (of each class that is held out for testing, where the dataset has no split of its own),
            seed (of that split), size (height and width in pixels that images are brought to): those that the
            dataset knows.

    Raises:
        ValueError: an unknown name.
        DatasetError: a dataset that is not there, or damaged; says what to get, from where, and where to put it.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(map(repr, DATASETS))}, got {name!r}")
    return importlib.import_module(f"paper_repro.datasets.{name.replace('-', '_')}").load(source, **options)


def pixel_statistics(images: Tensor, white: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images [N, C, H, W] uint8, where 0 is black and `white` is 1."""
    n = images[:, 0].numel()
    mean, std = [], []
    for channel in images.transpose(0, 1):
        values = channel.flatten().bincount(minlength=256).double()
        levels = values.new_tensor(range(256)) / white
        mean.append(float((values * levels).sum() / n))
        std.append(float(((values * (levels - mean[-1]) ** 2).sum() / n).sqrt()))
    return mean, std


def normalised(images: Tensor, *, white: int, mean: list[float], std: list[float]) -> Tensor:
    """Images [N, C, H, W] uint8 as float32: pixel values 0..1, less mean, over standard deviation, by channel."""
    centre, scale = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (mean, std))
    return images.float().div_(white).sub_(centre).div_(scale)
