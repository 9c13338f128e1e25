"""Dirichlet-process Gaussian mixtures of many groups at once, as a scikit-learn estimator."""

import hashlib
import json
import time
import warnings
from collections.abc import Callable
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from classfit import _check as check
from classfit import convergence, devices
from classfit.convergence import Chains, Convergence
from classfit.devices import checked, moved
from classfit.gibbs import Chain, Schedule, advance, start, stream
from classfit.groups import Grouping, one_group, sort_by_group
from classfit.leave_one_out import LeaveOneOut
from classfit.predictive import Posterior
from classfit.prior import KAPPA0, group_variances, niw_prior, standardise, standardised
from classfit.storage import CheckpointError, write_checkpoint
from kernels import NIWPrior

SWEEPS_A_CALL = 10
SECONDS_BETWEEN_CHECKPOINTS = 2.0
SECONDS_OF_A_CHECKPOINT = 0.1
"""One that takes longer to write is written less often, in proportion: they take a twentieth of the time at most."""
ROUNDS_A_CALL = 5
GROUPS_A_CALL, GROUPS_A_CALL_OF_A_GPU = 4, 32
"""Groups that burn in together, eight chains of each: a GPU has room for some 200 programs at once."""
PROTOCOLS = ("paper", "converged")

AnyChain = TypeVar("AnyChain", Chain, Chains)


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
    a mixture of its own; all are fitted in one call.

    Fitted with several groups, all methods that take points need the name of each (but `class_log_density`).
    `cross_val_score` and the like give `groups` to the splitter, not to the estimator: for that enable scikit-learn's
    metadata routing, `set_fit_request(groups=True)` and `set_score_request(groups=True)` (a `Pipeline` of
    scikit-learn 1.9 fits with them, but cannot score: score its last step). Densities are evaluated in
    the dtype of the X of `fit`, whatever is scored, and returned as float64.

    Args:
        n_init_components: K0: at the start points are assigned to this many components at random; it also sets S0.
        block_size: labels drawn together, given the rest. 1 is exact Gibbs; more is the published approximation,
            which draws the labels of a block as if they were independent and has no exactness guarantee.
        corrected: take that draw for a Metropolis-Hastings proposal, which makes any block size exact.
        n_sweeps: sweeps in all.
        n_discard: sweeps discarded at first.
        thin: every `thin`-th of the remaining sweeps is kept.
        official: do as the published code does where that differs from the paper's equations: alpha starts at
            1 + Exp(1) and is resampled as if its prior were Gamma(2, 1); points of a block that choose a new component
            share one; the predictive is the mean over sweeps of log-densities, with weights (n_k + alpha) / sum and no
            component for the prior.
        random_state: int, numpy RandomState or Generator, or None. The same int gives the same result on any number of
            threads, and gives a group the same result whichever other groups are fitted with it.
        checkpoint: path of a file that is written (atomically) as the fit goes on, in a folder that exists. A fit that
            was killed and is started again on the same data with the same settings goes on from it, to the same result;
            random_state must be an integer then. It belongs to one fit: other data need another (so in each fold).
        verbose: 1 shows a progress bar.
        protocol: None makes one chain a group, as the settings say. "paper" is the same with the paper's settings:
            blocks of 4, 400 sweeps, 320 discarded, every 4th of the rest kept. "converged" makes four chains a group,
            with split-merge moves, until rank-normalised R-hat of the log joint and of the number of components is
            below 1.01 and their effective sample sizes above 400; or to the end of a budget of 1,200 sweeps; or of half
            of it, if R-hat is above 1.5 then. The predictive is the mean over chains. Each chain first looks for the
            best state by itself, from a start of its own and by annealing, so that agreement is about that state
            (`classfit.convergence`). The protocols set block_size, n_sweeps, n_discard and thin, whatever these were.
        kappa0, nu0, S0_scale: the prior, if not the paper's: kappa0 in points; nu0 degrees of freedom, above D - 1
            (None: D + 2); S0 = S0_scale diag(variance) / K0^(2/D).
        device: where chains are run and densities evaluated: None is the processor, "cuda" a GPU. Sweeps in other
            places are rounded in another order, so chains are other draws from the same posterior.

    Attributes:
        posterior_: `Posterior`, the fitted predictive of every group.
        groups_: [G] names, sorted; the order of every G axis.
        trace_: `Trace` of the chain, if there is one a group.
        convergence_: `Convergence` of the chains of every group, under the protocol "converged".
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
        random_state: check.Seed = None,
        checkpoint: str | PathLike | None = None,
        verbose: int = 0,
        protocol: str | None = None,
        corrected: bool = False,
        kappa0: float = KAPPA0,
        nu0: float | None = None,
        S0_scale: float = 1.0,
        device: str | torch.device | None = None,
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
        self.protocol = protocol
        self.corrected = corrected
        self.kappa0 = kappa0
        self.nu0 = nu0
        self.S0_scale = S0_scale
        self.device = device

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> "DPGaussianMixture":
        """Sample the posterior of every group.

        Args:
            X: [N, D] points, float32 or float64 (other numbers become float64). The sampler works in X's dtype.
            y: ignored.
            groups: [N] name of each point's group, numbers or strings; None puts all in one group.

        Raises:
            ValueError: X not finite, or so large that its squares are not, or not two-dimensional; a setting out of
                range, a device that is not here, `corrected` on a GPU, a point so far out that it could not leave a
                component (`kernels.gibbs_sweep`), or a checkpoint of another fit.

        Warns:
            ConstantFeatureWarning: a feature does not vary within a group; it is given variance 1 there.
            ConvergenceWarning: under the protocol "converged", chains of a group do not agree; names the groups.
        """
        with check.as_it_was(self):
            schedule = self._schedule()
            X = validate_data(self, check.as_array(X), dtype=[np.float64, np.float32], ensure_min_samples=1)
            checked(self.device, X.shape[1])
            grouping = one_group(len(X)) if groups is None else sort_by_group(groups, len(X))
            x = torch.from_numpy(np.ascontiguousarray(X[grouping.order]))
            mean, variance = group_variances(x, grouping.group_offsets, grouping.names)
            prior = niw_prior(mean, variance, schedule.n_init_components, **self._prior(X.shape[1]))

            # Those of an earlier fit, by another protocol, would be of other chains.
            for name in ("trace_", "convergence_"):
                self.__dict__.pop(name, None)
            units = standardise(x, prior, grouping.group_offsets), standardised(prior)
            if self.protocol == "converged":
                chains, problem = self._run_chains(*units, grouping, schedule)
                labels, alpha = convergence.kept(chains, problem)
            else:
                chain = self._run_chain(*units, grouping, schedule)
                labels, alpha = chain.kept_labels, chain.kept_alpha
                self.trace_ = Trace(
                    chain.trace_sweep, chain.trace_n_components, chain.trace_alpha, chain.trace_log_joint
                )
            self.groups_, self._order = grouping.names, grouping.order
            self.posterior_ = Posterior(
                x, grouping.group_offsets, grouping.names, labels, alpha, prior, variance, schedule.official
            ).to(self.device)
            if self.protocol == "converged":
                self.convergence_: Convergence = convergence.judge(
                    chains, problem, self.posterior_, verbose=self.verbose
                )
        # Now that the fit is whole: where warnings are errors, it is kept all the same.
        if self.protocol == "converged" and not self.convergence_.converged.all():
            failed = self.groups_[~self.convergence_.converged]
            warnings.warn(
                f"the chains of {len(failed)} of {len(self.groups_)} groups do not agree, see convergence_: "
                f"{', '.join(str(name) for name in failed)}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def score_samples(self, X: Any, groups: Any = None) -> np.ndarray:
        """[n] log posterior predictive density of each point under its own group, in nats."""
        X = self._validated(X)
        if groups is None:
            if len(self.groups_) > 1:
                raise ValueError(f"groups must be given: the model was fitted with {len(self.groups_)} groups")
            return self._posterior().log_density(X)[:, 0]
        return self._posterior().log_density(X, groups)

    def class_log_density(self, X: Any) -> np.ndarray:
        """[n, G] log posterior predictive density of each point under every group, in nats."""
        X = self._validated(X)
        return self._posterior().log_density(X)

    def leave_one_out(self) -> LeaveOneOut:
        """Log posterior predictive density of each fitted point given all others of its group, without a second fit.

        `classfit.leave_one_out` says how, and how far to trust it.

        Returns:
            LeaveOneOut: log_density [N] in nats and effective_draws [N], float64, in the order of the X of `fit`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: the fit is `official`.
        """
        check_is_fitted(self, "posterior_")
        back = np.argsort(self._order)
        return LeaveOneOut(*(values[back] for values in self._posterior().leave_one_out(verbose=self.verbose)))

    def score(self, X: Any, y: Any = None, groups: Any = None) -> float:
        """Mean of `score_samples`."""
        return float(self.score_samples(X, groups).mean())

    def sample(self, n_samples: int = 1, group: Any = None) -> np.ndarray:
        """[n_samples, D] draws from the posterior predictive of a group, of the dtype of the X of `fit`.

        The same each time if random_state is an int. `group` may be None if there is only one. There are no components
        with them, as of `GaussianMixture.sample`: the predictive is a mean over sweeps, each with its own.
        """
        check_is_fitted(self, "posterior_")
        seed = int(check.random_state_of(self.random_state).randint(2**31 - 1))
        return self.posterior_.sample(n_samples, group, seed)

    def predict_proba(self, X: Any, groups: Any = None) -> np.ndarray:
        """[n, K + 1] float64 probability of each component for each point, at the last kept sweep, in its own group.

        K is the largest number of components of a group, and the last column a new one; columns that a group does not
        have are 0.
        """
        X = self._validated(X)
        return self._posterior().component_probabilities(X, groups)

    def predict(self, X: Any, groups: Any = None) -> np.ndarray:
        """[n] int64 most probable component of each point, at the last kept sweep, within its own group."""
        X = self._validated(X)
        return self._posterior().most_probable_component(X, groups)

    def fit_predict(self, X: Any, y: Any = None, groups: Any = None) -> np.ndarray:
        """[N] int64 most probable component of each point: `fit` and `predict`. Args: as `fit`."""
        return self.fit(X, y, groups).predict(X, groups)

    def _posterior(self) -> Posterior:
        """On the device as it is set now, which may be another than in `fit`."""
        return self.posterior_.to(self.device)

    def _validated(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "posterior_")
        return validate_data(self, check.as_array(X), dtype=[np.float64, np.float32], reset=False)

    def _schedule(self) -> Schedule:
        for name in ("official", "corrected"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise ValueError(
                f"protocol must be None or one of {', '.join(PROTOCOLS)}, got {self.protocol!r}; densities "
                "of points held out: classfit.protocols.heldout"
            )
        if self.protocol == "converged" and self.official:
            raise ValueError("official must be False under the protocol 'converged': the published code has one chain")
        for name, least in (
            ("n_init_components", 1),
            ("block_size", 1),
            ("n_sweeps", 1),
            ("n_discard", 0),
            ("thin", 1),
        ):
            check.integer(getattr(self, name), name, least)
        if self.checkpoint is not None and not isinstance(self.random_state, (int, np.integer)):
            raise ValueError(
                "random_state must be an integer with a checkpoint, to go on with the same random numbers; "
                f"got {self.random_state!r}"
            )
        if self.checkpoint is not None and not Path(self.checkpoint).parent.is_dir():
            raise ValueError(f"checkpoint must be in a folder that is there, got {str(self.checkpoint)!r}")
        if self.protocol is None and self.n_sweeps - self.n_discard < self.thin:
            raise ValueError(
                f"n_sweeps - n_discard must be at least thin, or nothing is kept; "
                f"got {self.n_sweeps} - {self.n_discard} < {self.thin}"
            )
        if self.corrected and checked(self.device).type != "cpu":
            raise ValueError(f"corrected must be False on device {self.device!r}: it has no GPU kernel")
        chain = (self.block_size, self.n_sweeps, self.n_discard, self.thin)
        block_size, n_sweeps, n_discard, thin = (4, 400, 320, 4) if self.protocol == "paper" else map(int, chain)
        if self.corrected and (self.official or self.protocol is not None):
            what = "official" if self.official else f"protocol {self.protocol!r}"
            raise ValueError(f"corrected must be False with {what}, which says how blocks are drawn")
        return Schedule(
            int(self.n_init_components), block_size, n_sweeps, n_discard, thin, bool(self.official),
            int(check.random_state_of(self.random_state).randint(2**31 - 1)), bool(self.corrected),
        )  # fmt: skip

    def _prior(self, D: int) -> dict[str, Any]:
        found: dict[str, Any] = {"kappa0": self.kappa0, "nu0": self.nu0, "S0_scale": self.S0_scale}
        for name, least in (("kappa0", 0), ("nu0", D - 1), ("S0_scale", 0)):
            value = found[name]
            if name == "nu0" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not least < float(value) < np.inf:
                raise ValueError(f"{name} must be a finite number above {least}, got {value!r}")
            found[name] = float(value)  # JSON, in the identity of a checkpoint, has no numbers of numpy
        return found

    def _run_chain(self, x: Tensor, prior: NIWPrior, grouping: Grouping, schedule: Schedule) -> Chain:
        offsets, streams = grouping.group_offsets, [stream(name) for name in grouping.names]
        device = checked(self.device)
        there, prior_there = x.to(device), moved(prior, device)
        settings = schedule._asdict() | self._prior(x.shape[1]) | _of_the_device(device)

        def step(chain: Chain) -> Chain:
            n_sweeps = min(SWEEPS_A_CALL, schedule.n_sweeps - chain.sweep)
            return advance(chain, n_sweeps, there, offsets, streams, prior_there, schedule)

        return self._go_on(
            _identity(x, offsets, streams, settings),
            Chain,
            lambda: start(schedule, offsets, streams),
            step,
            lambda chain: (chain.sweep, schedule.n_sweeps),
            "Gibbs sweeps",
        )

    def _run_chains(
        self, x: Tensor, prior: NIWPrior, grouping: Grouping, schedule: Schedule
    ) -> tuple[Chains, convergence.Problem]:
        offsets, streams = grouping.group_offsets, [stream(name) for name in grouping.names]
        device = checked(self.device)
        problem = convergence.problem(x, offsets, prior, streams, schedule.seed, device)
        settings: dict[str, Any] = {"protocol": self.protocol, "K0": schedule.n_init_components, "seed": schedule.seed}
        settings |= self._prior(x.shape[1]) | {"settling": convergence.SETTLING_ROUNDS} | _of_the_device(device)
        n_groups = GROUPS_A_CALL if device.type == "cpu" else GROUPS_A_CALL_OF_A_GPU

        def step(chains: Chains) -> Chains:
            if not chains.begun.all():
                return convergence.burn_in(chains, problem, schedule.n_init_components, n_groups)
            return convergence.advance(chains, problem, ROUNDS_A_CALL)

        chains = self._go_on(
            _identity(x, offsets, streams, settings),
            Chains,
            lambda: convergence.start(problem),
            step,
            lambda chains: convergence.progress(chains.round, chains.begun, chains.stopped),
            "rounds of four chains",
        )
        return chains, problem

    def _go_on(
        self,
        identity: str,
        kind: type[AnyChain],
        begin: Callable[[], AnyChain],
        step: Callable[[AnyChain], AnyChain],
        progress: Callable[[AnyChain], tuple[int, int]],
        words: str,
    ) -> AnyChain:
        """Step from the checkpoint, or else the beginning, to the end, with checkpoints and a progress bar."""
        path = None if self.checkpoint is None else Path(self.checkpoint)
        chain = _load_chain(path, identity, kind) if path is not None and path.exists() else begin()
        written, pause = time.monotonic(), SECONDS_BETWEEN_CHECKPOINTS
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.verbose) as bar:
            done, total = progress(chain)
            task = bar.add_task(words, total=total, completed=done)
            while done < total:
                chain = step(chain)
                done, _ = progress(chain)
                bar.update(task, completed=done)
                begun = time.monotonic()
                if path is not None and (done == total or begun - written > pause):
                    write_checkpoint(path, identity=identity, **chain._asdict())
                    written = time.monotonic()
                    pause = SECONDS_BETWEEN_CHECKPOINTS * max(1.0, (written - begun) / SECONDS_OF_A_CHECKPOINT)
        return chain


def _of_the_device(device: torch.device) -> dict[str, str]:
    """Settings that keep a chain from going on elsewhere: it would, but not to the same result."""
    return {} if device.type == "cpu" else {"device": devices.name(device)}


def _identity(x: Tensor, group_offsets: Tensor, streams: list[int], settings: dict[str, Any]) -> str:
    """Of the data and the settings that a checkpoint belongs to."""
    digest = hashlib.sha256(json.dumps([settings, streams, list(x.shape), str(x.dtype)]).encode())
    digest.update(group_offsets.numpy().tobytes())
    digest.update(x.numpy().tobytes())
    return digest.hexdigest()


def _load_chain(path: Path, identity: str, kind: type[AnyChain]) -> AnyChain:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found = str(arrays.pop("identity"))
        for name in {"sweep", "round"} & set(arrays):
            arrays[name] = int(arrays[name])
        if found == identity:
            return kind(**arrays)
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged or something else ({error}); move it away to start anew"
        ) from error
    raise CheckpointError(
        f"checkpoint {path} belongs to other data, other settings or another device; move it away to start anew"
    )
