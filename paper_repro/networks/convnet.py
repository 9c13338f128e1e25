"""The plain network of eight convolutions, without residual connections, of figure A.8."""

import torch
from torch import Tensor, nn

__all__ = ["CHANNELS", "ConvNet", "plain_network"]

CHANNELS = (1, 1, 2, 2, 2, 4, 4, 4)
"""Channels of each convolution over the width, which is 64 in the paper: 64, 64, 128, 128, 128, 256, 256, 256."""

STRIDES = (1, 1, 2, 1, 1, 2, 1, 1)


class ConvNet(nn.Module):
    """Eight times 3 x 3 convolution, batch norm, ReLU; then the mean over positions and one linear layer.

    `conv1` to `conv8` are read before batch norm and ReLU, `relu1` to `relu8` after them.
    """

    def __init__(self, *, width: int, n_classes: int, in_channels: int) -> None:
        super().__init__()
        before = in_channels
        for k, (channels, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True), start=1):
            convolution = nn.Conv2d(before, channels * width, 3, stride, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"conv{k}", convolution)
            self.add_module(f"norm{k}", nn.BatchNorm2d(channels * width))
            self.add_module(f"relu{k}", nn.ReLU())
            before = channels * width
        self.fc = nn.Linear(before, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        for k in range(1, len(CHANNELS) + 1):
            for kind in ("conv", "norm", "relu"):
                x = self.get_submodule(f"{kind}{k}")(x)
        return self.fc(x.mean((2, 3)))


def plain_network(*, width: int, n_classes: int, in_channels: int, seed: int) -> ConvNet:
    """Freshly initialised, channels last; global random state is untouched.

    Args:
        width: channels of the first convolution, positive.
        n_classes: outputs of the last layer.
        in_channels: channels of the images.
        seed: of the initial weights.

    Raises:
        ValueError: a width below 1.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ConvNet(width=width, n_classes=n_classes, in_channels=in_channels)
    return network.to(memory_format=torch.channels_last)
