"""Numbers that others published, embedded for comparison: how much of each class a network memorizes.

`cifar100_resnet18_memorization.csv`: class by class, of the memorization scores that Jamroż & Kurdziel published with
their paper for the 50,000 training images of CIFAR-100 and ResNet18, the mean and the share above 0.7. The scores are
of single images in the order of the official archive; means over classes need no such order. Lines that start with #
say the same in the file.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paper_repro.storage import sha256

__all__ = ["class_memorization", "content_hash", "matched", "published_memorization"]

FOLDER = Path(__file__).parent
COLUMNS = ["class_number", "class", "n_points", "mean_memorization", "share_above_0.7"]


def class_memorization(scores: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Means over classes of the scores [N] of points with these labels [N], 0..G - 1, by the names of the G classes.

    Raises:
        ValueError: another number of scores than of labels, or a class without a point.
    """
    if len(scores) != len(labels):
        raise ValueError(f"scores must be one for each of {len(labels)} labels, got {len(scores)}")
    found = {}
    for g, name in enumerate(class_names):
        own = scores[labels == g].astype(np.float64)
        if not len(own):
            raise ValueError(f"every class must have a point, class {g} ({name}) has none")
        found[name] = float(own.mean())
    return found


def published_memorization(name: str) -> dict[str, float]:
    """The means in the file `name`.csv, by the names of the classes, in its order.

    Raises:
        ValueError: no such file, other columns, a line that is none, a class twice, or no class.
    """
    path = _path(name)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(line for line in file if not line.startswith("#"))
        rows = list(reader)
    if reader.fieldnames != COLUMNS:
        raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}, got {', '.join(reader.fieldnames or ())}")
    found: dict[str, float] = {}
    for row in rows:
        try:
            n_points, mean, share = (kind(row[key]) for kind, key in zip((int, float, float), COLUMNS[2:], strict=True))
        except (TypeError, ValueError):
            raise ValueError(f"{path}: the line of class {row['class']!r} is no row of numbers: {row}") from None
        if not (n_points > 0 and -1 <= mean <= 1 and 0 <= share <= 1):
            raise ValueError(f"{path}: class {row['class']!r} has numbers that scores cannot have: {row}")
        if row["class"] in found:
            raise ValueError(f"{path} has class {row['class']!r} twice")
        found[row["class"]] = mean
    if not found:
        raise ValueError(f"{path} has no class")
    return found


def content_hash(name: str) -> str:
    """Of the file, for the settings of steps that read it."""
    return sha256(_path(name))


def matched(published: dict[str, float], class_names: Sequence[str]) -> np.ndarray:
    """[G] published means of these classes, by name.

    Raises:
        ValueError: classes without a published score, by name.
    """
    lacking = [name for name in class_names if name not in published]
    if lacking:
        raise ValueError(
            f"{len(lacking)} of {len(class_names)} classes have no published memorization score: {', '.join(lacking)}; "
            f"there are scores for {len(published)} classes, such as {', '.join(list(published)[:3])}"
        )
    return np.array([published[name] for name in class_names])


def _path(name: str) -> Path:
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in FOLDER.glob("*.csv")))
        raise ValueError(f"published scores {name!r} are unknown; known: {known}")
    return path
