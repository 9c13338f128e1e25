"""What the steps behind figures 4, A.11 and B.6 compute: densities of memorized and of typical points.

All use the protocol's own chains for every density, those of `converged` under `heldout` (`robustness_pipeline`). Each
density is a task with a file of its own, as in `robustness`.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.computations import mixture
from paper_repro.inputs import train_labels, train_scores, values_of
from paper_repro.machine import density_device
from paper_repro.robustness import checkpoint_of
from paper_repro.steps import CannotError, Work, derived_seed
from paper_repro.storage import read_arrays, write_arrays
from paper_repro.timing import seconds_of, timed_fit

__all__ = ["estimate_generative", "estimate_kl_by_stage", "generative", "kl_by_stage"]


def kl_by_stage(work: Work) -> None:
    """KL divergences between classes, at each stage, of the most, the least and randomly chosen memorized points.

    With settings["cells"], pairs of a stage and a number of dimensions, likewise in each of these.
    """
    from paper_repro.workers import run_tasks

    settings, labels = work.settings, train_labels(work)
    kept, classes = _groups_of_classes(work)
    cells = _cells(settings)
    tasks = [(name, *cell) for name in kept for cell in cells]
    run_tasks(
        partial(_class_divergences, work.folder, dict(settings), _representations(work), kept, labels),
        tasks,
        lambda task: checkpoint_of(work.folder, task).exists(),
        description="KL between classes",
        console=work.console,
    )
    arrays = {"classes": classes, **{f"{name}_rows": rows for name, rows in kept.items()}}
    for name, *cell in tasks:
        for key, value in read_arrays(checkpoint_of(work.folder, (name, *cell))).items():
            arrays["_".join(map(str, (name, key, *cell)))] = value
    write_arrays(work.folder / "kl.npz", arrays)


def estimate_kl_by_stage(work: Work) -> float:
    from paper_repro.workers import n_workers, one_thread

    settings, labels = work.settings, train_labels(work)
    (kept, classes), folder = _groups_of_classes(work), _representations(work)
    tasks: list[tuple[Any, ...]] = [(name, *cell) for name in kept for cell in _cells(settings)]
    left = [task for task in tasks if not checkpoint_of(work.folder, task).exists()]
    total = 0.0
    with one_thread():
        for name, *cell in left:
            rows = kept[name]
            values = _values(folder, *cell)[rows]
            seconds, model = _timed_fit(settings, values, labels[rows])
            total += seconds + _seconds_of_divergences(model, len(classes), settings["n_draws"])
    return total / max(1, min(n_workers(), len(left)))


def _cells(settings: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """(stage, dimensions) of figure B.6, or (stage,) of figure 4, which has all dimensions that are there."""
    if "cells" in settings:
        return [(stage, D) for stage, D in settings["cells"]]
    return [(stage,) for stage in settings["stages"]]


def _representations(work: Work) -> Path:
    return work.input("wide_representations" if "cells" in work.settings else "representations")


def _values(representations: Path, stage: int, D: int | None = None) -> np.ndarray:
    """[N, D] of a stage: its D leading singular vectors, or all that are kept."""
    return read_arrays(representations / f"layer{stage}.npz")["values"][:, :D]


def _groups_of_classes(work: Work) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Points of each kind, of the classes that have enough of every kind; and those classes."""
    from paper_repro.memorization import memorization_groups

    settings, scores, labels = work.settings, train_scores(work)["value"], train_labels(work)
    threshold = settings["threshold"]
    n = int((scores > threshold).sum()) if threshold is not None else settings["n_points"]
    if n == 0:
        raise CannotError(f"no memorization score is above {threshold}, the highest is {scores.max():.2f}")
    groups = memorization_groups(scores, n, seed=derived_seed(settings["seed"], "groups"))._asdict()
    counts = np.stack([np.bincount(labels[rows], minlength=labels.max() + 1) for rows in groups.values()])
    classes = np.flatnonzero(counts.min(0) >= settings["least_points"])
    if len(classes) < 2:
        raise CannotError(
            f"least_points must leave at least two classes, got {settings['least_points']}: of {len(counts[0])} "
            f"classes {len(classes)} have as many points among the {n} of each kind; the fewer memorized points there "
            "are, the fewer of each class"
        )
    return {name: rows[np.isin(labels[rows], classes)] for name, rows in groups.items()}, classes


def generative(work: Work) -> None:
    """Generative classification of points that are left out of the densities' fit (figure A.11)."""
    from paper_repro.workers import run_tasks

    groups, labels = _held_out(work), train_labels(work)
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

    settings, labels, groups = work.settings, train_labels(work), _held_out(work)
    held = np.concatenate(list(groups.values()))
    rest = np.setdiff1d(np.arange(len(labels)), held)
    few = held[:: max(1, len(held) // 100)]
    left = [stage for stage in settings["stages"] if not checkpoint_of(work.folder, stage).exists()]
    total = 0.0
    with one_thread():
        for stage in left:
            values = values_of(work, stage)
            seconds, model = _timed_fit(settings, values[rest], labels[rest])
            model.class_log_density(values[few])  # compiles
            every_class = len(np.unique(labels)) * seconds_of(partial(model.class_log_density, values[few]))
            total += seconds + every_class * len(held) / len(few)
    return total / max(1, min(n_workers(), len(left)))


def _held_out(work: Work) -> dict[str, np.ndarray]:
    from paper_repro.memorization import held_out_groups

    seed = derived_seed(work.settings["seed"], "held out")
    return held_out_groups(train_scores(work)["value"], work.settings["n_points"], seed=seed)._asdict()


def _timed_fit(settings: Any, values: np.ndarray, labels: np.ndarray) -> tuple[float, Any]:
    """As `timed_fit`, of the protocol's mixtures."""
    D = values.shape[1]
    return timed_fit(lambda x, groups: mixture(settings, 0, D).fit(x, groups=groups), values, labels, density_device(D))


def _seconds_of_divergences(model: Any, n_classes: int, n_draws: int) -> float:
    """Of all pairs of classes like the one of the model: each class's mixture is made twice, and has all draws."""
    posterior = model.posterior_

    def seconds(n: int) -> float:
        points = np.resize(posterior.x.numpy(), (n, posterior.x.shape[1]))
        return seconds_of(lambda: posterior.log_density(points))

    few, more = 64, 2064
    seconds(few)
    mixture_made = seconds(few)
    a_draw = max(seconds(more) - mixture_made, 0) / (more - few)
    return n_classes * (2 * mixture_made + n_classes * n_draws * a_draw)


def _class_divergences(
    folder: Path,
    settings: Any,
    representations: Path,
    groups: dict[str, np.ndarray],
    labels: np.ndarray,
    task: tuple[Any, ...],
) -> None:
    name, stage, *D = task
    rows = groups[name]
    values = np.ascontiguousarray(_values(representations, stage, *D)[rows])
    # The random numbers do not depend on D, so that numbers of dimensions are compared by the same ones.
    model = _mixture(settings, name, stage, values.shape[1]).fit(values, groups=labels[rows])
    seed = derived_seed(settings["seed"], "divergence", name, stage)
    estimate = model.posterior_.kl_divergence(n_draws=settings["n_draws"], random_state=seed)
    write_arrays(checkpoint_of(folder, task), estimate._asdict())


def _classify(
    folder: Path, settings: Any, representations: Path, groups: dict[str, np.ndarray], labels: np.ndarray, stage: int
) -> None:
    from classfit import ClassConditionalDensity

    values = _values(representations, stage)
    rest = np.setdiff1d(np.arange(len(labels)), np.concatenate(list(groups.values())))
    density = _mixture(settings, "rest", stage, values.shape[1])
    classifier = ClassConditionalDensity(density).fit(values[rest], labels[rest])
    predicted = {name: classifier.predict(values[rows]) for name, rows in groups.items()}
    write_arrays(checkpoint_of(folder, stage), predicted)


def _mixture(settings: Any, name: str, stage: int, n_features: int) -> Any:
    return mixture(settings, derived_seed(settings["seed"], "densities", name, stage), n_features)
