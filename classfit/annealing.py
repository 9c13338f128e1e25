"""Annealed importance sampling of labellings: a start with many components, and bounds of its log evidence."""

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from classfit.devices import CPU, moved
from classfit.diagnostics import log_joint
from kernels import AlphaNoise, GibbsState, NIWPrior, unchecked

POINTS_A_UNIT_OF_ALPHA = 16
"""alpha = n / 16, at least 1, of the restaurant that draws labels at first: 0.18 n components, fewer with the data."""
SWEEPS_A_TEMPERATURE = 5
TEMPERATURES = np.concatenate([[0.0], np.geomspace(1e-4, 0.05, 12), np.linspace(0.05, 1, 29)[1:]])
"""Inverse temperatures. Close together at first, where random labels are worth many nats a point."""


def anneal(
    x: Tensor, group_offsets: Tensor, prior: NIWPrior, rngs: list[np.random.Generator], slowness: int = 1
) -> tuple[GibbsState, np.ndarray]:
    """Labels from the prior, cooled to the posterior by Gibbs sweeps (Neal 2001).

        log w = sum_t (beta_t - beta_(t-1)) log p(x | z_(t-1)) + log p(z_T) - log p(z_T | alpha),
        z_t by sweeps that leave p(z | alpha) p(x | z)^beta_t

    at the fixed alpha = max(1, n / 16); the last terms exchange it for the prior of alpha, integrated out. E[w] = p(x),
    so log w lies below the log evidence but for a few nats by chance: with 500 points in 64 dimensions, where it ends
    in dozens of components, by some 200 nats, and by less the slower it was cooled. It counts all labellings of the
    state that it ends in, which the joint density of one labelling does not.

    Args:
        x: [N, D] points sorted by group; the sweeps run where they are.
        group_offsets: [G + 1] int64, on the processor.
        prior: of each group, in the units of x and on its device.
        rngs: a generator for each group.
        slowness: steps of temperature in place of each.

    Returns:
        GibbsState at the end, on the processor, and [G] log w in nats.
    """
    alpha = _fixed_alpha(group_offsets)
    sizes = group_offsets.diff().tolist()
    labels = [_restaurant(rng, n, float(a)) for rng, n, a in zip(rngs, sizes, alpha, strict=True)]
    state = GibbsState(torch.from_numpy(np.concatenate(labels)), alpha)
    log_weight = np.zeros(len(sizes))
    for before, beta in pairwise(_inverse_temperatures(slowness)):
        log_weight += (beta - before) * _log_likelihood(state, x, group_offsets, prior)
        state = sweeps(state, x, group_offsets, prior, rngs, beta)
    return state, log_weight + _log_exchange(state, group_offsets)


def heat(
    labels: Tensor,
    x: Tensor,
    group_offsets: Tensor,
    prior: NIWPrior,
    rngs: list[np.random.Generator],
    slowness: int = 1,
) -> np.ndarray:
    """`anneal` backwards, from labels drawn from the posterior to the prior (Grosse, Ghahramani & Adams 2015).

        log w' = sum_t (beta_t - beta_(t-1)) log p(x | z_(t-1)) + log p(z_T) - log p(z_T | alpha),
        z_(t-1) by sweeps that leave p(z | alpha) p(x | z)^beta_t, from z_t; z_T the labels given

    E[1 / w'] = 1 / p(x), so log w' lies above the log evidence but for a few nats by chance. Given labels that were
    drawn within a state A, a part of all labellings, E[1 / w'] is at most 1 / p(x, A): then it lies above the evidence
    of that state.

    Args:
        labels: [N] int64, 0..K_g - 1 in each group, on the processor.
        x, group_offsets, prior, rngs, slowness: as of `anneal`.

    Returns:
        [G] log w' in nats.
    """
    state = GibbsState(labels, _fixed_alpha(group_offsets))
    log_weight = _log_exchange(state, group_offsets)
    for before, beta in reversed(list(pairwise(_inverse_temperatures(slowness)))):
        state = sweeps(state, x, group_offsets, prior, rngs, beta)
        log_weight += (beta - before) * _log_likelihood(state, x, group_offsets, prior)
    return log_weight


def _fixed_alpha(group_offsets: Tensor) -> Tensor:
    """[G]"""
    return (group_offsets.diff().double() / POINTS_A_UNIT_OF_ALPHA).clamp(min=1)


def _inverse_temperatures(slowness: int) -> np.ndarray:
    steps = np.arange((len(TEMPERATURES) - 1) * slowness + 1) / slowness
    return np.interp(steps, np.arange(len(TEMPERATURES)), TEMPERATURES)


def sweeps(
    state: GibbsState,
    x: Tensor,
    group_offsets: Tensor,
    prior: NIWPrior,
    rngs: list[np.random.Generator],
    beta: float,
    fixed_alpha: bool = True,
) -> GibbsState:
    """SWEEPS_A_TEMPERATURE sweeps, where x is; the state is on the processor."""
    device = x.device
    order, uniforms, noise = sweep_numbers(rngs, group_offsets, SWEEPS_A_TEMPERATURE)
    states = unchecked(x).gibbs_sweep(
        moved(state, device), x, order.to(device), uniforms.to(device), None if fixed_alpha else moved(noise, device),
        prior=prior, group_offsets=group_offsets.to(device),
        inverse_temperature=torch.full((len(rngs),), beta, dtype=torch.float64, device=device),
    )  # fmt: skip
    return GibbsState(states.labels[-1].cpu(), state.alpha if fixed_alpha else states.alpha[-1].cpu())


def _log_likelihood(state: GibbsState, x: Tensor, group_offsets: Tensor, prior: NIWPrior) -> np.ndarray:
    """[G] log p(x | z)."""
    joint = log_joint(state.labels, state.alpha, x, group_offsets, prior)
    return (joint - log_restaurant(state, group_offsets)).numpy()


def _log_exchange(state: GibbsState, group_offsets: Tensor) -> np.ndarray:
    """[G] log p(z) - log p(z | alpha): of the prior of alpha, integrated out, for the alpha of the state."""
    return log_partition(state.labels, group_offsets) - log_restaurant(state, group_offsets).numpy()


def log_partition(labels: Tensor, group_offsets: Tensor) -> np.ndarray:
    """[G] log p(z), alpha ~ Gamma(1, 1) integrated out: sum_k log Gamma(n_k) + log of the integral over alpha of

    alpha^K Gamma(alpha) / Gamma(alpha + n) exp(-alpha).
    """
    values = []
    for part in labels.split(group_offsets.diff().tolist()):
        sizes = part.bincount().double()
        values.append(float(torch.lgamma(sizes).sum()) + _log_alpha_integral(len(part), len(sizes)))
    return np.array(values)


@cache
def _log_alpha_integral(n: int, n_components: int) -> float:
    """By the trapezoidal rule in log alpha, where the integrand is smooth and falls off to both sides."""
    log_alpha = torch.linspace(-30, 10, 4001, dtype=torch.float64, device=CPU)
    alpha = log_alpha.exp()
    log_value = (n_components + 1) * log_alpha + torch.lgamma(alpha) - torch.lgamma(alpha + n) - alpha
    return float(torch.logsumexp(log_value, 0) + np.log(0.01))


def sweep_numbers(
    rngs: list[np.random.Generator], group_offsets: Tensor, n_sweeps: int
) -> tuple[Tensor, Tensor, AlphaNoise]:
    """Visiting orders, uniforms and the noise of alpha for some sweeps, a generator a group."""
    order, uniforms, beta, gamma, choice = [], [], [], [], []
    for rng, n in zip(rngs, group_offsets.diff().tolist(), strict=True):
        order.append(rng.permuted(np.tile(np.arange(n), (n_sweeps, 1)), axis=1))
        uniforms.append(rng.random((n_sweeps, n)))
        beta.append(rng.standard_exponential((n_sweeps, n)))
        gamma.append(rng.standard_exponential((n_sweeps, n + 1)))
        choice.append(rng.random((n_sweeps, 1)))
    fields = [torch.from_numpy(np.concatenate(field, axis=1)) for field in (order, uniforms, beta, gamma, choice)]
    return fields[0], fields[1], AlphaNoise(*fields[2:])


def _restaurant(rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Labels of n points from the Chinese restaurant process: who opens no table joins a random earlier guest."""
    labels = np.zeros(n, np.int64)
    opens = rng.random(n) < alpha / (alpha + np.arange(n))
    opens[0] = True
    companion = (rng.random(n) * np.arange(n)).astype(np.int64)
    new = opens.cumsum() - 1
    for i in range(1, n):
        labels[i] = new[i] if opens[i] else labels[companion[i]]
    return labels


def log_restaurant(state: GibbsState, group_offsets: Tensor) -> Tensor:
    """[G] log probability of the labels under the Chinese restaurant process."""
    values = []
    for alpha, labels in zip(state.alpha, state.labels.split(group_offsets.diff().tolist()), strict=True):
        sizes = labels.bincount().double()
        values.append(
            torch.lgamma(alpha)
            - torch.lgamma(alpha + len(labels))
            + len(sizes) * torch.log(alpha)
            + torch.lgamma(sizes).sum()
        )
    return torch.stack(values)
