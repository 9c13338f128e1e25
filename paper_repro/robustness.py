"""What the steps behind figures 3, 4 and A.11 compute: memorization, density bins, certificates, attacks, densities.

Each step is cut into tasks that write a file of their own, so that they are shared among processes, and a run that was
killed loses only the tasks in hand. Files called `checkpoint*` are gathered into one at the end.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.computations import derived_seed
from paper_repro.steps import Work
from paper_repro.storage import read_arrays, write_arrays

__all__ = [
    "attacks",
    "certification",
    "density_bins",
    "estimate_certification",
    "estimate_density_bins",
    "estimate_memorization",
    "generative",
    "kl_by_stage",
    "memorization",
    "memorization_trials",
]

KINDS = ("plain", "noisy")


def memorization(work: Work) -> None:
    from paper_repro.memorization import load_trials, memorization_scores

    memorization_trials(work)
    _, labels = _subset_networks(work).data()
    trials = load_trials(work.folder, len(labels), seed=_seed(work, "subsets"))
    write_arrays(work.folder / "trials.npz", trials._asdict())
    write_arrays(work.folder / "scores.npz", memorization_scores(trials)._asdict())


def memorization_trials(work: Work, shard: tuple[int, int] = (0, 1)) -> None:
    """Run the trials of a shard; those that have a file in the folder are not run again."""
    from paper_repro.memorization import run_trials

    networks = _subset_networks(work)
    run_trials(
        work.folder,
        partial(_fit_trial, networks, work.settings["seed"]),
        work.settings["n_trials"],
        len(networks.data()[1]),
        seed=_seed(work, "subsets"),
        shard=shard,
        console=work.console,
    )


def estimate_memorization(work: Work) -> float:
    return work.settings["n_trials"] * _seconds_a_network(work, 0.7)


def density_bins(work: Work) -> None:
    """Two networks without each bin: a plain one, and one trained with the noise of the smoothed classifier."""
    from paper_repro.density_bins import density_bins
    from paper_repro.workers import run_tasks

    log_density = read_arrays(_input(work, "posterior_stage_4") / "density.npz")["log_density"]
    bins = density_bins(log_density, work.settings["n_bins"])
    networks = _subset_networks(work)
    tasks = [(b, kind) for b in range(work.settings["n_bins"]) for kind in KINDS]
    run_tasks(
        partial(_fit_without_bin, work.folder, networks, dict(work.settings), bins),
        tasks,
        lambda task: _weights(work.folder, *task).exists(),
        description="networks without a bin",
        console=work.console,
    )
    write_arrays(work.folder / "bins.npz", {"bins": bins, "predicted": _predictions(work.folder, networks, bins)})


def estimate_density_bins(work: Work) -> float:
    n_bins = work.settings["n_bins"]
    return 2 * n_bins * _seconds_a_network(work, 1 - 1 / n_bins)


def certification(work: Work) -> None:
    """Certificates of some points of each bin, by the noisy network that was trained without the bin."""
    from paper_repro.certification import certify
    from paper_repro.workers import run_tasks

    rows, bins = _chosen(work)
    run_tasks(
        partial(_count_votes, work.folder, _subset_networks(work), _bins_folder(work), dict(work.settings), rows, bins),
        _chunks(work, rows),
        lambda chunk: _checkpoint(work.folder, chunk).exists(),
        description="certification",
        console=work.console,
    )
    votes = _gathered(work, rows)
    settings = work.settings
    certificates = certify(votes["selection"], votes["estimation"], sigma=settings["sigma"], alpha=settings["alpha"])
    write_arrays(work.folder / "certificates.npz", {"rows": rows, **votes, **certificates._asdict()})


def estimate_certification(work: Work) -> float:
    from paper_repro.certification import smoothed_counts
    from paper_repro.workers import seconds_for_tasks

    settings, networks = work.settings, _subset_networks(work)
    images, _ = networks.data()
    network, n = networks.build(0).eval(), min(1000, settings["n"])
    n_passes = len(_chosen(work)[0]) * (settings["n0"] + settings["n"])
    # The first pass also chooses kernels and allocates memory.
    seconds = [
        seconds_for_tasks(
            lambda: smoothed_counts(network, images[0], n, sigma=settings["sigma"], n_classes=1, seed=0),
            -(-n_passes // n),
        )
        for _ in range(2)
    ]
    return seconds[-1]


def attacks(work: Work) -> None:
    """Which points of each bin stay rightly classified within each budget, in the plain network without the bin."""
    from paper_repro.attacks import ATTACKS
    from paper_repro.workers import run_tasks

    rows, bins = _chosen(work)
    run_tasks(
        partial(_attack, work.folder, _subset_networks(work), _bins_folder(work), dict(work.settings), rows, bins),
        _chunks(work, rows),
        lambda chunk: _checkpoint(work.folder, chunk).exists(),
        description="attacks",
        console=work.console,
    )
    budgets = {f"{name}_budgets": np.array(work.settings["budgets"][attack.norm]) for name, attack in ATTACKS.items()}
    write_arrays(work.folder / "attacks.npz", {"rows": rows, **_gathered(work, rows), **budgets})


def kl_by_stage(work: Work) -> None:
    """KL divergences between classes, at each stage, of the most, the least and randomly chosen memorized points."""
    from paper_repro.memorization import memorization_groups
    from paper_repro.workers import run_tasks

    settings, (scores, labels) = work.settings, _scores_and_labels(work)
    threshold = settings["threshold"]
    n = int((scores > threshold).sum()) if threshold is not None else settings["n_points"]
    groups = memorization_groups(scores, n, seed=_seed(work, "groups"))._asdict()
    counts = np.stack([np.bincount(labels[rows], minlength=labels.max() + 1) for rows in groups.values()])
    classes = np.flatnonzero(counts.min(0) >= settings["least_points"])
    if len(classes) < 2:
        raise ValueError(
            f"least_points must leave at least two classes, got {settings['least_points']}: of {len(counts[0])} "
            f"classes {len(classes)} have as many points among the {n} of each kind"
        )
    kept = {name: rows[np.isin(labels[rows], classes)] for name, rows in groups.items()}
    tasks = [(name, stage) for name in kept for stage in settings["stages"]]
    run_tasks(
        partial(_class_divergences, work.folder, dict(settings), _input(work, "representations"), kept, labels),
        tasks,
        lambda task: _checkpoint(work.folder, task).exists(),
        description="KL between classes",
        console=work.console,
    )
    arrays = {"classes": classes, **{f"{name}_rows": rows for name, rows in kept.items()}}
    for name, stage in tasks:
        for key, value in read_arrays(_checkpoint(work.folder, (name, stage))).items():
            arrays[f"{name}_{key}_{stage}"] = value
    write_arrays(work.folder / "kl.npz", arrays)


def generative(work: Work) -> None:
    """Generative classification of points that are left out of the densities' fit (figure A.11)."""
    from paper_repro.memorization import held_out_groups
    from paper_repro.workers import run_tasks

    scores, labels = _scores_and_labels(work)
    groups = held_out_groups(scores, work.settings["n_points"], seed=_seed(work, "held out"))._asdict()
    stages = work.settings["stages"]
    run_tasks(
        partial(_classify, work.folder, dict(work.settings), _input(work, "representations"), groups, labels),
        stages,
        lambda stage: _checkpoint(work.folder, stage).exists(),
        description="generative classification",
        console=work.console,
    )
    predicted = {
        f"{name}_predicted": np.stack([read_arrays(_checkpoint(work.folder, stage))[name] for stage in stages])
        for name in groups
    }
    arrays = {f"{name}_rows": rows for name, rows in groups.items()} | predicted
    write_arrays(work.folder / "generative.npz", arrays)


def _fit_trial(networks: Any, seed: int, inside: np.ndarray, trial: int) -> np.ndarray:
    from paper_repro.subset_networks import predict

    images, labels = networks.data()
    network = networks.fit(inside, seed=derived_seed(seed, "trial", trial))
    return predict(network, images) == labels.numpy()


def _fit_without_bin(folder: Path, networks: Any, settings: Any, bins: np.ndarray, task: tuple[int, str]) -> None:
    b, kind = task
    noise = settings["sigma"] if kind == "noisy" else 0.0
    network = networks.fit(bins != b, seed=derived_seed(settings["seed"], "bin", b, kind), noise=noise)
    networks.save(network, _weights(folder, b, kind))


def _predictions(folder: Path, networks: Any, bins: np.ndarray) -> np.ndarray:
    """[N] class of each point in the plain network without its bin."""
    from paper_repro.subset_networks import predict

    images, labels = networks.data()
    predicted = np.empty(len(labels), dtype=np.int64)
    for b in range(bins.max() + 1):
        predicted[bins == b] = predict(networks.load(_weights(folder, b, "plain")), images[bins == b])
    return predicted


def _count_votes(
    folder: Path, networks: Any, weights: Path, settings: Any, rows: np.ndarray, bins: np.ndarray, chunk: int
) -> None:
    from paper_repro.certification import smoothed_counts

    images, _ = networks.data()
    votes: dict[str, list[np.ndarray]] = {"selection": [], "estimation": []}
    for row in _rows_of(chunk, rows, settings):
        network = networks.load(_weights(weights, bins[row], "noisy"))
        for kind, n in (("selection", settings["n0"]), ("estimation", settings["n"])):
            seed = derived_seed(settings["seed"], kind, row)
            votes[kind].append(
                smoothed_counts(
                    network,
                    images[row],
                    n,
                    sigma=settings["sigma"],
                    n_classes=len(networks.about()["class_names"]),
                    seed=seed,
                )
            )
    write_arrays(_checkpoint(folder, chunk), {kind: np.stack(counts) for kind, counts in votes.items()})


def _attack(
    folder: Path, networks: Any, weights: Path, settings: Any, rows: np.ndarray, bins: np.ndarray, chunk: int
) -> None:
    from paper_repro.attacks import ATTACKS, survives

    (images, labels), about = networks.data(), networks.about()
    part = _rows_of(chunk, rows, settings)
    standing: dict[str, np.ndarray] = {}
    for name, attack in ATTACKS.items():
        budgets = settings["budgets"][attack.norm]
        standing[name] = np.empty((len(part), len(budgets)), dtype=bool)
        for b in np.unique(bins[part]):
            own = bins[part] == b
            network = networks.load(_weights(weights, b, "plain"))
            seed = derived_seed(settings["seed"], name, chunk, b)
            units = {"mean": about["mean"], "std": about["std"], "seed": seed}
            standing[name][own] = survives(network, images[part[own]], labels[part[own]], name, budgets, **units).T
    write_arrays(_checkpoint(folder, chunk), standing)


def _class_divergences(
    folder: Path,
    settings: Any,
    representations: Path,
    groups: dict[str, np.ndarray],
    labels: np.ndarray,
    task: tuple[str, int],
) -> None:
    name, stage = task
    rows = groups[name]
    values = read_arrays(representations / f"layer{stage}.npz")["values"][rows]
    model = _mixture(settings, name, stage).fit(values, groups=labels[rows])
    seed = derived_seed(settings["seed"], "divergence", name, stage)
    estimate = model.posterior_.kl_divergence(n_draws=settings["n_draws"], random_state=seed)
    write_arrays(_checkpoint(folder, task), estimate._asdict())


def _classify(
    folder: Path, settings: Any, representations: Path, groups: dict[str, np.ndarray], labels: np.ndarray, stage: int
) -> None:
    from classfit import ClassConditionalDensity

    values = read_arrays(representations / f"layer{stage}.npz")["values"]
    rest = np.setdiff1d(np.arange(len(labels)), np.concatenate(list(groups.values())))
    classifier = ClassConditionalDensity(_mixture(settings, "rest", stage)).fit(values[rest], labels[rest])
    predicted = {name: classifier.predict(values[rows]) for name, rows in groups.items()}
    write_arrays(_checkpoint(folder, stage), predicted)


def _mixture(settings: Any, name: str, stage: int) -> Any:
    from classfit import DPGaussianMixture

    names = ("n_sweeps", "n_discard", "thin", "block_size", "n_init_components", "official")
    chain = {name: settings[name] for name in names}
    return DPGaussianMixture(**chain, random_state=derived_seed(settings["seed"], "densities", name, stage))


def _subset_networks(work: Work) -> Any:
    from paper_repro.subset_networks import SubsetNetworks
    from paper_repro.training import TrainingSettings

    network = work.settings["network"]
    training = {name: network[name] for name in ("epochs", "batch_size", "peak_learning_rate", "crop_padding")}
    return SubsetNetworks(
        work.inputs["dataset"], tuple(network["blocks"]), network["width"], TrainingSettings(**training)
    )


def _seconds_a_network(work: Work, share: float) -> float:
    """Wall seconds for a network on that share of the images, with as many side by side as there are threads."""
    import torch

    from paper_repro.training import estimate_seconds

    networks = _subset_networks(work)
    images, labels = networks.data()
    n = round(share * len(labels))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return estimate_seconds(networks.build(0), images[:n], labels[:n], networks.training) / threads
    finally:
        torch.set_num_threads(threads)


def _scores_and_labels(work: Work) -> tuple[np.ndarray, np.ndarray]:
    from paper_repro.storage import read_tensors

    labels = read_tensors(work.inputs["dataset"] / "data.safetensors")[0]["train_labels"].numpy()
    return read_arrays(_input(work, "memorization") / "scores.npz")["value"], labels


def _chosen(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """The points that the budget is spent on, and the bins of all points."""
    from paper_repro.density_bins import choose

    bins = read_arrays(_bins_folder(work) / "bins.npz")["bins"]
    labels = _subset_networks(work).data()[1].numpy()
    return choose(bins, labels, work.settings["n_per_bin"], seed=_seed(work, "points")), bins


def _chunks(work: Work, rows: np.ndarray) -> range:
    return range(-(-len(rows) // work.settings["points_a_task"]))


def _rows_of(chunk: int, rows: np.ndarray, settings: Any) -> np.ndarray:
    n = settings["points_a_task"]
    return rows[chunk * n : (chunk + 1) * n]


def _gathered(work: Work, rows: np.ndarray) -> dict[str, np.ndarray]:
    parts = [read_arrays(_checkpoint(work.folder, chunk)) for chunk in _chunks(work, rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _input(work: Work, kind: str) -> Path:
    """Folder of the input of that kind, whatever folder it lies in."""
    (folder,) = (path for name, path in work.inputs.items() if name.rsplit("/", 1)[-1] == kind)
    return folder


def _bins_folder(work: Work) -> Path:
    return _input(work, "density_bins")


def _weights(folder: Path, b: int, kind: str) -> Path:
    return folder / f"without_bin_{b:02d}_{kind}.safetensors"


def _checkpoint(folder: Path, task: Any) -> Path:
    name = "-".join(map(str, task)) if isinstance(task, tuple) else f"{task:05d}"
    return folder / f"checkpoint-{name}.npz"


def _seed(work: Work, *names: object) -> int:
    return derived_seed(work.settings["seed"], *names)
