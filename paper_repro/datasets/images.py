"""What every dataset is made of: decoded images, class folders in a folder or a zip, and a split."""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from paper_repro.workers import progress

__all__ = ["ClassFolders", "Dataset", "DatasetError", "decode", "decoded", "divided", "find", "gather", "shown_on"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
"""Names of folders for parts of a dataset, in lower case."""


_CONSOLE: ContextVar[Console | None] = ContextVar("_CONSOLE", default=None)


@contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Within it `gather` shows there how far it is."""
    before = _CONSOLE.set(console)
    try:
        yield
    finally:
        _CONSOLE.reset(before)


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
    archive_order: np.ndarray | None = None
    """[N] int64, where the archive has another order than the training images: place in it of each of them."""
    ignored: str = ""
    """Files beside the images, in words: said when they are read, and no part of what was read."""


class ClassFolders:
    """Images in class folders, perhaps within `train` and `test`, of a folder or a zip; in the order of their names."""

    def __init__(self, path: Path, advice: str = "get the dataset again") -> None:
        """
        Args:
            path: folder, in which links are followed, or zip.
            advice: what to do about damaged images.
        """
        self.path, self.advice = path, advice
        self._zip = None
        if path.is_file():
            try:
                self._zip = zipfile.ZipFile(path)
            except zipfile.BadZipFile as error:
                raise DatasetError(
                    f"{path} is no whole zip file ({error}): get it again, or unpack it if it is another archive"
                ) from None
            names: Iterable[str] = self._zip.namelist()
        else:
            names = _walk(str(path))
        every = sorted(name for name in names if _is_shown(name))
        if unreadable := [name for name in every if not _is_text(name)]:
            raise DatasetError(f"{path} has {unreadable[0]!r}, a name that is not in UTF-8: give it another")
        files = [name for name in every if not name.endswith("/")]
        kept = [name for name in files if _suffix(name) in SUFFIXES]
        self._others = [_suffix(name) or "no suffix" for name in files if _suffix(name) not in SUFFIXES]
        # A zip often holds one folder with everything in it.
        self._top = ""
        while kept and _one_folder(kept, self._top):
            self._top += PurePosixPath(kept[0].removeprefix(self._top)).parts[0] + "/"
        self.names = [name.removeprefix(self._top) for name in kept]
        folders = {str(parent) for name in every for parent in PurePosixPath(name).parents} - {"."}
        folders |= {name.removesuffix("/") for name in every if name.endswith("/")}
        full = {str(parent) for name in kept for parent in PurePosixPath(name).parents}
        self._empty = sorted(name for name in folders - full if PurePosixPath(name).parent.as_posix() in {*full, "."})

    @property
    def identity(self) -> str:
        """A hash that changes when images are added, removed or replaced. They are not read for it: it is of names and
        sizes and, in a zip, of checksums, in a folder of when they were changed."""
        found = [(name, *self._as_it_is(self._top + name)) for name in self.names]
        return hashlib.sha256(repr(found).encode()).hexdigest()

    @property
    def description(self) -> str:
        """What it is, and the folders in which no image was found."""
        found = f"class folders in a {'zip' if self._zip else 'folder'}"
        return f"{found}, with no images in {_first(self._empty, 5)}" if self._empty else found

    @property
    def ignored(self) -> str:
        """How many files are no images, and their suffixes."""
        if not self._others:
            return ""
        suffixes = _first(sorted(set(self._others)), 5)
        return f"{len(self._others):,} other file{'s' * (len(self._others) > 1)} ignored ({suffixes})"

    def part(self, folders: Sequence[str]) -> list[tuple[str, str]]:
        """(class, name) of each image in the first of these folders that has class folders; () means of all images.

        Args:
            folders: in lower case; those that are looked for may have capitals.
        """
        parts = [(name.split("/"), name) for name in self.names]
        if not folders:
            return [(path[0], name) for path, name in parts if len(path) >= 2]
        for folder in folders:
            if found := [(path[1], name) for path, name in parts if len(path) >= 3 and path[0].lower() == folder]:
                return found
        return []

    @property
    def is_split(self) -> bool:
        """Whether class folders are in a folder for training, which is no class of its own."""
        train = self.part(TRAIN)
        folder = train[0][1].split("/")[0] if train else ""
        loose = any(name.startswith(f"{folder}/") and name.count("/") == 1 for name in self.names)
        return len({group for group, _ in train}) >= 2 and (bool(self.part(TEST)) or not loose)

    def tensors(
        self, part: Sequence[tuple[str, str]], class_names: Sequence[str], size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 3, H, W] uint8 and labels [N] of (class, name) pairs; -1 for a class that is not named."""
        number = {group: g for g, group in enumerate(class_names)}
        images = gather(self.images([name for _, name in part], size), len(part))
        return images, torch.tensor([number.get(group, -1) for group, _ in part], dtype=torch.int64)

    def images(self, names: Sequence[str], size: int | None = None) -> Iterator[np.ndarray]:
        """Images [3, H, W] uint8, as `decoded` has them."""
        full = [self._top + name for name in names]
        return decoded(full, lambda i: self._read(full[i]), self.path, size, self.advice)

    def _as_it_is(self, name: str) -> tuple[int, ...]:
        if self._zip:
            info = self._zip.getinfo(name)
            return info.file_size, info.CRC
        try:
            stat = (self.path / name).stat()
        except OSError:  # a link to nothing: what is wrong is said when it is read
            return ()
        return stat.st_size, stat.st_mtime_ns

    def _read(self, name: str) -> bytes:
        try:
            if self._zip:
                return self._zip.read(name)
            return (self.path / name).read_bytes()
        except Exception as error:  # the file system, zip and each way to compress have their own
            raise DatasetError(f"{name} cannot be read ({error})") from None


def decoded(
    names: Sequence[str],
    read: Callable[[int], bytes],
    path: Path,
    size: int | None = None,
    advice: str = "get the dataset again",
) -> Iterator[np.ndarray]:
    """Images in turn, as `decode` makes them. From the first damaged one on, the others are only looked through.

    Args:
        names: of the images.
        read: the bytes of image i.
        path: where they lie.
        size: as in `decode`.
        advice: what to do about damaged images.

    Raises:
        DatasetError: at the end, for all damaged images together.
    """
    damaged = []
    for i, name in enumerate(names):
        try:
            image = decode(read(i), name, size)
        except DatasetError as error:
            damaged.append(str(error))
        if not damaged:
            yield image
    if damaged:
        n = f"{len(damaged):,} image{'s' * (len(damaged) > 1)}"
        between = "\n  "
        raise DatasetError(f"{path} has {n} that cannot be used; {advice}:{between}{_first(damaged, 10, between)}")


def decode(data: bytes, name: str, size: int | None = None) -> np.ndarray:
    """One image as [3, H, W] uint8; with `size`, its shorter side is brought to it and the middle square cut out.

    Of 16 bits the upper eight are taken.

    Raises:
        DatasetError: bytes that are no whole image, or one whose pixels have no known largest value.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as opened:
            mode = "I;16" if opened.format == "PPM" and opened.mode == "I" else opened.mode
            if mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8)).convert("RGB")
            else:
                image = opened.convert("RGB")
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{name} is too large ({error}); make it smaller") from None
    except UnidentifiedImageError:
        raise DatasetError(f"{name} is no whole image (its format is unknown)") from None
    except Exception as error:  # each format has its own
        raise DatasetError(f"{name} is no whole image ({error})") from None
    if mode in ("I", "F"):
        raise DatasetError(f"{name} must have pixels of 8 or 16 bits, it is read as mode {mode}, of 32; convert it")
    if size is not None and image.size != (size, size):
        from PIL import ImageOps

        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def gather(images: Iterator[np.ndarray], n: int) -> Tensor:
    """[n, C, H, W] uint8 of images [C, H, W] of one shape, filled in place: nothing is in memory twice."""
    stacked = torch.empty(0, dtype=torch.uint8)
    with progress("images of the dataset", n, _CONSOLE.get()) as show:
        for i, image in enumerate(images):
            if i == 0:
                stacked = torch.empty((n, *image.shape), dtype=torch.uint8)
            if image.shape != tuple(stacked.shape[1:]):
                raise DatasetError(
                    f"images must have one size, the first has {list(stacked.shape[2:])} pixels and image {i} "
                    f"{list(image.shape[1:])}; give a size to bring them to"
                )
            stacked[i] = torch.from_numpy(np.ascontiguousarray(image))
            show(i + 1)
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


def _walk(folder: str, top: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of all that is in a folder, folders with a slash; links are followed, but not to a folder they lie in."""
    real = os.path.realpath(folder)
    if real in above or not os.access(folder, os.R_OK | os.X_OK):
        return
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        is_folder = _is_shown(name) and os.path.isdir(path)
        yield top + name + "/" * is_folder
        if is_folder:
            yield from _walk(path, f"{top}{name}/", above | {real})


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _first(names: Sequence[str], n: int, between: str = ", ") -> str:
    """The first n, and how many more."""
    more = f"{between.strip(',')}and {len(names) - n:,} more" if len(names) > n else ""
    return between.join(names[:n]) + more


def _is_shown(name: str) -> bool:
    hidden = {"__macosx", "thumbs.db", "desktop.ini"}
    return not any(part.startswith(".") or part.lower() in hidden for part in PurePosixPath(name).parts)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _one_folder(names: list[str], top: str) -> bool:
    """Whether all lie in the same folder of `top`, which itself holds folders of folders and is no class or part."""
    rest = [PurePosixPath(name.removeprefix(top)).parts for name in names]
    return len({parts[0] for parts in rest}) == 1 and all(len(parts) >= 3 for parts in rest)
