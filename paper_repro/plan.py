"""What a run is going to do, how long it will take and what it will write, said before it starts."""

import shutil
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from paper_repro.pipeline import Pipeline
from paper_repro.steps import Step, Workspace
from paper_repro.storage import read_json

__all__ = ["Plan", "describe", "duration", "make_plan", "size"]

FIGURE_BYTES = 300_000
"""A picture twice, its table and its numbers: about as much on a hundred classes."""


class Plan(NamedTuple):
    n_steps: int
    """That are not finished."""
    seconds: dict[str, float]
    """Wall seconds of each step that can be timed now, by name."""
    waiting: list[str]
    """Steps that are worth timing, but whose inputs are not there yet."""
    disk_bytes: int
    """That all unfinished steps will keep on disk."""
    free_bytes: int


def make_plan(workspace: Workspace, pipeline: Pipeline, targets: Iterable[Step]) -> Plan:
    """Time the unfinished steps whose inputs are finished; the dataset must be."""
    left = workspace.to_do(targets)
    names = {step.name for step in left}
    seconds, waiting = {}, []
    for step in left:
        if step.estimate is None:
            continue
        if names.isdisjoint(step_in.name for step_in in step.inputs):
            seconds[step.name] = workspace.estimate(step)
        else:
            waiting.append(step.name)
    about = read_json(workspace.folder(pipeline.dataset) / "dataset.json")
    disk = sum(_kept_bytes(step, about) for step in left)
    return Plan(len(left), seconds, waiting, disk, shutil.disk_usage(workspace.root).free)


def describe(plan: Plan) -> str:
    """The plan in a line or two."""
    steps = "1 step is" if plan.n_steps == 1 else f"{plan.n_steps} steps are"
    text = f"{steps} to be done, which will keep about {size(plan.disk_bytes)} on disk ({size(plan.free_bytes)} free)."
    if plan.seconds:
        longest = sorted(plan.seconds.items(), key=lambda item: -item[1])[:3]
        words = ", ".join(f"{name} {duration(seconds)}" for name, seconds in longest)
        more = ", ..." if len(plan.seconds) > len(longest) else ""
        total = duration(sum(plan.seconds.values()))
        text += f" Timed on this machine: about {total} for {len(plan.seconds)} of them ({words}{more})."
    if plan.waiting:
        text += f" {len(plan.waiting)} more can be timed only when their inputs are there; each says so if it is long."
    return text


def duration(seconds: float) -> str:
    """In the unit that suits."""
    for unit, length, least in (("days", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("min", 60, 120)):
        if seconds >= least:
            return f"{seconds / length:.1f} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{max(n_bytes / 1e6, 1):.0f} MB"


def _kept_bytes(step: Step, about: Mapping[str, Any]) -> int:
    """What the files of the finished step will hold, by what they are."""
    kind, settings, n_train = step.kind, step.settings, int(about["n_train"])
    if kind == "network":
        return _weights_bytes(settings, about, halved=True)
    if kind == "density_bins":
        return 2 * settings["n_bins"] * _weights_bytes(settings["network"], about)
    if kind == "memorization":
        return 2 * settings["n_trials"] * n_train if "n_trials" in settings else 16 * n_train
    if kind.endswith("representations") and "dimensions" in settings:  # of test images: a fraction of those
        return 4 * n_train * sum(settings["dimensions"].values())
    if kind.startswith("posterior_"):
        layer = settings.get("layer", f"layer{settings.get('stage')}")
        (dimensions,) = (step_in.settings["dimensions"] for step_in in step.inputs if "dimensions" in step_in.settings)
        n_kept = (settings["n_sweeps"] - settings["n_discard"]) // settings["thin"]
        # The points, the kept labels and a density.
        return n_train * (4 * dimensions[layer] + 4 * n_kept + 8)
    return FIGURE_BYTES if "figure" in settings else 0


def _weights_bytes(settings: Mapping[str, Any], about: Mapping[str, Any], *, halved: bool = False) -> int:
    """`halved`: with matrices and convolutions in half precision, as the step `network` keeps them."""
    import torch

    from paper_repro.networks import build

    shape, n_classes = tuple(about["image_shape"]), len(about["class_names"])
    with torch.device("meta"):
        network = build(settings, image_shape=shape, n_classes=n_classes, seed=0, pretrained=False)
    return sum(tensor.nbytes // (2 if halved and tensor.ndim > 1 else 1) for tensor in network.state_dict().values())
