"""Chains of collapsed Gibbs sweeps: how they start, where their random numbers come from, how they go on and are kept.

A chain is a pure function of the data, the settings and the number of sweeps made. The random numbers of sweep t of
a group come from a counter-based generator at (seed, name of the group, t), so a chain that is stopped after any sweep
and taken up again makes the same moves, and a group's chain does not depend on which other groups are fitted with it.
"""

import zlib
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from classfit.diagnostics import log_joint
from kernels import AlphaNoise, GibbsState, NIWPrior, gibbs_sweep

_START, _SWEEP = 0, 1


class Schedule(NamedTuple):
    """How a chain is run. The paper: 6 initial components, 400 sweeps, 320 discarded, every 4th of the rest kept."""

    n_init_components: int
    block_size: int
    n_sweeps: int
    n_discard: int
    thin: int
    official: bool
    seed: int
    corrected: bool = False

    @property
    def alpha_shape(self) -> int:
        """a of the prior alpha ~ Gamma(a, 1): 1 in the paper. The published code resamples alpha as if a were 2."""
        return 2 if self.official else 1

    def kept(self, sweep: int) -> bool:
        """Is the state after `sweep` sweeps kept for the posterior?"""
        return sweep > self.n_discard and (sweep - self.n_discard) % self.thin == 0


class Chain(NamedTuple):
    """A chain after some sweeps: where it is, what it kept, and what to look at."""

    sweep: int
    """Sweeps made so far."""
    labels: np.ndarray
    """[N] int32 component of each point within its group."""
    alpha: np.ndarray
    """[G]"""
    kept_labels: np.ndarray
    """[S, N] int32"""
    kept_alpha: np.ndarray
    """[S, G]"""
    trace_sweep: np.ndarray
    """[R] the sweeps at which the trace was taken: every `thin`-th."""
    trace_n_components: np.ndarray
    """[R, G] number of occupied components."""
    trace_alpha: np.ndarray
    """[R, G]"""
    trace_log_joint: np.ndarray
    """[R, G] log joint density of labels and data given alpha, in nats."""


def stream(name: Any) -> int:
    """The number under which a group of that name draws its random numbers."""
    return zlib.crc32(str(name).encode())


def generator(seed: int, stream: int, purpose: int, index: int, chain: int = 0) -> np.random.Generator:
    """Independent random numbers for each (seed, stream, purpose, index, chain), from Philox (Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, chain, purpose, index]))


def start(schedule: Schedule, group_offsets: Tensor, streams: list[int]) -> Chain:
    """Every point in one of K0 components at random; alpha ~ Gamma(1, 1) (published code: 1 + Exp(1))."""
    labels, alpha = [], []
    for g, n in enumerate(group_offsets.diff().tolist()):
        rng = generator(schedule.seed, streams[g], _START, 0)
        random_labels = rng.integers(schedule.n_init_components, size=n)
        labels.append(np.unique(random_labels, return_inverse=True)[1])
        alpha.append(rng.standard_exponential() + schedule.official)
    N, G = int(group_offsets[-1]), len(alpha)
    return Chain(
        sweep=0,
        labels=np.concatenate(labels).astype(np.int32),
        alpha=np.array(alpha),
        kept_labels=np.empty((0, N), np.int32),
        kept_alpha=np.empty((0, G)),
        trace_sweep=np.empty(0, np.int64),
        trace_n_components=np.empty((0, G), np.int64),
        trace_alpha=np.empty((0, G)),
        trace_log_joint=np.empty((0, G)),
    )


def advance(
    chain: Chain,
    n_sweeps: int,
    x: Tensor,
    group_offsets: Tensor,
    streams: list[int],
    prior: NIWPrior,
    schedule: Schedule,
) -> Chain:
    """The chain after `n_sweeps` more sweeps of every group, in one call of the kernel.

    Args:
        x: [N, D] points sorted by group; the sweeps run where they are.
        group_offsets: [G + 1] int64, on the processor.
        streams: [G] `stream` of each group's name.
        prior: of each group, in the units of x and on its device.
    """
    numbers = _random_numbers(schedule, streams, chain.sweep, n_sweeps, group_offsets, x.device)
    order, uniforms, noise, correction = numbers
    state = GibbsState(torch.from_numpy(chain.labels).long().to(x.device), torch.from_numpy(chain.alpha).to(x.device))
    states = gibbs_sweep(
        state,
        x,
        order,
        uniforms,
        noise,
        prior=prior,
        group_offsets=group_offsets.to(x.device),
        block_size=schedule.block_size,
        shared_new=schedule.official,
        alpha_shape=schedule.alpha_shape,
        correction=correction,
    )
    labels, alpha = states.labels.cpu().numpy(), states.alpha.cpu().numpy()
    sweeps = np.arange(chain.sweep + 1, chain.sweep + 1 + n_sweeps)
    kept = np.array([schedule.kept(int(sweep)) for sweep in sweeps], np.bool_)
    traced = np.flatnonzero(sweeps % schedule.thin == 0)
    starts = group_offsets[:-1].numpy()
    joints = log_joint(states.labels[traced], states.alpha[traced], x, group_offsets, prior).numpy()
    return Chain(
        sweep=chain.sweep + n_sweeps,
        labels=labels[-1].astype(np.int32),
        alpha=alpha[-1],
        kept_labels=np.concatenate([chain.kept_labels, labels[kept].astype(np.int32)]),
        kept_alpha=np.concatenate([chain.kept_alpha, alpha[kept]]),
        trace_sweep=np.concatenate([chain.trace_sweep, sweeps[traced]]),
        trace_n_components=np.concatenate(
            [chain.trace_n_components, np.maximum.reduceat(labels[traced], starts, axis=1) + 1]
        ),
        trace_alpha=np.concatenate([chain.trace_alpha, alpha[traced]]),
        trace_log_joint=np.concatenate([chain.trace_log_joint, joints]),
    )


def _random_numbers(
    schedule: Schedule, streams: list[int], first_sweep: int, n_sweeps: int, group_offsets: Tensor, device: torch.device
) -> tuple[Tensor, Tensor, AlphaNoise, Tensor | None]:
    """Visiting order, uniforms, the noise of alpha and, if blocks are corrected, the uniforms of that, for some sweeps
    of every group."""
    edges, alpha_shape = group_offsets.tolist(), schedule.alpha_shape
    N, G = edges[-1], len(edges) - 1
    order = np.empty((n_sweeps, N), np.int64)
    uniforms, correction = np.empty((n_sweeps, N)), np.empty((n_sweeps, N if schedule.corrected else 0))
    noise = AlphaNoise(np.empty((n_sweeps, N)), np.empty((n_sweeps, N + alpha_shape * G)), np.empty((n_sweeps, G)))  # type: ignore[arg-type]
    for t in range(n_sweeps):
        for g, (a, b) in enumerate(pairwise(edges)):
            rng = generator(schedule.seed, streams[g], _SWEEP, first_sweep + t)
            order[t, a:b] = rng.permutation(b - a)
            uniforms[t, a:b] = rng.random(b - a)
            noise.beta[t, a:b] = rng.standard_exponential(b - a)
            exponentials = rng.standard_exponential(b - a + alpha_shape)
            noise.gamma[t, a + alpha_shape * g : b + alpha_shape * (g + 1)] = exponentials
            noise.choice[t, g] = rng.random()
            if schedule.corrected:
                correction[t, a:b] = rng.random(b - a)
    tensors = [torch.from_numpy(array).to(device) for array in (order, uniforms, correction, *noise)]
    return tensors[0], tensors[1], AlphaNoise(*tensors[3:]), tensors[2] if schedule.corrected else None
