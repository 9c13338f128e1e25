"""Simulation-based calibration (Talts et al. 2018) of the protocol `converged`: `python tests/recovery.py [REPEATS [D
[POINTS [ROUNDS]]]]`, without arguments 200 repeats of 100 points in 2 dimensions, 100 rounds.

With more than 1,000 points the burn-in is annealed through an eighth of the temperatures, once: it is discarded, and in
full it would take nearly all of the time.

Truth and data are drawn from the model; the posterior is sampled under the same prior; the rank of the truth among
posterior draws must be uniform. What is ranked is the mean log-density, under the mixture, of points near the data: so
sampler, prior, component posteriors, weights and the part of the mixture that no point has shown all enter. Points
drawn from the truth would not do: given the data, they tell which mixture is the true one.
"""

import sys

import numpy as np
import torch
from rich.progress import track
from scipy import stats

from classfit import annealing, convergence
from classfit.prior import niw_posterior
from kernels import NIWPrior, component_statistics

KAPPA0 = 0.1
STICKS = 100
NEW_POINTS = 40
POINTS_AT_ONCE = 100_000
"""More are sampled in turns, each with a seed of its own: memory is of these points only."""


def draw_niw(rng, m: np.ndarray, kappa: float, nu: float, S: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`size` draws of mean and covariance."""
    covariance = stats.invwishart.rvs(nu, S, size=size, random_state=rng).reshape(size, len(m), len(m))
    chol = np.linalg.cholesky(covariance)
    return m + np.einsum("kij,kj->ki", chol, rng.normal(size=(size, len(m)))) / np.sqrt(kappa), covariance


def draw_sticks(rng, alpha: float) -> np.ndarray:
    """Weights of a Dirichlet process, the last of which takes what is left."""
    broken = rng.beta(1, alpha, size=STICKS)
    broken[-1] = 1
    return broken * np.concatenate([[1], np.cumprod(1 - broken[:-1])])


def mean_log_density(x: np.ndarray, weight: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    white = np.linalg.solve(np.linalg.cholesky(covariance), (x[None] - mean[:, None]).transpose(0, 2, 1))
    log_det = np.linalg.slogdet(covariance)[1]
    log_normal = -0.5 * ((white**2).sum(1) + log_det[:, None] + x.shape[1] * np.log(2 * np.pi))
    with np.errstate(divide="ignore"):
        return float(np.logaddexp.reduce(np.log(weight)[:, None] + log_normal, axis=0).mean())


def ranks(n_repeats: int, n: int, D: int, seed: int, rounds: int) -> np.ndarray:
    """[repeats] number of posterior draws, of N_KEPT a chain, that are below the truth."""
    rng = np.random.default_rng(seed)
    nu0 = D + 3.0
    data, new, truth = [], [], []
    for _ in range(n_repeats):
        weight = draw_sticks(rng, rng.gamma(1))
        mean, covariance = draw_niw(rng, np.zeros(D), KAPPA0, nu0, np.eye(D), STICKS)
        k = rng.choice(STICKS, size=n, p=weight)
        x = mean[k] + np.einsum("nij,nj->ni", np.linalg.cholesky(covariance[k]), rng.normal(size=(len(k), D)))
        data.append(x)
        new.append(x[rng.integers(n, size=NEW_POINTS)] + rng.normal(size=(NEW_POINTS, D)))
        truth.append(mean_log_density(new[-1], weight, mean, covariance))
    G = n_repeats
    prior = NIWPrior(
        torch.zeros(G, D, dtype=torch.float64),
        torch.full((G,), KAPPA0, dtype=torch.float64),
        torch.full((G,), nu0, dtype=torch.float64),
        torch.eye(D, dtype=torch.float64).expand(G, D, D).contiguous(),
    )
    problem = convergence.problem(
        torch.from_numpy(np.concatenate(data)), n * torch.arange(G + 1), prior, list(range(G)), seed
    )
    # A fixed number of rounds: calibration is of the draws, whether or not a look would have stopped them earlier.
    chains = convergence.burn_in(convergence.start(problem), problem, 6)._replace(stopped=np.zeros(G, np.int64))
    chains = convergence.advance(chains, problem, rounds)._replace(stopped=np.full(G, rounds))
    labels, alpha = convergence.kept(chains, problem)
    below = np.zeros(G, np.int64)
    for g in range(G):
        x = problem.x[g * n : (g + 1) * n]
        for s in range(len(labels)):
            z = torch.from_numpy(labels[s, g * n : (g + 1) * n]).long()
            K = int(z.max()) + 1
            statistics = component_statistics(x, z, K)
            posterior = niw_posterior(prior, g, statistics)
            drawn = [
                draw_niw(rng, m.numpy(), float(kappa), float(nu), S.numpy(), 1)
                for kappa, nu, m, S in zip(*posterior, strict=True)
            ]
            shares = rng.dirichlet([*statistics.counts[0].tolist(), alpha[s, g]])
            unseen = draw_niw(rng, np.zeros(D), KAPPA0, nu0, np.eye(D), STICKS)
            weight = np.concatenate([shares[:-1], shares[-1] * draw_sticks(rng, alpha[s, g])])
            mean, covariance = (np.concatenate([*seen, rest]) for *seen, rest in zip(*drawn, unseen, strict=True))
            below[g] += mean_log_density(new[g], weight, mean, covariance) < truth[g]
    return below


def report(below: np.ndarray, n_draws: int) -> dict[str, float]:
    """Coverage of the central 90% interval, and how unlikely ranks as uneven as these are if truth is a draw too."""
    inside = (below >= round(0.05 * (n_draws + 1))) & (below < round(0.95 * (n_draws + 1)))
    # Bins do not hold equally many of the n_draws + 1 possible ranks.
    bins, possible = (np.histogram(ranks, bins=8, range=(0, n_draws + 1))[0] for ranks in (below, range(n_draws + 1)))
    level = (round(0.95 * (n_draws + 1)) - round(0.05 * (n_draws + 1))) / (n_draws + 1)
    return {
        "repeats": len(below),
        "nominal": level,
        "coverage": inside.mean(),
        "standard_error": np.sqrt(level * (1 - level) / len(below)),
        "p_uniform": stats.chisquare(bins, possible * len(below) / (n_draws + 1)).pvalue,
    }


if __name__ == "__main__":
    convergence.CHECK_ROUNDS = convergence.MAX_ROUNDS = 10**9
    repeats, D, n, rounds = (int(value) for value in (*sys.argv[1:], *(200, 2, 100, 100)[len(sys.argv) - 1 :]))
    if n > 1000:
        annealing.TEMPERATURES, convergence.UNDECIDED_NATS_A_POINT = annealing.TEMPERATURES[::8], 0
    at_once = max(1, POINTS_AT_ONCE // n)
    turns = [min(at_once, repeats - done) for done in range(0, repeats, at_once)]
    below = [ranks(size, n=n, D=D, seed=seed, rounds=rounds) for seed, size in enumerate(track(turns, "calibration"))]
    for name, value in report(np.concatenate(below), convergence.N_KEPT * convergence.N_CHAINS).items():
        print(f"{name}: {value:.4g}")
