"""Every step of a profile with its networks at full width, on a handful of made images of two classes.

So that what can fail on an expensive machine fails here first: shapes, missing packages, a step that does not go on.
Nothing that comes out of it means anything. Pretrained networks start from random weights where those are not there.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from paper_repro import rehearsal
from paper_repro.pipeline import Pipeline
from paper_repro.plan import duration, make_plan
from paper_repro.profiles import OtherNetwork, Profile, Protocol
from paper_repro.published import published_memorization
from paper_repro.robustness_scale import RobustnessScale
from paper_repro.steps import Step, Workspace

__all__ = ["dry_run", "shrunk_profile", "shrunk_protocol"]

Shape = tuple[int, int, int]
IMAGE_SHAPES: dict[str, Shape] = {"digits": (1, 8, 8), "cifar100": (3, 32, 32), "mini-imagenet": (3, 84, 84)}
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


def dry_run(
    profile: Profile,
    protocol: Protocol,
    *,
    official: bool,
    figures: list[str],
    console: Console,
    data: Path | None = None,
) -> None:
    """Run all steps in a temporary folder, which is gone afterwards; prints the time and memory of each.

    Then what a long run does beside its steps (see `rehearsal`): reading the dataset, going on after a stop, bfloat16.
    Says what of a real run it did not try.

    Raises:
        RuntimeError: what is finished is not taken for finished, or a rehearsal fails.
    """
    from paper_repro.report import write_report

    pipeline = Pipeline(shrunk_profile(profile), shrunk_protocol(protocol), official=official)
    targets = [pipeline.figures[name] for name in figures or pipeline.figures]
    if not figures:
        targets += [pipeline.classes, pipeline.scorecard]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="paper-repro-dry-run-") as folder:
        workspace = Workspace(Path(folder) / "steps", console)
        computed = workspace.run([pipeline.dataset])
        make_plan(workspace, pipeline, targets)
        console.print("The plan was made, as before a real run; what it says is of no use here.")
        _half_of_the_trials(workspace, pipeline, targets)
        computed += workspace.run(targets)
        if again := workspace.run(targets):
            raise RuntimeError(f"finished steps must be reused, but {again[0].name} was computed again")
        write_report(workspace, pipeline)
        read, words = rehearsal.real_dataset(
            lambda source: Pipeline(profile, protocol, data=source).dataset, data, Path(folder)
        )
        console.print(words, soft_wrap=True)
        untried = [] if read else ["the dataset itself."]
        networks = [step.settings for step in computed if step.kind == "network"]
        untried += _rehearse(networks, IMAGE_SHAPES[profile.dataset], console)
    for words in (*untried, *UNTRIED):
        console.print(f"[yellow]Not tried:[/] {words}", soft_wrap=True)
    console.print(
        f"All {len(computed)} steps of {profile.name} went through, in {duration(time.perf_counter() - start)}. What "
        "the paper-sized profiles would cost on four GPUs is predicted in benchmarks/README.md (in a clone: python -m "
        "benchmarks.gpu_hours).",
        soft_wrap=True,
    )


UNTRIED = (
    "the real number of images and of updates: accuracy, time, and the memory of whole batches.",
    "several machines that share trials over a network, or whose versions differ.",
)
"""Whatever the machine."""


def _half_of_the_trials(workspace: Workspace, pipeline: Pipeline, targets: list[Step]) -> None:
    """As `paper-repro trials --shard 0/2` on one machine, before `run` does the others and gathers them on another."""
    step = pipeline.robustness.get("memorization")
    if step is None or step not in workspace.to_do(targets):
        return
    from paper_repro.robustness import memorization_trials

    work = workspace.join(step)
    if work is not None:
        memorization_trials(work, (0, 2))
        workspace.console.print(f"[green]✓[/] shard 0/2 of {step.name}")


def _rehearse(networks: list[Mapping[str, Any]], shape: Shape, console: Console) -> list[str]:
    """Try what lies beside the steps with the networks of these settings; returns what could not be tried."""
    import torch

    for settings in networks[:1]:
        console.print(rehearsal.interrupted_training(settings, shape))
    mixed = [settings for settings in networks if settings.get("bfloat16")]
    for settings in mixed:
        rehearsal.bfloat16(settings, shape)
    if mixed:
        console.print(f"An update in bfloat16 went through in {', '.join(found['architecture'] for found in mixed)}.")
    weights = [rehearsal.missing_weights(settings["architecture"]) for settings in networks]
    gpu = "a GPU, on which the same command tries the same steps: run it there first."
    return [words for words in weights if words] + ([] if torch.cuda.is_available() else [gpu])


def _names(profile: Profile) -> dict[str, list[str]]:
    """Of the made classes; published scores, if there are any, are looked up by name."""
    if not profile.published:
        return {}
    return {"class_names": list(published_memorization(profile.published))[: MADE["n_classes"]]}


def _shrunk_network(other: OtherNetwork) -> OtherNetwork:
    there = rehearsal.missing_weights(other.settings["architecture"]) is None
    return replace(other, settings={**other.settings, **TRAINING, "pretrained": there})


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
