"""What the steps behind figures 4 and A.11 compute: densities of memorized and of typical points.

Both use the protocol's own chain for every density. Each density is a task with a file of its own, as in `robustness`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.computations import derived_seed, mixture
from paper_repro.robustness import checkpoint_of, input_of
from paper_repro.steps import Work
from paper_repro.storage import read_arrays, read_tensors, write_arrays

__all__ = ["generative", "kl_by_stage"]


def kl_by_stage(work: Work) -> None:
    """KL divergences between classes, at each stage, of the most, the least and randomly chosen memorized points."""
    from paper_repro.memorization import memorization_groups
    from paper_repro.workers import run_tasks

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
    kept = {name: rows[np.isin(labels[rows], classes)] for name, rows in groups.items()}
    tasks = [(name, stage) for name in kept for stage in settings["stages"]]
    run_tasks(
        partial(_class_divergences, work.folder, dict(settings), input_of(work, "representations"), kept, labels),
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


def generative(work: Work) -> None:
    """Generative classification of points that are left out of the densities' fit (figure A.11)."""
    from paper_repro.memorization import held_out_groups
    from paper_repro.workers import run_tasks

    scores, labels = _scores_and_labels(work)
    groups = held_out_groups(
        scores, work.settings["n_points"], seed=derived_seed(work.settings["seed"], "held out")
    )._asdict()
    stages = work.settings["stages"]
    run_tasks(
        partial(_classify, work.folder, dict(work.settings), input_of(work, "representations"), groups, labels),
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
    labels = read_tensors(work.inputs["dataset"] / "data.safetensors")[0]["train_labels"].numpy()
    return read_arrays(input_of(work, "memorization") / "scores.npz")["value"], labels
