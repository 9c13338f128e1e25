"""What a user sees: wall time of the estimators with `device=`, on the GPU and on the processors of the same machine.

Part of `benchmarks.gpu`. Random numbers, the trace and all copies to and from the device are in the time.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

__all__ = ["FITTED", "chains", "fits"]

FITTED = ("DPGaussianMixture", "GaussianMixture")


def fits(name: str, device: str, groups: int, group: int, D: int, sweeps: int, seed: int) -> Iterator[dict[str, Any]]:
    """Of an estimator in `FITTED`, for `groups` groups of `group` points in D dimensions, in six clusters each.

    Each is made twice and the second is timed: the first compiles.

    Yields:
        what, features, seconds {device: wall seconds}, and largest_difference of the log-densities (nats) where both
        devices evaluate the same posterior.
    """
    from classfit import DPGaussianMixture, GaussianMixture

    x, names = _points(groups, group, D, seed)
    chain = {"block_size": 4, "n_sweeps": sweeps, "n_discard": sweeps // 2, "thin": 4, "random_state": seed}
    what, estimator = {
        "DPGaussianMixture": (f"fit, {sweeps} sweeps", DPGaussianMixture(**chain)),
        "GaussianMixture": ("fit, 6 components", GaussianMixture(6, random_state=seed)),
    }[name]
    seconds, found = {}, {}
    for where in ("cpu", device):
        seconds[where], fitted = _second(partial(_fit, estimator, x, names, where))
    yield {"what": f"{name}.{what}", "features": D, "seconds": seconds}
    seconds = {}
    for where in ("cpu", device):
        fitted.set_params(device=where)
        seconds[where], found[where] = _second(partial(fitted.class_log_density, x))
    difference = float(np.abs(found[device] - found["cpu"]).max())
    words = f"{name}.class_log_density, {groups} groups"
    yield {"what": words, "features": D, "seconds": seconds, "largest_difference": difference}


def chains(device: str, groups: int, group: int, D: int, seed: int) -> Iterator[dict[str, Any]]:
    """The protocol "converged" on the same points: four chains a group with split-merge moves, on the GPU alone.

    Its kernels have been compiled by then, by the checks.

    Yields:
        what, features, seconds {device: wall seconds}, and converged: the share of groups whose chains agree.
    """
    from classfit import DPGaussianMixture

    x, names = _points(groups, group, D, seed)
    model = DPGaussianMixture(protocol="converged", random_state=seed, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of groups whose chains do not agree
        start = time.perf_counter()
        model.fit(x, groups=names)
    seconds = {device: time.perf_counter() - start}
    what = f"DPGaussianMixture.fit, converged, {groups} groups"
    yield {"what": what, "features": D, "seconds": seconds, "converged": float(model.convergence_.converged.mean())}


def _points(groups: int, group: int, D: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(groups), group)
    centres = 5 * rng.standard_normal((groups, 6, D))
    x = centres[names, rng.integers(6, size=len(names))] + rng.standard_normal((len(names), D))
    return x.astype(np.float32), names


def _fit(estimator: Any, x: np.ndarray, names: np.ndarray, device: str) -> Any:
    from sklearn.base import clone

    return clone(estimator).set_params(device=device).fit(x, groups=names)


def _second(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a second call, and what it returns."""
    call()
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found
