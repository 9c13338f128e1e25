"""The paper's networks, by name.

resnet18, resnet50     torchvision's, with the paper's stems                    resnet.py
convnet                the plain network of eight convolutions                  convnet.py
vit_b16, mixer_b16     timm's, from SAM-pretrained weights                      transformers.py
vit_small, mixer_small their stand-ins for small images, from random weights    transformers.py
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paper_repro.networks.convnet import ConvNet, plain_network
from paper_repro.networks.resnet import RESNETS, SmallImageResNet, residual_network
from paper_repro.networks.transformers import TRANSFORMERS, WeightsError, transformer

__all__ = [
    "BATCH_SIZE",
    "ConvNet",
    "SmallImageResNet",
    "WeightsError",
    "accuracy",
    "build",
    "plain_network",
    "predictions",
    "residual_network",
    "transformer",
]

BATCH_SIZE = 512
"""Images in one pass, where nothing is trained."""


def build(
    settings: Mapping[str, Any],
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
    seed: int,
    pretrained: bool = True,
) -> nn.Module:
    """A network of these settings of a step, freshly initialised or with the pretrained weights that belong to it.

    Args:
        settings: architecture, one of the names above; width (all but the transformers); stem (the residual networks).
        image_shape: channels, height and width of what it will be given.
        n_classes: outputs of the last layer.
        seed: of the initial weights; global random state is untouched.
        pretrained: whether to read the weights of an architecture that has some; False if others will be loaded.

    Raises:
        ValueError: an unknown name.
        WeightsError: pretrained weights that are not there or not what they should be.
    """
    architecture = settings["architecture"]
    options = {name: settings[name] for name in ("width", "stem") if name in settings}
    if architecture in RESNETS:
        options = {**RESNETS[architecture], **options}
        return residual_network(in_channels=image_shape[0], n_classes=n_classes, seed=seed, **options)
    if architecture == "convnet":
        return plain_network(in_channels=image_shape[0], n_classes=n_classes, seed=seed, **options)
    if architecture in TRANSFORMERS:
        return transformer(architecture, image_shape=image_shape, n_classes=n_classes, seed=seed, pretrained=pretrained)
    known = ", ".join(map(repr, (*RESNETS, "convnet", *TRANSFORMERS)))
    raise ValueError(f"architecture must be one of {known}, got {architecture!r}")


@torch.no_grad()
def predictions(
    network: nn.Module,
    images: Tensor,
    prepare: Callable[[Tensor], Tensor] = Tensor.float,
) -> Tensor:
    """[N] int64 index of the network's highest output for each of the images [N, C, H, W], made input by `prepare`.

    In float32, on the device of the network; leaves it in eval mode.
    """
    network.eval()
    device = next(network.parameters()).device
    return torch.cat([network(prepare(part.to(device))).argmax(1) for part in images.split(BATCH_SIZE)])


def accuracy(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    prepare: Callable[[Tensor], Tensor] = Tensor.float,
) -> float:
    """Share of the images [N, C, H, W] of which `predictions` are their label [N]."""
    predicted = predictions(network, images, prepare)
    return float((predicted == labels.to(predicted.device)).sum()) / len(labels)
