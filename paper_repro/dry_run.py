"""Every step of a profile with its networks at full width, on a handful of made images of two classes.

So that what can fail on an expensive machine fails here first: shapes, missing packages, a step that does not go on.
Nothing that comes out of it means anything. Pretrained networks start from random weights.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from paper_repro.pipeline import Pipeline
from paper_repro.profiles import OtherNetwork, Profile, Protocol
from paper_repro.published import published_memorization
from paper_repro.robustness_scale import RobustnessScale
from paper_repro.steps import Workspace

__all__ = ["dry_run", "shrunk_profile", "shrunk_protocol"]

IMAGE_SHAPES = {"digits": (1, 8, 8), "cifar100": (3, 32, 32), "mini-imagenet": (3, 84, 84)}
# Two classes of 36: more than the 64 dimensions that are kept.
MADE = {"n_classes": 2, "n_per_class": 36}
TRAINING: dict[str, Any] = {"epochs": 1, "batch_size": 36}


def shrunk_profile(profile: Profile) -> Profile:
    """The same networks and layers on made images, two updates each; few trials, bins, points and draws."""
    others: dict[str, Any] = {
        name: other and _shrunk_network(other)
        for name, other in (("convnet", profile.convnet), ("vit", profile.vit), ("mixer", profile.mixer))
    }
    return replace(
        profile,
        title=f"dry run of {profile.name}",
        note="A dry run on made images: the numbers mean nothing.",
        dataset="made",
        dataset_options={"image_shape": list(IMAGE_SHAPES[profile.dataset]), **MADE, **_names(profile)},
        robustness=profile.robustness and _shrunk_scale(profile.robustness),
        n_control_seeds=min(profile.n_control_seeds, 1),
        **TRAINING,
        **others,
    )


def shrunk_protocol(protocol: Protocol) -> Protocol:
    """The same moves for a few sweeps."""
    return replace(protocol, n_sweeps=8, n_discard=4, thin=2, entropy_draws=20)


def dry_run(profile: Profile, protocol: Protocol, *, official: bool, figures: list[str], console: Console) -> None:
    """Run all steps in a temporary folder, which is gone afterwards; prints the time and memory of each."""
    from paper_repro.report import write_report

    pipeline = Pipeline(shrunk_profile(profile), shrunk_protocol(protocol), official=official)
    targets = [pipeline.figures[name] for name in figures or pipeline.figures]
    if not figures:
        targets += [pipeline.classes, pipeline.scorecard]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="paper-repro-dry-run-") as folder:
        workspace = Workspace(Path(folder), console)
        computed = workspace.run(targets)
        write_report(workspace, pipeline)
    seconds = time.perf_counter() - start
    console.print(
        f"All {len(computed)} steps of {profile.name} went through, in {seconds:.0f} s. The images were made and the "
        "weights random, so the dataset and pretrained weights are not tested by this."
    )


def _names(profile: Profile) -> dict[str, list[str]]:
    """Of the made classes; published scores, if there are any, are looked up by name."""
    if not profile.published:
        return {}
    return {"class_names": list(published_memorization(profile.published))[: MADE["n_classes"]]}


def _shrunk_network(other: OtherNetwork) -> OtherNetwork:
    return replace(other, settings={**other.settings, **TRAINING, "pretrained": False})


def _shrunk_scale(scale: RobustnessScale) -> RobustnessScale:
    network = {**scale.network, **TRAINING}
    return replace(
        scale,
        network=network,
        # Fewer, and a point would be in the subset of all of them.
        n_trials=20,
        n_bins=2,
        n0=2,
        # Fewer can only abstain.
        n=12,
        certified_per_bin=2,
        attacked_per_bin=2,
        budgets={norm: (0.0, max(values)) for norm, values in scale.budgets.items()},
        threshold=None,
        n_memorized=60,
        least_points=2,
        kl_draws=20,
        n_held_out=8,
    )
