"""Memorization after Feldman & Zhang (2020), "What neural networks memorize and why", algorithm 1.

    mem(i) = P(network is right on i | i was trained on) - P(network is right on i | it was not)

over networks that are trained on random subsets of the training data. Each finished trial is one file with its subset,
which points it got right, and what it is of, so any number of processes and machines can share the trials, and a trial
that is stopped half-way is the only one lost. The subset of a trial depends on the seed and the number of the trial
alone.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from paper_repro.storage import DamagedError, read_arrays, write_arrays
from paper_repro.workers import run_tasks

__all__ = [
    "FRACTION",
    "Groups",
    "Scores",
    "Trials",
    "covering_seed",
    "held_out_groups",
    "load_trials",
    "memorization_groups",
    "memorization_scores",
    "run_trials",
    "shard_of",
    "subset",
    "unfinished_trials",
]

FRACTION = 0.7
"""Of the points, in each subset."""


class Trials(NamedTuple):
    inside: np.ndarray
    """[R, N] bool: whether a point was in the subset of a trial."""
    correct: np.ndarray
    """[R, N] bool: whether that trial's network classifies it rightly."""


class Scores(NamedTuple):
    value: np.ndarray
    """[N] float64: memorization, in -1..1."""
    standard_error: np.ndarray
    """[N] float64: of the value, from the finite number of trials."""
    n_inside: np.ndarray
    n_outside: np.ndarray
    """[N] int64: trials with and without the point."""


class Groups(NamedTuple):
    """Indices [n] of points, in ascending order."""

    most: np.ndarray
    random: np.ndarray
    least: np.ndarray


def subset(trial: int, n_points: int, *, seed: int) -> np.ndarray:
    """[N] bool: the round(FRACTION N) points that a trial is trained on, drawn without replacement."""
    chosen = np.zeros(n_points, dtype=bool)
    rng = np.random.default_rng([seed, trial])
    chosen[rng.choice(n_points, size=round(FRACTION * n_points), replace=False)] = True
    return chosen


def covering_seed(seeds: Iterable[int], n_trials: int, n_points: int) -> int:
    """The first of the seeds under which every point is inside some trial and outside another, as its score needs.

    Raises:
        ValueError: it is none of them.
    """
    seeds = list(seeds)
    for seed in seeds:
        n_in = np.zeros(n_points, dtype=np.int64)
        for trial in range(n_trials):
            n_in += subset(trial, n_points, seed=seed)
        if n_in.min() > 0 and n_in.max() < n_trials:
            return seed
    raise ValueError(
        f"n_trials must be so many that each of the {n_points} points is inside some trials and outside others, got "
        f"{n_trials} (none of {len(seeds)} seeds has such trials)"
    )


def unfinished_trials(folder: Path, n_trials: int) -> list[int]:
    """The trials that have no file in the folder yet."""
    return [trial for trial in range(n_trials) if not _file(folder, trial).exists()]


def run_trials(
    folder: Path,
    fit: Callable[[np.ndarray, int], np.ndarray],
    n_trials: int,
    n_points: int,
    *,
    seed: int,
    of: str = "",
    shard: tuple[int, int] = (0, 1),
    console: Console | None = None,
    n_processes: int | None = None,
) -> None:
    """Run the trials of a shard that have no file in the folder yet.

    Args:
        folder: gets one file a trial.
        fit: fit(inside [N] bool, trial) trains a network on the points inside and returns [N] bool, which of all points
            it classifies rightly. Can be pickled; all that is random in it follows from the number of the trial.
        n_trials: R, over all shards.
        n_points: N.
        seed: of the subsets.
        of: what tells these trials from those of other data or networks; `load_trials` compares it.
        shard: (i, n): the trials r with r mod n = i.
        console: where progress is shown, if anywhere.
        n_processes: see `workers.run_tasks`.

    Raises:
        ValueError: a shard that is none.
    """
    i, n = shard
    if not 0 <= i < n:
        raise ValueError(f"shard must be (i, n) with 0 <= i < n, got {shard}")
    run_tasks(
        partial(_run_trial, folder, fit, n_points, seed, of),
        range(i, n_trials, n),
        lambda trial: _file(folder, trial).exists(),
        description="memorization trials",
        console=console,
        n_processes=n_processes,
    )


def load_trials(folder: Path, n_points: int, *, seed: int, of: str = "") -> Trials:
    """The trials whose files are in the folder, in order of their numbers.

    Raises:
        ValueError: fewer than two trials, or a trial of something else, or of another seed.
    """
    inside, correct = [], []
    for path in sorted(folder.glob("checkpoint-trial-*.npz")):
        trial = int(path.stem.rsplit("-", 1)[1])
        stored = read_arrays(path)
        same = np.array_equal(stored["inside"], subset(trial, n_points, seed=seed))
        if not same or str(stored.get("of")) != of:
            words = "of another seed, profile or version, or of images that are others or in another order"
            raise DamagedError(f"{path} is {words}. Move it away, then run the same command again")
        inside.append(stored["inside"])
        correct.append(stored["correct"])
    if len(inside) < 2:
        raise ValueError(f"{folder} must hold at least 2 finished trials, got {len(inside)}")
    return Trials(np.stack(inside), np.stack(correct))


def memorization_scores(trials: Trials) -> Scores:
    """mem(i) = c_in / n_in - c_out / n_out, with c the numbers of trials that are right on point i.

    The standard error is that of two independent binomial shares, with one success and one failure added to each so
    that a share of 0 or 1 does not pass for certain (Agresti & Caffo 2000):

        SE^2 = p_in (1 - p_in) / (n_in + 2) + p_out (1 - p_out) / (n_out + 2),      p = (c + 1) / (n + 2)

    Raises:
        ValueError: a point that is in all trials, or in none.
    """
    inside, correct = trials
    n_in, n_out = inside.sum(0), (~inside).sum(0)
    bad = np.flatnonzero((n_in == 0) | (n_out == 0))
    if len(bad):
        raise ValueError(
            f"each point must be inside some trials and outside others; among {len(inside)} trials {len(bad)} points "
            f"are not, the first is {bad[0]}: run more trials"
        )
    right_in, right_out = (correct & inside).sum(0), (correct & ~inside).sum(0)
    variance = _variance(right_in, n_in) + _variance(right_out, n_out)
    return Scores(right_in / n_in - right_out / n_out, np.sqrt(variance), n_in, n_out)


def memorization_groups(scores: np.ndarray, n: int, *, seed: int) -> Groups:
    """The n most memorized points, n at random, and the n least memorized (figure 4); they may overlap.

    Args:
        scores: [N] memorization.
        n: points of each kind, in 1..N.
        seed: of the random points, and of the choice among equal scores.

    Raises:
        ValueError: n out of range.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"n must be in 1..{len(scores)}, got {n}")
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(scores)), scores))
    chosen = rng.choice(len(scores), size=n, replace=False)
    return Groups(np.sort(order[-n:]), np.sort(chosen), np.sort(order[:n]))


def held_out_groups(scores: np.ndarray, n: int, *, seed: int) -> Groups:
    """n points of each kind, none twice, to be held out of a fit (figure A.11).

    First the n most memorized; of the others the n whose scores are nearest to 0, by either sign; of the rest n at
    random.

    Args: as `memorization_groups`; n is in 1..N / 3.

    Raises:
        ValueError: n out of range.
    """
    if not 1 <= 3 * n <= len(scores):
        raise ValueError(f"n must be in 1..{len(scores) // 3}, a third of the points, got {n}")
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(scores)), scores))
    most, others = order[-n:], order[:-n]
    others = others[np.lexsort((rng.random(len(others)), np.abs(scores[others])))]
    return Groups(np.sort(most), np.sort(rng.choice(others[n:], size=n, replace=False)), np.sort(others[:n]))


def shard_of(text: str) -> tuple[int, int]:
    """(i, n) of a text "i/n"; ValueError if it is none with 0 <= i < n."""
    try:
        i, n = map(int, text.split("/"))
        if 0 <= i < n:
            return i, n
    except ValueError:
        pass
    raise ValueError(f"shard must be i/n with 0 <= i < n, got {text!r}")


def _run_trial(
    folder: Path, fit: Callable[[np.ndarray, int], Any], n_points: int, seed: int, of: str, trial: int
) -> None:
    inside = subset(trial, n_points, seed=seed)
    write_arrays(_file(folder, trial), {"inside": inside, "correct": fit(inside, trial), "of": np.array(of)})


def _file(folder: Path, trial: int) -> Path:
    return folder / f"checkpoint-trial-{trial:05d}.npz"


def _variance(right: np.ndarray, n: np.ndarray) -> np.ndarray:
    share = (right + 1) / (n + 2)
    return share * (1 - share) / (n + 2)
