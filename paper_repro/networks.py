"""The paper's networks: torchvision's residual networks with a stem for small images."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

__all__ = ["SmallImageResNet", "residual_network"]


class SmallImageResNet(ResNet):
    """torchvision's ResNet with a 3 x 3 stem of stride 1, no max-pool, zero-initialised residual branches, and a width.

    The four stages have `width`, 2, 4 and 8 times `width` channels; with 64 they are those of the paper. The forward
    pass is torchvision's own, so `layer1` to `layer4` return the stages after the residual sum and its ReLU.
    """

    def __init__(self, blocks: list[int], *, width: int, n_classes: int, in_channels: int) -> None:
        self._stage_width = width
        super().__init__(BasicBlock, blocks, num_classes=n_classes, zero_init_residual=True)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()
        self.fc = nn.Linear(8 * width * BasicBlock.expansion, n_classes)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        # torchvision asks for 64, 128, 256 and 512 channels in turn, the first from a stem of 64.
        if planes == 64:
            self.inplanes = self._stage_width
        return super()._make_layer(block, planes * self._stage_width // 64, blocks, stride, dilate)


def residual_network(
    blocks: tuple[int, ...], *, width: int, n_classes: int, in_channels: int, seed: int
) -> SmallImageResNet:
    """A freshly initialised network in the memory layout that is fastest on a CPU; global random state is untouched.

    Args:
        blocks: number of residual blocks of each of the four stages; (2, 2, 2, 2) is ResNet18.
        width: channels of the first stage, positive.
        n_classes: outputs of the last layer.
        in_channels: channels of the images.
        seed: of the initial weights.

    Raises:
        ValueError: other than four stages, or a width below 1.
    """
    if len(blocks) != 4:
        raise ValueError(f"blocks must have one number for each of the four stages, got {len(blocks)}: {blocks}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallImageResNet(list(blocks), width=width, n_classes=n_classes, in_channels=in_channels)
    return network.to(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 512) -> float:
    """Share of the images [N, C, H, W] whose highest output is their label [N]; leaves the network in eval mode."""
    network.eval()
    correct = [
        (network(part).argmax(1) == truth).sum()
        for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    ]
    return float(torch.stack(correct).sum()) / len(labels)
