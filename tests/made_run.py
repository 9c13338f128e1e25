"""A finished run whose figures are drawn from made numbers: what is around them is as a run leaves it, at no cost."""

from dataclasses import replace

import numpy as np
from paper_repro_tiny import TINY_PROFILE, TINY_PROTOCOL
from rich.console import Console
from test_paper_repro_figures import WORDS, stored_figure

from paper_repro import storage
from paper_repro.chains import thinned
from paper_repro.claims import scorecard
from paper_repro.computations import draw
from paper_repro.machine import software
from paper_repro.pipeline import STAGES, TRACE_POINTS, Pipeline
from paper_repro.profiles import EM
from paper_repro.steps import Work

SMALL_PROFILE = replace(
    TINY_PROFILE, name="small", convnet=None, vit=None, mixer=None, robustness=None, n_control_seeds=0, untrained={}
)
PROTOCOLS_RUN = {"paper": TINY_PROTOCOL, "em": EM}
CLASSES = [str(g) for g in range(10)]


def pipelines():
    return [Pipeline(SMALL_PROFILE, protocol) for protocol in PROTOCOLS_RUN.values()]


def finish(workspace, pipeline, leave_out=()):
    """Every step of a pipeline but those whose last name is in `leave_out`, unless it is finished."""
    for step in pipeline.steps:
        kind = step.name.rsplit("/", 1)[-1]
        if kind in leave_out or workspace.provenance(step):
            continue
        folder = workspace.folder(step)
        folder.mkdir(parents=True)
        if kind.startswith("figure_"):
            said = {**WORDS, "subtitle": np.array(pipeline.subtitle)}
            storage.write_arrays(folder / "numbers.npz", stored_figure(kind) | said)
            draw(folder, kind)
        elif kind == "scorecard":
            inputs = {step_in.name: workspace.folder(step_in) for step_in in step.inputs}
            scorecard(Work(folder, step.settings, inputs, Console(quiet=True)))
        else:
            {"dataset": _dataset, "network": _network, "classes": _classes}.get(kind, _other)(folder, pipeline)
        about = {"step": step.name, "settings": step.settings, "seed": step.seed, **workspace.claim(step)}
        cost = {"wall_seconds": 12.5, "peak_memory_bytes": 10**8, "continued_after_interruption": False}
        workspace.record(step, **about, started="2026-01-02T03:04:05+00:00", **cost, **software())


def _dataset(folder, pipeline):
    (folder / "data.safetensors").write_bytes(b"images" * 1000)
    pixels = {"white": 16, "mean": [0.3], "std": [0.4]}
    counts = {"class_names": CLASSES, "image_shape": [1, 8, 8], "n_train": 1437, "n_test": 360}
    storage.write_json(folder / "dataset.json", {"name": "digits", "source": "scikit-learn", **counts, **pixels})


def _network(folder, pipeline):
    (folder / "weights.safetensors").write_bytes(b"weights" * 1000)
    storage.write_csv(folder / "history.csv", [{"epoch": 1, "loss": 2.5}])
    names = ("momentum", "weight_decay", "epochs", "batch_size", "peak_learning_rate", "warmup", "crop_padding")
    training = dict.fromkeys(names, 1) | {"flip": False, "bfloat16": False}
    reached = {"n_parameters": 1234, "test_accuracy": 0.875, "train_accuracy": 0.9375}
    storage.write_json(
        folder / "network.json", {"settings": dict(pipeline.network.settings), "training": training, **reached}
    )


def _classes(folder, pipeline):
    statistics = ("n_points", "mean_log_density_nats", "std_log_density_nats", "mean_components")
    entropy = ("relative_entropy_nats", "relative_entropy_standard_error_nats")
    row = dict.fromkeys((*statistics, *entropy), 1.5)
    rows = [{"stage": stage, "class": name, **row, "density_group": "low"} for stage in STAGES for name in CLASSES]
    storage.write_csv(folder / "classes.csv", rows)
    traces = {}
    if pipeline.protocol.density != "em":
        walk = np.random.default_rng(0).normal(size=(16, len(CLASSES))).cumsum(0)
        traces = {
            f"{n}_{stage}": thinned(walk, TRACE_POINTS) for stage in STAGES for n in ("n_components", "log_joint")
        }
    storage.write_arrays(folder / "traces.npz", traces)


def _other(folder, pipeline):
    storage.write_arrays(folder / "large.npz", {"values": np.arange(100)})
