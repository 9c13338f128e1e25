"""CIFAR-100 (Krizhevsky 2009): 100 classes of 500 training and 100 test images, 32 x 32 pixels, in colour."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from paper_repro.datasets.images import TEST, TRAIN, ClassFolders, Dataset, DatasetError, decoded, find, gather
from paper_repro.datasets.parquet import has_parquet, read_parquet
from paper_repro.datasets.pickles import read_pickle

__all__ = ["load"]

N_CLASSES, N_TRAIN, N_TEST, SIZE = 100, 500, 100, 32
SOURCE = "class folders in a zip"
"""What is said of every form whose images have names: put into one order they are the same images, whichever was read,
so that what was computed from one form holds for the others. The words are part of the hash of what is kept."""
PLACES = ("cifar100.zip", "cifar100", "cifar-100-python")
HELP = """CIFAR-100 was not found in {places}.
Get it in one of these forms:
  - python -c "import torchvision; torchvision.datasets.CIFAR100('data', download=True)", for data/cifar-100-python;
  - a zip or a folder with train/<class>/<name>.png and test/<class>/<name>.png, as data/cifar100.zip or data/cifar100;
  - the parquet files of https://huggingface.co/datasets/uoft-cs/cifar100, in data/cifar100.
Or say where it is: --data PATH."""


def load(source: Path | None) -> Dataset:
    """From torchvision's files, class folders (both in the order of class and file name: the same tensors) or Hugging
    Face parquet files (which have no file names: in their order).

    Raises:
        DatasetError: not there, or not whole.
    """
    path = find(source, PLACES, HELP)
    if (path / "cifar-100-python").is_dir():
        path = path / "cifar-100-python"
    if (path / "meta").is_file():
        data = _official(path)
    elif has_parquet(path):
        data = _parquet(path)
    else:
        data = _class_folders(ClassFolders(path))
    _check(data, path)
    return data


def _official(folder: Path) -> Dataset:
    """The files train, test and meta of cifar-100-python."""

    def part(name: str) -> tuple[Tensor, Tensor, np.ndarray]:
        if not (folder / name).is_file():
            raise DatasetError(f"{folder} has no file {name}; get the archive again")
        stored = read_pickle(folder / name)
        try:
            labels, files = stored["fine_labels"], stored["filenames"]
            order = np.array(sorted(range(len(files)), key=lambda i: (names[labels[i]], files[i])), dtype=np.int64)
            images = torch.from_numpy(np.asarray(stored["data"], dtype=np.uint8)[order]).reshape(-1, 3, SIZE, SIZE)
            return images, torch.tensor(labels, dtype=torch.int64)[order], order
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise DatasetError(f"{folder / name} is not that of CIFAR-100 ({error!r}); get the archive again") from None

    try:
        names = list(read_pickle(folder / "meta")["fine_label_names"])
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{folder / 'meta'} is not that of CIFAR-100 ({error!r}); get the archive again") from None
    images, labels, order = part("train")
    test_images, test_labels, _ = part("test")
    return Dataset(images, labels, test_images, test_labels, names, 255, SOURCE, archive_order=order)


def _parquet(folder: Path) -> Dataset:
    def part(name: str) -> tuple[Tensor, Tensor, list[str]]:
        found = read_parquet(folder, [name], "img", "fine_label")
        images = decoded(found.names, found.images.__getitem__, folder)
        return gather(images, len(found.images)), torch.tensor(found.labels, dtype=torch.int64), found.class_names

    images, labels, class_names = part("train")
    # A slip of that archive; classes are compared by name with scores of others.
    class_names = ["crab" if name == "cra" else name for name in class_names]
    test_images, test_labels, _ = part("test")
    return Dataset(images, labels, test_images, test_labels, class_names, 255, "Hugging Face parquet files")


def _class_folders(folders: ClassFolders) -> Dataset:
    parts = [folders.part(part) for part in (TRAIN, TEST)]
    names = sorted({group for group, _ in parts[0]})
    train, test = (folders.tensors(part, names) for part in parts)
    return Dataset(*train, *test, names, 255, SOURCE)


def _check(data: Dataset, path: Path) -> None:
    """That every class has all its images."""
    for part, labels, images, expected in (
        ("training", data.train_labels, data.train_images, N_TRAIN),
        ("test", data.test_labels, data.test_images, N_TEST),
    ):
        counts = labels[labels >= 0].bincount(minlength=N_CLASSES).tolist()
        wrong = [(g, n) for g, n in enumerate(counts) if n != expected]
        if wrong or len(data.class_names) != N_CLASSES or bool((labels < 0).any()):
            said = f"{len(data.class_names)} classes"
            if not data.class_names:
                said = "no class was found (train/<class>)"
            elif wrong:
                g, n = wrong[0]
                said = f"class {data.class_names[g] if g < len(data.class_names) else g} has {n}"
            raise DatasetError(
                f"{path} must hold {expected} {part} images of each of {N_CLASSES} classes; {said}. Get it again.\n"
                + HELP.split("\n", 1)[1]
            )
        if tuple(images.shape[1:]) != (3, SIZE, SIZE):
            raise DatasetError(f"images of {path} must be of {SIZE} x {SIZE} pixels, got {list(images.shape[2:])}")
