"""The flops, bytes and predicted hours of every step of a profile: what `benchmarks.gpu_hours` makes tables of.

Networks: the flops and bytes of every operation of a pass (`benchmarks.network_work`), times the passes that the step's
own settings ask for. The best case is a GPU at its peaks (`benchmarks.roofline`), or the launches of all operations if
that is longer. The likely case has, on every GPU, the least share of the best case that was measured on one.

Densities: `benchmarks.performance_model` at the step's shapes (block size 1), in the best case with 10 components a
class, in the likely one with 50. Hours on two cores, for where there is no GPU, stand beside, from the stored
benchmark. Not counted: reading the data, singular vectors, drawing random numbers, points left out, figures; minutes in
all.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.network_work import Operation, forward, gradient, network_of, update
from benchmarks.performance_model import GPUS, LAUNCH_SECONDS, load_kernels, predict, predict_gibbs, stored_versions
from benchmarks.record import RESULTS
from benchmarks.report import Run, load
from benchmarks.roofline import roofline, shares
from paper_repro.attacks import ATTACKS, survives
from paper_repro.certification import COPIES_AT_ONCE
from paper_repro.controls import planned_fits
from paper_repro.datasets import cifar100, mini_imagenet
from paper_repro.dry_run import IMAGE_SHAPES
from paper_repro.memorization import FRACTION
from paper_repro.networks import BATCH_SIZE
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PAPER, Profile
from paper_repro.robustness_scale import LAPTOP
from paper_repro.steps import Step
from paper_repro.training import TrainingSettings

__all__ = ["PROFILE_NAMES", "Cost", "attack_passes", "costs", "networks", "processor_rates"]


COMPONENTS = {"best": 10, "likely": 50}
"""Of a class at a kept sweep: the two states that chains end in (paper_repro/FINDINGS.md), for the densities' cost."""
CASES = tuple(COMPONENTS)

# As many as the published scores of CIFAR-100 have above the threshold; no scores of our own are known beforehand.
N_MEMORIZED = LAPTOP.n_memorized

FREE = ("dataset", "classes", "scorecard", "leave_one_out_", "test_representations", "test_densities")
"""How the kinds of steps begin that take a minute or less, beside figures and POINTS."""
POINTS = "gaussian/representations"
"""The step that reads no network."""


class Data(NamedTuple):
    image_shape: tuple[int, ...]
    n_classes: int
    n_train: int
    n_test: int


def _data(module: Any, name: str) -> Data:
    n_train = module.N_TRAIN if hasattr(module, "N_TRAIN") else module.N_IMAGES - module.N_TEST
    return Data(IMAGE_SHAPES[name], module.N_CLASSES, module.N_CLASSES * n_train, module.N_CLASSES * module.N_TEST)


DATA = {"cifar100": _data(cifar100, "cifar100"), "mini-imagenet": _data(mini_imagenet, "mini-imagenet")}
PROFILE_NAMES = tuple(f"{data}-{network}" for data in DATA for network in ("resnet18", "resnet50"))


class Passes(NamedTuple):
    operations: Sequence[Operation]
    """Of one batch."""
    times: float


class Densities(NamedTuple):
    operation: str
    """"Gibbs sweeps" or "mixture density", as in the performance model."""
    D: int
    shape: dict[str, int]
    """As there; components are those of a class at one kept sweep."""
    times: int
    """Calls of the kernel."""
    n_kept: int = 1
    """Sweeps whose components are evaluated together."""


class Cost(NamedTuple):
    step: str
    flops: float
    """In the likely case, for densities."""
    bytes: float
    """Moved by networks; 0 for densities."""
    hours: dict[str, dict[str, float]]
    """By GPU and case."""
    processor_hours: dict[str, float] | None
    """Of densities, where `paper-repro` fits them."""


def costs(profile: Profile) -> Iterator[Cost]:
    """Every step of the profile under the protocol `paper`, in order; those that cost nothing are left out."""
    data = DATA[profile.dataset]
    for step in Pipeline(profile, PAPER).steps:
        if step.kind.startswith(FREE) or step.name == POINTS or "figure" in step.settings:
            continue
        yield _cost(step.name, list(_work(step, data)))


def _work(step: Step, data: Data) -> Iterator[Passes | Densities]:
    """What a step does, by its settings; ValueError for a step that is not known here."""
    kind, settings = step.kind, step.settings
    if kind == "network":
        yield _training(settings, data, data.n_train)
        yield _evaluation(settings, data, data.n_train + data.n_test)
    elif kind.endswith("representations"):
        trained = [step_in for step_in in step.inputs if step_in.kind == "network"]
        yield _evaluation(trained[0].settings if trained else settings, data, data.n_train)
    elif kind == "memorization":
        yield _training(settings["network"], data, settings["n_trials"] * FRACTION * data.n_train)
        yield _evaluation(settings["network"], data, settings["n_trials"] * data.n_train)
    elif kind == "density_bins":
        yield _training(settings["network"], data, 2 * (settings["n_bins"] - 1) * data.n_train)
        yield _evaluation(settings["network"], data, data.n_train)
    elif kind == "certification":
        copies = _points(step, data) * (settings["n0"] + settings["n"])
        yield _evaluation(settings["network"], data, copies, COPIES_AT_ONCE)
    elif kind == "attacks":
        n_gradients, n_forwards = attack_passes(settings["budgets"])
        n_points, batch = _points(step, data), settings["points_a_task"]
        yield Passes(_gradient(_json(settings["network"]), data, batch), n_gradients * n_points / batch)
        yield _evaluation(settings["network"], data, n_forwards * n_points, batch)
    elif kind.startswith("posterior_"):
        D, n = _dimension(step), data.n_train // data.n_classes
        yield _sweeps(settings, D, data.n_classes, n)
        yield _density(settings, D, n, data.n_classes)
    elif kind.startswith("relative_entropy_"):
        (posterior,) = step.inputs
        yield _density(posterior.settings, _dimension(posterior), settings["n_draws"], data.n_classes)
    elif kind in ("kl_by_stage", "kl_at_other_dimensions"):
        for D in _dimensions(step):
            for _ in range(3):  # the most, the least and randomly chosen memorized points
                yield _sweeps(settings, D, data.n_classes, (settings["n_points"] or N_MEMORIZED) // data.n_classes)
                yield _density(settings, D, data.n_classes * settings["n_draws"], data.n_classes)
    elif kind == "generative":
        held = 3 * settings["n_points"]
        for D in _dimensions(step):
            yield _sweeps(settings, D, data.n_classes, (data.n_train - held) // data.n_classes)
            yield _density(settings, D, held, data.n_classes)
    elif kind == "controls":
        n = data.n_train // data.n_classes
        for fit in planned_fits(settings["cells"], settings["n_seeds"], settings["n_variant_seeds"]):
            yield _sweeps(settings, fit.D, data.n_classes, round(fit.share * n))
            yield _density(settings, fit.D, n, data.n_classes)
    else:
        raise ValueError(f"step must be one whose cost is known here, got {step.name}")


def _training(settings: Mapping[str, Any], data: Data, n_images: float) -> Passes:
    """All epochs over so many images (of all networks together)."""
    return Passes(_update(_json(settings), data), n_images * settings["epochs"] / settings["batch_size"])


def _evaluation(settings: Mapping[str, Any], data: Data, n_images: float, batch: int = BATCH_SIZE) -> Passes:
    return Passes(_forward(_json(settings), data, batch), n_images / batch)


def _points(step: Step, data: Data) -> int:
    """Points of all bins that a step spends its budget on."""
    (bins,) = (step_in for step_in in step.inputs if step_in.kind == "density_bins")
    n_bins = bins.settings["n_bins"]
    return n_bins * min(step.settings["n_per_bin"], data.n_train // n_bins)


def _dimensions(step: Step) -> list[int]:
    """Of the stages, or cells, of a step that reads the representations."""
    if "cells" in step.settings:
        return [D for _, D in step.settings["cells"]]
    (read,) = (step_in for step_in in step.inputs if step_in.kind == "representations")
    return [read.settings["dimensions"][f"layer{stage}"] for stage in step.settings["stages"]]


def _dimension(posterior: Step) -> int:
    (read,) = (step_in for step_in in posterior.inputs if step_in.kind == "representations")
    settings = posterior.settings
    return read.settings["dimensions"][settings.get("layer", f"layer{settings.get('stage')}")]


def _sweeps(settings: Mapping[str, Any], D: int, groups: int, group: int) -> Densities:
    return Densities("Gibbs sweeps", D, {"groups": groups, "group": group, "sweeps": settings["n_sweeps"]}, 1)


def _density(settings: Mapping[str, Any], D: int, points: int, times: int) -> Densities:
    n_kept = (settings["n_sweeps"] - settings["n_discard"]) // settings["thin"]
    return Densities("mixture density", D, {"points": points}, times, n_kept)


@cache
def _update(settings: str, data: Data) -> Sequence[Operation]:
    found = json.loads(settings)
    network = network_of(found, data.image_shape, data.n_classes)
    return update(network, TrainingSettings.of(found), data.image_shape)


@cache
def _forward(settings: str, data: Data, batch: int) -> Sequence[Operation]:
    return forward(network_of(json.loads(settings), data.image_shape, data.n_classes), batch, data.image_shape)


@cache
def _gradient(settings: str, data: Data, batch: int) -> Sequence[Operation]:
    return gradient(network_of(json.loads(settings), data.image_shape, data.n_classes), batch, data.image_shape)


def _json(settings: Mapping[str, Any]) -> str:
    return json.dumps(dict(settings), sort_keys=True)


class _Counted(nn.Module):
    """A network that no attack misleads, so that none ends early; counts the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 100)
        nn.init.constant_(self.linear.weight, 1e-3)
        nn.init.zeros_(self.linear.bias)
        self.linear.bias.data[0] = 10.0
        self.n_gradients = self.n_forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad and torch.is_grad_enabled():
            self.n_gradients += len(images)
        else:
            self.n_forwards += len(images)
        return self.linear(images.flatten(1))


def attack_passes(budgets: Mapping[str, Sequence[float]]) -> tuple[int, int]:
    """Passes of an image through the network in all attacks, with and without a gradient, if no attack ends early.

    Counted in a network of one layer that withstands them all.
    """
    network = _Counted()
    for name, attack in ATTACKS.items():
        survives(network, torch.zeros(1, 1, 1, 1), np.zeros(1, np.int64), name, budgets[attack.norm])
    return network.n_gradients, network.n_forwards


def _seconds(part: Passes | Densities, name: str, case: str) -> float:
    if isinstance(part, Passes):
        launches = len(part.operations) * LAUNCH_SECONDS
        share = min(shares().values()) if case == "likely" else 1.0
        return part.times * max(roofline(part.operations, name) / share, launches)
    return part.times * _predicted(part, name, case).seconds


@cache
def _kernels() -> dict[tuple[str, str], dict[str, Any]]:
    # Of the newest Triton, not the installed one: what is stored is for machines that are not here.
    return load_kernels(stored_versions()[-1])


def _predicted(part: Densities, name: str, case: str) -> Any:
    components = COMPONENTS[case]
    if part.operation == "Gibbs sweeps":
        return predict_gibbs(name, part.operation, part.D, {**part.shape, "components": components})
    shape = {**part.shape, "components": components * part.n_kept}
    return predict(name, _kernels(), part.operation, part.D, shape)


def _cost(step: str, parts: list[Passes | Densities]) -> Cost:
    hours = {name: {case: sum(_seconds(part, name, case) for part in parts) / 3600 for case in CASES} for name in GPUS}
    passes = [part for part in parts if isinstance(part, Passes)]
    densities = [part for part in parts if isinstance(part, Densities)]
    flops = sum(part.times * sum(o.flops for o in part.operations) for part in passes)
    flops += sum(part.times * _predicted(part, "A100", "likely").flops for part in densities)
    moved = sum(part.times * sum(o.bytes for o in part.operations) for part in passes)
    processor = {case: sum(_on_processor(part, case) for part in densities) / 3600 for case in CASES}
    return Cost(step, flops, moved, hours, processor if densities else None)


def _on_processor(part: Densities, case: str) -> float:
    """Seconds, at the rates of the stored benchmark (64 features, whatever the step has)."""
    rates = processor_rates()
    if part.operation == "Gibbs sweeps":
        shape = part.shape
        return part.times * shape["groups"] * shape["group"] * shape["sweeps"] * rates[f"sweep, {case}"]
    return part.times * part.shape["points"] * COMPONENTS[case] * part.n_kept * rates["density"]


@cache
def processor_rates() -> dict[str, float]:
    """Seconds a point and sweep, and a point and component, of the newest stored benchmark that has them."""
    fit, large = _stored("DPGaussianMixture.fit, blocks of 4"), _stored("mixture_log_density, large")
    settled, shattered = (_stored(f"gibbs_sweep, {state}, blocks of 1") for state in ("settled", "shattered"))
    shape, density = fit["extra_info"]["shapes"], large["extra_info"]["shapes"]
    sweep = fit["stats"]["median"] / (shape["classes"] * shape["points a class"] * shape["sweeps"])
    return {
        "sweep, best": sweep,
        "sweep, likely": sweep * shattered["stats"]["median"] / settled["stats"]["median"],
        "density": large["stats"]["median"] / (density["points"] * density["components"]),
    }


def _stored(operation: str) -> dict[str, Any]:
    for run in reversed(_runs()):
        for benchmark in run.benchmarks.values():
            if (benchmark["extra_info"]["operation"], benchmark["extra_info"]["dtype"]) == (operation, "float32"):
                return benchmark
    raise ValueError(f"no stored benchmark has {operation!r}: run python -m benchmarks.record")


@cache
def _runs() -> list[Run]:
    return load(RESULTS)


def machine() -> str:
    """What `processor_rates` were measured on."""
    return _runs()[-1].machine


def networks(profile: Profile) -> dict[str, dict[str, float]]:
    """Flops and bytes of an image in each network of a profile, by the name of the step that trains it."""
    data, pipeline = DATA[profile.dataset], Pipeline(profile, PAPER)
    found = {}
    for step in (pipeline.network, *(other.network for other in pipeline.others.values())):
        batch = step.settings["batch_size"]
        once, whole = _update(_json(step.settings), data), _forward(_json(step.settings), data, batch)
        found[step.name] = {
            "forward_flops_an_image": sum(o.flops for o in whole) / batch,
            "update_flops_an_image": sum(o.flops for o in once) / batch,
            "update_bytes_an_image": sum(o.bytes for o in once) / batch,
            "update_operations": len(once),
        }
    return found
