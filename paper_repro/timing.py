"""Seconds that something would take, from a part of it that is timed."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from paper_repro.steps import WORTH_SAYING_SECONDS

__all__ = ["extrapolated", "over_classes", "part_that_is_short", "seconds_of", "typical"]

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
