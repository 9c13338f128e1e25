"""Several chains a group from dispersed starts, run until they agree: the protocol `converged`.

Each chain is on its own. A round is some exact Gibbs sweeps, then split-merge proposals of two kinds: *peels*, which
part a point and a few companions from the component around them (or return them), and one of Jain & Neal's, of
all points. Both leave the posterior invariant, because what they propose does not depend on the labels.

In many dimensions the posterior of a group has states that no such move connects: one large component, or dozens of
small ones, hundreds of nats apart. Every chain therefore looks for the better one in its burn-in, which is discarded
and need not be reversible: it burns in from its own start, from one component, and by annealing from many components,
and goes on from the track with the largest lower bound of the log evidence. That is the log joint density of the data
and the labels, alpha integrated out; for the annealed track, whose labellings are very many and one as good as the
other, also the estimate of annealed importance sampling, if that is larger. Its bound is the looser one, by hundreds of
nats, so where it loses by less than half a nat a point it is annealed once more, slower. Each chain chooses by itself.
What their agreement then says is that they found the same state, not how probable a state is that none of them chose:
`burn_in_log_evidence` shows those.

The first look at which R-hat and effective sample size are within their limits ends the chains, which passes more than
a single look would: of simulated chains whose true R-hat is 1.02 44% pass at some look, 9% at the last alone (600
times).

The burn-in also tells where to try peels, and ends with rounds in which the chains settle and this is learned again:
half of the anchors are drawn by how often a point was in a small component, and most companions by how often they were
in one with the anchor, in any of the chains (`classfit.proposals.Aim`). From then on it stays as it is. That is all the
chains share: which points a move is tried with, not where it leads.
"""

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from arviz_stats.base import array_stats
from sklearn.cluster import KMeans
from torch import Tensor

from classfit.annealing import anneal, log_partition, log_restaurant, sweep_numbers
from classfit.devices import CPU, moved
from classfit.diagnostics import log_joint
from classfit.gibbs import generator
from classfit.predictive import Posterior
from classfit.proposals import Aim, aim_of, companions_of, peels, splits, unlearned
from kernels import GibbsState, NIWPrior, unchecked
from kernels.cpu import threads

N_CHAINS = 4
N_TRACKS = 4
"""Starts that a chain tries in its burn-in: its own, one component, annealing, and slower annealing."""
ANNEALED, SLOWER = 2, 3
SLOWNESS = 5
UNDECIDED_NATS_A_POINT = 0.5
"""By how much the bound of annealing may be the lower one before it is annealed slower."""
SAME_NATS = 1e-6
"""Bounds closer than this are of the same labels: the earlier track is kept, whatever rounding makes of their order."""
SWEEPS_A_ROUND = 2
ROUNDS_BETWEEN_SPLITS = 8
"""One of Jain & Neal's proposals in so many rounds: it costs as much as several sweeps, and is seldom accepted."""
BURN_IN_ROUNDS = 20
SETTLING_ROUNDS = 15, 30
"""Of the chains, from the states that they chose: after either number of rounds where to try peels is learned anew."""
CHECK_ROUNDS = 100
"""Rounds between two looks at R-hat and the effective sample size; at the first there are too few draws to pass."""
MAX_ROUNDS = 600
"""The budget, burn-in apart: 1,200 sweeps a chain."""
HALFWAY_RHAT = 1.5
"""Chains that are further apart than this after half the budget are not waited for. Of 40 groups (`digits`, all stages)
16 were, and, given all of it, 15 of them ended further apart than this."""
PARTS_A_THREAD = 2
"""Of the chains at hand, on the processor."""
BURN_IN_IN_ROUNDS = 250
"""What a burn-in counts for in `progress`: it takes about as long as so many rounds."""
KEEP_EVERY = 5
N_KEPT = 10
"""Labellings of each chain that the predictive is averaged over: from the second half of its rounds."""
MAX_RHAT, MIN_ESS = 1.01, 400

_INIT, _SWEEPS, _PEELS, _SPLITS, _ANNEAL = 2, 3, 4, 5, 7


class Chains(NamedTuple):
    """Four chains of every group after some rounds; C chains, R rounds, G groups, N points."""

    round: int
    """Rounds made, of groups that have not stopped; burn-in apart."""
    begun: np.ndarray
    """[G] bool: the burn-in has been made."""
    labels: np.ndarray
    """[C, N] int32 component of each point within its group."""
    alpha: np.ndarray
    """[C, G]"""
    kept_labels: np.ndarray
    """[R / KEEP_EVERY, C, N] int32; rows of a group that had stopped repeat its last."""
    kept_alpha: np.ndarray
    """[R / KEEP_EVERY, C, G]"""
    log_joint: np.ndarray
    """[R, C, G] log joint density of labels and data given alpha, in nats; nan once the group had stopped."""
    n_components: np.ndarray
    """[R, C, G] number of components; -1 once the group had stopped."""
    proposed: np.ndarray
    """[2, C, G] int64 splits and merges that were proposed."""
    accepted: np.ndarray
    """[2, C, G] int64 those that were accepted."""
    stopped: np.ndarray
    """[G] the round after which the group stopped; 0 if it goes on."""
    anchor_weight: np.ndarray
    """[N] as of `Aim`."""
    companions: np.ndarray
    """[N, MAX_PEEL] int32 as of `Aim`."""
    burn_in_log_evidence: np.ndarray
    """[C, N_TRACKS, G] lower bound of the log evidence, of each track of the burn-in; -inf if it was not tried."""
    simple_log_joint: np.ndarray
    """[G] best log joint, at alpha = 1, of one component and k-means with 6 and 25."""


class Rounds(NamedTuple):
    """R rounds of U units, of N points in all."""

    labels: Tensor
    """[R, N] int64 after each round."""
    alpha: Tensor
    """[R, U]"""
    proposed: Tensor
    """[2, U] int64 splits and merges."""
    accepted: Tensor
    """[2, U] int64"""

    def last(self) -> GibbsState:
        return GibbsState(self.labels[-1], self.alpha[-1])


class Convergence(NamedTuple):
    """What a reader needs to judge the chains of every group; C chains, R rounds, G groups."""

    converged: np.ndarray
    """[G] bool: R-hat and effective sample size are within limits, of log joint and number of components."""
    rhat_log_joint: np.ndarray
    """[G] rank-normalised R-hat (Vehtari et al. 2021) over the second half of the rounds."""
    rhat_n_components: np.ndarray
    """[G] 1 if the number of components never differs."""
    ess_log_joint: np.ndarray
    """[G] bulk effective sample size."""
    ess_n_components: np.ndarray
    """[G]"""
    log_joint: np.ndarray
    """[R, C, G] nats; nan after the group stopped."""
    n_components: np.ndarray
    """[R, C, G] -1 after the group stopped."""
    rounds: np.ndarray
    """[G] rounds until the group stopped."""
    split_acceptance: np.ndarray
    """[C, G] share of proposed splits that were accepted; nan if none was proposed."""
    merge_acceptance: np.ndarray
    """[C, G]"""
    burn_in_log_evidence: np.ndarray
    """[C, 4, G] nats, lower bounds of log p(data) from the burn-in: own start, one component, annealing, slower
    annealing (-inf where the other two left no doubt)."""
    above_simple: np.ndarray
    """[C, G] nats, at alpha = 1, of a chain's last state above the best of one component and k-means with 6 and 25.

    Far below 0 a chain may be stuck. Somewhat below it a correct one may be: a labelling drawn from the posterior is
    less probable than the most probable one, the more so the more labellings are nearly as good."""
    mean_log_density: np.ndarray
    """[C, G] nats: mean log-density of the group's points under what one chain alone has kept.

    How much the density of a group depends on the chain. Chains whose log joints have not converged may differ in it by
    a fraction of a nat; chains in different states are far apart. The predictive, a mean of densities over all of them,
    is at most log C below the highest in this mean, and may be above it."""


class Problem(NamedTuple):
    """The data of every group and what is proposed from them. Chains run on the device of x and prior."""

    x: Tensor
    group_offsets: Tensor
    prior: NIWPrior
    streams: list[int]
    seed: int
    companions: list[np.ndarray]
    """[3, n, m] for each group: other points that a peel may part together with each point, in three orders: of the
    angle between them as seen from the prior mean, of distance, and (whatever the point) of how outlying they are."""


def problem(
    x: Tensor, group_offsets: Tensor, prior: NIWPrior, streams: list[int], seed: int, device: torch.device = CPU
) -> Problem:
    """x [N, D] points sorted by group, with the prior in their units; streams as in `classfit.gibbs.stream`.

    Tensors are given on the processor; chains are to run on `device`.
    """
    parts = x.split(group_offsets.diff().tolist())
    companions = [companions_of(part.double() - prior.mu0[g], prior.S0[g]) for g, part in enumerate(parts)]
    return Problem(x.to(device), group_offsets, moved(prior, device), streams, seed, companions)


def start(problem: Problem) -> Chains:
    """Chains of which none has begun."""
    G, N = len(problem.streams), len(problem.x)
    counts, aim = np.zeros((2, N_CHAINS, G), np.int64), unlearned(problem.companions)
    return Chains(
        round=0, begun=np.zeros(G, np.bool_), labels=np.zeros((N_CHAINS, N), np.int32), alpha=np.ones((N_CHAINS, G)),
        kept_labels=np.empty((0, N_CHAINS, N), np.int32), kept_alpha=np.empty((0, N_CHAINS, G)),
        log_joint=np.empty((0, N_CHAINS, G)), n_components=np.empty((0, N_CHAINS, G), np.int64), proposed=counts,
        accepted=counts.copy(), stopped=np.zeros(G, np.int64), anchor_weight=aim.weight,
        companions=aim.companions,
        burn_in_log_evidence=np.full((N_CHAINS, N_TRACKS, G), np.nan), simple_log_joint=np.full(G, -np.inf),
    )  # fmt: skip


def burn_in(chains: Chains, problem: Problem, n_init_components: int, n_groups: int | None = None) -> Chains:
    """The burn-in of the next `n_groups` that have not begun; of all, for None.

    Dispersed starts: one component, K0 at random, k-means with K0 and 25.
    """
    groups = np.flatnonzero(~chains.begun)[:n_groups].tolist()
    written = ("begun", "labels", "alpha", "anchor_weight", "companions", "burn_in_log_evidence", "simple_log_joint")
    chains = chains._replace(**{name: getattr(chains, name).copy() for name in written})
    starts = {g: _starts(chains, problem, g, n_init_components) for g in groups}
    sizes = problem.group_offsets.diff().numpy()
    aim = Aim(chains.anchor_weight, chains.companions)
    seen: dict[int, list[np.ndarray]] = {g: [] for g in groups}

    def learn() -> None:
        """Where to try peels, of the labels seen."""
        for g in groups:
            for field, value in zip(aim, aim_of(seen[g], problem.companions[g]), strict=True):
                field[_rows(problem, g)] = value

    def seen_rounds(units: list[tuple[int, int, int]], state: GibbsState, first: int, n_rounds: int) -> GibbsState:
        made = rounds(problem, units, state, first, n_rounds, aim)
        for (g, _, _), labellings in zip(units, _parts(problem, units, made.labels), strict=True):
            seen[g].extend(labellings)
        return made.last()

    units = [(g, c, t) for g in groups for c in range(N_CHAINS) for t in (0, 1)]
    state = GibbsState(
        torch.from_numpy(np.concatenate([starts[g][0 if t else c] for g, c, t in units])),
        torch.ones(len(units), dtype=torch.float64, device=CPU),
    )
    state = seen_rounds(units, state, 0, BURN_IN_ROUNDS)
    bound = chains.burn_in_log_evidence
    bound[:, :, groups] = -np.inf

    def take(units: list[tuple[int, int, int]], state: GibbsState, log_evidence: np.ndarray) -> None:
        """Of each chain the state with the largest bound so far."""
        parts = _parts(problem, units, state.labels)
        for (g, c, t), a, labelling, value in zip(units, state.alpha, parts, log_evidence, strict=True):
            if value > bound[c, :, g].max() + SAME_NATS:
                chains.labels[c, _rows(problem, g)], chains.alpha[c, g] = labelling, float(a)
            bound[c, t, g] = value

    take(units, state, log_evidence_of(problem, units, state))
    annealed = [(g, c, ANNEALED) for g in groups for c in range(N_CHAINS)]
    take(annealed, *_annealed(problem, annealed, 1, aim))
    behind = bound[:, :ANNEALED].max(1) - bound[:, ANNEALED]
    undecided = (behind > SAME_NATS) & (behind < UNDECIDED_NATS_A_POINT * sizes)
    if slower := [(g, c, SLOWER) for g in groups for c in range(N_CHAINS) if undecided[c, g]]:
        take(slower, *_annealed(problem, slower, SLOWNESS, aim))
    learn()
    seen = {g: [] for g in groups}
    units, state = _of_chains(chains, problem, groups)
    for before, after in pairwise((0, *SETTLING_ROUNDS)):
        state = seen_rounds(units, state, BURN_IN_ROUNDS + before, after - before)
        learn()
    _write(problem, units, state, chains.labels, chains.alpha)
    chains.begun[groups] = True
    return chains


def _of_chains(chains: Chains, problem: Problem, groups: list[int]) -> tuple[list[tuple[int, int, int]], GibbsState]:
    """The units and state of all chains of some groups."""
    units = [(g, c, 0) for g in groups for c in range(N_CHAINS)]
    labels = np.concatenate([chains.labels[c, _rows(problem, g)] for g, c, _ in units])
    alpha = torch.tensor([chains.alpha[c, g] for g, c, _ in units], dtype=torch.float64, device=CPU)
    return units, GibbsState(torch.from_numpy(labels).long(), alpha)


def _write(
    problem: Problem, units: list[tuple[int, int, int]], state: GibbsState, labels: np.ndarray, alpha: np.ndarray
) -> None:
    """A state into labels [C, N] and alpha [C, G] of all chains."""
    for (g, c, _), a, labelling in zip(units, state.alpha, _parts(problem, units, state.labels), strict=True):
        labels[c, _rows(problem, g)], alpha[c, g] = labelling, float(a)


def _annealed(
    problem: Problem, units: list[tuple[int, int, int]], slowness: int, aim: Aim
) -> tuple[GibbsState, np.ndarray]:
    """State and bound [U] of annealing: its weight, or the joint density of the labelling that rounds bring it to."""

    def of_part(which: slice, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        part = units[which]
        x, prior, offsets = _tiled(problem, part)
        rngs = [generator(problem.seed, problem.streams[g], _ANNEAL, slowness - 1, 1 + c) for g, c, _ in part]
        state, log_weight = anneal(x, offsets, prior, rngs, slowness)
        state = _rounds(problem, part, state, 0, BURN_IN_ROUNDS, aim).last()
        bound = np.maximum(log_weight, log_evidence_of(problem, part, state))
        return state.labels, state.alpha, torch.from_numpy(bound)

    labels, alpha, bound = _in_parts(of_part, problem, units)
    return GibbsState(labels, alpha), bound.numpy()


def log_evidence_of(problem: Problem, units: list[tuple[int, int, int]], state: GibbsState) -> np.ndarray:
    """[U] log p(x, z), alpha integrated out: a lower bound of the log evidence, by one labelling."""
    offsets = _tiled(problem, units)[2]
    likelihood = _log_joint(problem, units, state) - log_restaurant(state, offsets).numpy()
    return likelihood + log_partition(state.labels, offsets)


def _starts(chains: Chains, problem: Problem, g: int, n_init_components: int) -> list[np.ndarray]:
    """The labelling that each chain of a group starts from; the best of the simple ones goes into `chains`."""
    rng = generator(problem.seed, problem.streams[g], _INIT, 0)
    x = problem.x[_rows(problem, g)]
    points, n = x.double().cpu().numpy(), len(x)
    means = {k: _k_means(points, k, int(rng.integers(2**31 - 1))) for k in {6, 25, n_init_components}}
    scattered = np.unique(rng.integers(n_init_components, size=n), return_inverse=True)[1]
    prior = NIWPrior(*(field[g : g + 1] for field in problem.prior))
    one, alpha = np.zeros(n, np.int64), torch.ones(1, dtype=torch.float64, device=CPU)
    for labelling in (one, means[6], means[25]):
        value = float(log_joint(torch.from_numpy(labelling), alpha, x, torch.tensor([0, n], device=CPU), prior)[0])
        chains.simple_log_joint[g] = max(chains.simple_log_joint[g], value)
    return [one, scattered, means[n_init_components], means[25]]


def advance(chains: Chains, problem: Problem, n_rounds: int) -> Chains:
    """The chains after `n_rounds` more rounds of every group that has not stopped.

    A group stops when it agrees, when it is far from that at half of MAX_ROUNDS or later, or at MAX_ROUNDS; looks are
    taken after every CHECK_ROUNDS rounds, whatever n_rounds.
    """
    t, aim = chains.round, Aim(chains.anchor_weight, chains.companions)
    labels, alpha, stopped = chains.labels.copy(), chains.alpha.copy(), chains.stopped.copy()
    kept_labels, kept_alpha = list(chains.kept_labels), list(chains.kept_alpha)
    joints, numbers = chains.log_joint, chains.n_components
    proposed, accepted = chains.proposed.copy(), chains.accepted.copy()
    while t < chains.round + n_rounds and not stopped.all():
        now = chains._replace(labels=labels, alpha=alpha)
        units, state = _of_chains(now, problem, np.flatnonzero(stopped == 0).tolist())
        next_stop = min(chains.round + n_rounds, *(t - t % every + every for every in (KEEP_EVERY, CHECK_ROUNDS)))
        first = BURN_IN_ROUNDS + SETTLING_ROUNDS[-1] + t + 1
        made = rounds(problem, units, state, first, next_stop - t, aim)
        t = next_stop
        _write(problem, units, made.last(), labels, alpha)
        of_unit, chain, _ = np.array(units).T
        of_all = len(made.labels), *alpha.shape
        joint, number = np.full(of_all, np.nan), np.full(of_all, -1)
        joint[:, chain, of_unit] = _log_joint(problem, units, GibbsState(made.labels, made.alpha))
        number[:, chain, of_unit] = np.stack([part.max(1) + 1 for part in _parts(problem, units, made.labels)], axis=1)
        joints, numbers = np.concatenate([joints, joint]), np.concatenate([numbers, number])
        proposed[:, chain, of_unit] += made.proposed.numpy()
        accepted[:, chain, of_unit] += made.accepted.numpy()
        if t % KEEP_EVERY == 0:
            kept_labels.append(labels.copy())
            kept_alpha.append(alpha.copy())
        if t % CHECK_ROUNDS == 0:
            for g in np.flatnonzero(stopped == 0).tolist():
                found = [agreement(trace[t // 2 :, :, g].T) for trace in (joints, numbers)]
                hopeless = 2 * t >= MAX_ROUNDS and max(rhat for rhat, _ in found) > HALFWAY_RHAT
                if t >= MAX_ROUNDS or hopeless or _agree(*found):
                    stopped[g] = t
    return chains._replace(
        round=t, labels=labels, alpha=alpha, kept_labels=np.array(kept_labels), kept_alpha=np.array(kept_alpha),
        log_joint=joints, n_components=numbers, proposed=proposed, accepted=accepted, stopped=stopped,
    )  # fmt: skip


def progress(round: int, begun: np.ndarray, stopped: np.ndarray) -> tuple[int, int]:
    """Rounds that are done, and of how many, of chains as `Chains` describes them; a burn-in counts for some.

    Groups that have stopped are done, whatever their number of rounds.
    """
    done = BURN_IN_IN_ROUNDS * begun + np.where(stopped > 0, MAX_ROUNDS, round)
    return int(done.sum()), (BURN_IN_IN_ROUNDS + MAX_ROUNDS) * len(done)


def agreement(trace: np.ndarray) -> tuple[float, float]:
    """Rank-normalised R-hat and bulk effective sample size of a trace [C, R] (arviz-stats).

    Of a trace that never changes R-hat is 1 and the effective sample size the number of draws if all chains are equal,
    else infinity and 0.
    """
    if (trace == trace[:, :1]).all():
        return (1.0, float(trace.size)) if (trace == trace[0, 0]).all() else (np.inf, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rhat = float(array_stats.rhat(trace, chain_axis=0, draw_axis=1))
        ess = float(array_stats.ess(trace, chain_axis=0, draw_axis=1))
    return (rhat if np.isfinite(rhat) else np.inf), (ess if np.isfinite(ess) else 0.0)


def judge(chains: Chains, problem: Problem, posterior: Posterior, *, verbose: int = 0) -> Convergence:
    """The verdict on chains that have all stopped, whose labellings (`kept`) the posterior rests on."""
    C, G = chains.alpha.shape
    rhat, ess = np.empty((2, G)), np.empty((2, G))
    for g in range(G):
        t = chains.stopped[g]
        for i, trace in enumerate((chains.log_joint, chains.n_components)):
            rhat[i, g], ess[i, g] = agreement(trace[t // 2 : t, :, g].T)
    units, last = _of_chains(chains, problem, list(range(G)))
    at_one = _log_joint(problem, units, last._replace(alpha=torch.ones_like(last.alpha)))
    above = at_one.reshape(G, C).T - chains.simple_log_joint
    with np.errstate(invalid="ignore"):
        share = chains.accepted / chains.proposed
    return Convergence(
        converged=np.array([_agree(*zip(rhat[:, g], ess[:, g], strict=True)) for g in range(G)]),
        rhat_log_joint=rhat[0], rhat_n_components=rhat[1], ess_log_joint=ess[0], ess_n_components=ess[1],
        log_joint=chains.log_joint, n_components=chains.n_components, rounds=chains.stopped,
        split_acceptance=share[0], merge_acceptance=share[1], burn_in_log_evidence=chains.burn_in_log_evidence,
        above_simple=above, mean_log_density=_mean_log_density(posterior, verbose),
    )  # fmt: skip


def kept(chains: Chains, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """labels [S, N] and alpha [S, G]: N_KEPT of each chain, spread over the second half of each group's rounds.

    In order of time, and of chains at each time.
    """
    N, G = len(problem.x), len(problem.streams)
    labels, alpha = np.empty((N_KEPT * N_CHAINS, N), np.int32), np.empty((N_KEPT * N_CHAINS, G))
    for g in range(G):
        last = chains.stopped[g] // KEEP_EVERY
        at = np.linspace(last / 2, last - 1, N_KEPT).round().astype(int)
        labels[:, _rows(problem, g)] = chains.kept_labels[at][:, :, _rows(problem, g)].reshape(len(labels), -1)
        alpha[:, g] = chains.kept_alpha[at, :, g].reshape(-1)
    return labels, alpha


def _mean_log_density(posterior: Posterior, verbose: int) -> np.ndarray:
    """[C, G] as `Convergence` says."""
    sizes = posterior.group_offsets.diff().numpy()
    groups = np.repeat(posterior.groups, sizes)
    of_chain = [
        posterior.of_sweeps(slice(c, None, N_CHAINS)).log_density(posterior.x, groups, verbose=verbose)
        for c in range(N_CHAINS)
    ]
    return np.add.reduceat(of_chain, posterior.group_offsets[:-1].numpy(), axis=1) / sizes


def _agree(*rhat_and_ess: tuple[float, float]) -> bool:
    return all(rhat < MAX_RHAT and ess > MIN_ESS for rhat, ess in rhat_and_ess)


def _in_parts(
    function: Callable[[slice, slice], tuple[Tensor, ...]], problem: Problem, units: list[tuple[int, int, int]]
) -> tuple[Tensor, ...]:
    """function(which units, which points) of parts of the units, joined along the last axis, of units or points.

    On the processor parts run side by side, one in the interpreter while others are in the engine.
    """
    ends = np.cumsum([0, *_sizes(problem, units).tolist()])
    with threads.reserved():
        n_parts = min(len(units), PARTS_A_THREAD * threads.available()) if problem.x.device.type == "cpu" else 1
        cuts = np.linspace(0, len(units), n_parts + 1).round().astype(int)
        found = threads.run_apart(function, [(slice(a, b), slice(ends[a], ends[b])) for a, b in pairwise(cuts)])
    return tuple(torch.cat(parts, -1) for parts in zip(*found, strict=True))


def rounds(
    problem: Problem, units: list[tuple[int, int, int]], state: GibbsState, first: int, n_rounds: int, aim: Aim
) -> Rounds:
    """Rounds `first` and on, one at least, of units (group, chain, track), each as a group of its own."""

    def of_part(which: slice, rows: slice) -> Rounds:
        part = GibbsState(state.labels[rows], state.alpha[which])
        return _rounds(problem, units[which], part, first, n_rounds, aim)

    return Rounds(*_in_parts(of_part, problem, units))


def _rounds(
    problem: Problem, units: list[tuple[int, int, int]], state: GibbsState, first: int, n_rounds: int, aim: Aim
) -> Rounds:
    """`rounds` in one part."""
    data, found = _tiled(problem, units), []
    for index in range(first, first + n_rounds):
        state, proposed, accepted = _round(problem, units, data, state, index, aim)
        found.append((*state, proposed, accepted))
    labels, alpha, every_proposed, every_accepted = map(torch.stack, zip(*found, strict=True))
    return Rounds(labels, alpha, every_proposed.sum(0), every_accepted.sum(0))


def _round(
    problem: Problem,
    units: list[tuple[int, int, int]],
    data: tuple[Tensor, NIWPrior, Tensor],
    state: GibbsState,
    index: int,
    aim: Aim,
) -> tuple[GibbsState, Tensor, Tensor]:
    """Sweeps, then split-merge proposals; data as of `_tiled`.

    Returns the state (on the processor), and for each unit the numbers [2, U] of splits and merges proposed and
    accepted.
    """
    x, prior, offsets = data
    device, offsets_there, engine = x.device, offsets.to(x.device), unchecked(x)

    def rngs(purpose: int) -> list[np.random.Generator]:
        return [generator(problem.seed, problem.streams[g], purpose, index, _number(c, t)) for g, c, t in units]

    order, uniforms, noise = sweep_numbers(rngs(_SWEEPS), offsets, SWEEPS_A_ROUND)
    states = engine.gibbs_sweep(
        moved(state, device), x, order.to(device), uniforms.to(device), moved(noise, device),
        prior=prior, group_offsets=offsets_there,
    )  # fmt: skip
    state = GibbsState(states.labels[-1], states.alpha[-1])
    every_proposal = [
        peels(
            rngs(_PEELS),
            [problem.companions[g] for g, _, _ in units],
            [aim.rows(_rows(problem, g)) for g, _, _ in units],
        )
    ]
    if index % ROUNDS_BETWEEN_SPLITS == 0:
        every_proposal.append(splits(rngs(_SPLITS), offsets))
    proposed, accepted = torch.zeros(2, 2, len(units), dtype=torch.int64, device=CPU)
    for proposals in every_proposal:
        state, info = engine.split_merge(state, x, moved(proposals, device), prior=prior, group_offsets=offsets_there)
        info = moved(info, CPU)
        made = proposals.anchors[:, :, 0] != proposals.anchors[:, :, 1]
        for i, kind in enumerate((info.split, ~info.split)):
            proposed[i] += (kind & made).sum(0)
            accepted[i] += (kind & info.accepted).sum(0)
    return moved(state, CPU), proposed, accepted


def _number(chain: int, track: int) -> int:
    """Of the random numbers of a track."""
    return 1 + SLOWER * chain + track if track < SLOWER else 1 + SLOWER * N_CHAINS + chain


def _tiled(problem: Problem, units: list[tuple[int, int, int]]) -> tuple[Tensor, NIWPrior, Tensor]:
    """Data, prior and (on the processor) offsets with the group of each unit as one of its own."""
    groups = [g for g, _, _ in units]
    x = torch.cat([problem.x[_rows(problem, g)] for g in groups])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64, device=CPU), _sizes(problem, units).cumsum(0)])
    chosen = torch.tensor(groups, device=CPU).to(x.device)
    return x, NIWPrior(*(field[chosen] for field in problem.prior)), offsets


def _log_joint(problem: Problem, units: list[tuple[int, int, int]], state: GibbsState) -> np.ndarray:
    x, prior, offsets = _tiled(problem, units)
    return log_joint(state.labels, state.alpha, x, offsets, prior).numpy()


def _parts(problem: Problem, units: list[tuple[int, int, int]], labels: Tensor) -> list[np.ndarray]:
    """Labels [N] or [R, N] of each unit."""
    return [part.numpy() for part in labels.split(_sizes(problem, units).tolist(), -1)]


def _sizes(problem: Problem, units: list[tuple[int, int, int]]) -> Tensor:
    """[U] points of each unit's group."""
    return problem.group_offsets.diff()[[g for g, _, _ in units]]


def _rows(problem: Problem, g: int) -> slice:
    return slice(int(problem.group_offsets[g]), int(problem.group_offsets[g + 1]))


def _k_means(points: np.ndarray, k: int, seed: int) -> np.ndarray:
    k = min(k, len(np.unique(points, axis=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = KMeans(k, n_init=1, random_state=seed).fit_predict(points)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)  # of clusters that hold a point
