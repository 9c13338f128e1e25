"""Vision Transformer and MLP-Mixer (timm's), pretrained with SAM (Chen, Hsieh & Gong 2022), and small stand-ins."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TRANSFORMERS", "WeightsError", "convert_mixer", "transformer"]

BASE_VIT: dict[str, Any] = {}
BASE_MIXER: dict[str, Any] = {"embed_dim": 768, "num_blocks": 12}
SMALL_VIT: dict[str, Any] = {"patch_size": 2, "embed_dim": 64, "depth": 6, "num_heads": 4, "mlp_ratio": 2.0}
SMALL_MIXER: dict[str, Any] = {"patch_size": 2, "embed_dim": 64, "num_blocks": 6, "mlp_ratio": (0.5, 2.0)}

TRANSFORMERS = ("vit_b16", "mixer_b16", "vit_small", "mixer_small")
FOLDER = Path("data") / "sam"
FILES = {"vit_b16": "ViT-B_16.npz", "mixer_b16": "Mixer-B_16.npz"}
SIZE = 224
"""Height and width in pixels that the pretrained networks are given."""

HELP = """The SAM-pretrained weights of {architecture} were not found at {path}.
Get https://storage.googleapis.com/vit_models/sam/{file} and put it there."""


class WeightsError(ValueError):
    """Pretrained weights are missing, or not those of the network; the message says what to do."""


class Resized(nn.Module):
    """A network that is given small images: they are brought to 224 x 224 pixels on its device, not before."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(F.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True))


def transformer(
    architecture: str,
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
    seed: int,
    pretrained: bool = True,
    folder: Path = FOLDER,
) -> nn.Module:
    """One of `TRANSFORMERS`. Blocks are `blocks.0`, `blocks.1`, ... (within `network` if it is a pretrained one).

    Args:
        architecture: "vit_b16" or "mixer_b16" (12 blocks of 768 features, patches of 16 x 16 pixels of the image at
            224 x 224), "vit_small" or "mixer_small" (6 blocks of 64 features, patches of 2 x 2 pixels).
        image_shape: channels, height and width of the images.
        n_classes: outputs of the last layer, which is a new one.
        seed: of the initial weights.
        pretrained: whether to read the weights of the first two.
        folder: where they lie, as published (npz).

    Raises:
        ValueError: an unknown name, or images that the patches do not divide.
        WeightsError: weights that are missing or of other names or shapes.
    """
    from timm.models.mlp_mixer import MlpMixer
    from timm.models.vision_transformer import VisionTransformer

    if architecture not in TRANSFORMERS:
        raise ValueError(f"architecture must be one of {', '.join(map(repr, TRANSFORMERS))}, got {architecture!r}")
    channels, height, width = image_shape
    if architecture in FILES and channels != 3:
        raise ValueError(f"image_shape must have 3 channels for {architecture}, got {channels}")
    if architecture in FILES and pretrained and not (folder / FILES[architecture]).exists():
        file = FILES[architecture]
        raise WeightsError(HELP.format(architecture=architecture, path=folder / file, file=file))
    vit = architecture.startswith("vit")
    kind: Any = VisionTransformer if vit else MlpMixer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture in FILES:
            # The published networks use the approximate GELU of their framework.
            network = kind(
                num_classes=n_classes,
                act_layer=partial(nn.GELU, approximate="tanh"),
                **(BASE_VIT if vit else BASE_MIXER),
            )
        elif height % 2 or width % 2:
            raise ValueError(f"image_shape must have an even height and width, got {height} x {width}")
        else:
            network = kind(
                img_size=(height, width),
                in_chans=channels,
                num_classes=n_classes,
                **(SMALL_VIT if vit else SMALL_MIXER),
            )
    if architecture not in FILES:
        return network
    if pretrained:
        _read_weights(network, architecture, folder / FILES[architecture])
    return Resized(network)


def _read_weights(network: Any, architecture: str, path: Path) -> None:
    """All weights but those of the last layer."""
    if architecture == "vit_b16":
        network.load_pretrained(str(path))
        return
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is no whole npz file of arrays ({error}); get it again") from None
    network.load_state_dict(convert_mixer(arrays, network.state_dict()), strict=False)


def convert_mixer(arrays: Mapping[str, np.ndarray], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a timm MlpMixer from the arrays of the published one, without the last layer.

    Args:
        arrays: by the names of the published file: stem/kernel [P, P, 3, C], MixerBlock_0/LayerNorm_0/scale [C],
            MixerBlock_0/token_mixing/Dense_0/kernel [T, M], ..., pre_head_layer_norm/bias [C], head/kernel [C, 1000].
        state: the state dict of the network that they are for.

    Returns:
        A state dict, less `head`.

    Raises:
        WeightsError: an array that is missing, one that is not known, or one of another shape.
    """
    names = {name: _published_name(name) for name in state if not name.startswith("head.")}
    missing = sorted(set(names.values()) - set(arrays))
    unknown = sorted(set(arrays) - set(names.values()) - {"head/kernel", "head/bias"})
    if missing or unknown:
        said = [f"{len(found)} {what}, the first {found[0]!r}" for what, found in
                (("missing", missing), ("not known", unknown)) if found]  # fmt: skip
        raise WeightsError(f"arrays must be those of a Mixer of this depth: {'; '.join(said)}")
    converted = {}
    for name, published in names.items():
        value = torch.from_numpy(np.array(arrays[published], dtype=np.float32))
        if published.endswith("/kernel"):
            # Inputs come before outputs there; a convolution has its height and width first.
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.mT if value.ndim == 2 else value
        if value.shape != state[name].shape:
            raise WeightsError(
                f"{published} must become {name} of shape {list(state[name].shape)}, got {list(value.shape)}"
            )
        converted[name] = value.contiguous()
    return converted


def _published_name(name: str) -> str:
    """Name in the published file of an entry of timm's state dict."""
    parts = name.split(".")
    norm = any(part.startswith("norm") for part in parts)
    last = "bias" if parts[-1] == "bias" else "scale" if norm else "kernel"
    if parts[0] == "stem":
        return f"stem/{last}"
    if parts[0] == "norm":
        return f"pre_head_layer_norm/{last}"
    block = f"MixerBlock_{parts[1]}"
    if norm:
        return f"{block}/LayerNorm_{int(parts[2][-1]) - 1}/{last}"
    mixing = {"mlp_tokens": "token_mixing", "mlp_channels": "channel_mixing"}[parts[2]]
    return f"{block}/{mixing}/Dense_{int(parts[3][-1]) - 1}/{last}"
