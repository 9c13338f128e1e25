"""Gaussian mixtures fitted by EM, as a scikit-learn estimator; the algorithm is in `classfit.em_steps`."""

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from rich.progress import Progress
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

import kernels
from classfit import _check as check
from classfit.devices import checked
from classfit.em_steps import Fit, Mixtures, expectation_maximisation, initial_labels
from classfit.groups import index_of, one_group, sort_by_group
from classfit.prior import group_variances

__all__ = ["GaussianMixture"]

# Numbers held at a time, in points and about eight D x D matrices a component: half a gigabyte.
_BATCH = 2**26


class _Start(NamedTuple):
    """One run of EM to be done."""

    group: int
    n_components: int
    seed: list[int]


class GaussianMixture(DensityMixin, BaseEstimator):
    """Mixtures of Gaussians with full covariances, fitted by EM to many groups in one call.

        p(x) = sum_k weight_k N(x | mean_k, covariance_k),        the mean of log p over the points of a group maximised

    Each group is centred and scaled to unit variance of every feature (a constant feature keeps its unit), fitted and
    brought back, so results do not depend on where the data lie or on their units. The random start of a group depends
    on `random_state` and on the group's name only, not on which other groups there are.

    A component that loses all its points keeps its place with weight 0, and a ConvergenceWarning names its group. With
    reg_covar = 0 the likelihood never falls from one step to the next; the regularisation lets it fall slightly.
    Float32 data are summed in float32; a run that meets a covariance too near singular for that is done in float64.
    Densities and probabilities are evaluated in the dtype of the X given, and returned as float64.

    Fitted with several groups, all methods that take points need the name of each (but `class_log_density`); fitted
    without, none takes any. `cross_val_score` and the like give `groups` to the splitter, not to the estimator: for
    that enable scikit-learn's metadata routing, `set_fit_request(groups=True)` and `set_score_request(groups=True)` (a
    `Pipeline` of scikit-learn 1.9 fits with them, but cannot score: score its last step).

    Args:
        n_components: components of every group; or several numbers, then each group keeps the one with the lowest BIC
            (those above its number of points are not tried). A component of D points or fewer is singular but for
            reg_covar, which alone bounds its likelihood: with few points BIC takes many of those (of 20 points of one
            Gaussian in two dimensions it takes 6 or 8 components, of up to 8), without a warning.
        tol: a group stops when a step changes its mean log-likelihood by less than this, in nats.
        reg_covar: added to the variances of every component, in units of the feature's variance in the whole group
            (scikit-learn: of the data, squared). Clusters far apart, or an outlier, make these units large: of two
            clusters 10^4 standard deviations apart the default makes variances of 26. A warning names groups in which
            it makes up more than 1% of a variance of a component of five points or more. With 0 a singular covariance
            is an error, be it that of one start, or of one of several numbers of components.
        max_iter: largest number of EM steps.
        n_init: starts of each group (for each number of components), of which the one with the best likelihood is kept.
        init_params: "k-means++" or "random", see `classfit.em_steps.initial_labels`.
        random_state: int, numpy RandomState or Generator, or None.
        verbose: 1 shows a progress bar.
        device: where EM runs and densities are evaluated: None is the processor, "cuda" a GPU.

    Attributes (float64; M components, those of the first group first; to change one changes no density):
        groups_: [G] names of the groups, sorted; [0] if fitted without groups.
        component_offsets_: [G + 1] int64; group g has the components component_offsets_[g]:component_offsets_[g + 1].
        weights_ [M], means_ [M, D], covariances_ [M, D, D]: as in scikit-learn.
        precisions_cholesky_: [M, D, D] upper triangular P with P P' the precision, as in scikit-learn: the transpose of
            what the kernels call precision_chol.
        lower_bound_: [G] mean log-likelihood of the points of each group, in nats.
        n_iter_: [G] int64, EM steps of the run that was kept.
        converged_: [G] bool.
        n_features_in_: D.
    """

    def __init__(
        self,
        n_components: int | Sequence[int] = 1,
        *,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "k-means++",
        random_state: check.Seed = None,
        verbose: int = 0,
        device: str | torch.device | None = None,
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:
        """Fit a mixture to each group.

        Args:
            X: [N, D] float32 or float64 (other numbers become float64).
            y: ignored.
            groups: [N] names, or None for one group.

        Raises:
            ValueError: a parameter out of range; a device that is not here; X not finite, or so large that its squares
                are not; a group with fewer points than components; a covariance that is singular to working precision.

        Warns:
            ConstantFeatureWarning: a feature does not vary within a group.
            ConvergenceWarning: groups whose EM did not converge, or a component of which lost all its points.
            UserWarning: groups with a component that reg_covar widens, see there.
        """
        with check.as_it_was(self):
            candidates = self._check_parameters()
            X = validate_data(self, check.as_array(X), dtype=[np.float64, np.float32])
            order, group_offsets, names = one_group(len(X)) if groups is None else sort_by_group(groups, len(X))
            centres, variances = group_variances(torch.from_numpy(X[order]), group_offsets, names)
            frames = list(zip(centres.numpy(), variances.sqrt().numpy(), strict=True))
            edges = pairwise(group_offsets.tolist())
            points = [(X[order[a:b]] - centre) / scale for (a, b), (centre, scale) in zip(edges, frames, strict=True)]
            seed = int(check.random_state_of(self.random_state).randint(2**31 - 1))
            starts = []
            for g, (x, name) in enumerate(zip(points, names, strict=True)):
                possible = [K for K in candidates if len(x) >= K]
                if not possible:
                    raise ValueError(
                        f"n_components must be at most the number of points, got {self.n_components} for group {name} "
                        f"with n_samples = {len(x)}"
                    )
                entropy = [seed, zlib.crc32(str(name).encode())]
                starts += [_Start(g, K, [*entropy, K, i]) for K in possible for i in range(self.n_init)]
            fits = self._best_fits(points, starts, names, _torch_dtype(X))

            self.groups_, self._with_groups = names, groups is not None
            self._frames, self._mixtures = frames, [fit.mixture for fit in fits]
            in_units = [_in_units(fit.mixture, *frame) for fit, frame in zip(fits, frames, strict=True)]
            self.weights_, self.means_, self.covariances_, precision_chol = map(
                np.concatenate, zip(*in_units, strict=True)
            )
            self.precisions_cholesky_ = precision_chol.swapaxes(1, 2)
            self.component_offsets_ = np.cumsum([0] + [len(fit.mixture.weights) for fit in fits])
            log_likelihood = [
                fit.log_likelihood - np.log(scale).sum() for fit, (_, scale) in zip(fits, frames, strict=True)
            ]
            self.lower_bound_ = np.array(log_likelihood)
            self.n_iter_ = np.array([fit.n_iter for fit in fits])
            self.converged_ = np.array([fit.converged for fit in fits])
        self._warn(~self.converged_, f"EM did not converge in max_iter = {self.max_iter} steps; raise max_iter or tol")
        lost = [bool((fit.mixture.weights == 0).any()) for fit in fits]
        self._warn(lost, "Components have lost all their points and have weight 0; lower n_components or raise n_init")
        self._warn(
            [_is_widened(fit.mixture, x, self.reg_covar) for fit, x in zip(fits, points, strict=True)],
            f"reg_covar = {self.reg_covar} (in units of the group's variances) is over 1% of a variance of a component "
            "and widens it: the group is large for it, by clusters far apart or outliers, or many of its points are "
            "equal; lower reg_covar",
            UserWarning,
        )
        return self

    def score_samples(self, X: Any, groups: Any = None) -> np.ndarray:
        """[N] float64 log-density of each row under the mixture of its own group, in nats.

        Args:
            X: [N, D].
            groups: [N] names seen in fit; None if fit was given none, or may be if it was given a single one.
        """
        X, rows_of_groups = self._check_X(X, groups)
        log_density = np.empty(len(X))
        for g, rows in rows_of_groups:
            log_density[rows] = self._log_density(X[rows], g)
        return log_density

    def class_log_density(self, X: Any) -> np.ndarray:
        """[N, G] float64 log-density of every row of X [N, D] under the mixture of every group, in nats."""
        check_is_fitted(self, "weights_")
        X = validate_data(self, check.as_array(X), reset=False, dtype=[np.float64, np.float32])
        return np.stack([self._log_density(X, g) for g in range(len(self._mixtures))], axis=1)

    def score(self, X: Any, y: Any = None, groups: Any = None) -> float:
        """Mean of `score_samples`, in nats; y is ignored."""
        return float(self.score_samples(X, groups).mean())

    def predict_proba(self, X: Any, groups: Any = None) -> np.ndarray:
        """[N, K] float64 probability of each component of the row's own group; 0 where a group has fewer than K.

        nan for a point so far out that every density is 0 in its dtype (in float32 beyond 1.8e19 standard deviations).

        Args: as `score_samples`.
        """
        X, rows_of_groups = self._check_X(X, groups)
        probability = np.zeros((len(X), int(np.diff(self.component_offsets_).max())))
        for g, rows in rows_of_groups:
            z, log_weight, mean, precision_chol = self._arguments(X[rows], g)
            joint = log_weight + kernels.gaussian_log_density(z, mean, precision_chol)
            probability[rows, : len(mean)] = joint.double().softmax(1).cpu().numpy()
        return probability

    def predict(self, X: Any, groups: Any = None) -> np.ndarray:
        """[N] int64 most probable component within the row's own group. Args: as `score_samples`."""
        return self.predict_proba(X, groups).argmax(1)

    def fit_predict(self, X: Any, y: Any = None, groups: Any = None) -> np.ndarray:
        """[N] int64 most probable component of each row: `fit` and `predict`. Args: as `fit`."""
        return self.fit(X, y, groups).predict(X, groups)

    def bic(self, X: Any, groups: Any = None) -> float | np.ndarray:
        """Bayesian information criterion -2 log p(X) + (number of parameters) log N; lower is better.

        Args: as `score_samples`.

        Returns:
            A float; if fitted with groups [G] float64, nan for a group without points in X.
        """
        return self._criterion(X, groups, _bic)

    def aic(self, X: Any, groups: Any = None) -> float | np.ndarray:
        """Akaike's information criterion -2 log p(X) + 2 (number of parameters), else as `bic`."""
        return self._criterion(X, groups, _aic)

    def sample(self, n_samples: int = 1, group: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw points from the mixture of a group.

        Args:
            n_samples: number of points, at least 1.
            group: its name; None if fit was given none, or may be if it was given a single one.

        Returns:
            [n_samples, D] float64 points, [n_samples] int64 components; the same each time if random_state is an int.
        """
        check_is_fitted(self, "weights_")
        check.integer(n_samples, "n_samples", 1)
        [(g, _)] = self._rows_of_groups(1, None if group is None else [group], "group")
        rng = check.random_state_of(self.random_state)
        weights, means, _, precision_chol = (field.numpy() for field in self._mixtures[g])
        components = rng.choice(len(weights), size=n_samples, p=weights)
        noise = rng.standard_normal((n_samples, self.n_features_in_))
        for k in np.unique(components):
            rows = components == k
            noise[rows] = means[k] + np.linalg.solve(precision_chol[k], noise[rows].T).T
        centre, scale = self._frames[g]
        return centre + scale * noise, components

    def _criterion(self, X: Any, groups: Any, of: Callable[[float, int, int, int], float]) -> float | np.ndarray:
        """[G] of mean log-density, points, components and features of each group; a float if fitted without groups."""
        log_density = self.score_samples(X, groups)
        found = np.full(len(self.groups_), np.nan)
        for g, rows in self._rows_of_groups(len(log_density), groups):
            n_components = int(np.diff(self.component_offsets_)[g])
            found[g] = of(log_density[rows].mean(), len(rows), n_components, self.n_features_in_)
        return found if self._with_groups else float(found[0])

    def _check_parameters(self) -> list[int]:
        """The numbers of components to try."""
        given: Any = self.n_components
        candidates = list(given) if isinstance(given, (Sequence, np.ndarray)) else [given]
        if not candidates:
            raise ValueError(f"n_components must be an integer or several, got {self.n_components!r}")
        for K in candidates:
            check.integer(K, "n_components", 1)
        for name in ("max_iter", "n_init"):
            check.integer(getattr(self, name), name, 1)
        for name in ("tol", "reg_covar"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= float(value) < np.inf:
                raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
        if self.init_params not in ("k-means++", "random"):
            raise ValueError(f"init_params must be 'k-means++' or 'random', got {self.init_params!r}")
        return candidates

    def _best_fits(
        self, points: list[np.ndarray], starts: list[_Start], names: np.ndarray, dtype: torch.dtype
    ) -> list[Fit]:
        """The fit of each group with the lowest BIC: with the best likelihood, where K is the same."""
        best: dict[int, tuple[float, Fit]] = {}
        with Progress(disable=not self.verbose) as progress:
            task = progress.add_task("EM", total=len(starts))
            for batch in _batches(starts, points):
                fits = self._run(batch, points, dtype, lambda n: progress.advance(task, n))
                singular = [i for i, fit in enumerate(fits) if fit.singular]
                if singular and dtype == torch.float32:
                    again = self._run([batch[i] for i in singular], points, torch.float64, lambda n: None)
                    for i, fit in zip(singular, again, strict=True):
                        fits[i] = fit
                for start, fit in zip(batch, fits, strict=True):
                    if fit.singular:
                        raise ValueError(
                            f"a covariance of group {names[start.group]} is not positive definite to working "
                            f"precision; raise reg_covar (it is {self.reg_covar}) or lower n_components"
                        )
                    N, D = points[start.group].shape
                    bic = _bic(fit.log_likelihood, N, start.n_components, D)
                    if start.group not in best or bic < best[start.group][0]:
                        best[start.group] = bic, fit
        return [best[g][1] for g in range(len(points))]

    def _run(
        self, starts: list[_Start], points: list[np.ndarray], dtype: torch.dtype, on_stop: Callable[[int], None]
    ) -> list[Fit]:
        """EM from each start."""
        x = [points[start.group] for start in starts]
        device = checked(self.device, x[0].shape[1])
        labels = [
            initial_labels(points[start.group], start.n_components, self.init_params, start.seed) for start in starts
        ]
        return expectation_maximisation(
            torch.from_numpy(np.concatenate(x)).to(device, dtype),
            torch.from_numpy(np.concatenate(labels)).to(device),
            torch.from_numpy(np.cumsum([0] + [len(group) for group in x])).to(device),
            torch.from_numpy(np.cumsum([0] + [start.n_components for start in starts])).to(device),
            tol=self.tol,
            max_iter=self.max_iter,
            reg_covar=self.reg_covar,
            on_stop=on_stop,
        )

    def _check_X(self, X: Any, groups: Any) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
        check_is_fitted(self, "weights_")
        X = validate_data(self, check.as_array(X), reset=False, dtype=[np.float64, np.float32])
        return X, self._rows_of_groups(len(X), groups)

    def _rows_of_groups(self, n: int, groups: Any, argument: str = "groups") -> list[tuple[int, np.ndarray]]:
        """The index of each group that occurs, with its rows."""
        if groups is None and len(self.groups_) > 1:
            raise ValueError(f"{argument} must be given: the model was fitted with {len(self.groups_)} groups")
        if groups is not None and not self._with_groups:
            raise ValueError(f"{argument} must be None: the model was fitted without groups")
        index = np.zeros(n, np.int64) if groups is None else index_of(groups, self.groups_, n)
        return [(int(g), np.flatnonzero(index == g)) for g in np.unique(index)]

    def _arguments(self, X: np.ndarray, g: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Centred and scaled points, and the log weights, means and factors of group g, in the dtype of X, on the
        device."""
        centre, scale = self._frames[g]
        weights, means, _, precision_chol = self._mixtures[g]
        device, dtype = checked(self.device), _torch_dtype(X)
        z = torch.from_numpy((X - centre) / scale).to(device, dtype)
        return z, weights.log().to(device, dtype), means.to(device, dtype), precision_chol.to(device, dtype)

    def _log_density(self, X: np.ndarray, g: int) -> np.ndarray:
        """[N] under group g."""
        log_density = kernels.mixture_log_density(*self._arguments(X, g)).double().cpu().numpy()
        return log_density - np.log(self._frames[g][1]).sum()

    def _warn(
        self, groups: Sequence[bool] | np.ndarray, message: str, category: type[Warning] = ConvergenceWarning
    ) -> None:
        names = [name for name, concerned in zip(self.groups_, groups, strict=True) if concerned]
        if names:
            warnings.warn(f"{message} (groups {_brief(names)})", category, stacklevel=3)


def _is_widened(mixture: Mixtures, x: np.ndarray, reg_covar: float) -> bool:
    """Does reg_covar make up more than 1% of a component's variance, in a feature that varies in the group?

    The smallest eigenvalue would tell of every component of fewer points than features; and the variance of fewer than
    five points may be small by chance. From 1% of the group's own variance (1, as x is scaled) on, it is meant.
    """
    variances = mixture.covariances.diagonal(dim1=1, dim2=2)[mixture.weights * len(x) >= 5].numpy()
    variances = variances[:, x.var(0) > 0.5]
    return bool(0.01 > reg_covar > 0.01 * variances.min(initial=1))


def _in_units(mixture: Mixtures, centre: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, ...]:
    """The parameters of a mixture of (x - centre) / scale as those of a mixture of x."""
    weights, means, covariances, precision_chol = (field.numpy() for field in mixture)
    return weights, centre + scale * means, covariances * scale * scale[:, None], precision_chol / scale


def _bic(mean_log_density: float, N: int, K: int, D: int) -> float:
    return float(-2 * N * mean_log_density + _n_parameters(K, D) * np.log(N))


def _aic(mean_log_density: float, N: int, K: int, D: int) -> float:
    return float(-2 * N * mean_log_density + 2 * _n_parameters(K, D))


def _n_parameters(K: int, D: int) -> float:
    return K * (1 + D + D * (D + 1) / 2) - 1


def _batches(starts: list[_Start], points: list[np.ndarray]) -> Iterator[list[_Start]]:
    """The starts, in batches that fit in memory."""
    batch: list[_Start] = []
    size = 0
    for start in starts:
        n, D = points[start.group].shape
        cost = n * D + 8 * start.n_components * D * D
        if batch and size + cost > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(start)
        size += cost
    yield batch


def _torch_dtype(X: np.ndarray) -> torch.dtype:
    return torch.float32 if X.dtype == np.float32 else torch.float64


def _brief(names: list[Any]) -> str:
    return ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "")
