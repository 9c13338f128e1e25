"""CIFAR-100 (Krizhevsky 2009): 100 classes of 500 training and 100 test images, 32 x 32 pixels, in colour."""

from pathlib import Path

import torch

from paper_repro.datasets.images import TEST, TRAIN, ClassFolders, Dataset, DatasetError, decode, gather

__all__ = ["load"]

N_CLASSES, N_TRAIN, N_TEST, SIZE = 100, 500, 100, 32
PLACES = ("cifar100.zip", "cifar100", "cifar-100-python")
HELP = """CIFAR-100 was not found in {places}.
Get it in one of these forms:
  - python -c "import torchvision; torchvision.datasets.CIFAR100('data', download=True)", which makes data/cifar-100-python;
  - a zip or a folder with train/<class>/<name>.png and test/<class>/<name>.png, as data/cifar100.zip or data/cifar100;
  - the parquet files of https://huggingface.co/datasets/uoft-cs/cifar100, in data/cifar100.
Or say where it is: --data PATH."""


def load(source: Path | None) -> Dataset:
    """From torchvision's files (images in the order of the official archive), class folders (in the order of class and
    file name) or Hugging Face parquet files (in their order).

    Raises:
        DatasetError: not there, or not whole.
    """
    path = source or next((Path("data") / name for name in PLACES if (Path("data") / name).exists()), None)
    if path is None or not path.exists():
        looked = [str(source)] if source else [f"data/{name}" for name in PLACES]
        raise DatasetError(HELP.format(places=", ".join(looked)))
    data = _class_folders(ClassFolders(path))
    _check(data, path)
    return data


def _class_folders(folders: ClassFolders) -> Dataset:
    parts = [folders.part(part) for part in (TRAIN, TEST)]
    names = sorted({group for group, _ in parts[0]})
    tensors = []
    for part in parts:
        images = (decode(folders.read(name), name) for _, name in part)
        tensors += [
            gather(images, len(part)),
            torch.tensor([names.index(group) if group in names else -1 for group, _ in part], dtype=torch.int64),
        ]
    return Dataset(*tensors, names, 255, folders.description)


def _check(data: Dataset, path: Path) -> None:
    """That every class has all its images."""
    for part, labels, images, expected in (
        ("training", data.train_labels, data.train_images, N_TRAIN),
        ("test", data.test_labels, data.test_images, N_TEST),
    ):
        counts = labels[labels >= 0].bincount(minlength=N_CLASSES).tolist()
        wrong = [(g, n) for g, n in enumerate(counts) if n != expected]
        if wrong or len(data.class_names) != N_CLASSES or bool((labels < 0).any()):
            said = f"class {wrong[0][0]} has {wrong[0][1]}" if wrong else f"{len(data.class_names)} classes"
            raise DatasetError(
                f"{path} must hold {expected} {part} images of each of {N_CLASSES} classes; {said}. Get it again.\n"
                + HELP.split("\n", 1)[1]
            )
        if tuple(images.shape[1:]) != (3, SIZE, SIZE):
            raise DatasetError(f"images of {path} must be of {SIZE} x {SIZE} pixels, got {list(images.shape[2:])}")
