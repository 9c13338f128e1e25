"""Dirichlet-process Gaussian mixtures of many groups at once, as a scikit-learn estimator."""

import hashlib
import json
import time
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from classfit.gibbs import Chain, Schedule, advance, start, stream
from classfit.groups import Grouping, one_group, sort_by_group
from classfit.predictive import Posterior
from classfit.prior import group_variances, niw_prior, standardise, standardised
from classfit.storage import write_npz

SWEEPS_A_CALL = 10
SECONDS_BETWEEN_CHECKPOINTS = 2.0


class Trace(NamedTuple):
    """What a chain looked like at every `thin`-th sweep; R sweeps, G groups."""

    sweep: np.ndarray
    """[R]"""
    n_components: np.ndarray
    """[R, G]"""
    alpha: np.ndarray
    """[R, G]"""
    log_joint: np.ndarray
    """[R, G] log joint density of labels and data given alpha, in nats."""


class DPGaussianMixture(DensityMixin, BaseEstimator):
    """Dirichlet-process mixture of Gaussians under a normal-inverse-Wishart prior, by collapsed Gibbs sampling.

        alpha ~ Gamma(1, 1),  G ~ DP(NIW(mu0, kappa0, nu0, S0), alpha),  (mu, Sigma)_i ~ G,  x_i ~ N(mu_i, Sigma_i)

    (paper eq. 2) with mu0 the group's mean, kappa0 = 0.01, nu0 = D + 2, S0 = diag(variance) / K0^(2/D). Every group has
    a mixture of its own; all are fitted in one call. The paper's protocol is `block_size=4` and the other defaults.

    Args:
        n_init_components: K0: at the start points are assigned to this many components at random; it also sets S0.
        block_size: labels drawn together, given the rest. 1 is exact Gibbs; more is the published approximation,
            which draws the labels of a block as if they were independent and has no exactness guarantee.
        n_sweeps: sweeps in all.
        n_discard: sweeps discarded at first.
        thin: every `thin`-th of the remaining sweeps is kept.
        official: do as the published code does where that differs from the paper's equations: alpha starts at
            1 + Exp(1) and is resampled as if its prior were Gamma(2, 1); points of a block that choose a new component
            share one; the predictive is the mean over sweeps of log-densities, with weights (n_k + alpha) / sum and no
            component for the prior.
        random_state: seed. The same seed gives the same result on any number of threads, and gives a group the same
            result whichever other groups are fitted with it.
        checkpoint: path of a file that is written (atomically) as the fit goes on. A fit that was killed and is started
            again on the same data with the same settings goes on from it, to the same result.
        verbose: 1 shows a progress bar.

    Attributes:
        posterior_: `Posterior`, the fitted predictive of every group.
        groups_: [G] names, sorted; the order of every G axis.
        trace_: `Trace` of the chain.
        n_features_in_: D.
    """

    def __init__(
        self,
        n_init_components: int = 6,
        *,
        block_size: int = 1,
        n_sweeps: int = 400,
        n_discard: int = 320,
        thin: int = 4,
        official: bool = False,
        random_state: Any = None,
        checkpoint: str | PathLike | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_init_components = n_init_components
        self.block_size = block_size
        self.n_sweeps = n_sweeps
        self.n_discard = n_discard
        self.thin = thin
        self.official = official
        self.random_state = random_state
        self.checkpoint = checkpoint
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> "DPGaussianMixture":
        """Sample the posterior of every group.

        Args:
            X: [N, D] points, float32 or float64 (other numbers become float64). The sampler works in X's dtype.
            y: ignored.
            groups: [N] name of each point's group, numbers or strings; None puts all in one group.

        Raises:
            ValueError: X not finite or not two-dimensional, a setting out of range, or a checkpoint of another fit.

        Warns:
            ConstantFeatureWarning: a feature does not vary within a group; it is given variance 1 there.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=1)
        schedule = self._schedule()
        grouping = one_group(len(X)) if groups is None else sort_by_group(groups)
        if len(grouping.order) != len(X):
            raise ValueError(f"groups must hold one name a row of X, got {len(grouping.order)} names for {len(X)} rows")
        x = torch.from_numpy(np.ascontiguousarray(X[grouping.order]))
        mean, variance = group_variances(x, grouping.group_offsets, grouping.names)
        prior = niw_prior(mean, variance, self.n_init_components)

        chain = self._run(standardise(x, prior, grouping.group_offsets), standardised(prior), grouping, schedule)

        self.groups_ = grouping.names
        self.trace_ = Trace(chain.trace_sweep, chain.trace_n_components, chain.trace_alpha, chain.trace_log_joint)
        self.posterior_ = Posterior(
            x,
            grouping.group_offsets,
            grouping.names,
            chain.kept_labels,
            chain.kept_alpha,
            prior,
            variance,
            self.official,
        )
        return self

    def score_samples(self, X: Any, groups: Any = None) -> np.ndarray:
        """[n] log posterior predictive density of each point under its own group, in nats."""
        X = self._validated(X)
        if groups is None:
            if len(self.groups_) > 1:
                raise ValueError(f"groups must be given: the model was fitted with {len(self.groups_)} groups")
            return self.posterior_.log_density(X)[:, 0]
        return self.posterior_.log_density(X, groups)

    def class_log_density(self, X: Any) -> np.ndarray:
        """[n, G] log posterior predictive density of each point under every group, in nats."""
        return self.posterior_.log_density(self._validated(X))

    def score(self, X: Any, y: Any = None, groups: Any = None) -> float:
        """Mean of `score_samples`."""
        return float(self.score_samples(X, groups).mean())

    def sample(self, n_samples: int = 1, group: Any = None) -> np.ndarray:
        """[n_samples, D] draws from the posterior predictive of a group."""
        check_is_fitted(self)
        return self.posterior_.sample(n_samples, group, check_random_state(self.random_state).randint(2**31 - 1))

    def predict(self, X: Any, groups: Any = None) -> np.ndarray:
        """[n] int64 most probable component of each point, at the last kept sweep, within its own group."""
        X = self._validated(X)
        return self.posterior_.component_probabilities(X, groups)[:, :-1].argmax(1)

    def _validated(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, dtype=[np.float64, np.float32], reset=False)

    def _schedule(self) -> Schedule:
        for name, least in (
            ("n_init_components", 1),
            ("block_size", 1),
            ("n_sweeps", 1),
            ("n_discard", 0),
            ("thin", 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
        if self.n_sweeps - self.n_discard < self.thin:
            raise ValueError(
                f"n_sweeps - n_discard must be at least thin, or nothing is kept; "
                f"got {self.n_sweeps} - {self.n_discard} < {self.thin}"
            )
        return Schedule(
            int(self.n_init_components), int(self.block_size), int(self.n_sweeps), int(self.n_discard), int(self.thin),
            bool(self.official), int(check_random_state(self.random_state).randint(2**31 - 1)),
        )  # fmt: skip

    def _run(self, x: Tensor, prior: Any, grouping: Grouping, schedule: Schedule) -> Chain:
        streams = [stream(name) for name in grouping.names]
        chain = start(schedule, grouping.group_offsets, streams)
        path = None if self.checkpoint is None else Path(self.checkpoint)
        identity = "" if path is None else _identity(x, grouping.group_offsets, streams, schedule)
        if path is not None and path.exists():
            chain = _load_chain(path, identity)
        written = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.verbose) as progress:
            task = progress.add_task("Gibbs sweeps", total=schedule.n_sweeps, completed=chain.sweep)
            while chain.sweep < schedule.n_sweeps:
                n_sweeps = min(SWEEPS_A_CALL, schedule.n_sweeps - chain.sweep)
                chain = advance(chain, n_sweeps, x, grouping.group_offsets, streams, prior, schedule)
                progress.update(task, completed=chain.sweep)
                finished = chain.sweep == schedule.n_sweeps
                if path is not None and (finished or time.monotonic() - written > SECONDS_BETWEEN_CHECKPOINTS):
                    write_npz(path, identity=identity, **chain._asdict())
                    written = time.monotonic()
        return chain


def _identity(x: Tensor, group_offsets: Tensor, streams: list[int], schedule: Schedule) -> str:
    """Of the data and the settings that a checkpoint belongs to."""
    digest = hashlib.sha256(json.dumps([schedule._asdict(), streams, list(x.shape), str(x.dtype)]).encode())
    digest.update(group_offsets.numpy().tobytes())
    digest.update(x.numpy().tobytes())
    return digest.hexdigest()


def _load_chain(path: Path, identity: str) -> Chain:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found = str(arrays.pop("identity"))
        arrays["sweep"] = int(arrays["sweep"])
        chain = Chain(**arrays)
    except Exception as error:
        raise ValueError(
            f"checkpoint {path} is damaged or something else ({error}); move it away to start anew"
        ) from error
    if found != identity:
        raise ValueError(f"checkpoint {path} belongs to other data or other settings; move it away to start anew")
    return chain
