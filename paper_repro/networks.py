"""Residual networks: torchvision's, with the stems that the paper gives them for small images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

__all__ = ["RESNETS", "STEMS", "SmallImageResNet", "accuracy", "residual_network"]

RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
"""Kind of block, and number of blocks of each of the four stages."""

STEMS = {
    "cifar": {"kernel_size": 3, "stride": 1, "padding": 1},
    "mini-imagenet": {"kernel_size": 3, "stride": 3, "padding": 6},
}
"""The first convolution; no max-pool follows it."""


class SmallImageResNet(ResNet):
    """torchvision's ResNet with a 3 x 3 stem, no max-pool, zero-initialised residual branches, and a width.

    The four stages have `width`, 2, 4 and 8 times `width` channels (with bottleneck blocks, four times as many come
    out of each); with 64 they are those of the paper. The forward
    pass is torchvision's own, so `layer1` to `layer4` return the stages after the residual sum and its ReLU.
    """

    def __init__(self, architecture: str, *, width: int, n_classes: int, in_channels: int, stem: str) -> None:
        block, blocks = RESNETS[architecture]
        self._stage_width = width
        super().__init__(block, list(blocks), num_classes=n_classes, zero_init_residual=True)
        self.conv1 = nn.Conv2d(in_channels, width, bias=False, **STEMS[stem])
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()
        self.fc = nn.Linear(8 * width * block.expansion, n_classes)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        # torchvision asks for 64, 128, 256 and 512 channels in turn, the first from a stem of 64.
        if planes == 64:
            self.inplanes = self._stage_width
        return super()._make_layer(block, planes * self._stage_width // 64, blocks, stride, dilate)


def residual_network(
    architecture: str, *, width: int, n_classes: int, in_channels: int, seed: int, stem: str = "cifar"
) -> SmallImageResNet:
    """A freshly initialised network in the memory layout that is fastest on a CPU; global random state is untouched.

    Args:
        architecture: "resnet18" or "resnet50".
        width: channels of the first stage, positive.
        n_classes: outputs of the last layer.
        in_channels: channels of the images.
        seed: of the initial weights.
        stem: "cifar" or "mini-imagenet".

    Raises:
        ValueError: an unknown architecture or stem, or a width below 1.
    """
    for argument, value, known in (("architecture", architecture, RESNETS), ("stem", stem, STEMS)):
        if value not in known:
            raise ValueError(f"{argument} must be one of {', '.join(map(repr, known))}, got {value!r}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallImageResNet(architecture, width=width, n_classes=n_classes, in_channels=in_channels, stem=stem)
    return network.to(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 512,
    prepare: Callable[[Tensor], Tensor] = Tensor.float,
) -> float:
    """Share of the images [N, C, H, W], made input by `prepare`, whose highest output is their label [N].

    In float32; leaves the network in eval mode.
    """
    network.eval()
    device = next(network.parameters()).device
    correct = [
        (network(prepare(part.to(device))).argmax(1) == truth.to(device)).sum()
        for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    ]
    return float(torch.stack(correct).sum()) / len(labels)
