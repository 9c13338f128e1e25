"""Any folder or zip of class folders: <class>/<name>, or train/<class>/<name> and test/<class>/<name>."""

from pathlib import Path

from paper_repro.datasets.images import TEST, TRAIN, ClassFolders, Dataset, DatasetError, divided, find

__all__ = ["load"]

HELP = """No images were found in {places}.
Say where they are: --data PATH, a folder or zip of <class>/<name>, or train/<class>/<name> and test/<class>/<name>."""


def load(source: Path | None, *, size: int, test_fraction: float, seed: int) -> Dataset:
    """All images at `size` x `size` pixels; where none are for testing, `test_fraction` of each class is held out.

    That is at least one image. With a fraction of 0 there are no test images, and none are read.

    Raises:
        DatasetError: not there, no class folders, damaged images, or a class without images to train on.
    """
    path = find(source, ("images", "images.zip"), HELP)
    folders = ClassFolders(path, advice="remove or replace them")
    split = folders.is_split
    train = folders.part(TRAIN if split else ())
    test = folders.part(TEST) if split and test_fraction > 0 else []
    class_names = sorted({group for group, _ in train})
    if class_names and not split and {name.lower() for name in class_names} <= {*TRAIN, *TEST}:
        raise DatasetError(
            f"{path} has no classes: the folders in it ({', '.join(class_names)}) are named as parts of a dataset, and "
            "none is a 'train' with nothing but class folders, at least two. Give one of them alone (the folder, or a "
            "zip of it), or rename one to 'train'; it must hold class folders"
        )
    if len(class_names) < 2:
        raise DatasetError(f"{path} must have at least two class folders with images, got {len(class_names)}")
    unknown = sorted({group for group, _ in test} - set(class_names))
    if unknown:
        raise DatasetError(f"{path} has test images of {unknown[0]!r}, a class without images to train on")
    images, labels = folders.tensors(train, class_names, size)
    if test:
        test_images, test_labels = folders.tensors(test, class_names, size)
        return Dataset(
            images, labels, test_images, test_labels, class_names, 255, folders.description, ignored=folders.ignored
        )
    counts = labels.bincount().tolist()
    n_test = [max(1, round(test_fraction * n)) if test_fraction > 0 else 0 for n in counts]
    if short := [name for name, n, held in zip(class_names, counts, n_test, strict=True) if n == held]:
        raise DatasetError(f"{path} has one image of {short[0]!r}, which leaves none to train on")
    names = [name for _, name in train]
    data = divided(images, labels, class_names, names, n_test, seed, folders.description)
    return data._replace(ignored=folders.ignored)
