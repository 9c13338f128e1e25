"""Vision Transformer and MLP-Mixer (timm's), pretrained with SAM (Chen, Hsieh & Gong 2022), and small stand-ins."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro.steps import CannotError

__all__ = ["TRANSFORMERS", "WeightsError", "convert_mixer", "transformer"]

# timm's own definitions, by name. They use the exact GELU; the published training code uses its tanh approximation
# (the default of flax.linen.gelu), with the same weights.
MODELS = {"vit_b16": "vit_base_patch16_224.sam_in1k", "mixer_b16": "mixer_b16_224"}
SMALL_VIT: dict[str, Any] = {"patch_size": 2, "embed_dim": 64, "depth": 6, "num_heads": 4, "mlp_ratio": 2.0}
SMALL_MIXER: dict[str, Any] = {"patch_size": 2, "embed_dim": 64, "num_blocks": 6, "mlp_ratio": (0.5, 2.0)}

TRANSFORMERS = ("vit_b16", "mixer_b16", "vit_small", "mixer_small")
FOLDER = Path("data") / "sam"
URLS = {
    "vit_b16": "https://storage.googleapis.com/vit_models/sam/ViT-B_16.npz",
    "mixer_b16": "https://storage.googleapis.com/mixer_models/sam/Mixer-B_16.npz",
}
HEAD = 64
SIZE = 224
"""Height and width in pixels that the pretrained networks are given."""

HELP = """The SAM-pretrained weights of {architecture} were not found at {path}{why}.
Get {url} and put it there."""


class WeightsError(CannotError):
    """Pretrained weights are missing, or not those of the network; the message says what to do."""


class Resized(nn.Module):
    """A network that is given small images: they are brought to 224 x 224 pixels on its device, not before, and to the
    range that it was pretrained with, -1 for black to 1 for white."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.normalised_by([0.5] * 3, [0.5] * 3)

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Tell it the mean and standard deviation, by channel, that its images are normalised with (pixels 0..1)."""
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images * self.std + self.mean
        return self.network(F.interpolate(2 * pixels - 1, (SIZE, SIZE), mode="bicubic", antialias=True))


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
        folder: where they lie, as published (npz). Those of the ViT are fetched from the Hugging Face hub if they do
            not; timm has none of the Mixer.

    Raises:
        ValueError: an unknown name, or images that the patches do not divide.
        WeightsError: weights that are missing or of other names or shapes.
    """
    import timm
    from timm.models.mlp_mixer import MlpMixer
    from timm.models.vision_transformer import VisionTransformer

    if architecture not in TRANSFORMERS:
        raise ValueError(f"architecture must be one of {', '.join(map(repr, TRANSFORMERS))}, got {architecture!r}")
    channels, height, width = image_shape
    if architecture in MODELS and channels != 3:
        raise ValueError(f"image_shape must have 3 channels for {architecture}, got {channels}")
    if architecture not in MODELS and (height % 2 or width % 2):
        raise ValueError(f"image_shape must have an even height and width, got {height} x {width}")
    # Before a network of hundreds of megabytes is made.
    weights = _pretrained(architecture, folder) if architecture in MODELS and pretrained else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture in MODELS:
            network = timm.create_model(MODELS[architecture], num_classes=n_classes)
        else:
            vit = architecture.startswith("vit")
            kind: Any = VisionTransformer if vit else MlpMixer
            sizes = SMALL_VIT if vit else SMALL_MIXER
            network = kind(img_size=(height, width), in_chans=channels, num_classes=n_classes, **sizes)
    if architecture not in MODELS:
        return network
    if weights is not None:
        _load(network, architecture, weights)
    return Resized(network)


def file_of(architecture: str, folder: Path) -> Path:
    """Where the published weights belong."""
    return folder / URLS[architecture].rsplit("/", 1)[1]


def _pretrained(architecture: str, folder: Path) -> Path | dict[str, Tensor]:
    """The published file, or the weights without the last layer as timm fetches them."""
    import timm

    path = file_of(architecture, folder)
    if path.exists():
        return path
    why = ""
    if architecture == "vit_b16":
        try:
            return timm.create_model(MODELS[architecture], pretrained=True, num_classes=0).state_dict()
        except Exception as error:  # whatever the libraries behind timm raise: no network, no such file, a damaged one
            why = f", and could not be fetched from the Hugging Face hub ({type(error).__name__}: {error})"
    raise WeightsError(HELP.format(architecture=architecture, path=path, why=why, url=URLS[architecture]))


def _load(network: Any, architecture: str, weights: Path | dict[str, Tensor]) -> None:
    """All weights but those of the last layer, which the network keeps."""
    if isinstance(weights, dict):
        network.load_state_dict(weights, strict=False)
        return
    try:
        with np.load(weights, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise WeightsError(f"{weights} is no whole npz file of arrays ({error}); get it again") from None
    if architecture == "mixer_b16":
        network.load_state_dict(convert_mixer(arrays, network.state_dict()), strict=False)
        return
    check_vit(arrays, network.state_dict())
    head = {name: tensor.clone() for name, tensor in network.head.state_dict().items()}
    network.load_pretrained(str(weights))
    network.head.load_state_dict(head)


def check_vit(arrays: Mapping[str, np.ndarray], state: Mapping[str, Tensor]) -> None:
    """Refuse arrays that are not those of the published ViT, which timm would take in part or bring to another shape.

    Args:
        arrays: by the names of the published file: embedding/kernel [P, P, 3, C], cls [1, 1, C],
            Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel [C, 4 C], ...
        state: the state dict of the timm VisionTransformer that they are for.

    Raises:
        WeightsError: an array that is missing, one that is not known, or one of another shape.
    """
    expected: dict[str, tuple[int, ...]] = {"cls": tuple(state["cls_token"].shape)}
    expected["Transformer/posembed_input/pos_embedding"] = tuple(state["pos_embed"].shape)
    C, _, P, _ = state["patch_embed.proj.weight"].shape
    expected |= {"embedding/kernel": (P, P, 3, C), "embedding/bias": (C,)}
    expected |= {f"Transformer/encoder_norm/{name}": (C,) for name in ("scale", "bias")}
    n_blocks = sum(name.endswith(".attn.qkv.weight") for name in state)
    for k in range(n_blocks):
        block, attention = f"Transformer/encoderblock_{k}", "MultiHeadDotProductAttention_1"
        expected |= {f"{block}/LayerNorm_{i}/{name}": (C,) for i in (0, 2) for name in ("scale", "bias")}
        hidden = len(state[f"blocks.{k}.mlp.fc1.bias"])
        for i, (n_in, n_out) in enumerate(((C, hidden), (hidden, C))):
            expected |= {f"{block}/MlpBlock_3/Dense_{i}/kernel": (n_in, n_out)}
            expected |= {f"{block}/MlpBlock_3/Dense_{i}/bias": (n_out,)}
        # Split into heads of 64 features, as all published ViTs have them.
        split = (C // HEAD, HEAD)
        for name in ("query", "key", "value"):
            expected |= {f"{block}/{attention}/{name}/kernel": (C, *split), f"{block}/{attention}/{name}/bias": split}
        expected |= {f"{block}/{attention}/out/kernel": (*split, C), f"{block}/{attention}/out/bias": (C,)}
    _check_names(expected, arrays, "ViT")
    for name, shape in expected.items():
        if arrays[name].shape != tuple(shape):
            raise WeightsError(f"{name} must have shape {list(shape)}, got {list(arrays[name].shape)}")


def _check_names(expected: Collection[str], arrays: Mapping[str, np.ndarray], kind: str) -> None:
    missing = sorted(set(expected) - set(arrays))
    # The last layer is replaced; some files have one more, before it, that these networks do not.
    unknown = sorted(name for name in set(arrays) - set(expected) if not name.startswith(("head/", "pre_logits/")))
    if missing or unknown:
        said = [f"{len(found)} {what}, the first {found[0]!r}" for what, found in
                (("missing", missing), ("not known", unknown)) if found]  # fmt: skip
        raise WeightsError(f"arrays must be those of a {kind} of this depth: {'; '.join(said)}")


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
    _check_names(set(names.values()), arrays, "Mixer")
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
