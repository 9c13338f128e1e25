"""What can be run: profiles (a dataset, a network and its training) and protocols (how densities are fitted)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PROFILES", "PROTOCOLS", "Profile", "Protocol"]


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
    """Channels of its first stage; 64 in the paper."""
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


DIGITS = Profile(
    name="digits",
    description="1,797 embedded images of handwritten digits, with a ResNet18 of half width, in a minute or two",
    title="digits, an embedded stand-in (scaled down)",
    note="Digits is an embedded stand-in, and this run is scaled down: it tests no claim of the paper.",
    dataset="digits",
    dataset_options={"test_fraction": 0.2},
    architecture="resnet18",
    # Half of ResNet18: stages of 32, 64, 128 and 256 channels, so that 16 and 64 dimensions are a cut everywhere.
    width=32,
    dimensions=(16, 16, 64, 64),
    # Measured on two cores: 0.6 s an epoch; seeds 0 to 2 reach 99.4% on the test images.
    epochs=30,
    batch_size=128,
    peak_learning_rate=0.1,
    crop_padding=1,
    # Some digits are others in a mirror. In images as small as these, bfloat16 gains nothing.
    flip=False,
    bfloat16=False,
)

CIFAR100_LAPTOP = Profile(
    name="cifar100-laptop",
    description="CIFAR-100 in full, with a ResNet18 of half width trained on a CPU: two hours on two cores",
    title="CIFAR-100, ResNet18 of half width (scaled down)",
    note="The network is a ResNet18 of half the paper's width, trained for 50 epochs instead of 160.",
    dataset="cifar100",
    architecture="resnet18",
    width=32,
    dimensions=(16, 16, 64, 64),
    epochs=50,
    batch_size=512,
    peak_learning_rate=0.4,
    crop_padding=4,
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

PROFILES = {profile.name: profile for profile in (DIGITS, CIFAR100_LAPTOP)}
PROTOCOLS = {protocol.name: protocol for protocol in (PAPER,)}
