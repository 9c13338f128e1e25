"""The density analysis of any network on any image folder: figures 1, 2, A.6, A.7 and B.5, and claims C1, C2 and C4.

Nothing is trained. The steps are the pipeline's own; layers stand where the paper has stages.
"""

import hashlib
import importlib
import inspect
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_repro import computations as compute
from paper_repro.inputs import class_names, read_dataset, train_labels
from paper_repro.machine import network_device
from paper_repro.pipeline import DEFAULTS, Pipeline, protocol_folder, run_folder
from paper_repro.profiles import Profile, Protocol
from paper_repro.steps import State, Step, Work, Workspace
from paper_repro.storage import read_arrays, write_arrays

if TYPE_CHECKING:
    from torch import nn

__all__ = ["IMAGENET", "OPTIONS", "RESNET_LAYERS", "SIZE", "Analysis", "load_model"]

RESNET_LAYERS = ("layer1", "layer2", "layer3", "layer4")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Of the pixels, by channel, with which torchvision's networks are trained."""
SIZE = 224
"""Height and width of their images."""
OPTIONS = dict.fromkeys(("--model", "--data", "--weights", "--dimensions"), "") | {
    "--layers": ",".join(RESNET_LAYERS),
    "--size": str(SIZE),
    **{f"--{name}": ",".join(map(str, values)) for name, values in IMAGENET.items()},
    **{option: DEFAULTS[option] for option in ("--protocol", "--seed", "--runs-dir")},
}
"""What they are if they are not given."""
OTHER_UNITS = ("googlenet", "inception_v3")
"""Those with other ones, which take images in ImageNet's and convert them (torchvision's transform_input)."""
PROBE, PROBE_TOLERANCE = "probe.npz", 0.01
"""Activations that tell code apart, and how much of their norm rounding on another machine may change."""


def load_model(model: str, weights: Path | None) -> "nn.Module":
    """The network to analyse, in evaluation mode.

    Args:
        model: "package.module:function", called without arguments, or the name of a torchvision model.
        weights: state dict in a safetensors file, or in a file of torch.save (read with weights_only=True); it may lie
            under "state_dict" or "model". A torchvision model needs it.

    Raises:
        ValueError: no such model, something else than a torch module, or weights that are not its own.
    """
    from torch import nn

    state = _read_state(weights) if weights is not None else None
    if ":" in model:
        module_name, _, function = model.partition(":")
        if os.getcwd() not in sys.path:  # where people keep what they try out; an installed command does not look there
            sys.path.insert(0, os.getcwd())
        try:
            make = getattr(importlib.import_module(module_name), function)
            inspect.signature(make).bind()
        except (ImportError, AttributeError, TypeError) as error:
            raise ValueError(
                f"model must be package.module:function, called without arguments, {model!r} cannot be had: {error}"
            ) from None
        try:
            network = make()
        except Exception as error:  # whatever it raises: its author needs the line
            raise RuntimeError(f"{model} failed") from error
        if not isinstance(network, nn.Module):
            raise ValueError(f"model must return a torch module, {model} returned {type(network).__name__}")
    else:
        import torchvision

        if model not in torchvision.models.list_models(module=torchvision.models):
            known = model in torchvision.models.list_models()
            what = f"{model}, which is for another task: give package.module:function" if known else repr(model)
            raise ValueError(
                "model must be package.module:function or the name of a torchvision model that classifies images, got "
                f"{what}"
            )
        if model.startswith("swin"):
            raise ValueError(
                f"model must have layers [B, C, H, W], those of {model} are [B, H, W, C]: give package.module:function "
                "that returns a module whose layers move the channels to the front"
            )
        if state is None:
            raise ValueError(f"weights must be given for torchvision's {model}: with random ones there is no analysis")
        last = list(torchvision.models.get_model(model).state_dict())[-1]
        n_classes = {"num_classes": len(state[last])} if last in state else {}
        # As torchvision builds it for its weights: other units of pixels than ImageNet's, which it makes itself.
        units = {"transform_input": True} if model in OTHER_UNITS else {}
        network = torchvision.models.get_model(model, **n_classes, **units)
    if state is not None:
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"weights must be those of {model}, {weights} are not: {error}") from None
    return network.eval()


class Analysis(Pipeline):
    """The steps from images to figures for a network that is given."""

    def __init__(
        self,
        network: "nn.Module",
        protocol: Protocol,
        *,
        model: str,
        data: Path,
        weights: Path | None = None,
        layers: Sequence[str] = RESNET_LAYERS,
        dimensions: Sequence[int] | None = None,
        size: int = SIZE,
        mean: Sequence[float] = IMAGENET["mean"],
        std: Sequence[float] = IMAGENET["std"],
        seed: int = 0,
        official: bool = False,
        n_images: int | None = None,
        images: str | None = None,
    ) -> None:
        """
        Args:
            network: takes images [B, 3, size, size], normalised.
            protocol: how densities are fitted.
            model: what to call it.
            data: folder or zip of class folders; images of a folder `train` if there is one, else all. They are kept
                in memory, 3 size^2 bytes each.
            weights: file that they were read from, to be named; the network has them.
            layers: names from `network.named_modules()`, at least two, in order.
            dimensions: singular vectors kept of each; None keeps 16 in the first half of the layers and 64 in the rest,
                as the paper does in its stages, or as many as the layer has channels or there are images.
            size: height and width in pixels that images are brought to.
            mean, std: of the pixels (0..1) by channel, with which the network was trained.
            seed: of the chains.
            official: as published, where the code differs from the paper.
            n_images: how many there are, if that is known (`of_images`).
            images: `ClassFolders.identity` of the data, if that is known.

        Raises:
            ValueError: fewer than two layers, an unknown one or one without a name, dimensions that do not go with them
                or are more than channels or images, mean or std that are not three finite numbers or of which a std is
                not positive, or a network that does not take such images.
        """
        if len(layers) < 2:
            raise ValueError(f"layers must be at least two, got {list(layers)}")
        if "" in layers:
            raise ValueError(f"layers (--layers) must be names of modules, got an empty one in {list(layers)}")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} (--{name}) must be three finite numbers, one a channel, got {list(values)}")
        if min(std) <= 0:
            raise ValueError(f"std (--std) must be positive, got {list(std)}")
        n_wide = len(layers) // 2
        wanted = dimensions or [16] * n_wide + [64] * (len(layers) - n_wide)
        if len(wanted) != len(layers):
            raise ValueError(
                f"dimensions (--dimensions) must be one for each of the {len(layers)} layers, got {list(wanted)}"
            )
        if min(wanted) < 1:
            raise ValueError(f"dimensions (--dimensions) must be positive, got {list(wanted)}")
        kept = []
        self.probe = _probe(network, layers, size)
        widths = [pooled.shape[1] for pooled in self.probe.values()]
        for layer, d, width in zip(layers, wanted, widths, strict=True):
            most = width if n_images is None else min(width, n_images)
            if dimensions and d > most:
                what = "its channels" if most == width else "images"
                raise ValueError(
                    f"dimensions (--dimensions) must be at most {most} for {layer!r}, the number of {what}, got {d}"
                )
            kept.append(min(d, most))
        if images is None:
            from paper_repro.datasets.images import ClassFolders

            images = ClassFolders(data).identity
        options: dict[str, Any] = {"layers": layers, "dimensions": dimensions, "size": size, "mean": mean, "std": std}
        given = {"network": network, "model": model, "data": data, "weights": weights, "seed": seed}
        self._given: dict[str, Any] = {**given, **options, "n_images": n_images, "images": images}
        self.protocol, self.seed, self.official = protocol, seed, official
        self.folder = protocol_folder(protocol, official)
        self.profile = Profile(
            name=f"{model} on {data.name}",
            description="",
            title=f"{model} on {data.name}",
            note="",
            dataset="image-folder",
            architecture=model,
            dimensions=tuple(kept),
            # Nothing is trained.
            **dict.fromkeys(("width", "epochs", "batch_size", "peak_learning_rate", "crop_padding"), 0),  # type: ignore[arg-type]
        )
        pixels = {"mean": list(mean), "std": list(std)}
        # All images are analysed, so the seed of a split is never used.
        read = {"name": "image-folder", "size": size, "test_fraction": 0.0, "seed": 0, **pixels}
        told_apart = {"path": str(data.resolve()), "images": images}
        self.dataset = Step("dataset", read | told_apart, partial(compute.dataset, source=data))
        names = {f"layer{k}": name for k, name in enumerate(layers, start=1)}
        self.representations = Step(
            "representations",
            {
                "model": model,
                "weights": _hash(network),
                "layers": names,
                "dimensions": dict(zip(names, kept, strict=True)),
            },
            partial(_representations, network, self.probe),
            (self.dataset,),
            partial(_estimate_representations, network),
        )
        # The report looks for what is known of a network that was trained here, and finds nothing.
        self.network = self.representations
        self.others, self.robustness, self.controls = {}, {}, {}
        self.untrained, self.evidence, self.gaussian = {}, {}, {}
        stages = range(1, len(layers) + 1)
        self.posteriors = {stage: self._posterior(stage) for stage in stages}
        self.entropies = {stage: self._entropy(stage) for stage in stages if protocol.density != "em"}
        self.left_out = self._left_out(list(stages)[-2:])
        self.classes = self._classes()
        self.figures = {name: step for name, step in self._figures(names).items() if step is not None}
        self.scorecard = self.scorecard_of(self.figures)

    def under(self, protocol: Protocol, *, official: bool = False) -> "Analysis":
        return Analysis(protocol=protocol, official=official, **self._given)

    def refuse_other_code(self, workspace: Workspace) -> None:
        """Weights tell networks apart, but not what is done with them.

        Raises:
            ValueError: with the same weights the network gives other activations than when its results were made.
        """
        folder = workspace.folder(self.representations)
        if workspace.state(self.representations, with_inputs=False) != State.DONE or not (folder / PROBE).exists():
            return
        before = read_arrays(folder / PROBE)
        for layer, pooled in self.probe.items():
            then = before[layer]
            if pooled.shape != then.shape or np.linalg.norm(pooled - then) > PROBE_TOLERANCE * np.linalg.norm(then):
                raise ValueError(
                    f"the network has the weights that {workspace.root} was made with, but its layer {layer!r} gives "
                    "other activations than it did then: its code has changed. Remove that folder, or use another "
                    "--runs-dir"
                )

    def refuse_few_images(self, workspace: Workspace) -> None:
        """
        Raises:
            ValueError: a class has fewer images than the protocol has folds.
        """
        if self.protocol.density != "heldout":
            return
        work = workspace.work(self.representations)
        names = class_names(work)
        for name, n in zip(names, np.bincount(train_labels(work), minlength=len(names)).tolist(), strict=True):
            if n < compute.N_FOLDS:
                raise ValueError(
                    f"class {name!r} has {n} image{'s' * (n != 1)}; under `{self.protocol.name}` each needs at least "
                    f"{compute.N_FOLDS}, one for every fold"
                )

    def of_images(self, n: int) -> "Analysis":
        """The same with no more dimensions than images.

        Raises:
            ValueError: more were asked for.
        """
        return Analysis(protocol=self.protocol, official=self.official, **{**self._given, "n_images": n})

    def command(self, verb: str, runs_dir: Path, figures: Iterable[str] = ()) -> str:
        """What to type for these results, whatever the verb: the options that are not the defaults."""
        given = self._given | {"protocol": self.protocol.name, "runs-dir": runs_dir}
        words: list[str] = []
        for option, default in OPTIONS.items():
            value = given[option.removeprefix("--")]
            several = isinstance(value, Sequence) and not isinstance(value, str)
            text = "" if value is None else ",".join(map(str, value)) if several else str(value)
            if text != default:
                words += [option, text]
        return shlex.join(["paper-repro", "analyze", *words, *(["--official"] if self.official else [])])

    def _figures(self, names: dict[str, str]) -> dict[str, Step | None]:
        last = len(names)
        words = ", ".join(f"{k} = {name}" for k, name in enumerate(names.values(), start=1))
        about = {"subtitle": self.subtitle, "note": f"Stages here are layers of the network: {words}."}
        shared = (self.dataset, self.representations)

        def step(name: str, stages: list[int], inputs: tuple[Step, ...]) -> Step:
            return Step(
                f"{self.folder}/{name}", {"figure": name, "stages": stages, **about}, compute.figure, (*shared, *inputs)
            )

        two, every = [last - 1, last], list(range(1, last + 1))
        with_entropy = (self.posteriors[last], self.entropies[last]) if self.entropies else None
        return {
            "figure_1": step("figure_1", two, tuple(self.posteriors[stage] for stage in two)),
            "figure_2": step("figure_2", [last], with_entropy) if with_entropy else None,
            "figure_a6": step("figure_a6", every, ()),
            "figure_a7": step("figure_a7", every, tuple(self.posteriors.values())),
            "figure_b5": step("figure_b5", two, tuple(self.left_out.values())) if self.left_out else None,
        }

    @property
    def run_folder(self) -> str:
        """Name of the folder of its results: other weights, data, layers or dimensions have another."""
        model, data = self._given["model"], self._given["data"]
        told = [str(data.resolve()), self._given["layers"], self._given["dimensions"]]
        told_apart = hashlib.sha256(json.dumps([self.representations.settings["weights"], *told]).encode()).hexdigest()
        words = re.sub(r"[^A-Za-z0-9._]+", "-", f"{model}-{data.stem}")
        return run_folder(f"analysis-{words}-{told_apart[:8]}", self.seed)


def _representations(network: "nn.Module", probe: dict[str, np.ndarray], work: Work) -> None:
    from classfit import extract_representations

    data, prepare = read_dataset(work)
    names, dimensions = work.settings["layers"], work.settings["dimensions"]
    sizes = {name: dimensions[file] for file, name in names.items()}
    batches = map(prepare, data["train_images"].split(128))
    verbose = int(work.console.is_terminal)
    found = extract_representations(
        network, batches, list(sizes), n_components=sizes, device=network_device(), verbose=verbose
    )
    for file, name in names.items():
        write_arrays(work.folder / f"{file}.npz", found[name]._asdict())
    write_arrays(work.folder / PROBE, probe)


def _estimate_representations(network: "nn.Module", work: Work) -> float:
    import torch

    home = next(network.parameters(), torch.empty(0)).device
    try:
        return compute.estimate_passes(work, network.to(network_device()), "train_images")
    finally:
        network.to(home)


def _probe(network: "nn.Module", layers: Sequence[str], size: int) -> dict[str, np.ndarray]:
    """[2, C] activations of each layer, averaged over positions, for two images of noise, always the same."""
    import torch

    from classfit import extract_representations

    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        found = extract_representations(network, [noise], list(layers))
    except ValueError:  # of the layers
        raise
    except Exception as error:  # whatever its layers raise
        raise ValueError(
            f"network must take float32 images of 3 channels and {size} x {size} pixels, it does not: {error}"
        ) from None
    return {layer: found[layer].values @ found[layer].components for layer in layers}


def _hash(network: "nn.Module") -> str:
    """Of all weights, so that others make another run."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())  # any dtype
    return digest.hexdigest()


def _read_state(path: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # pickle, zip, safetensors and the file system each have their own
        # The first line: torch goes on with advice to load what may be unsafe.
        why = str(error).partition("\n")[0]
        raise ValueError(f"weights must be a file of tensors alone, {path} cannot be read: {why}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(f"weights must be a state dict, {path} holds {type(state).__name__}")
    return state
