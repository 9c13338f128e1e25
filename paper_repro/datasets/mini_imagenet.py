"""Mini-ImageNet (Vinyals et al. 2016): 100 classes of 600 images, here split anew: 500 to train on, 100 to test.

The published splits are by class, for few-shot learning; classification needs every class on both sides.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from paper_repro.datasets.images import TEST, TRAIN, ClassFolders, Dataset, DatasetError, decoded, divided, find, gather
from paper_repro.datasets.parquet import has_parquet, read_parquet
from paper_repro.datasets.pickles import read_pickle

__all__ = ["SPLIT_SEED", "load"]

N_CLASSES, N_IMAGES, N_TEST = 100, 600, 100
SPLIT_SEED = 0
"""The split is one and the same in all runs."""

PLACES = ("mini-imagenet.zip", "mini-imagenet")
PICKLES = "mini-imagenet-cache-{}.pkl"
HELP = """Mini-ImageNet was not found in {places}.
Get it in one of these forms, and put it into data/mini-imagenet:
  - the parquet files of https://huggingface.co/datasets/timm/mini-imagenet (parts train and validation; by its own
    account these are not quite the classes of the original);
  - the few-shot pickles mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl;
  - class folders with the 600 images of each class, in that folder or its train, val and test, or all of it as
    data/mini-imagenet.zip.
Or say where it is: --data PATH."""


def load(source: Path | None, *, size: int) -> Dataset:
    """All images at `size` x `size` pixels, split by class with a fixed seed; the split is recorded with hashes.

    Raises:
        DatasetError: not there, or not whole.
    """
    path = find(source, PLACES, HELP)
    if (path / PICKLES.format("train")).exists():
        names, groups, images = _pickles(path)
        words = "few-shot pickles"
    elif has_parquet(path):
        part = read_parquet(path, ["train", "validation"], "image", "label")
        names, groups = part.names, [part.class_names[label] for label in part.labels]
        images = decoded(part.names, part.images.__getitem__, path, size)
        words = "Hugging Face parquet files"
    else:
        folders = ClassFolders(path)
        parts = [folders.part((name,)) for name in (*TRAIN, *TEST)]
        found = [pair for part in parts for pair in part] or folders.part(())
        groups, names = [group for group, _ in found], [name for _, name in found]
        images = folders.images(names, size)
        words = folders.description
    class_names = sorted(set(groups))
    counts = {name: groups.count(name) for name in class_names}
    wrong = [name for name in class_names if counts[name] != N_IMAGES]
    if len(class_names) != N_CLASSES or wrong:
        said = f"class {wrong[0]} has {counts[wrong[0]]}" if wrong else f"it has {len(class_names)} classes"
        raise DatasetError(
            f"{path} must hold {N_IMAGES} images of each of {N_CLASSES} classes; {said}. Get it again.\n"
            + HELP.split("\n", 1)[1]
        )
    labels = torch.tensor([class_names.index(group) for group in groups], dtype=torch.int64)
    tensor = gather(images, len(names))
    if tuple(tensor.shape[2:]) != (size, size):
        raise DatasetError(f"images of {path} must be of {size} x {size} pixels, got {list(tensor.shape[2:])}")
    return divided(tensor, labels, class_names, names, [N_TEST] * N_CLASSES, SPLIT_SEED, words)


def _pickles(folder: Path) -> tuple[list[str], list[str], Iterator[np.ndarray]]:
    """Names, classes and images of the few-shot files, whose parts are made of different classes."""
    names: list[str] = []
    groups: list[str] = []
    arrays = []
    for part in ("train", "val", "test"):
        path = folder / PICKLES.format(part)
        if not path.exists():
            raise DatasetError(f"{path} is missing; all three parts are needed")
        stored = read_pickle(path)
        try:
            of_image = {int(i): group for group, members in stored["class_dict"].items() for i in members}
            arrays.append(stored["image_data"])
            names += [f"{part}/{i:05d}" for i in range(len(arrays[-1]))]
            groups += [of_image[i] for i in range(len(arrays[-1]))]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DatasetError(f"{path} is not that of Mini-ImageNet ({error!r}); get the archive again") from None
    return names, groups, (np.asarray(image, dtype=np.uint8).transpose(2, 0, 1) for array in arrays for image in array)
