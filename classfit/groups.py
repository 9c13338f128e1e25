"""Points of many groups (classes) as one array sorted by group."""

from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch

from classfit._check import as_array
from classfit.devices import CPU


class Grouping(NamedTuple):
    """How rows fall into groups: X[order] is sorted by group, in the given order within each."""

    order: np.ndarray
    """[N] int64."""
    group_offsets: torch.Tensor
    """[G + 1] int64: group g holds the sorted rows group_offsets[g]:group_offsets[g + 1]."""
    names: np.ndarray
    """[G] name of each group, sorted."""


def sort_by_group(groups: Any, n: int) -> Grouping:
    """Sort rows by group name, stably.

    Args:
        groups: [n] one name (number or string) a row.
        n: rows that there are.

    Raises:
        ValueError: another shape, names of mixed kinds, or a name that is missing.
    """
    groups = _names(groups, n)
    if groups.dtype.kind in "fcmM" and np.isnan(groups).any():
        raise ValueError(
            f"groups must not hold {groups[np.isnan(groups)][0]}, got one in row {np.isnan(groups).argmax()}"
        )
    names, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    return Grouping(np.argsort(index, kind="stable"), offsets, names)


def one_group(n: int) -> Grouping:
    """All rows in one group, named 0."""
    return Grouping(np.arange(n), torch.tensor([0, n], device=CPU), np.array([0]))


def index_of(groups: Any, names: np.ndarray, n: int) -> np.ndarray:
    """[n] index in `names` of each row's group.

    Raises:
        ValueError: groups is not of shape [n], has names of mixed kinds, or one that is missing or not there.
    """
    groups = _names(groups, n)
    index = np.searchsorted(names, groups).clip(0, len(names) - 1)
    unknown = names[index] != groups
    if unknown.any():
        raise ValueError(f"groups holds {groups[unknown][0].item()!r}, which was not among the fitted groups")
    return index


def _names(groups: Any, n: int) -> np.ndarray:
    """[n] numbers or strings, never objects."""
    groups = as_array(groups)
    names = np.asarray(groups)
    if names.dtype.kind in "Uf" and not isinstance(groups, np.ndarray):
        # What came, of which numpy makes strings if a single one is among it, and floats of integers beyond its own.
        names = np.asarray(groups, dtype=object)
    if names.shape != (n,):
        raise ValueError(f"groups must hold one name for each of {n} rows of X, got shape {list(names.shape)}")
    if names.dtype.kind == "T":  # numpy's strings of any length, which files of arrays cannot hold
        names = np.array(names.tolist())
    if names.dtype != object:
        return names
    if all(isinstance(name, str) for name in names):
        return _unchanged(names, names.astype(str))
    if all(isinstance(name, Number) for name in names):
        numbers = np.array(names.tolist())
        if numbers.dtype == object:
            odd = next(name for name in names if np.asarray(name).dtype == object)
            raise ValueError(
                f"groups must hold numbers that numpy has a type for, or strings, got {odd!r} ({type(odd).__name__}); "
                "give such names as strings"
            )
        return _unchanged(names, numbers)
    for row, name in enumerate(names):
        if _is_missing(name):
            raise ValueError(f"groups must not hold {name}, got one in row {row}")
    kinds = sorted({type(name).__name__ for name in names})
    raise ValueError(f"groups must be all numbers or all strings, got {', '.join(kinds)}")


def _unchanged(names: np.ndarray, found: np.ndarray) -> np.ndarray:
    """`found`; ValueError if numpy made another name of one (but nan): two may have become the same."""
    for name, kept in zip(names, found.tolist(), strict=True):
        if name != kept and name == name:
            raise ValueError(f"groups must hold names that numpy keeps as they are, got {name!r}, kept as {kept!r}")
    return found


def _is_missing(name: Any) -> bool:
    """None, nan, or pandas' NA: the last two are not equal to themselves, the last is neither true nor false."""
    try:
        return name is None or bool(name != name)
    except TypeError:
        return True
