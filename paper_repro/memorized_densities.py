"""What the steps behind figures 4 and A.11 compute: densities of memorized and of typical points.

Both use the protocol's own chain for every density. Each density is a task with a file of its own, as in `robustness`.
"""

import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.computations import derived_seed, extrapolated, labels_and_names, mixture
from paper_repro.robustness import checkpoint_of
from paper_repro.steps import Work
from paper_repro.storage import read_arrays, write_arrays

__all__ = ["estimate_generative", "estimate_kl_by_stage", "generative", "kl_by_stage"]


def kl_by_stage(work: Work) -> None:
    """KL divergences between classes, at each stage, of the most, the least and randomly chosen memorized points."""
    from paper_repro.workers import run_tasks

    settings, labels = work.settings, _scores_and_labels(work)[1]
    kept, classes = _groups_of_classes(work)
    tasks = [(name, stage) for name in kept for stage in settings["stages"]]
    run_tasks(
        partial(_class_divergences, work.folder, dict(settings), work.input("representations"), kept, labels),
        tasks,
        lambda task: checkpoint_of(work.folder, task).exists(),
        description="KL between classes",
        console=work.console,
    )
    arrays = {"classes": classes, **{f"{name}_rows": rows for name, rows in kept.items()}}
    for name, stage in tasks:
        for key, value in read_arrays(checkpoint_of(work.folder, (name, stage))).items():
            arrays[f"{name}_{key}_{stage}"] = value
    write_arrays(work.folder / "kl.npz", arrays)


def estimate_kl_by_stage(work: Work) -> float:
    from paper_repro.workers import n_workers, one_thread

    settings, labels = work.settings, _scores_and_labels(work)[1]
    (kept, _), folder = _groups_of_classes(work), work.input("representations")
    total = 0.0
    with one_thread():
        for stage in settings["stages"]:
            for rows in kept.values():
                values = read_arrays(folder / f"layer{stage}.npz")["values"][rows]
                seconds, model = _timed_fit(settings, values, labels[rows])
                total += seconds
                if model is not None:
                    total += _seconds_of_divergence(model, settings["n_draws"]) * _share_kept(settings, model)
    return total / min(n_workers(), len(kept) * len(settings["stages"]))


def _groups_of_classes(work: Work) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Points of each kind, of the classes that have enough of every kind; and those classes."""
    from paper_repro.memorization import memorization_groups

    settings, (scores, labels) = work.settings, _scores_and_labels(work)
    threshold = settings["threshold"]
    n = int((scores > threshold).sum()) if threshold is not None else settings["n_points"]
    groups = memorization_groups(scores, n, seed=derived_seed(settings["seed"], "groups"))._asdict()
    counts = np.stack([np.bincount(labels[rows], minlength=labels.max() + 1) for rows in groups.values()])
    classes = np.flatnonzero(counts.min(0) >= settings["least_points"])
    if len(classes) < 2:
        raise ValueError(
            f"least_points must leave at least two classes, got {settings['least_points']}: of {len(counts[0])} "
            f"classes {len(classes)} have as many points among the {n} of each kind"
        )
    return {name: rows[np.isin(labels[rows], classes)] for name, rows in groups.items()}, classes


def generative(work: Work) -> None:
    """Generative classification of points that are left out of the densities' fit (figure A.11)."""
    from paper_repro.workers import run_tasks

    groups, labels = _held_out(work), _scores_and_labels(work)[1]
    stages = work.settings["stages"]
    run_tasks(
        partial(_classify, work.folder, dict(work.settings), work.input("representations"), groups, labels),
        stages,
        lambda stage: checkpoint_of(work.folder, stage).exists(),
        description="generative classification",
        console=work.console,
    )
    predicted = {
        f"{name}_predicted": np.stack([read_arrays(checkpoint_of(work.folder, stage))[name] for stage in stages])
        for name in groups
    }
    arrays = {f"{name}_rows": rows for name, rows in groups.items()} | predicted
    write_arrays(work.folder / "generative.npz", arrays)


def estimate_generative(work: Work) -> float:
    from paper_repro.workers import n_workers, one_thread

    settings, labels, groups = work.settings, _scores_and_labels(work)[1], _held_out(work)
    held = np.concatenate(list(groups.values()))
    rest = np.setdiff1d(np.arange(len(labels)), held)
    few = held[:: max(1, len(held) // 100)]
    total = 0.0
    with one_thread():
        for stage in settings["stages"]:
            values = read_arrays(work.input("representations") / f"layer{stage}.npz")["values"]
            seconds, model = _timed_fit(settings, values[rest], labels[rest])
            total += seconds
            if model is not None:
                start = time.perf_counter()
                model.class_log_density(values[few])
                total += (time.perf_counter() - start) * len(held) / len(few) * _share_kept(settings, model)
    return total / min(n_workers(), len(settings["stages"]))


def _held_out(work: Work) -> dict[str, np.ndarray]:
    from paper_repro.memorization import held_out_groups

    seed = derived_seed(work.settings["seed"], "held out")
    return held_out_groups(_scores_and_labels(work)[0], work.settings["n_points"], seed=seed)._asdict()


TIMED_SWEEPS = 5, 20


def _timed_fit(settings: Any, values: np.ndarray, labels: np.ndarray) -> tuple[float, Any]:
    """Seconds that the protocol's fit would take, from a few sweeps, and the model after them.

    Of a protocol that runs until chains agree, one class is fitted instead, and there is no such model.
    """
    if settings.get("density", "chain") != "chain":
        first = labels == labels[0]
        model = mixture(settings, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            model.fit(values[first], groups=labels[first])
        return (time.perf_counter() - start) * len(np.unique(labels)), None
    found: list[Any] = []

    def seconds(n_sweeps: int) -> float:
        model = mixture(settings, 0, n_sweeps=n_sweeps, n_discard=0, thin=1)
        start = time.perf_counter()
        found.append(model.fit(values, groups=labels))
        return time.perf_counter() - start

    few, more = TIMED_SWEEPS
    total = extrapolated(seconds, few, more, settings["n_sweeps"])
    return total, found[-1]


def _share_kept(settings: Any, model: Any) -> float:
    """Labellings that the protocol keeps, over those of the model: time goes with them."""
    return (settings["n_sweeps"] - settings["n_discard"]) / settings["thin"] / len(model.posterior_.labels)


def _seconds_of_divergence(model: Any, n_draws: int) -> float:
    def seconds(n: int) -> float:
        start = time.perf_counter()
        model.posterior_.kl_divergence(n_draws=n, random_state=0)
        return time.perf_counter() - start

    return extrapolated(seconds, n_draws // 200 + 2, n_draws // 50 + 4, n_draws)


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
    write_arrays(checkpoint_of(folder, task), estimate._asdict())


def _classify(
    folder: Path, settings: Any, representations: Path, groups: dict[str, np.ndarray], labels: np.ndarray, stage: int
) -> None:
    from classfit import ClassConditionalDensity

    values = read_arrays(representations / f"layer{stage}.npz")["values"]
    rest = np.setdiff1d(np.arange(len(labels)), np.concatenate(list(groups.values())))
    classifier = ClassConditionalDensity(_mixture(settings, "rest", stage)).fit(values[rest], labels[rest])
    predicted = {name: classifier.predict(values[rows]) for name, rows in groups.items()}
    write_arrays(checkpoint_of(folder, stage), predicted)


def _mixture(settings: Any, name: str, stage: int) -> Any:
    return mixture(settings, derived_seed(settings["seed"], "densities", name, stage))


def _scores_and_labels(work: Work) -> tuple[np.ndarray, np.ndarray]:
    return read_arrays(work.input("memorization") / "scores.npz")["value"], labels_and_names(work)[0]
