"""Controls of the training: the same fits to raw pixels, and to the network before its first update.

dataset -> representations of both -> posterior of each -> densities of points left out -> figure B.9

What they show as well is not of what the network learned. Under the protocols `paper` and `converged`.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_repro import computations as compute
from paper_repro.figures import RAW_PIXELS
from paper_repro.inputs import build_network, read_dataset
from paper_repro.robustness_pipeline import PAPER_BINS, origin_of_scores
from paper_repro.steps import Step, Work, derived_seed
from paper_repro.storage import write_arrays
from paper_repro.timing import seconds_of

if TYPE_CHECKING:
    from torch import nn

    from paper_repro.pipeline import Pipeline

__all__ = ["PIXELS", "estimate_representations", "figure_b9", "representations", "untrained_steps"]

PIXELS = "pixels"
BATCH, N_BATCHES = 250, 20
"""Of the images from which batch norm takes its means and variances."""


def representations(work: Work) -> None:
    """As those of the stages: leading singular vectors of all pixels, and of pooled activations, a file each."""
    from classfit import extract_representations
    from paper_repro.networks import BATCH_SIZE

    data, prepare = read_dataset(work)
    dimensions = dict(work.settings["dimensions"])
    for network, layers in _networks(work).items():
        batches = map(prepare, data["train_images"].split(BATCH_SIZE))
        kept = {layer: dimensions[layer] for layer in layers}
        for layer, found in extract_representations(network, batches, layers, n_components=kept).items():
            write_arrays(work.folder / f"{layer}.npz", found._asdict())


def estimate_representations(work: Work) -> float:
    """Of all passes, and of the singular vectors of the pixels, which take longer than they are looked at."""
    seconds = sum(compute.estimate_passes(work, network, "train_images") for network in _networks(work))
    if PIXELS in work.settings["dimensions"]:
        images = read_dataset(work)[0]["train_images"]
        n_pixels = images[0].numel()
        part = np.random.default_rng(0).normal(size=(min(len(images), 2 * n_pixels), n_pixels))
        seconds += seconds_of(lambda: np.linalg.qr(part, mode="r")) * len(images) / len(part)
    return seconds


def _networks(work: Work) -> "dict[nn.Module, list[str]]":
    """What the layers are read from."""
    from torch import nn

    layers = work.settings["dimensions"]
    found: dict[nn.Module, list[str]] = {_untrained(work): [layer for layer in layers if layer != PIXELS]}
    if PIXELS in layers:
        found[nn.Sequential(OrderedDict({PIXELS: nn.Flatten()}))] = [PIXELS]
    return found


def _untrained(work: Work) -> "nn.Module":
    """The network from which training starts. Its batch norm, which has seen nothing yet, is given the means and
    variances of images drawn at random: without it activations would grow from block to block."""
    import torch
    from torch.optim.swa_utils import update_bn

    data, prepare = read_dataset(work)
    network: nn.Module = build_network(work, work.settings, pretrained=False)
    images = data["train_images"]
    rows = np.random.default_rng(derived_seed(work.settings["seed"], "untrained")).permutation(len(images))
    chosen = torch.from_numpy(rows[: BATCH * N_BATCHES])
    update_bn(map(prepare, images[chosen].split(BATCH)), network, device=next(network.parameters()).device)
    return network


def untrained_steps(pipeline: "Pipeline") -> dict[str, Step]:
    """By what they make: representations, and of each layer a posterior and densities of points left out.

    Empty if the profile has no such control, and where the densities of the protocol are not those of whole fits that
    points can be left out of.
    """
    profile = pipeline.profile
    if not profile.untrained or not pipeline.leaves_out:
        return {}
    names = ("architecture", "width", "stem", "seed")
    network = {name: value for name, value in pipeline.network.settings.items() if name in names}
    found = Step(
        "untrained/representations",
        network | {"dimensions": dict(profile.untrained)},
        representations,
        (pipeline.dataset,),
        estimate_representations,
    )
    return {"representations": found} | pipeline.fits_beside("untrained", found)


def figure_b9(pipeline: "Pipeline") -> tuple[dict[str, Any], tuple[Step, ...]]:
    """Settings and inputs. Nothing of the trained network: figures B.5 and B.7 have that."""
    places = [
        {"name": layer, "title": RAW_PIXELS if layer == PIXELS else f"Stage {layer[-1]}, untrained", "dimensions": D}
        for layer, D in pipeline.profile.untrained.items()
    ]
    made = [step for name, step in pipeline.untrained.items() if name != "representations"]
    settings: dict[str, Any] = {"places": places, "n_bins": PAPER_BINS}
    if pipeline.profile.robustness:
        made.append(pipeline.robustness["memorization"])
        settings |= origin_of_scores(pipeline, "figure_b9")
    return settings, (pipeline.dataset, *made)
