"""The evidence of the two states of a group, each from both sides.

In many dimensions the posterior of a group has two states that chains hardly ever move between: dozens of small
components, which annealing ends in, and few large ones, which sweeps from one component lead to. How probable either
is follows from its evidence p(x, A), the sum of p(x, z) over the labellings z of the state. Without chains that move
between them, each lies between two bounds:

    many components:  log w of `anneal`            <=  log p(x, A)  <=  log w' of `heat`, from where annealing led
    few components:   log p(x, z) of a labelling   <=  log p(x, A)  <=  log w' of `heat`, from that labelling

but for a few nats by chance, and the upper ones as far as what is heated is a draw from the posterior within the state
(bidirectional Monte Carlo: Grosse, Ghahramani & Adams 2015): heated from where annealing ended by accident, one was 132
nats too low. Where annealing leads to few components, but a chain of the posterior is in many, both bounds of many are
from its labelling, as those of few are.
"""

from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from classfit import _check as check
from classfit import convergence
from classfit.annealing import SWEEPS_A_TEMPERATURE, anneal, heat, sweeps
from classfit.devices import CPU
from classfit.gibbs import generator, stream
from classfit.predictive import Posterior
from classfit.prior import standardise, standardised
from classfit.proposals import unlearned
from kernels import GibbsState

__all__ = ["SLOWNESS", "StateEvidence", "state_evidence"]

SLOWNESS = 5
"""Of annealing and heating: with 500 points in 64 dimensions the two are some 80 nats apart then, 290 at 1."""
SWEEPS = 200
"""From the end of annealing to labels that are taken for a draw from the posterior within the state."""
GROUPS_AT_ONCE = 8
"""On the processor."""
MOST = 0.5
"""Share of the points of a group: in components of fewer points than D it is of many components, else of few."""
_STATES = 8
"""Purpose of the random numbers, beside those of `classfit.gibbs`, `convergence` and `protocols`."""


class StateEvidence(NamedTuple):
    """Bounds of the log evidence of the two states of every group, in nats in the units of `standardise`, all [G]."""

    many_lower: np.ndarray
    many_upper: np.ndarray
    few_lower: np.ndarray
    few_upper: np.ndarray
    many_small: np.ndarray
    """Share of points in components of fewer points than D, of the labelling that was heated: of many components."""
    few_small: np.ndarray
    """The same of few."""

    @property
    def two_states(self) -> np.ndarray:
        """[G] bool: of the labelling of many components most points are in components of fewer than D, of few not."""
        return (self.many_small > MOST) & (self.few_small <= MOST)

    def verdict(self) -> np.ndarray:
        """[G] 1 where the state of many components has the larger evidence, -1 where that of few has, 0 where their
        bounds overlap or no two states were found."""
        found = (self.many_lower > self.few_upper).astype(int) - (self.many_upper < self.few_lower)
        return np.where(self.two_states, found, 0)


def state_evidence(
    posterior: Posterior, *, slowness: int = SLOWNESS, random_state: check.Seed = 0, verbose: int = 0
) -> StateEvidence:
    """Log evidence of the state of many components and of that of few, of every group, from both sides.

    The labelling of few components is the one with the largest log p(x, z) of what rounds of sweeps and split-merge
    moves from one component lead to and the last labellings of the posterior, of those of which at most half of the
    points are in components of fewer points than D. That of many components is where annealing leads or, if more than
    half of the points are in such components in none but the last labellings of the posterior, the best of those. It
    takes several seconds a group of 500 points in 64 dimensions.

    Args:
        posterior: of the groups; it runs on the posterior's device.
        slowness: steps of temperature in place of each: the slower, the closer the bounds.
        random_state: int, numpy RandomState or Generator, or None. With an int a group has the same result whichever
            others are with it.
        verbose: 1 shows a progress bar.

    Raises:
        ValueError: no posterior, slowness below 1, or a posterior as `official`, whose labels have another law.
    """
    if not isinstance(posterior, Posterior):
        raise ValueError(f"posterior must be a Posterior, such as mixture.posterior_, got a {type(posterior).__name__}")
    check.integer(slowness, "slowness", 1)
    if posterior.official:
        raise ValueError("official must be False: labels drawn as published have no such evidence")
    seed, G = check.seed_of(random_state), len(posterior.groups)
    at_once = GROUPS_AT_ONCE if posterior.device.type == "cpu" else G
    parts = [
        _of_groups(posterior.of_groups(slice(a, min(a + at_once, G))), slowness, seed)
        for a in track(range(0, G, at_once), "evidence of states", disable=not verbose)
    ]
    return StateEvidence(*map(np.concatenate, zip(*parts, strict=True)))


def _of_groups(posterior: Posterior, slowness: int, seed: int) -> StateEvidence:
    streams, offsets = [stream(name) for name in posterior.groups], posterior.group_offsets
    x, prior = standardise(posterior.x, posterior.prior, offsets), standardised(posterior.prior)
    problem = convergence.problem(x, offsets, prior, streams, seed, posterior.device)
    there = problem.x, offsets, problem.prior

    def rngs(purpose: int) -> list[np.random.Generator]:
        return [generator(seed, number, _STATES, purpose) for number in streams]

    state, log_weight = anneal(*there, rngs(0), slowness)
    between = rngs(1)
    for _ in range(SWEEPS // SWEEPS_A_TEMPERATURE):
        state = sweeps(state, *there, between, 1.0, fixed_alpha=False)
    few, (many, annealed) = _few(posterior, problem), _many(state.labels, posterior, problem)
    many_lower, few_lower = np.where(annealed, log_weight, _log_evidence(many, problem)), _log_evidence(few, problem)
    return StateEvidence(
        many_lower, heat(many, *there, rngs(2), slowness), few_lower, heat(few, *there, rngs(3), slowness),
        _small(many, offsets, x.shape[1]), _small(few, offsets, x.shape[1]),
    )  # fmt: skip


def _many(annealed: Tensor, posterior: Posterior, problem: convergence.Problem) -> tuple[Tensor, np.ndarray]:
    """[N] labels as `state_evidence` says, and [G] bool, whether they are of annealing, as also where none are many."""
    kept = _best(_last(posterior), problem, many=True)
    chosen = _is_many(annealed, problem) | ~_is_many(kept, problem)
    of_point = torch.from_numpy(chosen).repeat_interleave(problem.group_offsets.diff())
    return torch.where(of_point, annealed, kept), chosen


def _few(posterior: Posterior, problem: convergence.Problem) -> Tensor:
    """[N] labels as `state_evidence` says; where all candidates have many components, of the first."""
    n, N = len(problem.streams), len(problem.x)
    state = GibbsState(torch.zeros(N, dtype=torch.int64, device=CPU), torch.ones(n, dtype=torch.float64, device=CPU))
    aim = unlearned(problem.companions)
    units = [(g, 0, 0) for g in range(n)]
    state = convergence.rounds(problem, units, state, 0, convergence.BURN_IN_ROUNDS, aim).last()
    return _best(torch.cat([state.labels[None], _last(posterior)]), problem, many=False)


def _last(posterior: Posterior) -> Tensor:
    """[C, N] the last labels: of several chains one each."""
    return torch.from_numpy(posterior.labels[-convergence.N_CHAINS :]).long()


def _best(candidates: Tensor, problem: convergence.Problem, *, many: bool) -> Tensor:
    """[N] labels: of those [C, N] of many (or few) components the best of each group, the first where there is none."""
    values = [
        np.where(_is_many(labels, problem) == many, _log_evidence(labels, problem), -np.inf) for labels in candidates
    ]
    best = torch.from_numpy(np.argmax(values, axis=0)).repeat_interleave(problem.group_offsets.diff())
    return candidates.gather(0, best[None])[0]


def _log_evidence(labels: Tensor, problem: convergence.Problem) -> np.ndarray:
    """[G] log p(x, z)."""
    G = len(problem.streams)
    state = GibbsState(labels, torch.ones(G, dtype=torch.float64, device=CPU))
    return convergence.log_evidence_of(problem, [(g, 0, 0) for g in range(G)], state)


def _is_many(labels: Tensor, problem: convergence.Problem) -> np.ndarray:
    """[G] bool"""
    return _small(labels, problem.group_offsets, problem.x.shape[1]) > MOST


def _small(labels: Tensor, offsets: Tensor, D: int) -> np.ndarray:
    """[G] share of points in components of fewer than D."""
    return np.array([(part.bincount()[part] < D).double().mean() for part in labels.split(offsets.diff().tolist())])
