"""Points of many groups (classes) as one array sorted by group."""

from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch


class Grouping(NamedTuple):
    """How rows fall into groups: X[order] is sorted by group, in the given order within each."""

    order: np.ndarray
    """[N] int64."""
    group_offsets: torch.Tensor
    """[G + 1] int64: group g holds the sorted rows group_offsets[g]:group_offsets[g + 1]."""
    names: np.ndarray
    """[G] name of each group, sorted."""


def sort_by_group(groups: Any) -> Grouping:
    """Sort rows by group name, stably.

    Args:
        groups: [N] one name (number or string) a row.

    Raises:
        ValueError: not one-dimensional, empty, names of mixed kinds, or a name that is nan.
    """
    groups = np.asarray(groups)
    if groups.ndim != 1 or len(groups) == 0:
        raise ValueError(f"groups must hold one name a row, got an array of shape {list(groups.shape)}")
    if groups.dtype == object:
        if all(isinstance(name, str) for name in groups):
            groups = groups.astype(str)
        elif all(isinstance(name, Number) for name in groups):
            groups = np.array(groups.tolist())
        else:
            kinds = sorted({type(name).__name__ for name in groups})
            raise ValueError(f"groups must be all numbers or all strings, got {', '.join(kinds)}")
    if groups.dtype.kind in "fc" and np.isnan(groups).any():
        raise ValueError(f"groups must not hold nan, got one in row {int(np.isnan(groups).argmax())}")
    names, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    return Grouping(np.argsort(index, kind="stable"), offsets, names)


def one_group(n: int) -> Grouping:
    """All rows in one group, named 0."""
    return Grouping(np.arange(n), torch.tensor([0, n]), np.array([0]))


def index_of(groups: Any, names: np.ndarray) -> np.ndarray:
    """[N] index in `names` of each row's group; ValueError for a name that is not there."""
    groups = np.asarray(groups)
    index = np.searchsorted(names, groups).clip(0, len(names) - 1)
    unknown = names[index] != groups
    if unknown.any():
        raise ValueError(f"groups holds {groups[unknown][0].item()!r}, which was not among the fitted groups")
    return index
