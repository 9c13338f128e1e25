"""The 1,797 grey images of 8 x 8 pixels, ten classes, that scikit-learn ships."""

from pathlib import Path

import torch

from paper_repro.datasets.images import Dataset, DatasetError

__all__ = ["load"]


def load(source: Path | None, *, test_fraction: float, seed: int) -> Dataset:
    """Embedded, so there is nothing to read. test_fraction of each class is held out; seed: of that split.

    Raises:
        DatasetError: a source is given.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if source is not None:
        raise DatasetError(f"digits is embedded in scikit-learn: it takes no source (--data), got {source}")
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=test_fraction, stratify=labels, random_state=seed)
    train, test, train_labels, test_labels = (torch.from_numpy(part) for part in split)
    train, test = (part.to(torch.uint8).reshape(-1, 1, 8, 8) for part in (train, test))
    names = [str(digit) for digit in range(10)]
    return Dataset(train, train_labels.long(), test, test_labels.long(), names, 16, "embedded in scikit-learn")
