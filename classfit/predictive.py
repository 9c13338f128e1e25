"""The fitted posterior: densities, samples and divergences of the posterior predictive of every group.

What is stored is the data and the kept labellings with their alpha. Component parameters follow from them in float64
whenever they are needed, so a posterior is small, exact, and free of anything that could not be recomputed.
"""

import hashlib
import json
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from classfit import _check as check
from classfit.devices import CPU, checked, moved
from classfit.groups import index_of
from classfit.leave_one_out import LeaveOneOut, leave_one_out
from classfit.prior import StudentT, niw_posterior, predictive, prior_predictive
from classfit.storage import write_npz
from kernels import NIWPrior, component_statistics, mixture_log_density, student_t_log_density
from kernels.cpu import threads

FORMAT = 1


class Estimate(NamedTuple):
    """A Monte Carlo estimate and its standard error."""

    value: np.ndarray
    standard_error: np.ndarray


class RelativeEntropy(NamedTuple):
    """Relative entropies of groups from a Gaussian, in nats."""

    value: np.ndarray
    """[G]"""
    standard_error: np.ndarray
    """[G] of Monte Carlo."""
    from_prior: np.ndarray
    """[G] the part of the value that the prior's component contributes, w_0 E_{t_0}[log p(x) - log q(x)]; 0 if
    there is none."""


class Mixture(NamedTuple):
    """The predictive of one group as Student-t components, float64."""

    log_weight: Tensor
    """[M]"""
    components: StudentT
    offsets: Tensor
    """[P + 1]: the parts whose log-densities are averaged. One part by default; one a kept sweep in official mode."""


class Posterior:
    """Posterior predictive of Dirichlet-process Gaussian mixtures, one a group.

        p(x | data) = 1/S sum_s [ sum_k n_sk / (n + alpha_s) t_sk(x) + alpha_s / (n + alpha_s) t_0(x) ]    (paper eq. 3)

    over the S kept sweeps, t_sk the Student-t predictive of component k at sweep s and t_0 the prior's. A component
    that has the same members at several sweeps is evaluated once, with the sum of its weights.

    With `official`, as in the published code: the mean over sweeps of the log-densities, with weights
    (n_sk + alpha_s) / sum and no prior component.

    Args:
        x: [N, D] points sorted by group, float32 or float64. Densities are evaluated in this dtype, of points less the
            mean of the predictive (taken off in float64, so that no digits are lost far from the origin).
        group_offsets: [G + 1] int64.
        groups: [G] names, in rising order.
        labels: [S, N] int32, component of each point within its group at each kept sweep.
        alpha: [S, G] concentration at each kept sweep.
        prior: NIWPrior of the groups, in the units of x.
        variance: [G, D] variance of each feature, of the diagonal Gaussian that `relative_entropy` compares with.
        official: see above.

    Raises:
        ValueError: arrays whose shapes do not fit together; no kept sweep; labels that are not 0..K - 1 in each group.

    Attributes: all of these, and device, where densities are evaluated: the processor, before `to`.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        x: Tensor,
        group_offsets: Tensor,
        groups: np.ndarray,
        labels: np.ndarray,
        alpha: np.ndarray,
        prior: NIWPrior,
        variance: Tensor,
        official: bool = False,
    ) -> None:
        if len(labels) == 0:
            raise ValueError("labels must hold at least one kept sweep, got none")
        (N, D), G, S = x.shape, len(groups), len(labels)
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "group_offsets": (group_offsets, (G + 1,)), "labels": (labels, (S, N)), "alpha": (alpha, (S, G)),
            "variance": (variance, (G, D)), "prior.mu0": (prior.mu0, (G, D)), "prior.kappa0": (prior.kappa0, (G,)),
            "prior.nu0": (prior.nu0, (G,)), "prior.S0": (prior.S0, (G, D, D)),
        }  # fmt: skip
        for name, (value, shape) in expected.items():
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
        if int(group_offsets[0]) != 0 or int(group_offsets[-1]) != N or (group_offsets.diff() < 1).any():
            raise ValueError(f"group_offsets must rise from 0 to {N}, got {group_offsets.tolist()}")
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= N:
            what = f"{labels.dtype} from {labels.min()} to {labels.max()}"
            raise ValueError(f"labels must be integers from 0 to {N - 1}, got {what}")
        names = np.asarray(groups)
        if not (names[:-1] < names[1:]).all():
            raise ValueError(f"groups must be names in rising order, each once, got {names.tolist()}")
        for name, (a, b) in zip(names, pairwise(group_offsets.tolist()), strict=True):
            highest = labels[:, a:b].max(1)
            occupied = np.zeros((S, int(highest.max()) + 1), np.bool_)
            occupied[np.arange(S)[:, None], labels[:, a:b]] = True
            if (gaps := occupied.sum(1) <= highest).any():
                where = f"row {int(gaps.argmax())}, group {name}"
                raise ValueError(f"labels must be 0..K - 1 in each group, without gaps, got one in {where}")
        self.x, self.group_offsets, self.groups = x, group_offsets, names
        self.labels, self.alpha = labels, alpha
        self.prior, self.variance, self.official = prior, variance, official

    def to(self, device: str | torch.device | None) -> Self:
        """This posterior, for use on that device ("cuda" is a GPU, None the processor): what it holds stays here.

        Raises:
            ValueError: no such device is here, or it cannot take so many features.
        """
        self.device = checked(device, self.x.shape[1])
        return self

    def of_sweeps(self, which: slice) -> "Posterior":
        """The posterior that rests on some of the kept sweeps alone; what it holds is shared, not copied."""
        labels, alpha = self.labels[which], self.alpha[which]
        found = Posterior(
            self.x, self.group_offsets, self.groups, labels, alpha, self.prior, self.variance, self.official
        )
        return found.to(self.device)

    def of_groups(self, which: slice) -> "Posterior":
        """The posterior of some neighbouring groups alone: a slice of `groups` without a step.

        Raises:
            ValueError: no such slice, or an empty one.
        """
        G = len(self.groups)
        chosen = range(G)[which] if isinstance(which, slice) else range(0)
        if not chosen or chosen.step != 1:
            raise ValueError(f"which must be a slice of neighbouring groups, 0..{G}, got {which!r}")
        which, edges = slice(chosen.start, chosen.stop), self.group_offsets[chosen.start : chosen.stop + 1]
        rows = slice(int(edges[0]), int(edges[-1]))
        prior = NIWPrior(*(field[which] for field in self.prior))
        found = Posterior(
            self.x[rows], edges - edges[0], self.groups[which], self.labels[:, rows], self.alpha[:, which], prior,
            self.variance[which], self.official,
        )  # fmt: skip
        return found.to(self.device)

    @threads.reserved()
    def mixture(self, group: int) -> Mixture:
        """The predictive of the group of that index as one mixture of Student-t components."""
        a, b = self.group_offsets[group : group + 2].tolist()
        x, n = self.x[a:b], b - a
        S = len(self.labels)
        index: dict[bytes, int] = {}
        parts: list[StudentT] = []
        weights: list[float] = []
        part_offsets = [0]
        for s in range(S):
            alpha = float(self.alpha[s, group])
            labels = torch.from_numpy(self.labels[s, a:b]).long()
            n_components = int(labels.max()) + 1
            statistics = component_statistics(x, labels, n_components)
            if self.official:
                index = {}
            new = []
            for k in range(n_components):
                count = int(statistics.counts[0, k])
                weight = (count + alpha) / (n + n_components * alpha) if self.official else count / (n + alpha) / S
                members = hashlib.sha256((labels == k).numpy().tobytes()).digest()
                if members in index:
                    weights[index[members]] += weight
                else:
                    index[members] = len(weights)
                    weights.append(weight)
                    new.append(k)
            if new:
                moments = type(statistics)(*(field[:, new] for field in statistics))
                parts.append(predictive(niw_posterior(self.prior, group, moments)))
            part_offsets.append(len(weights))
        if not self.official:
            parts.append(prior_predictive(self.prior, group))
            weights.append(float(np.mean(self.alpha[:, group] / (n + self.alpha[:, group]))))
            part_offsets = [0, len(weights)]
        components = StudentT(*(torch.cat(field) for field in zip(*parts, strict=True)))
        return Mixture(
            torch.tensor(weights, dtype=torch.float64, device=CPU).log(),
            components,
            torch.tensor(part_offsets, device=CPU),
        )

    @threads.reserved()
    def log_density(self, X: Any, groups: Any = None, *, verbose: int = 0) -> np.ndarray:
        """Log posterior predictive density of points (paper eq. 3).

        Args:
            X: [n, D] real numbers, at most the largest of x's dtype.
            groups: [n] name of each point's group, or None.
            verbose: 1 shows a progress bar.

        Returns:
            float64, in nats: [n], each point under its own group, if `groups` is given; else [n, G], under every group.

        Raises:
            ValueError: X of a wrong shape or dtype, not finite or too large; groups of a wrong length, or a name that
                is not among the fitted groups.
        """
        points = self._points(X)
        limit = torch.finfo(self.x.dtype).max
        if (points.abs() > limit).any():
            raise ValueError(
                f"X must be within {limit:.2g}, the largest number of {self.x.dtype}, of which the fitted points were, "
                f"got {float(points.abs().max()):.2g}"
            )
        if groups is None:
            every = [
                self._mixture_log_density(points, self.mixture(g))
                for g in track(range(len(self.groups)), "log-density", disable=not verbose)
            ]
            return np.column_stack(every)
        own = index_of(groups, self.groups, len(points))
        out = np.empty(len(points))
        for g in track(np.unique(own), "log-density", disable=not verbose):
            rows = np.flatnonzero(own == g)
            out[rows] = self._mixture_log_density(points[torch.from_numpy(rows)], self.mixture(g))
        return out

    @threads.reserved()
    def leave_one_out(self, *, verbose: int = 0) -> LeaveOneOut:
        """Log posterior predictive density of each fitted point, had it been left out.

        `classfit.leave_one_out` says how, and how far to trust it.

        Args:
            verbose: 1 shows a progress bar.

        Returns:
            LeaveOneOut of [N] values in nats, in the order of x (sorted by group), computed in float64.

        Raises:
            ValueError: the posterior is `official`, which is no average over the posterior of the labels.
        """
        if self.official:
            raise ValueError("official must be False: the published predictive is no mean over the posterior of labels")
        x, prior = self.x.to(self.device), moved(self.prior, self.device)
        return leave_one_out(x, self.group_offsets, self.labels, self.alpha, prior, verbose=verbose)

    @threads.reserved()
    def component_probabilities(self, X: Any, groups: Any = None) -> np.ndarray:
        """Probability of each component for each point, at the last kept sweep, within the point's own group.

        With the weights of eq. 3, `official` or not.

        Returns:
            [n, K + 1] float64, rows sum to 1; K is the largest number of components of a group, and the last column is
            a new component. Columns that a group does not have are 0.
        """
        return torch.softmax(self._component_log_joint(X, groups), dim=1).numpy()

    @threads.reserved()
    def most_probable_component(self, X: Any, groups: Any = None) -> np.ndarray:
        """[n] int64 the most probable of the components there are, at the last kept sweep, within the own group."""
        return self._component_log_joint(X, groups)[:, :-1].argmax(1).numpy()

    def _component_log_joint(self, X: Any, groups: Any) -> Tensor:
        """[n, K + 1] log of weight times density of each component, the last a new one; -inf for one not there."""
        points = self._points(X)
        if groups is None and len(self.groups) > 1:
            raise ValueError(f"groups must be given: the posterior has {len(self.groups)} groups")
        own = np.zeros(len(points), np.int64) if groups is None else index_of(groups, self.groups, len(points))
        last = Posterior(
            self.x, self.group_offsets, self.groups, self.labels[-1:], self.alpha[-1:], self.prior, self.variance
        )
        out = torch.full((len(points), int(self.labels[-1].max()) + 2), -torch.inf, dtype=torch.float64, device=CPU)
        for g in np.unique(own):
            rows = torch.from_numpy(np.flatnonzero(own == g))
            mixture = last.mixture(g)
            components = moved(mixture.components, self.device)
            density = student_t_log_density(points[rows], *components)
            joint = mixture.log_weight + density.cpu()
            out[rows, : joint.shape[1] - 1] = joint[:, :-1]
            out[rows, -1] = joint[:, -1]
        return out

    def sample(self, n_samples: int, group: Any = None, random_state: check.Seed = None) -> np.ndarray:
        """Independent draws from the posterior predictive of one group.

        Args:
            n_samples: number of draws, 1 or more.
            group: name of the group; may be None if there is only one.
            random_state: int, numpy RandomState or Generator, or None.

        Returns:
            [n_samples, D], of the dtype of x.
        """
        check.integer(n_samples, "n_samples", 1)
        if group is None:
            if len(self.groups) > 1:
                raise ValueError(f"group must be named: the posterior has {len(self.groups)} groups")
            group = self.groups[0]
        g = int(index_of([group], self.groups, 1)[0])
        return self._draw(self.mixture(g), n_samples, check.generator_of(random_state)).numpy()

    @threads.reserved()
    def relative_entropy(
        self, n_draws: int = 100_000, random_state: check.Seed = None, *, verbose: int = 0
    ) -> RelativeEntropy:
        """KL(p || q), p the predictive, q the diagonal Gaussian of the group's mean and variances (paper eq. 4).

            E_p[log p(x)] - E_p[log q(x)]

        The second term follows from the mean and variances of each component. The first is a mean over draws: of a
        tenth of `n_draws` from the prior's component, of `n_draws` from the others. Drawing for the second term as
        well would give no standard error to rely on: log q is quadratic, and components of at most one point, the
        prior's above all, have infinite fourth moments.

        Args:
            n_draws: draws a group, at least 2.
            random_state: int, numpy RandomState or Generator, or None.
            verbose: 1 shows a progress bar.

        Returns:
            RelativeEntropy of [G] values in nats; infinite, without error, for a group with a component of at most 2
            degrees of freedom, which has no variance (the prior's, if nu0 is at most D + 1).
        """
        check.integer(n_draws, "n_draws", 2)
        found = np.empty((3, len(self.groups)))
        streams = check.streams_of(random_state, len(self.groups))
        for g in track(range(len(self.groups)), "relative entropy", disable=not verbose):
            found[:, g] = self._relative_entropy(g, n_draws, streams[g])
        return RelativeEntropy(*found)

    def _relative_entropy(self, g: int, n_draws: int, rng: np.random.Generator) -> tuple[float, float, float]:
        mixture = self.mixture(g)
        weight = torch.softmax(mixture.log_weight, 0)
        from_q = _cross_entropy(mixture.components, self.prior.mu0[g], self.variance[g])
        if torch.isinf(from_q).any():
            return np.inf, 0.0, (0.0 if self.official else np.inf)
        is_prior = torch.zeros(len(weight), dtype=torch.bool, device=CPU)
        is_prior[-1] = not self.official
        value, variance, from_prior = 0.0, 0.0, 0.0
        for part, n in ((is_prior, max(2, n_draws // 10)), (~is_prior, n_draws)):
            share = float(weight[part].sum())
            if share == 0:
                continue
            only = mixture._replace(log_weight=mixture.log_weight.masked_fill(~part, -torch.inf))
            log_p, error = _mean(self._mixture_log_density(self._draw(only, n, rng), mixture))
            nats = share * log_p + float(weight[part] @ from_q[part])
            value, variance = value + nats, variance + (share * error) ** 2
            if part is is_prior:
                from_prior = nats
        return value, float(np.sqrt(variance)), from_prior

    @threads.reserved()
    def kl_divergence(self, n_draws: int = 10_000, random_state: check.Seed = None, *, verbose: int = 0) -> Estimate:
        """KL divergence between the predictives of every two groups, KL(p_row || p_column).

            E_{p_row}[log p_row(x) - log p_column(x)], as a mean over draws from p_row

        Args: as `relative_entropy`.

        Returns:
            Estimate of [G, G] values in nats, zero on the diagonal, with Monte Carlo standard errors.
        """
        check.integer(n_draws, "n_draws", 2)
        G = len(self.groups)
        value, error = np.zeros((G, G)), np.zeros((G, G))
        streams = check.streams_of(random_state, G)
        draws, log_p = [], []
        # The draws of all groups are kept and the mixtures made again: draws are small, mixtures may not be.
        for g in track(range(G), "drawing", disable=not verbose):
            mixture = self.mixture(g)
            draws.append(self._draw(mixture, n_draws, streams[g]))
            log_p.append(self._mixture_log_density(draws[g], mixture))
        every = torch.cat(draws).to(self.device)
        for h in track(range(G), "KL divergence", disable=not verbose):
            log_q = self._mixture_log_density(every, self.mixture(h)).reshape(G, n_draws)
            for g in range(G):
                if g != h:
                    value[g, h], error[g, h] = _mean(log_p[g] - log_q[g])
        return Estimate(value, error)

    def save(self, path: str | PathLike) -> None:
        """Write the posterior to an npz file, atomically."""
        write_npz(
            Path(path),
            meta=json.dumps({"format": FORMAT, "official": self.official}),
            x=self.x.numpy(),
            group_offsets=self.group_offsets.numpy(),
            groups=self.groups,
            labels=self.labels,
            alpha=self.alpha,
            variance=self.variance.numpy(),
            **{name: field.numpy() for name, field in zip(NIWPrior._fields, self.prior, strict=True)},
        )

    @classmethod
    def load(cls, path: str | PathLike) -> "Posterior":
        """Read a posterior that `save` wrote; ValueError if the file is something else."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            meta = json.loads(str(arrays["meta"]))
            if meta["format"] != FORMAT:
                raise ValueError(f"format {meta['format']}, this version reads {FORMAT}")
            tensors = {name: torch.from_numpy(arrays[name]) for name in ("x", "group_offsets", "variance")}
            prior = NIWPrior(*(torch.from_numpy(arrays[name]) for name in NIWPrior._fields))
            return cls(
                **tensors,
                groups=arrays["groups"],
                labels=arrays["labels"],
                alpha=arrays["alpha"],
                prior=prior,
                official=bool(meta["official"]),
            )
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is not a saved posterior: {error}") from error

    def _points(self, X: Any) -> Tensor:
        found = np.asarray(check.as_array(X))
        if found.dtype.kind not in "biuf":
            raise ValueError(f"X must hold real numbers, got an array of dtype {found.dtype}")
        # A copy of what is read-only, which torch would warn of, or not in the processor's byte order.
        points = torch.from_numpy(np.require(found, np.float64, ["C_CONTIGUOUS", "WRITEABLE"]))
        if points.ndim != 2 or points.shape[1] != self.x.shape[1]:
            raise ValueError(f"X must have shape [n, {self.x.shape[1]}], got {list(points.shape)}")
        bad = (~points.isfinite()).any(1).nonzero()
        if len(bad):  # said here, where rows are those of X: the kernels see those of one group
            raise ValueError(f"X must be finite, got {len(bad)} rows that are not, the first is row {int(bad[0])}")
        return points.to(self.device)

    def _mixture_log_density(self, points: Tensor, mixture: Mixture) -> np.ndarray:
        """[n] of points [n, D] on any device."""
        location, precision_chol, df = moved(mixture.components, self.device)
        log_weight, offsets = mixture.log_weight.to(self.device), mixture.offsets.to(self.device)
        centre = torch.softmax(log_weight, 0) @ location
        about = StudentT(location - centre, precision_chol, df)
        near, components = (points.to(self.device) - centre).to(self.x.dtype), (f.to(self.x.dtype) for f in about)
        parts = mixture_log_density(near, log_weight, *StudentT(*components), component_offsets=offsets)
        return parts.double().mean(1).cpu().numpy()

    def _draw(self, mixture: Mixture, n: int, rng: np.random.Generator) -> Tensor:
        """Draws location + W^-1 z sqrt(df / chi2_df), component by component, then shuffled."""
        weight = mixture.log_weight.exp().numpy()
        counts = rng.multinomial(n, weight / weight.sum())
        D = self.x.shape[1]
        draws = np.empty((n, D))
        first = 0
        location, precision_chol, df = mixture.components
        for m in np.flatnonzero(counts):
            z = torch.from_numpy(rng.standard_normal((D, counts[m])))
            scale = np.sqrt(float(df[m]) / rng.chisquare(float(df[m]), size=counts[m]))
            white = torch.linalg.solve_triangular(precision_chol[m], z, upper=False).T.numpy()
            draws[first : first + counts[m]] = location[m].numpy() + white * scale[:, None]
            first += counts[m]
        return torch.from_numpy(rng.permutation(draws)).to(self.x.dtype)


def _cross_entropy(components: StudentT, mean: Tensor, variance: Tensor) -> Tensor:
    """[M] E_t[-log q(x)] under each component t, q Gaussian with that mean and those variances [D]; inf without one."""
    location, precision_chol, df = components
    root = torch.linalg.solve_triangular(
        precision_chol, torch.eye(len(mean), dtype=torch.float64, device=CPU), upper=False
    )
    spread = torch.where(df > 2, df / (df - 2), torch.inf)
    second_moment = (location - mean).square() + spread[:, None] * root.square().sum(2)
    return 0.5 * (second_moment / variance + (2 * torch.pi * variance).log()).sum(1)


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
