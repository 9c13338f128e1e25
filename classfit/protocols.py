"""Stricter ways to ask how dense a class is: each point's density from fits that never saw it, and by EM.

The protocols `paper` and `converged` are arguments of `classfit.DPGaussianMixture`; these two are more than one fit.
"""

from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from classfit import _check as check
from classfit.dpgmm import DPGaussianMixture
from classfit.em import GaussianMixture
from classfit.gibbs import generator, stream
from classfit.groups import sort_by_group

_FOLDS = 6
"""Purpose of the random numbers that deal points into folds, beside those of `classfit.gibbs` and `convergence`."""


class ProtocolDensity(NamedTuple):
    """Log-densities under one protocol, and what tells how far to trust them."""

    log_density: np.ndarray
    """[N] log-density of each point under its own group, in nats."""
    diagnostics: dict[str, np.ndarray]
    """Arrays by name; G axes are in the order of "groups"."""


def heldout(
    X: Any,
    groups: Any,
    *,
    n_folds: int = 5,
    n_init_components: int = 6,
    protocol: str | None = "converged",
    random_state: check.Seed = 0,
    checkpoint_folder: str | PathLike | None = None,
    verbose: int = 0,
    device: str | None = None,
) -> ProtocolDensity:
    """Log posterior predictive density of each point from a fit to the other folds of its group.

    The points of a group are dealt at random into folds of equal size; a fit to all folds but one gives the densities
    of the points of that one. A fit has fewer points than the group, which by itself may change the posterior's state:
    `in_sample` holds densities of points that the same fits did see, so that the two compare like with like.

    Args:
        X: [N, D] points, float32 or float64.
        groups: [N] name of each point's group; every group needs at least n_folds points.
        n_folds: at least 2.
        n_init_components, protocol, verbose, device: as of `DPGaussianMixture`.
        random_state: int, which is the seed of the folds and, with the number of the fold, of the fits; or numpy
            RandomState or Generator, or None, of which such a seed is drawn.
        checkpoint_folder: where each fold's fit keeps its checkpoint, a folder that exists; None keeps none.

    Returns:
        ProtocolDensity; diagnostics: groups [G], fold [N], in_sample [N] (mean log-density over the fits that saw the
        point), n_components [n_folds, G] (mean over kept labellings), and under `converged` also converged,
        rhat_log_joint, rhat_n_components [n_folds, G] and log_joint [n_folds, chains, G] (mean over the second half).

    Raises:
        ValueError: n_folds below 2, a group with fewer points than folds, or as `DPGaussianMixture.fit`.
    """
    X, groups = np.asarray(check.as_array(X)), check.as_array(groups)
    grouping, names = sort_by_group(groups, len(X)), np.asarray(groups)
    check.integer(n_folds, "n_folds", 2)
    seed = check.seed_of(random_state)
    if seed + n_folds > 2**32:
        raise ValueError(f"random_state must be an int from 0 to 2^32 - n_folds, got {seed}: each fold has its own")
    fold = np.empty(len(X), np.int64)
    for name, a, b in zip(grouping.names, grouping.group_offsets[:-1], grouping.group_offsets[1:], strict=True):
        rows = grouping.order[a:b]
        if len(rows) < n_folds:
            raise ValueError(f"every group needs at least n_folds = {n_folds} points, group {name} has {len(rows)}")
        fold[rows] = generator(seed, stream(name), _FOLDS, 0).permutation(len(rows)) % n_folds
    log_density, in_sample = np.empty(len(X)), np.zeros(len(X))
    collected: dict[str, list[np.ndarray]] = {}
    for f in range(n_folds):
        out = fold == f
        model = DPGaussianMixture(
            n_init_components,
            protocol=protocol,
            random_state=seed + f,
            checkpoint=None if checkpoint_folder is None else Path(checkpoint_folder) / f"fold{f}.npz",
            verbose=verbose,
            device=device,
        ).fit(X[~out], groups=names[~out])
        density = model.score_samples(X, names)
        log_density[out] = density[out]
        in_sample[~out] += density[~out] / (n_folds - 1)
        for name, value in _fit_diagnostics(model).items():
            collected.setdefault(name, []).append(value)
    diagnostics = {"groups": grouping.names, "fold": fold, "in_sample": in_sample}
    return ProtocolDensity(log_density, diagnostics | {name: np.stack(parts) for name, parts in collected.items()})


def em(
    X: Any,
    groups: Any,
    *,
    n_components: tuple[int, ...] = (1, 2, 3, 4, 6, 8),
    random_state: check.Seed = 0,
    verbose: int = 0,
    device: str | None = None,
) -> ProtocolDensity:
    """Log-density of each point under a finite Gaussian mixture of its group, the number of components by BIC.

    Args:
        X, groups: as `heldout`.
        n_components: numbers that are tried.
        random_state, verbose, device: as of `GaussianMixture`.

    Returns:
        ProtocolDensity; diagnostics: groups [G], n_components [G] (with the lowest BIC), converged [G] bool.

    Raises:
        ValueError: as `GaussianMixture.fit`.
    """
    model = GaussianMixture(n_components, n_init=3, random_state=random_state, verbose=verbose, device=device)
    model.fit(X, groups=groups)
    diagnostics = {
        "groups": model.groups_,
        "n_components": np.diff(model.component_offsets_),
        "converged": model.converged_,
    }
    return ProtocolDensity(model.score_samples(X, groups), diagnostics)


def _fit_diagnostics(model: DPGaussianMixture) -> dict[str, np.ndarray]:
    posterior = model.posterior_
    first = posterior.group_offsets[:-1].numpy()
    diagnostics = {"n_components": 1 + np.maximum.reduceat(posterior.labels, first, axis=1).mean(0)}
    if model.protocol == "converged":
        found = model.convergence_
        joint = [found.log_joint[t // 2 : t, :, g].mean(0) for g, t in enumerate(found.rounds)]
        diagnostics |= {
            "converged": found.converged,
            "rhat_log_joint": found.rhat_log_joint,
            "rhat_n_components": found.rhat_n_components,
            "log_joint": np.stack(joint, axis=1),
        }
    return diagnostics
