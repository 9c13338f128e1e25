"""What every dataset is made of: decoded images, class folders in a folder or a zip, and what to say if they are not."""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["ClassFolders", "Dataset", "DatasetError", "decode", "gather", "split_by_class"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
TRAIN, TEST = ("train",), ("test", "val", "validation")


class DatasetError(ValueError):
    """A dataset is missing or damaged; the message says what to do."""


class Dataset(NamedTuple):
    train_images: Tensor
    """[N, C, H, W] uint8."""
    train_labels: Tensor
    """[N] int64, in 0..n_classes - 1."""
    test_images: Tensor
    test_labels: Tensor
    class_names: list[str]
    white: int
    """Pixel value of white; black is 0."""
    source: str
    """What was read, in words, without its place."""
    split: list[dict[str, str]] | None = None
    """Where the split is our own: name, class, part and hash of the pixels of every image."""


class ClassFolders:
    """Images in class folders, perhaps within `train` and `test`, of a folder or a zip; in the order of their names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = None
        if path.is_file():
            try:
                self._zip = zipfile.ZipFile(path)
            except zipfile.BadZipFile as error:
                raise DatasetError(f"{path} is no whole zip file ({error}); get it again") from None
            names: Iterable[str] = self._zip.namelist()
        else:
            names = (found.relative_to(path).as_posix() for found in path.rglob("*"))
        kept = sorted(name for name in names if _is_image(name))
        # A zip often holds one folder with everything in it.
        self._top = ""
        while kept and _one_folder(kept, self._top):
            self._top += PurePosixPath(kept[0].removeprefix(self._top)).parts[0] + "/"
        self.names = [name.removeprefix(self._top) for name in kept]

    @property
    def description(self) -> str:
        return f"class folders in a {'zip' if self._zip else 'folder'}"

    def part(self, folders: Sequence[str]) -> list[tuple[str, str]]:
        """(class, name) of each image in the first of these folders that is there; () means of all images."""
        if not folders:
            return [(name.split("/")[0], name) for name in self.names if name.count("/") >= 1]
        for folder in folders:
            found = [(name.split("/")[1], name) for name in self.names if name.startswith(f"{folder}/")]
            if found:
                return [(group, name) for group, name in found if name.count("/") >= 2]
        return []

    @property
    def is_split(self) -> bool:
        """Whether there are folders for training and testing, and images are not just in class folders."""
        return bool(self.part(TRAIN)) and bool(self.part(TEST))

    def read(self, name: str) -> bytes:
        try:
            if self._zip:
                return self._zip.read(self._top + name)
            return (self.path / self._top / name).read_bytes()
        except (OSError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{name} of {self.path} cannot be read ({error}); get the dataset again") from None


def decode(data: bytes, name: str, size: int | None = None) -> np.ndarray:
    """One image as [3, H, W] uint8; with `size`, its shorter side is brought to it and the middle square cut out.

    Raises:
        DatasetError: bytes that are no whole image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DatasetError(f"{name} is no whole image ({error}); get the dataset again") from None
    if size is not None and image.size != (size, size):
        from PIL import ImageOps

        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def gather(images: Iterator[np.ndarray], n: int) -> Tensor:
    """[n, C, H, W] uint8 of images [C, H, W] of one shape, filled in place: nothing is in memory twice."""
    stacked = torch.empty(0, dtype=torch.uint8)
    for i, image in enumerate(images):
        if i == 0:
            stacked = torch.empty((n, *image.shape), dtype=torch.uint8)
        if image.shape != tuple(stacked.shape[1:]):
            raise DatasetError(
                f"images must have one size, the first has {list(stacked.shape[2:])} pixels and image {i} "
                f"{list(image.shape[1:])}; give a size to bring them to"
            )
        stacked[i] = torch.from_numpy(np.ascontiguousarray(image))
    return stacked


def split_by_class(labels: Tensor, n_test: Sequence[int], seed: int) -> Tensor:
    """[N] bool, true for testing: of class g, `n_test[g]` images drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for g, n in enumerate(n_test):
        members = (labels == g).nonzero().flatten()
        chosen[members[torch.randperm(len(members), generator=generator)[:n]]] = True
    return chosen


def split_record(names: Sequence[str], groups: Sequence[str], images: Tensor, test: Tensor) -> list[dict[str, str]]:
    """The rows of `Dataset.split`."""
    return [
        {"name": name, "class": group, "part": "test" if held else "train", "sha256": _hash(image)}
        for name, group, image, held in zip(names, groups, images, test.tolist(), strict=True)
    ]


def _hash(image: Tensor) -> str:
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def _one_folder(names: list[str], top: str) -> bool:
    """Whether all lie in the same folder of `top`, which itself holds folders of folders and is no class or part."""
    rest = [PurePosixPath(name.removeprefix(top)).parts for name in names]
    return len({parts[0] for parts in rest}) == 1 and all(len(parts) >= 3 for parts in rest)
