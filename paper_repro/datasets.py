"""Image datasets as tensors: one function each, by name."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Dataset", "load"]


class Dataset(NamedTuple):
    """Images normalised by the mean and standard deviation of the training images."""

    train_images: Tensor
    """[N, C, H, W] float32."""
    train_labels: Tensor
    """[N] int64, in 0..n_classes - 1."""
    test_images: Tensor
    test_labels: Tensor
    class_names: list[str]
    mean: float
    std: float
    """What was subtracted from, and then divided out of, pixel values that lie in 0..1."""


def load(name: str, *, test_fraction: float, seed: int) -> Dataset:
    """The dataset of that name.

    Args:
        name: "digits", the 1,797 grey images of 8 x 8 pixels that scikit-learn ships (ten classes).
        test_fraction: share of each class that is held out for testing, where the dataset has no split of its own.
        seed: of that split.

    Raises:
        ValueError: an unknown name.
    """
    if name == "digits":
        return _digits(test_fraction, seed)
    raise ValueError(f"dataset must be one of 'digits', got {name!r}")


def _digits(test_fraction: float, seed: int) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=test_fraction, stratify=labels, random_state=seed)
    train, test, train_labels, test_labels = (torch.from_numpy(part) for part in split)
    train, test = (part.float().div(16).reshape(-1, 1, 8, 8) for part in (train, test))
    mean, std = float(train.mean()), float(train.std())
    return Dataset(
        (train - mean) / std,
        train_labels.long(),
        (test - mean) / std,
        test_labels.long(),
        [str(digit) for digit in range(10)],
        mean,
        std,
    )
