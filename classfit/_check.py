"""Arguments that several modules take: what they may be, with errors that say what came and what was expected."""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

Seed = int | np.random.RandomState | np.random.Generator | None
"""Every `random_state`: an int gives the same numbers each time, a RandomState or a Generator goes on where it is, and
None draws from numpy's global state."""


@contextmanager
def as_it_was(estimator: Any) -> Iterator[None]:
    """Put the attributes of an estimator back if what is done within fails or is stopped: half of a second fit beside
    half of the first would be neither."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def as_array(X: Any) -> Any:
    """A tensor as an array, off its device and graph, and bfloat16, which numpy does not have, as float32; others as
    they are."""
    if not isinstance(X, Tensor):
        return X
    X = X.detach().cpu()
    return (X.float() if X.dtype == torch.bfloat16 else X).numpy()


def integer(value: Any, name: str, least: int) -> None:
    """ValueError unless it is an integer, not a bool, of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def random_state_of(value: Seed) -> np.random.RandomState:
    """scikit-learn's `check_random_state`; of a Generator the state that a seed drawn from it gives."""
    if isinstance(value, np.random.Generator):
        value = int(value.integers(2**31 - 1))
    try:
        return check_random_state(value)
    except ValueError as error:
        raise ValueError(
            f"random_state must be an int from 0 to 2^32 - 1, a numpy RandomState or Generator, or None, got {value!r}"
        ) from error


def seed_of(value: Seed) -> int:
    """An int itself; else one drawn."""
    if isinstance(value, Integral) and value >= 0:
        return int(value)
    return int(random_state_of(value).randint(2**31 - 1))


def streams_of(value: Seed, n: int) -> list[np.random.Generator]:
    """n independent Generators, from an int or from the next number of what was given."""
    # Not `spawn` of the Generator itself: it would not look at how far that has gone, and not all can.
    seed = int(value.integers(2**63 - 1)) if isinstance(value, np.random.Generator) else seed_of(value)
    return np.random.default_rng(seed).spawn(n)


def generator_of(value: Seed) -> np.random.Generator:
    """A Generator itself; else that of `seed_of`."""
    return value if isinstance(value, np.random.Generator) else np.random.default_rng(seed_of(value))
