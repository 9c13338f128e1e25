"""Made results of protocols: numbers of figures, and folders as a run would leave them."""

import numpy as np

from paper_repro import storage
from paper_repro.machine import software


def made_densities(high=(), n_classes=30, level=60.0, ratio=10.0, stages=(3, 4), names=None):
    """Figure A.7: classes `high` lie `level` nats above the others, at even steps, and spread `ratio` times less."""
    mean = np.linspace(0, 3, n_classes)
    is_high = np.isin(np.arange(n_classes), list(high))
    std = np.where(is_high, 2.0 / ratio, 2.0)
    mean = mean + level * is_high
    return {
        "unit": np.array("stage"),
        "stages": np.array(stages),
        "dimensions": np.array([64] * len(stages)),
        "class_names": np.array(names or [f"c{g}" for g in range(n_classes)]),
        "mean": np.stack([mean] * len(stages)),
        "std": np.stack([std] * len(stages)),
        "high": is_high,
        "gap": np.array(np.diff(np.sort(mean)).max()),
        "subtitle": np.array("made numbers"),
        "note": np.array(""),
    }


def store(workspace, step, write, inputs=None):
    """Leave what `write` puts into the folder of a step as a finished one; `inputs` are digests by name."""
    folder = workspace.folder(step)
    folder.mkdir(parents=True)
    write(folder)
    workspace.record(
        step, step=step.name, settings=step.settings, seed=step.seed, fingerprint=step.fingerprint,
        inputs={"dataset": "images", "representations": "of a network"} if inputs is None else inputs,
        started="2026-11-25T12:00:00+00:00", continued_after_interruption=False, wall_seconds=1.0,
        peak_memory_bytes=1_000_000, **software(),
    )  # fmt: skip


def store_figure(workspace, pipeline, name, numbers, inputs=None):
    """The numbers of a figure, under an empty picture."""

    def write(folder):
        storage.write_arrays(folder / "numbers.npz", numbers)
        (folder / f"{name}.svg").write_text('<svg height="1" viewBox="0 0 1 1"></svg>')

    store(workspace, pipeline.figures[name], write, inputs)


def store_scorecard(workspace, pipeline, verdicts):
    claims = [
        {"name": name, "title": name, "paper": "", "figures": [], "parts": [], "verdict": verdict, "remark": ""}
        for name, verdict in verdicts.items()
    ]
    store(workspace, pipeline.scorecard, lambda folder: storage.write_json(folder / "scorecard.json", claims), {})
