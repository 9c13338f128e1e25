"""Figure A.5: the network, as it is, and where representations are read."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from paper_repro.figures import heading, style
from paper_repro.figures.style import Stored, styled

if TYPE_CHECKING:
    from torch import nn

__all__ = ["caption", "compute", "draw", "finding", "look_for", "table"]


def compute(network: "nn.Module", image_shape: tuple[int, ...], read: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The network's parts in the order in which an image passes through them.

    Args:
        network: a torchvision ResNet, on the CPU.
        image_shape: (C, H, W) of an image.
        read: layers whose output is read, and the number of singular vectors that is kept of each.

    Returns:
        image_shape [3]; n_parameters; per part: names, texts (what it is), channels, sizes (height and width of its
        output), blocks (residual blocks in it), parameters, kept (singular vectors kept of its output; 0 where it is
        not read); and block: the convolutions of the first residual block, as text.
    """
    import torch
    from torch import nn

    shapes: dict[str, torch.Size] = {}
    children = dict(network.named_children())
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: shapes.__setitem__(name, output.shape))
        for name, module in children.items()
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *image_shape))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    # The stem's batch norm, ReLU and absent pooling belong to its convolution.
    shown = [
        name for name, module in children.items() if not isinstance(module, nn.BatchNorm2d | nn.ReLU | nn.Identity)
    ]
    parts = [children[name] for name in shown]
    first_block = next(part for part in parts if isinstance(part, nn.Sequential))[0]
    return {
        "image_shape": np.array(image_shape),
        "n_parameters": np.array(sum(p.numel() for p in network.parameters())),
        "names": np.array(shown),
        "texts": np.array([_text(part) for part in parts]),
        "channels": np.array([shapes[name][1] for name in shown]),
        "sizes": np.array([shapes[name][2] if len(shapes[name]) == 4 else 1 for name in shown]),
        "blocks": np.array([len(part) if isinstance(part, nn.Sequential) else 0 for part in parts]),
        "parameters": np.array([sum(p.numel() for p in part.parameters()) for part in parts]),
        "kept": np.array([read.get(name, 0) for name in shown]),
        "block": np.array([_text(layer) for layer in first_block.children() if isinstance(layer, nn.Conv2d)]),
    }


def table(stored: Stored) -> list[dict[str, Any]]:
    """One row a part."""
    return [
        {
            "part": str(name),
            "what": str(stored["texts"][i]),
            "channels": int(stored["channels"][i]),
            "height_and_width": int(stored["sizes"][i]),
            "residual_blocks": int(stored["blocks"][i]),
            "parameters": int(stored["parameters"][i]),
            "singular_vectors_kept": int(stored["kept"][i]) or "",
        }
        for i, name in enumerate(stored["names"])
    ]


@styled
def draw(stored: Stored) -> Figure:
    n = len(stored["names"])
    # Equal scales on both axes, about 1.15 inches a unit: feature maps are drawn as squares.
    figure = style.canvas(heading("figure_a5"), stored, width=9.6, height=3.4)
    axes = figure.subplots()
    axes.set(xlim=(-1.5, n - 0.5), ylim=(-2.16, 0.62), aspect="equal")
    axes.axis("off")
    C, H, W = (int(size) for size in stored["image_shape"])
    _maps(axes, -1, 0, C, 1, "image")
    axes.text(-1, -0.52, f"{C} × {H} × {W}", ha="center", va="center", fontsize=8.5)
    for i in range(n):
        _arrow(axes, (i - 0.57, 0), (i - 0.41, 0))
        _part(axes, stored, i)
        _output(axes, stored, i)
    return figure


def caption(stored: Stored) -> str:
    convolutions = " → batch norm → ReLU → ".join(str(text) for text in stored["block"])
    return (
        "Drawn from the network itself: each box is one of its parts, with the shape of its output (channels × "
        f"height × width) below it. A residual block adds its input to {convolutions} → batch norm, and applies a "
        "ReLU to the sum; where a stage halves the size, its first block has stride 2, and where it changes the shape, "
        "a 1 × 1 convolution on the shortcut. Orange: where representations are read, after the last ReLU of a stage; "
        "they are averaged "
        f"over all positions and projected on their leading singular vectors. {stored['note']}"
    )


def look_for(stored: Stored) -> str:
    return (
        "Four read-out points, one a stage. The paper's ResNet18 has stages of 64, 128, 256 and 512 channels; "
        "channels and image size are where other networks are scaled down."
    )


def finding(stored: Stored) -> str:
    return f"{int(stored['blocks'].sum())} residual blocks and {int(stored['n_parameters']):,} parameters."


def _part(axes: Axes, stored: Stored, i: int) -> None:
    """A part of the network: its residual blocks side by side, each with its shortcut, or what it is in words."""
    blocks = int(stored["blocks"][i])
    colour = style.LOW if blocks else style.MUTED
    axes.add_patch(_box((i - 0.4, -0.36), 0.8, 0.72, edgecolor=colour, facecolor="none", linewidth=1.2))
    if not blocks:
        axes.text(i, 0, textwrap.fill(str(stored["texts"][i]), 12), ha="center", va="center", fontsize=8.5)
        return
    axes.text(
        i, 0.42, f"stage {str(stored['names'][i])[-1]}", ha="center", va="bottom", fontsize=9.5, fontweight="bold"
    )
    axes.text(i, -0.26, f"{blocks} residual blocks", ha="center", va="center", fontsize=7)
    pitch = 0.7 / blocks
    for left in i - 0.35 + pitch * np.arange(blocks):
        axes.add_patch(_box((left + 0.2 * pitch, -0.15), 0.6 * pitch, 0.18, facecolor=colour, alpha=0.3, linewidth=0))
        start, end = (left + 0.03 * pitch, 0.02), (left + 0.97 * pitch, 0.02)
        axes.plot([start[0], end[0]], [-0.06, -0.06], color=colour, linewidth=1, zorder=0)
        shortcut = FancyArrowPatch(start, end, connectionstyle="arc3,rad=-1.0", arrowstyle="-|>", mutation_scale=6,
                                   linewidth=1, color=colour, shrinkA=0, shrinkB=0)  # fmt: skip
        axes.add_patch(shortcut)


def _output(axes: Axes, stored: Stored, i: int) -> None:
    """What a part gives: its feature maps, their shape, and what is read from them."""
    channels, size, kept = int(stored["channels"][i]), int(stored["sizes"][i]), int(stored["kept"][i])
    is_map = stored["names"][i] != "fc"
    axes.text(i, -0.52, f"{channels} × {size} × {size}" if is_map else f"{channels} classes", ha="center", va="center",
              fontsize=8.5)  # fmt: skip
    if not kept:
        return
    _maps(axes, i, -1.02, channels, size / int(stored["image_shape"][1]), "")
    _arrow(axes, (i, -1.45), (i, -1.68), style.HIGH)
    pooled = f"mean over {size} × {size}" if size > 1 else "one position"
    text = f"{pooled},\nfirst {kept} of {channels}\nsingular vectors"
    axes.text(i, -1.74, text, ha="center", va="top", fontsize=8, color=style.HIGH, linespacing=1.3)


def _maps(axes: Axes, x: float, y: float, channels: int, scale: float, label: str) -> None:
    """Feature maps as a stack of squares: their side goes with height and width, their number with log2 of channels."""
    side, n = 0.58 * max(scale, 0.1), 1 + int(np.log2(channels))
    step = 0.03
    for k in reversed(range(n)):
        corner = (x - side / 2 + (k - (n - 1) / 2) * step, y - side / 2 + (k - (n - 1) / 2) * step)
        axes.add_patch(Rectangle(corner, side, side, facecolor=style.PAPER, edgecolor=style.MUTED, linewidth=0.8))
    axes.text(x, y, label, ha="center", va="center", fontsize=8.5)


def _box(corner: tuple[float, float], width: float, height: float, **look: Any) -> FancyBboxPatch:
    return FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.05", **look)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = style.MUTED) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, linewidth=1.2, color=colour,
                                   shrinkA=0, shrinkB=0))  # fmt: skip


def _text(module: "nn.Module") -> str:
    from torch import nn

    match module:
        case nn.Conv2d():
            stride = f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
            return f"{module.kernel_size[0]} × {module.kernel_size[1]} convolution{stride}"
        case nn.Linear():
            return "linear layer"
        case nn.AdaptiveAvgPool2d():
            return "average over positions"
        case nn.Sequential():
            return f"{len(module)} residual blocks"
        case _:
            return type(module).__name__
