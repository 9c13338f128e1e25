"""Residual networks: torchvision's, with the stems that the paper gives them for small images, and a cheap one."""

from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

__all__ = ["RESNETS", "STEMS", "SmallImageResNet", "residual_network"]

RESNETS: dict[str, dict[str, Any]] = {
    "resnet10": {"blocks": (1, 1, 1, 1)},
    "resnet18": {"blocks": (2, 2, 2, 2)},
    "resnet50": {"blocks": (3, 4, 6, 3), "bottleneck": True},
}
"""Arguments of `residual_network`."""

STEMS: dict[str, Any] = {
    "cifar": {"kernel_size": 3, "stride": 1, "padding": 1},
    "mini-imagenet": {"kernel_size": 3, "stride": 3, "padding": 6},
    "patches": {"kernel_size": 4, "stride": 4},
}
"""The first convolution; no max-pool follows it. "patches" leaves a sixteenth of the pixels that "cifar" does, for
cheap networks; the paper has none such."""

MIN_WIDTH = 8
"""With fewer channels, oneDNN's gradient of the strided 1 x 1 convolutions in channels-last layout is wrong on
processors without AVX-512, and writes beyond its memory (https://github.com/uxlfoundation/oneDNN/issues/6035)."""


class SmallImageResNet(ResNet):
    """torchvision's ResNet with another stem, no max-pool, zero-initialised residual branches, and a width.

    The four stages have `width`, 2, 4 and 8 times `width` channels (with bottleneck blocks, four times as many come
    out of each); with 64 they are those of the paper. The forward pass is torchvision's own, so `layer1` to `layer4`
    return the stages after the residual sum and its ReLU.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        *,
        width: int,
        n_classes: int,
        in_channels: int,
        stem: str,
    ) -> None:
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
    blocks: tuple[int, ...],
    *,
    width: int,
    n_classes: int,
    in_channels: int,
    seed: int,
    stem: str = "cifar",
    bottleneck: bool = False,
) -> SmallImageResNet:
    """A freshly initialised network in the memory layout that is fastest on a CPU; global random state is untouched.

    Args:
        blocks: number of residual blocks of each of the four stages; (2, 2, 2, 2) is ResNet18.
        width: channels of the first stage (before the expansion of bottleneck blocks), at least `MIN_WIDTH`.
        n_classes: outputs of the last layer.
        in_channels: channels of the images.
        seed: of the initial weights.
        stem: "cifar", "mini-imagenet" or "patches".
        bottleneck: blocks of three convolutions, as in ResNet50, instead of two.

    Raises:
        ValueError: other than four stages, an unknown stem, or a width below `MIN_WIDTH`.
    """
    if len(blocks) != 4:
        raise ValueError(f"blocks must have one number for each of the four stages, got {len(blocks)}: {blocks}")
    if width < MIN_WIDTH:
        raise ValueError(f"width must be at least {MIN_WIDTH}, got {width}")
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {', '.join(map(repr, STEMS))}, got {stem!r}")
    block: type[BasicBlock | Bottleneck] = Bottleneck if bottleneck else BasicBlock
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallImageResNet(block, blocks, width=width, n_classes=n_classes, in_channels=in_channels, stem=stem)
    return network.to(memory_format=torch.channels_last)
