"""Seconds that something would take, from a part of it that is timed."""

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any, TypeVar

import numpy as np

from paper_repro.steps import WORTH_SAYING_SECONDS

__all__ = ["extrapolated", "over_classes", "part_that_is_short", "seconds_of", "timed_fit", "typical"]

Fitted = TypeVar("Fitted")

SHORT_SECONDS = 5.0
"""An estimate below this may be of a first call, which compiles and loads as well."""
LONG_SECONDS = 2.0
"""Parts that are timed for an estimate are cut down to about this."""


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def extrapolated(seconds: Callable[[int], float], few: int, more: int, all_: int) -> float:
    """Seconds for `all_` from the timings of `few` and `more`, on a straight line."""
    if all_ <= few:
        return seconds(all_)
    for most in (SHORT_SECONDS, WORTH_SAYING_SECONDS):
        # The second call has nothing to compile or load.
        first = seconds(few)
        if first / few * all_ < most:
            return first / few * all_
    return first + max(seconds(more) - first, 0) / (more - few) * (all_ - few)


def over_classes(seconds: Callable[[int], float], n_classes: int, device: str) -> float:
    """Seconds for all classes from the time of the first; on a GPU, which fits many side by side, also of four."""
    return n_classes * seconds(1) if device == "cpu" else extrapolated(seconds, 1, min(4, n_classes), n_classes)


def timed_fit(
    fit: Callable[[np.ndarray, np.ndarray], Fitted], x: np.ndarray, labels: np.ndarray, device: str
) -> tuple[float, Fitted]:
    """Seconds that a fit of all classes would take, and the fit of one, the class of median size.

    A whole fit of one class rather than a few sweeps of all: from a random start labels move in every sweep, so that
    sweeps cost more, and each that is kept has components of its own, than later on.

    Args:
        fit: fit(x, labels) fits every class that is among the labels.
        x: [N, D] points.
        labels: [N] class of each.
        device: where they are fitted.
    """
    classes, counts = np.unique(labels, return_counts=True)
    of_class = x[labels == classes[counts.argsort()[len(counts) // 2]]]
    fitted: list[Fitted] = []

    def of_copies(n: int) -> float:
        points, copies = np.tile(of_class, (n, 1)), np.repeat(np.arange(n), len(of_class))
        return seconds_of(lambda: fitted.append(fit(points, copies)))

    few = of_class[:8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the step says them
        fit(few, np.zeros(len(few), np.int64))  # compiles
        seconds = over_classes(of_copies, len(classes), device)
    return seconds * len(labels) / (len(of_class) * len(classes)), fitted[0]


def part_that_is_short(seconds: Callable[[int], float], whole: int) -> int:
    """How many of `whole` images `seconds` takes to time within about `LONG_SECONDS`; it has been called before."""
    n = min(4, whole)
    seconds(n)
    return int(min(whole, max(n, n * LONG_SECONDS / seconds(n))))


def typical(seconds: Callable[[int], float], n: int) -> float:
    """What `seconds` takes for n images: once if that is long, else the median of seven.

    The first time also chooses kernels and allocates memory: on a GPU, up to a hundred times as long as all others.
    """
    first = seconds(n)
    return first if first > LONG_SECONDS / 2 else median([first, *(seconds(n) for _ in range(6))])
