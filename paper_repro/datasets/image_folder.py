"""Any folder or zip of class folders: <class>/<name>, or train/<class>/<name> and test/<class>/<name>."""

from pathlib import Path

from paper_repro.datasets.images import TEST, TRAIN, ClassFolders, Dataset, DatasetError, divided, find

__all__ = ["load"]

HELP = """No images were found in {places}.
Say where they are: --data PATH, a folder or zip of <class>/<name>, or train/<class>/<name> and test/<class>/<name>."""


def load(source: Path | None, *, size: int, test_fraction: float, seed: int) -> Dataset:
    """All images at `size` x `size` pixels; without a test folder, `test_fraction` of each class is held out.

    That is at least one image, unless the fraction is 0.

    Raises:
        DatasetError: not there, no class folders, or a class without images to train on.
    """
    path = find(source, ("images", "images.zip"), HELP)
    folders = ClassFolders(path)
    parts = [folders.part(TRAIN), folders.part(TEST)] if folders.is_split else [folders.part(())]
    class_names = sorted({group for group, _ in parts[0]})
    if len(class_names) < 2:
        raise DatasetError(f"{path} must have at least two class folders with images, got {len(class_names)}")
    unknown = sorted({group for group, _ in parts[-1]} - set(class_names))
    if unknown:
        raise DatasetError(f"{path} has test images of {unknown[0]!r}, a class without images to train on")
    images, labels = folders.tensors(parts[0], class_names, size)
    if folders.is_split:
        test_images, test_labels = folders.tensors(parts[1], class_names, size)
        return Dataset(images, labels, test_images, test_labels, class_names, 255, folders.description)
    n_test = [max(1, round(test_fraction * n)) if test_fraction > 0 else 0 for n in labels.bincount().tolist()]
    names = [name for _, name in parts[0]]
    return divided(images, labels, class_names, names, n_test, seed, folders.description)
