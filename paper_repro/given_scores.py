"""Memorization scores from a file, in place of those of networks on random subsets: published ones, or another run's.

The file is an .npz with `tr_mem` [N] and the classes `tr_labels` [N], as Feldman & Zhang and the paper's authors have
them; or the `scores.npz` of the step `memorization`, with `value`, `standard_error` and (older ones have none)
`tr_labels` [N]. The scores are of the training images in the order of the steps (by class and name for CIFAR-100) or,
if those were read from torchvision's files, in that of the archive, as published: the classes tell which.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.markup import escape

from paper_repro.inputs import class_names, train_labels
from paper_repro.steps import ARCHIVE_ORDER, Step, Work, Workspace
from paper_repro.storage import read_arrays, sha256, write_arrays

__all__ = ["GivenScores", "ScoresError", "given", "given_before", "of_images", "scores_step"]

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


def given(path: Path, workspace: Workspace) -> GivenScores:
    """The scores in a file, for the results in a workspace. What they know by another name keeps it.

    Raises:
        ScoresError: it cannot be read, or holds no scores.
    """
    if _read(path)[2] is None:
        workspace.console.print(
            f"[yellow]{escape(str(path))} has no classes (tr_labels), so its order is not checked.[/]", soft_wrap=True
        )
    found, before = GivenScores(path.name, sha256(path), path), given_before(workspace)
    return before._replace(path=path) if before and before.sha256 == found.sha256 else found


def given_before(workspace: Workspace) -> GivenScores | None:
    """Those that the results in a workspace were made with; None if they were estimated, or there are none."""
    settings = (workspace.provenance(Step(NAME, {}, lambda work: None)) or {}).get("settings", {})
    return GivenScores(settings["file"], settings["sha256"], None) if "file" in settings else None


def scores_step(scores: GivenScores, dataset: Step) -> Step:
    """In place of the step that trains networks."""
    return Step(NAME, scores.settings, partial(_copy, scores), (dataset,))


def _copy(scores: GivenScores, work: Work) -> None:
    write_arrays(work.folder / "scores.npz", of_images(scores, work))


def of_images(scores: GivenScores, work: Work) -> dict[str, np.ndarray]:
    """value and standard_error [N] of the training images of the step `dataset`, in its order; tr_labels [N].

    Scores without classes are taken to be in that order.

    Raises:
        ScoresError: they are not, as far as can be told, or the file is not at hand.
    """
    path, labels, names = scores.path, train_labels(work), class_names(work)
    if path is None:
        raise ScoresError(
            f"the memorization scores of these results were given in {scores.file}: give them again, --scores, or "
            "remove the folder memorization to estimate them"
        )
    value, errors, classes = _read(path)
    if len(value) != len(labels):
        raise ScoresError(f"{path} must hold a score for each of {len(labels):,} training images, got {len(value):,}")
    if classes is not None and not np.array_equal(classes, labels):
        order = _archive_order(work)
        if order is not None and np.array_equal(classes[order], labels):
            return {"value": value[order], "standard_error": errors[order], "tr_labels": labels}
        first = int(np.flatnonzero(classes != labels)[0])
        raise ScoresError(
            f"{path} is in another order than the training images, or of others: image {first} is of class "
            f"{labels[first]} ({names[labels[first]]}), its score of class {classes[first]}"
        )
    return {"value": value, "standard_error": errors, "tr_labels": labels}


def _archive_order(work: Work) -> np.ndarray | None:
    path = work.inputs["dataset"] / ARCHIVE_ORDER
    return read_arrays(path)["order"] if path.exists() else None


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Scores and their standard errors (nan where there are none) [N], and classes if they are there."""
    try:
        with np.load(path, allow_pickle=False) as stored:  # published files hold other, larger arrays as well
            there = list(stored.files)
            found = {name: stored[name] for name in ("tr_mem", "value", "standard_error", "tr_labels") if name in there}
    except Exception:  # the file system, zip and numpy each have their own, and numpy's advises to trust the file
        raise ScoresError(f"{path} cannot be read as an .npz of arrays (of numbers: objects are refused)") from None
    key = next((name for name in ("tr_mem", "value") if name in found), None)
    if key is None:
        raise ScoresError(f"{path} must hold an array tr_mem or value of scores, got {', '.join(sorted(there))}")
    value = found[key]
    if value.ndim != 1 or value.dtype.kind != "f" or not (np.abs(value) <= 1).all():
        raise ScoresError(f"{path}: {key} must be [N] numbers in -1..1, got {value.dtype} {list(value.shape)}")
    for name in ("standard_error", "tr_labels"):
        if name in found and found[name].shape != value.shape:
            raise ScoresError(f"{path}: {name} must be as many as the scores, {len(value):,}, got {found[name].shape}")
    errors = found.get("standard_error", np.full(len(value), np.nan))
    return value.astype(np.float64), errors.astype(np.float64), found.get("tr_labels")
