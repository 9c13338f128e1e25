"""Memorization scores from a file, in place of those of networks on random subsets: published ones, or another run's.

The file is an .npz with `tr_mem` [N] and, if it has them, the classes `tr_labels` [N], as Feldman & Zhang and the
paper's authors publish them; or the `scores.npz` of the step `memorization`, with `value` and `standard_error` [N]. The
scores are of the training images in the order in which the dataset is read: that of the archive for torchvision's
files, by class and name for class folders.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paper_repro.inputs import labels_and_names
from paper_repro.steps import Step, Work, Workspace
from paper_repro.storage import read_arrays, sha256, write_arrays

__all__ = ["GivenScores", "ScoresError", "given", "given_before", "scores_step"]

NAME = "memorization"


class ScoresError(ValueError):
    """A file that does not hold the memorization scores of the training images."""


class GivenScores(NamedTuple):
    file: str
    """Its name, for captions."""
    sha256: str
    path: Path | None
    """None if it is known from results alone that the scores were given."""

    @property
    def settings(self) -> dict[str, str]:
        return {"file": self.file, "sha256": self.sha256}


def given(path: Path) -> GivenScores:
    """The scores in a file.

    Raises:
        ScoresError: it cannot be read, or holds no scores.
    """
    _read(path)
    return GivenScores(path.name, sha256(path), path)


def given_before(workspace: Workspace) -> GivenScores | None:
    """Those that the results in a workspace were made with; None if they were estimated, or there are none."""
    settings = (workspace.provenance(Step(NAME, {}, lambda work: None)) or {}).get("settings", {})
    return GivenScores(settings["file"], settings["sha256"], None) if "file" in settings else None


def scores_step(scores: GivenScores, dataset: Step) -> Step:
    """In place of the step that trains networks."""
    return Step(NAME, scores.settings, partial(_copy, scores.path), (dataset,))


def _copy(path: Path | None, work: Work) -> None:
    file = work.settings["file"]
    if path is None:
        raise ScoresError(f"the memorization scores of these results were given in {file}: give them again, --scores")
    value, errors, classes = _read(path)
    labels, names = labels_and_names(work)
    if len(value) != len(labels):
        raise ScoresError(f"{path} must hold a score for each of {len(labels):,} training images, got {len(value):,}")
    if classes is not None and not np.array_equal(classes, labels):
        first = int(np.flatnonzero(classes != labels)[0])
        raise ScoresError(
            f"{path} is in another order than the training images, or of others: image {first} is of class "
            f"{labels[first]} ({names[labels[first]]}), its score of class {classes[first]}"
        )
    write_arrays(work.folder / "scores.npz", {"value": value, "standard_error": errors})


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Scores and their standard errors (nan where there are none) [N], and classes if they are there."""
    try:
        found = read_arrays(path)
    except Exception as error:  # the file system, zip and numpy each have their own
        raise ScoresError(f"{path} cannot be read as an .npz of arrays: {error}") from None
    key = next((name for name in ("tr_mem", "value") if name in found), None)
    if key is None:
        raise ScoresError(f"{path} must hold an array tr_mem or value of scores, got {', '.join(sorted(found))}")
    value = found[key]
    if value.ndim != 1 or value.dtype.kind != "f" or not (np.abs(value) <= 1).all():
        raise ScoresError(f"{path}: {key} must be [N] numbers in -1..1, got {value.dtype} {list(value.shape)}")
    for name in ("standard_error", "tr_labels"):
        if name in found and found[name].shape != value.shape:
            raise ScoresError(f"{path}: {name} must be as many as the scores, {len(value):,}, got {found[name].shape}")
    errors = found.get("standard_error", np.full(len(value), np.nan))
    return value.astype(np.float64), errors.astype(np.float64), found.get("tr_labels")
