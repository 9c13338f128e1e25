"""What every dataset is made of: decoded images, class folders in a folder or a zip, and a split."""

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["ClassFolders", "Dataset", "DatasetError", "decode", "divided", "find", "gather"]

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

    def tensors(
        self, part: Sequence[tuple[str, str]], class_names: Sequence[str], size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 3, H, W] uint8 and labels [N] of (class, name) pairs; -1 for a class that is not named."""
        number = {group: g for g, group in enumerate(class_names)}
        images = gather((decode(self.read(name), name, size) for _, name in part), len(part))
        return images, torch.tensor([number.get(group, -1) for group, _ in part], dtype=torch.int64)

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


def find(source: Path | None, places: Sequence[str], message: str) -> Path:
    """The source, or the first of these places in the folder `data` that is there.

    Raises:
        DatasetError: with the message, whose {places} says where was looked.
    """
    candidates = [source] if source is not None else [Path("data") / name for name in places]
    for path in candidates:
        if path.exists():
            return path
    raise DatasetError(message.format(places=", ".join(map(str, candidates))))


def divided(
    images: Tensor,
    labels: Tensor,
    class_names: list[str],
    names: Sequence[str],
    n_test: Sequence[int],
    seed: int,
    source: str,
) -> Dataset:
    """A dataset with a split of our own, on record: `n_test[g]` images of class g, drawn at random, are for testing.

    Args:
        images: [N, C, H, W] uint8.
        labels: [N] int64.
        class_names: G names.
        names: N names.
        n_test: G numbers.
        seed: of the draw.
        source: as in `Dataset`.
    """
    generator = torch.Generator().manual_seed(seed)
    test = torch.zeros(len(labels), dtype=torch.bool)
    for g, n in enumerate(n_test):
        members = (labels == g).nonzero().flatten()
        test[members[torch.randperm(len(members), generator=generator)[:n]]] = True
    record = [
        {"name": name, "class": class_names[g], "part": "test" if held else "train", "sha256": _hash(image)}
        for name, g, image, held in zip(names, labels.tolist(), images, test.tolist(), strict=True)
    ]
    return Dataset(images[~test], labels[~test], images[test], labels[test], class_names, 255, source, record)


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
