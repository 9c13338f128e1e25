"""What can be run: profiles (a dataset, a network and its training) and protocols (how densities are fitted)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from paper_repro import robustness_scale
from paper_repro.robustness_scale import RobustnessScale

__all__ = ["PROFILES", "PROTOCOLS", "OtherNetwork", "Profile", "Protocol"]


@dataclass(frozen=True)
class OtherNetwork:
    """A network beside the residual one: that of figure A.8, A.9 or A.10."""

    title: str
    """What a figure's second line and caption say of it."""
    settings: Mapping[str, Any]
    """Of the step that trains it: architecture and `training.TrainingSettings`."""
    dimensions: Mapping[str, int]
    """Singular vectors kept, by the name of each layer that is read, in order."""


@dataclass(frozen=True)
class Profile:
    name: str
    description: str
    title: str
    """What a figure's second line says of it."""
    note: str
    """What a reader must know before drawing conclusions from it; said in captions and at the top of the report."""
    dataset: str
    architecture: str
    """Of the network that the paper is about: "resnet18" or "resnet50"."""
    width: int
    """Channels of its first stage, before the expansion of a ResNet50's blocks; 64 in the paper."""
    dimensions: tuple[int, ...]
    """Singular vectors kept at each stage."""
    epochs: int
    batch_size: int
    peak_learning_rate: float
    crop_padding: int
    flip: bool = True
    bfloat16: bool = True
    weight_decay: float = 1e-6
    stem: str = "cifar"
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    """What `datasets.load` is told, beside the name."""
    convnet: OtherNetwork | None = None
    """For figure A.8; None: the profile has no such figure."""
    vit: OtherNetwork | None = None
    """For figure A.9."""
    mixer: OtherNetwork | None = None
    """For figure A.10."""
    robustness: RobustnessScale | None = None
    """For figures 3, 4, A.11, B.2, B.6 and B.7."""
    published: str = ""
    """File in `paper_repro/published` with memorization of the same classes, for figures of part B; "": none."""
    n_control_seeds: int = 0
    """For figure B.4; 0: no controls."""
    untrained: Mapping[str, int] = field(default_factory=dict)
    """For figure B.9: singular vectors kept of raw pixels and of stages before training; none: no figure."""

    @property
    def channels(self) -> list[int]:
        """Of what its four stages put out."""
        expansion = 4 if self.architecture == "resnet50" else 1
        return [self.width * expansion * 2**stage for stage in range(4)]

    @property
    def splits(self) -> bool:
        """Whether the split into training and test images is drawn at random, by the seed of the run."""
        return "test_fraction" in self.dataset_options


@dataclass(frozen=True)
class Protocol:
    name: str
    description: str
    n_sweeps: int
    n_discard: int
    thin: int
    block_size: int
    n_init_components: int
    entropy_draws: int
    density: str = "chain"
    """What gives the log-densities: "chain", one chain of the settings above; "converged", several chains until they
    agree; "heldout", such fits that never saw the point; "em", Gaussian mixtures by EM. The settings above that are
    about sweeps count for "chain" only."""


CONVNET_TITLE = "plain ConvNet of 8 convolutions"
BLOCKS_OF_6 = {f"blocks.{k}": 16 for k in range(6)}
BLOCKS_OF_12 = {f"network.blocks.{k}": 64 for k in range(12)}


def _convnet(width: int, **training: Any) -> OtherNetwork:
    """Read before batch norm and ReLU, and after; dimensions as the residual network keeps in a stage as wide."""
    dimensions = {f"{kind}{k}": 16 if k <= 5 else 64 for kind in ("conv", "relu") for k in range(1, 9)}
    title = CONVNET_TITLE if width == 64 else f"{CONVNET_TITLE} at {width} of 64 channels"
    return OtherNetwork(title, {"architecture": "convnet", "width": width, **training}, dimensions)


# Without crops: with them, this small a transformer fits 76% of the training images in as many updates.
STAND_IN_TRAINING: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 64,
    "peak_learning_rate": 2e-3,
    "optimizer": "adamw",
    "crop_padding": 0,
}

DIGITS = Profile(
    name="digits",
    description="1,797 embedded images of handwritten digits, with a ResNet18 of half width, in some minutes",
    title="digits, an embedded stand-in (scaled down)",
    note="Digits is an embedded stand-in, and this run is scaled down: it tests no claim of the paper.",
    dataset="digits",
    dataset_options={"test_fraction": 0.2},
    architecture="resnet18",
    # Half of ResNet18: stages of 32, 64, 128 and 256 channels, so that 16 and 64 dimensions are a cut everywhere.
    width=32,
    dimensions=(16, 16, 64, 64),
    # Measured on two cores: 0.6 s an epoch; seed 0 reaches 98.6% on the test images.
    epochs=30,
    batch_size=128,
    peak_learning_rate=0.1,
    crop_padding=1,
    # Some digits are others in a mirror. In images as small as these, bfloat16 gains nothing.
    flip=False,
    bfloat16=False,
    robustness=robustness_scale.DIGITS,
    n_control_seeds=3,
    untrained={"pixels": 32, "layer3": 64, "layer4": 64},  # 61 of the 64 pixels ever differ
    convnet=_convnet(32, epochs=15, batch_size=128, peak_learning_rate=0.1, crop_padding=1),
    vit=OtherNetwork(
        "small ViT (6 blocks of 64 features) as a stand-in for ViT-B/16",
        {"architecture": "vit_small", **STAND_IN_TRAINING},
        BLOCKS_OF_6,
    ),
    mixer=OtherNetwork(
        "small Mixer (6 blocks of 64 features) as a stand-in for Mixer-B/16",
        {"architecture": "mixer_small", **STAND_IN_TRAINING},
        BLOCKS_OF_6,
    ),
)

# Section 5 of the design: as the paper trains.
PAPER_TRAINING: dict[str, Any] = {"epochs": 160, "batch_size": 512, "peak_learning_rate": 0.4, "flip": True}
# The paper does not spell out how it fine-tunes; these are ours.
FINE_TUNING: dict[str, Any] = {"epochs": 10, "batch_size": 128, "peak_learning_rate": 0.01, "flip": True}

# Without crops and flips a network fits every image in a few epochs, which is what the paper's question is about, and
# what a processor can afford: half width takes 98 s an epoch on two cores with AMX, five minutes on two without.
LAPTOP_TRAINING: dict[str, Any] = {
    "epochs": 12,
    "batch_size": 128,
    "peak_learning_rate": 0.1,
    "crop_padding": 0,
    "flip": False,
    "bfloat16": True,
}

CIFAR100_SCORES = "cifar100_resnet18_memorization"

CIFAR100_LAPTOP = Profile(
    name="cifar100-laptop",
    description="CIFAR-100 in full, with a ResNet18 of half width trained on a CPU: hours on two cores",
    title="CIFAR-100, ResNet18 of half width (scaled down)",
    note="The network is a ResNet18 of half the paper's width, trained for 12 epochs without augmentation; the paper "
    "trains for 160 epochs with crops and flips.",
    dataset="cifar100",
    published=CIFAR100_SCORES,
    architecture="resnet18",
    width=32,
    dimensions=(16, 16, 64, 64),
    **LAPTOP_TRAINING,
    robustness=robustness_scale.LAPTOP,
    n_control_seeds=2,
    untrained={"pixels": 64, "layer3": 64, "layer4": 64},
    # Without residual connections 12 epochs fit 88% of the training images.
    convnet=_convnet(32, weight_decay=1e-6, **(LAPTOP_TRAINING | {"epochs": 30})),
)

CIFAR100_LAPTOP_RESNET50 = replace(
    CIFAR100_LAPTOP,
    name="cifar100-laptop-resnet50",
    description="the same with a ResNet50 of quarter width: a second architecture",
    title="CIFAR-100, ResNet50 of quarter width (scaled down)",
    note="The network is a ResNet50 of a quarter of the paper's width, trained for 20 epochs without augmentation; the "
    "paper trains for 160 epochs with crops and flips.",
    architecture="resnet50",
    # Stages of 64, 128, 256 and 512 channels; four and a half minutes an epoch on two cores without AMX.
    width=16,
    epochs=20,
    # The plain ConvNet is that of `cifar100-laptop`.
    convnet=None,
)


def _paper_sized(dataset: str, architecture: str) -> Profile:
    """A profile with the paper's networks and training."""
    small = dataset == "cifar100"
    padding = 4 if small else 10
    mixed = {"weight_decay": 1e-6, "crop_padding": padding, "bfloat16": True}
    names = (
        {"cifar100": "CIFAR-100", "mini-imagenet": "Mini-ImageNet"},
        {"resnet18": "ResNet18", "resnet50": "ResNet50"},
    )
    title = f"{names[0][dataset]}, {names[1][architecture]}"
    return Profile(
        name=f"{dataset}-{architecture}",
        description=f"{title} and the other networks as in the paper; wants a GPU",
        title=title,
        note="",
        dataset=dataset,
        dataset_options={} if small else {"size": 84},
        published=CIFAR100_SCORES if small else "",
        architecture=architecture,
        width=64,
        dimensions=(16, 16, 64, 64),
        stem="cifar" if small else "mini-imagenet",
        crop_padding=padding,
        **PAPER_TRAINING,
        robustness=robustness_scale.PAPER_SIZED,
        n_control_seeds=20,
        # Singular vectors of the pixels of larger images are more than a processor does in reasonable time.
        untrained=({"pixels": 64} if small else {}) | {"layer3": 64, "layer4": 64},
        convnet=_convnet(64, **PAPER_TRAINING, **mixed),
        vit=OtherNetwork(
            "ViT-B/16, pretrained with SAM and fine-tuned",
            {"architecture": "vit_b16", **FINE_TUNING, **mixed},
            BLOCKS_OF_12,
        ),
        mixer=OtherNetwork(
            "Mixer-B/16, pretrained with SAM and fine-tuned",
            {"architecture": "mixer_b16", **FINE_TUNING, **mixed},
            BLOCKS_OF_12,
        ),
    )


PAPER = Protocol(
    name="paper",
    description="as published: blocks of 4 points, 400 sweeps from 6 random components, every 4th of the last 80 kept",
    n_sweeps=400,
    n_discard=320,
    thin=4,
    block_size=4,
    n_init_components=6,
    entropy_draws=100_000,
)

CONVERGED = replace(
    PAPER,
    name="converged",
    description="four chains a class from dispersed starts, with split-merge moves, until they agree or are flagged",
    block_size=1,
    density="converged",
)
HELDOUT = replace(
    CONVERGED,
    name="heldout",
    description="as converged, but each point's density is from fits to the other four fifths of its class",
    density="heldout",
)
EM = replace(
    PAPER,
    name="em",
    description="Gaussian mixtures by EM, number of components by BIC: no sampler, no figures 2, 4, A.11, B.3 to B.11",
    density="em",
)

PROFILES = {
    profile.name: profile
    for profile in (
        DIGITS,
        CIFAR100_LAPTOP,
        CIFAR100_LAPTOP_RESNET50,
        *(
            _paper_sized(data, network)
            for data in ("cifar100", "mini-imagenet")
            for network in ("resnet18", "resnet50")
        ),
    )
}
PROTOCOLS = {protocol.name: protocol for protocol in (PAPER, CONVERGED, HELDOUT, EM)}
