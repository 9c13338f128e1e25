"""Random images for a dry run: no data, but classes that a network can begin to tell apart, by their brightness."""

from collections.abc import Sequence
from pathlib import Path

import torch

from paper_repro.datasets.images import Dataset

__all__ = ["load"]


def load(
    source: Path | None,
    *,
    image_shape: Sequence[int],
    n_classes: int,
    n_per_class: int,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """`n_per_class` images of each class to train on, and a quarter as many to test on, always the same.

    Args:
        source: not read.
        image_shape: channels, height and width.
        n_classes: number of classes.
        n_per_class: training images of a class, at least 4.
        class_names: what to call the classes; None numbers them.
    """
    generator = torch.Generator().manual_seed(0)
    n_test = n_per_class // 4
    labels = torch.arange(n_classes).repeat(n_per_class + n_test)
    images = torch.randint(128, (len(labels), *image_shape), generator=generator, dtype=torch.uint8)
    images += (labels * (127 // max(n_classes - 1, 1))).to(torch.uint8).view(-1, 1, 1, 1)
    n = n_classes * n_per_class
    names = list(class_names) if class_names else [f"class {g}" for g in range(n_classes)]
    return Dataset(images[:n], labels[:n], images[n:], labels[n:], names, 255, "made for a dry run")
