"""The operations that `benchmarks.check` times in two trees, at sizes that take some tens of milliseconds each.

    python -m benchmarks.workload TREE

imports `kernels` and `classfit` from TREE and answers requests, a line each: `list`, `prepare OPERATION` ("ready" once
it is compiled and warm, else why not) and `time OPERATION` (seconds).
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.made import ClassInputs, classes, mixture

__all__ = ["OPERATIONS"]

GROUPS, GROUP = 4, 500
"""Classes of the chains, and points of each."""


def mixture_log_density(D: int = 64, dtype: torch.dtype = torch.float32) -> Callable[[], Any]:
    import kernels

    case = mixture(10_000, 20, D, dtype)
    return lambda: kernels.mixture_log_density(case.x, case.log_weight, case.location, case.precision_chol)


def mixture_log_density_of_16_features() -> Callable[[], Any]:
    return mixture_log_density(D=16)


def mixture_log_density_in_float64() -> Callable[[], Any]:
    return mixture_log_density(dtype=torch.float64)


def student_t_log_density() -> Callable[[], Any]:
    import kernels

    case = mixture(10_000, 20, 64)
    return lambda: kernels.student_t_log_density(case.x, case.location, case.precision_chol, case.df)


def component_statistics() -> Callable[[], Any]:
    import kernels

    case = classes(20, 500, 6, 64, separation=1.0)
    return lambda: kernels.component_statistics(case.x, case.labels, 6, group_offsets=case.group_offsets)


def em_statistics() -> Callable[[], Any]:
    import kernels

    case = classes(20, 500, 4, 64, separation=0.35)
    mean, factor = torch.zeros(80, 64), torch.eye(64).repeat(80, 1, 1)
    return lambda: kernels.em_statistics(
        case.x, torch.zeros(80), mean, factor, group_offsets=case.group_offsets, component_offsets=torch.arange(21) * 4
    )


def precision_cholesky() -> Callable[[], Any]:
    import kernels

    chol = mixture(1, 500, 64).chol
    covariance = chol @ chol.mT
    return lambda: kernels.precision_cholesky(covariance)


def gibbs_sweep() -> Callable[[], Any]:
    return _sweeps(block_size=1)


def gibbs_sweep_of_16_features() -> Callable[[], Any]:
    return _sweeps(block_size=1, D=16)


def gibbs_sweep_of_blocks() -> Callable[[], Any]:
    return _sweeps(block_size=4)


def gibbs_sweep_of_many_components() -> Callable[[], Any]:
    """Of seven points each, as classes of 500 points have in 64 dimensions."""
    return _sweeps(block_size=1, n_components=70)


def split_merge() -> Callable[[], Any]:
    """Two proposals a class that name all points, and twenty that name ten, from random labels."""
    import kernels

    case, state, prior, random = _start(64)
    G, n = GROUPS, GROUP
    points = torch.stack([torch.randperm(n, generator=random) for _ in range(22 * G)]).view(22, G, n)
    candidates = points[..., 2:].clone()
    candidates[2:, :, 10:] = -1
    launch = torch.rand(candidates.shape, generator=random) < 0.5
    uniforms = torch.rand(22, G, 2, n - 2, generator=random, dtype=torch.float64)
    accept = torch.rand(22, G, generator=random, dtype=torch.float64)
    proposals = kernels.SplitMergeProposals(points[..., :2], candidates, launch, uniforms, accept)
    return lambda: kernels.split_merge(state, case.x, proposals, prior=prior, group_offsets=case.group_offsets)


def log_joint() -> Callable[[], Any]:
    """Of twenty labellings, as at the kept sweeps of a fit."""
    import kernels

    case, state, prior, _ = _start(64)
    states = kernels.GibbsState(state.labels.repeat(20, 1), state.alpha.repeat(20, 1))
    return lambda: kernels.log_joint(states, case.x, prior=prior, group_offsets=case.group_offsets)


def fit() -> Callable[[], Any]:
    from classfit import DPGaussianMixture

    case = classes(4, 200, 6, 64, separation=5.0)
    X, groups = case.x.numpy(), torch.repeat_interleave(case.group_offsets.diff()).numpy()
    return lambda: DPGaussianMixture(n_sweeps=20, n_discard=12, random_state=0).fit(X, groups=groups)


def fit_by_em() -> Callable[[], Any]:
    from classfit import GaussianMixture

    case = classes(4, 500, 4, 64, separation=0.35)
    X, groups = case.x.numpy(), torch.repeat_interleave(case.group_offsets.diff()).numpy()
    # The tolerance is met long before the last iteration: none has a warning in the time.
    return lambda: GaussianMixture(4, tol=0.1, random_state=0).fit(X, groups=groups)


def _sweeps(block_size: int, D: int = 64, n_components: int = 6) -> Callable[[], Any]:
    """Four sweeps from random labels: many points move."""
    import kernels

    T = 4
    case, state, prior, random = _start(D, n_components)
    G, n = GROUPS, GROUP
    order = torch.stack([torch.cat([torch.randperm(n, generator=random) for _ in range(G)]) for _ in range(T)])
    uniforms = torch.rand(T, G * n, generator=random, dtype=torch.float64)
    return lambda: kernels.gibbs_sweep(
        state, case.x, order, uniforms, prior=prior, group_offsets=case.group_offsets, block_size=block_size
    )


def _start(D: int, n_components: int = 6) -> tuple[ClassInputs, Any, Any, torch.Generator]:
    """Classes, random labels with alpha, a prior (of the types of the tree that is timed), and what to draw from."""
    import kernels

    G, n = GROUPS, GROUP
    case = classes(G, n, 6, D, separation=5.0)
    identity = torch.eye(D, dtype=torch.float64).repeat(G, 1, 1)
    ones = torch.ones(G, dtype=torch.float64)
    prior = kernels.NIWPrior(torch.zeros(G, D, dtype=torch.float64), 0.01 * ones, (D + 2) * ones, 10 * identity)
    random = torch.Generator().manual_seed(0)
    state = kernels.GibbsState(torch.randint(n_components, (G * n,), generator=random), ones)
    return case, state, prior, random


OPERATIONS = {
    make.__name__: make
    for make in (
        mixture_log_density,
        mixture_log_density_of_16_features,
        mixture_log_density_in_float64,
        student_t_log_density,
        component_statistics,
        em_statistics,
        precision_cholesky,
        gibbs_sweep,
        gibbs_sweep_of_16_features,
        gibbs_sweep_of_blocks,
        gibbs_sweep_of_many_components,
        split_merge,
        log_joint,
        fit,
        fit_by_em,
    )
}
"""By name: makes the inputs and returns the call."""


def main(tree: Path) -> None:
    # Installed in place, this tree would lend its modules to an earlier commit that lacks them.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not finder.__module__.startswith("__editable__")]
    sys.path.insert(0, str(tree))
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request, _, name = line.strip().partition(" ")
        if request == "list":
            answer = " ".join(OPERATIONS)
        elif request == "prepare":
            answer = _prepare(name, calls, tree.resolve())
        else:
            start = time.perf_counter()
            calls[name]()
            answer = repr(time.perf_counter() - start)
        print(answer, flush=True)


def _prepare(name: str, calls: dict[str, Callable[[], Any]], tree: Path) -> str:
    try:
        calls[name] = OPERATIONS[name]()
        for package in {"kernels", "classfit"} & set(sys.modules):
            if tree not in Path(str(sys.modules[package].__file__)).resolve().parents:
                raise ImportError(f"no package {package}")
        calls[name]()
        calls[name]()
    except Exception as error:  # an earlier commit may lack anything
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "ready"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
