"""What the steps behind figure 3 compute: memorization, density bins, certificates and attacks.

Each step is cut into tasks that write a file of their own, so that they are shared among processes, and a run that was
killed loses only the tasks in hand. Files called `checkpoint*` are gathered into one at the end.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.inputs import log_density_of, train_labels
from paper_repro.steps import CannotError, Work, derived_seed
from paper_repro.storage import read_arrays, sha256, write_arrays
from paper_repro.timing import extrapolated, part_that_is_short, seconds_of, typical

__all__ = [
    "attacks",
    "certification",
    "certification_control",
    "checkpoint_of",
    "density_bins",
    "estimate_attacks",
    "estimate_certification",
    "estimate_certification_control",
    "estimate_density_bins",
    "estimate_memorization",
    "gathered",
    "memorization",
    "memorization_trials",
]

KINDS = ("plain", "noisy")
SEEDS_TRIED = 100
CONTROL = "without_certified_points.safetensors"


def memorization(work: Work) -> None:
    from paper_repro.memorization import load_trials, memorization_scores

    memorization_trials(work)
    labels = train_labels(work)
    trials = load_trials(work.folder, len(labels), seed=_subsets_seed(work, len(labels)), of=_of_trials(work))
    write_arrays(work.folder / "trials.npz", trials._asdict())
    write_arrays(work.folder / "scores.npz", {**memorization_scores(trials)._asdict(), "tr_labels": labels})


def memorization_trials(work: Work, shard: tuple[int, int] = (0, 1)) -> None:
    """Run the trials of a shard; those that have a file in the folder are not run again."""
    from paper_repro.memorization import run_trials

    networks = _subset_networks(work)
    run_trials(
        work.folder,
        partial(_fit_trial, networks, work.settings["seed"]),
        work.settings["n_trials"],
        len(networks.labels),
        seed=_subsets_seed(work, len(networks.labels)),
        of=_of_trials(work),
        shard=shard,
        console=work.console,
    )


def estimate_memorization(work: Work, shard: tuple[int, int] = (0, 1)) -> float:
    from paper_repro.memorization import FRACTION, unfinished_trials

    i, n = shard
    left = [trial for trial in unfinished_trials(work.folder, work.settings["n_trials"]) if trial % n == i]
    return len(left) * _seconds_a_network(work, FRACTION) if left else 0.0


def density_bins(work: Work) -> None:
    """Two networks without each bin: a plain one, and one trained with the noise of the smoothed classifier."""
    from paper_repro.density_bins import density_bins
    from paper_repro.workers import run_tasks

    bins = density_bins(log_density_of(work, 4), work.settings["n_bins"])
    networks = _subset_networks(work)
    run_tasks(
        partial(_fit_without_bin, work.folder, networks, dict(work.settings), bins),
        _networks_of_bins(work),
        lambda task: _weights(work.folder, *task).exists(),
        description="networks without a bin",
        console=work.console,
    )
    write_arrays(work.folder / "bins.npz", {"bins": bins, "predicted": _predictions(work.folder, networks, bins)})


def estimate_density_bins(work: Work) -> float:
    n_left = sum(not _weights(work.folder, *task).exists() for task in _networks_of_bins(work))
    return n_left * _seconds_a_network(work, 1 - 1 / work.settings["n_bins"])


def certification(work: Work) -> None:
    """Certificates of some points of each bin, by the noisy network that was trained without the bin."""
    rows, bins = _chosen(work)
    _certify(work, rows, [_weights(_bins_folder(work), b, "noisy") for b in bins[rows]])


def certification_control(work: Work) -> None:
    """Certificates of the same points, under the same noise, by one noisy network that lacks these points alone.

    Networks without a bin may lack most of a class; this one lacks about as much of every class.
    """
    from paper_repro.workers import run_tasks

    rows, weights = _chosen(work)[0], work.folder / CONTROL
    run_tasks(
        partial(_fit_without, _subset_networks(work), dict(work.settings), rows),
        [weights],
        Path.exists,
        description="network without the certified points",
        console=work.console,
    )
    _certify(work, rows, [weights] * len(rows))


def estimate_certification(work: Work) -> float:
    from paper_repro.certification import COPIES_AT_ONCE, smoothed_counts
    from paper_repro.workers import n_workers, one_thread

    settings, networks = work.settings, _subset_networks(work)
    network, image = networks.build(0).eval(), networks.images(np.arange(1))[0]
    n, n_classes = min(COPIES_AT_ONCE, settings["n"]), len(networks.about["class_names"])
    rows = _chosen(work)[0]
    n_passes = len(rows) * _share_left(work, rows) * (settings["n0"] + settings["n"])

    def seconds(n: int) -> float:
        return seconds_of(
            lambda: smoothed_counts(network, image, n, sigma=settings["sigma"], n_classes=n_classes, seed=0)
        )

    with one_thread():
        n = part_that_is_short(seconds, n)
        return typical(seconds, n) / n * n_passes / n_workers()


def estimate_certification_control(work: Work) -> float:
    votes = estimate_certification(work)
    if (work.folder / CONTROL).exists():
        return votes
    networks = _subset_networks(work)
    return networks.estimate_seconds(len(networks.labels) - len(_chosen(work)[0])) + votes


def attacks(work: Work) -> None:
    """Which points of each bin stay rightly classified within each budget, in the plain network without the bin."""
    from paper_repro.attacks import ATTACKS
    from paper_repro.workers import run_tasks

    rows, bins = _chosen(work)
    run_tasks(
        partial(_attack, work.folder, _subset_networks(work), _bins_folder(work), dict(work.settings), rows, bins),
        _chunks(work, rows),
        lambda chunk: checkpoint_of(work.folder, chunk).exists(),
        description="attacks",
        console=work.console,
    )
    budgets = {f"{name}_budgets": np.array(work.settings["budgets"][attack.norm]) for name, attack in ATTACKS.items()}
    write_arrays(work.folder / "attacks.npz", {"rows": rows, **gathered(work.folder, _chunks(work, rows)), **budgets})


def estimate_attacks(work: Work) -> float:
    from paper_repro.attacks import ATTACKS, survives
    from paper_repro.workers import n_workers, one_thread

    rows, bins = _chosen(work)
    networks = _subset_networks(work)
    # Attacks only begin on points that are classified rightly: time such points of a bin, for the share of all.
    right = read_arrays(_bins_folder(work) / "bins.npz")["predicted"] == networks.labels
    timed = np.flatnonzero(right & (bins == bins[right][0])) if right.any() else np.array([0])
    network = networks.load(_weights(_bins_folder(work), bins[timed[0]], "plain"))
    units = {"mean": networks.about["mean"], "std": networks.about["std"]}

    def seconds(n: int) -> float:
        of_task = np.resize(timed, n)
        points, budgets = (networks.images(of_task), networks.labels[of_task]), work.settings["budgets"]
        return sum(
            seconds_of(partial(survives, network, *points, name, budgets[attack.norm], **units))
            for name, attack in ATTACKS.items()
        )

    n_tasks = len(rows) * _share_left(work, rows) / work.settings["points_a_task"]
    with one_thread():
        # A task attacks its points together, which is cheaper than one by one.
        of_task = extrapolated(
            seconds, 2, 10, max(1, round(work.settings["points_a_task"] * float(right[rows].mean())))
        )
    return of_task * n_tasks / n_workers()


def _of_trials(work: Work) -> str:
    """What tells the trials from those of other networks, or of other images, or of the same in another order."""
    settings = {name: value for name, value in work.settings.items() if name != "n_trials"}
    described = [settings, sha256(work.inputs["dataset"] / "data.safetensors")]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _networks_of_bins(work: Work) -> list[tuple[int, str]]:
    return [(b, kind) for b in range(work.settings["n_bins"]) for kind in KINDS]


def _fit_trial(networks: Any, seed: int, inside: np.ndarray, trial: int) -> np.ndarray:
    network = networks.fit(inside, seed=derived_seed(seed, "trial", trial))
    return networks.predict(network, np.arange(len(inside))) == networks.labels


def _fit_without_bin(folder: Path, networks: Any, settings: Any, bins: np.ndarray, task: tuple[int, str]) -> None:
    b, kind = task
    noise = settings["sigma"] if kind == "noisy" else 0.0
    network = networks.fit(bins != b, seed=derived_seed(settings["seed"], "bin", b, kind), noise=noise)
    networks.save(network, _weights(folder, b, kind))


def _predictions(folder: Path, networks: Any, bins: np.ndarray) -> np.ndarray:
    """[N] class of each point in the plain network without its bin."""
    predicted = np.empty(len(bins), dtype=np.int64)
    for b in range(bins.max() + 1):
        rows = np.flatnonzero(bins == b)
        predicted[rows] = networks.predict(networks.load(_weights(folder, b, "plain")), rows)
    return predicted


def _fit_without(networks: Any, settings: Any, rows: np.ndarray, weights: Path) -> None:
    """A network with noise that lacks these points."""
    inside = np.ones(len(networks.labels), dtype=bool)
    inside[rows] = False
    network = networks.fit(inside, seed=derived_seed(settings["seed"], "control"), noise=settings["sigma"])
    networks.save(network, weights)


def _certify(work: Work, rows: np.ndarray, weights: Sequence[Path]) -> None:
    """Certificates of these points, each by the network in its file."""
    from paper_repro.certification import certify
    from paper_repro.workers import run_tasks

    run_tasks(
        partial(_count_votes, work.folder, _subset_networks(work), dict(work.settings), rows, weights),
        _chunks(work, rows),
        lambda chunk: checkpoint_of(work.folder, chunk).exists(),
        description="certification",
        console=work.console,
    )
    votes = gathered(work.folder, _chunks(work, rows))
    settings = work.settings
    certificates = certify(votes["selection"], votes["estimation"], sigma=settings["sigma"], alpha=settings["alpha"])
    write_arrays(work.folder / "certificates.npz", {"rows": rows, **votes, **certificates._asdict()})


def _count_votes(
    folder: Path, networks: Any, settings: Any, rows: np.ndarray, weights: Sequence[Path], chunk: int
) -> None:
    from paper_repro.certification import smoothed_counts

    votes: dict[str, list[np.ndarray]] = {"selection": [], "estimation": []}
    part = _of_chunk(chunk, rows, settings)
    # Neighbours are of one bin: its network is read once, not for every point.
    load = cache(networks.load)
    for row, file, image in zip(part, _of_chunk(chunk, weights, settings), networks.images(part), strict=True):
        network = load(file)
        for kind, n in (("selection", settings["n0"]), ("estimation", settings["n"])):
            seed = derived_seed(settings["seed"], kind, row)
            votes[kind].append(
                smoothed_counts(
                    network,
                    image,
                    n,
                    sigma=settings["sigma"],
                    n_classes=len(networks.about["class_names"]),
                    seed=seed,
                )
            )
    write_arrays(checkpoint_of(folder, chunk), {kind: np.stack(counts) for kind, counts in votes.items()})


def _attack(
    folder: Path, networks: Any, weights: Path, settings: Any, rows: np.ndarray, bins: np.ndarray, chunk: int
) -> None:
    from paper_repro.attacks import ATTACKS, survives

    part = _of_chunk(chunk, rows, settings)
    images, labels = networks.images(part), networks.labels[part]
    standing: dict[str, np.ndarray] = {}
    for name, attack in ATTACKS.items():
        budgets = settings["budgets"][attack.norm]
        standing[name] = np.empty((len(part), len(budgets)), dtype=bool)
        for b in np.unique(bins[part]):
            own = bins[part] == b
            network = networks.load(_weights(weights, b, "plain"))
            seed = derived_seed(settings["seed"], name, chunk, b)
            units = {"mean": networks.about["mean"], "std": networks.about["std"], "seed": seed}
            standing[name][own] = survives(network, images[own], labels[own], name, budgets, **units).T
    write_arrays(checkpoint_of(folder, chunk), standing)


def _subset_networks(work: Work) -> Any:
    from paper_repro.subset_networks import SubsetNetworks

    return SubsetNetworks(work.inputs["dataset"], work.settings["network"])


def _seconds_a_network(work: Work, share: float) -> float:
    """Wall seconds for a network on that share of the images, with as many side by side as there are processes."""
    from paper_repro.workers import n_workers

    networks = _subset_networks(work)
    return networks.estimate_seconds(round(share * len(networks.labels))) / n_workers()


def _chosen(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """The points that the budget is spent on, and the bins of all points."""
    from paper_repro.density_bins import choose

    bins = read_arrays(_bins_folder(work) / "bins.npz")["bins"]
    labels = _subset_networks(work).labels
    return choose(bins, labels, work.settings["n_per_bin"], seed=_seed(work, "points")), bins


def _chunks(work: Work, rows: np.ndarray) -> range:
    return range(-(-len(rows) // work.settings["points_a_task"]))


def _share_left(work: Work, rows: np.ndarray) -> float:
    """Of the chunks, those that have no file yet."""
    chunks = _chunks(work, rows)
    return sum(not checkpoint_of(work.folder, chunk).exists() for chunk in chunks) / len(chunks)


def _of_chunk(chunk: int, of_points: Any, settings: Any) -> Any:
    n = settings["points_a_task"]
    return of_points[chunk * n : (chunk + 1) * n]


def _bins_folder(work: Work) -> Path:
    return work.input("density_bins")


def _weights(folder: Path, b: int, kind: str) -> Path:
    return folder / f"without_bin_{b:02d}_{kind}.safetensors"


def checkpoint_of(folder: Path, task: Any) -> Path:
    name = "-".join(map(str, task)) if isinstance(task, tuple) else f"{task:05d}"
    return folder / f"checkpoint-{name}.npz"


def gathered(folder: Path, tasks: Iterable[Any]) -> dict[str, np.ndarray]:
    """The arrays of the tasks' files, joined in their order."""
    parts = [read_arrays(checkpoint_of(folder, task)) for task in tasks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _subsets_seed(work: Work, n_points: int) -> int:
    """Of the subsets of the trials: with few trials some seeds have a point that no trial leaves out."""
    from paper_repro.memorization import covering_seed

    seeds = (_seed(work, "subsets", *again) for again in [(), *((k,) for k in range(1, SEEDS_TRIED))])
    try:
        return covering_seed(seeds, work.settings["n_trials"], n_points)
    except ValueError as error:
        raise CannotError(str(error)) from None


def _seed(work: Work, *names: object) -> int:
    return derived_seed(work.settings["seed"], *names)
