"""Networks: what they are made of, where they are read, and the weights they start from."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from paper_repro_tiny import tiny_network
from tolerances import UNIT_ROUNDOFF
from torch import nn

from classfit import extract_representations
from paper_repro.datasets import normalised
from paper_repro.networks import SmallImageResNet, WeightsError, build, residual_network, transformer
from paper_repro.networks.transformers import MODELS, SIZE, check_vit, convert_mixer
from paper_repro.pipeline import Pipeline
from paper_repro.profiles import PAPER, PROFILES

RGB = (3, 32, 32)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_full_width_is_torchvisions_but_for_the_stem(name):
    ours = build({"architecture": name, "width": 64, "stem": "cifar"}, image_shape=RGB, n_classes=100, seed=0)
    theirs = getattr(torchvision.models, name)(num_classes=100)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    expected = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert shapes.pop("conv1.weight") == (64, 3, 3, 3)
    del expected["conv1.weight"]
    assert shapes == expected
    assert SmallImageResNet.forward is torchvision.models.ResNet.forward
    assert ours.conv1.stride == (1, 1)


@pytest.mark.parametrize("width", [8, 10, 32])
def test_stages(width):
    network = residual_network((2, 1, 1, 3), width=width, n_classes=7, in_channels=1, seed=0).eval()
    found = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(network, name).register_forward_hook(lambda _, __, out, name=name: found.__setitem__(name, out))
    output = network(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert output.shape == (2, 7)
    assert [len(network.get_submodule(name)) for name in found] == [2, 1, 1, 3]
    assert [tuple(out.shape[1:]) for out in found.values()] == [
        (width * 2**s, 8 // 2**s, 8 // 2**s) for s in range(4)
    ]  # fmt: skip
    # Read after the ReLU.
    assert all(float(out.detach().min()) >= 0 for out in found.values())


def test_residual_branches_start_at_zero():
    blocks = [module for module in tiny_network().modules() if isinstance(module, torchvision.models.resnet.BasicBlock)]
    assert len(blocks) == 4
    assert all(bool((block.bn2.weight == 0).all()) for block in blocks)


def test_the_seed_decides_the_weights_and_nothing_else_is_seeded():
    before = torch.get_rng_state()
    first, again, other = tiny_network(0), tiny_network(0), tiny_network(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_bad_networks():
    with pytest.raises(ValueError, match=r"four stages, got 2: \(2, 2\)"):
        residual_network((2, 2), width=8, n_classes=10, in_channels=1, seed=0)
    with pytest.raises(ValueError, match="width must be at least 8, got 4"):
        residual_network((2, 2, 2, 2), width=4, n_classes=10, in_channels=1, seed=0)


@pytest.mark.parametrize(
    ("stem", "size", "expected", "kernel"), [("cifar", 32, 32, 3), ("mini-imagenet", 84, 32, 3), ("patches", 32, 8, 4)]
)
def test_stems(stem, size, expected, kernel):
    """The paper's give the first stage a picture of 32 x 32."""
    network = residual_network((1, 1, 1, 1), width=8, n_classes=10, in_channels=3, seed=0, stem=stem)
    images = torch.zeros(1, 3, size, size)
    assert network.maxpool(network.conv1(images)).shape == (1, 8, expected, expected)
    assert network.conv1.kernel_size == (kernel, kernel)


def test_the_plain_network():
    network = build({"architecture": "convnet", "width": 64}, image_shape=RGB, n_classes=100, seed=0).eval()
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [64, 64, 128, 128, 128, 256, 256, 256]
    assert [module.stride[0] for module in convolutions] == [1, 1, 2, 1, 1, 2, 1, 1]
    images = torch.randn(2, *RGB, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = extract_representations(network, [images], ["conv8", "relu8"])
        assert network(images).shape == (2, 100)
    before, after = ((part.values @ part.components) for part in (found["conv8"], found["relu8"]))
    # Read before the ReLU there are means below zero, after it there are none but for rounding.
    assert before.min() < -0.1 * abs(before).max()
    assert after.min() > -1e3 * UNIT_ROUNDOFF[torch.float32] * abs(after).max()


@pytest.mark.parametrize(("name", "n_tokens"), [("vit_small", 17), ("mixer_small", 16)])
def test_small_stand_ins_are_of_the_same_families(name, n_tokens):
    network = build({"architecture": name}, image_shape=(1, 8, 8), n_classes=10, seed=0).eval()
    expected = timm.models.VisionTransformer if name == "vit_small" else timm.models.MlpMixer
    assert isinstance(network, expected)
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = []
    network.blocks[5].register_forward_hook(lambda _, __, out: outputs.append(out))
    found = extract_representations(network, [images], [f"blocks.{k}" for k in range(6)])
    assert outputs[0].shape == (3, n_tokens, 64)
    part = found["blocks.5"]
    # The class token, or the mean over all tokens.
    pooled = outputs[0][:, 0] if name == "vit_small" else outputs[0].mean(1)
    np.testing.assert_allclose(
        part.values @ part.components, pooled.detach().numpy(), atol=1e-4 * float(pooled.abs().max())
    )


def published_mixer(n_blocks=2, seed=0):
    """Arrays of the names and shapes of a published Mixer, and a timm one that they are for."""
    network = timm.models.MlpMixer(num_blocks=n_blocks, embed_dim=8, img_size=8, patch_size=4, num_classes=5)
    rng = np.random.default_rng(seed)
    shapes = {"stem/kernel": (4, 4, 3, 8), "stem/bias": (8,), "head/kernel": (8, 1000), "head/bias": (1000,)}
    shapes |= {f"pre_head_layer_norm/{name}": (8,) for name in ("scale", "bias")}
    for k in range(n_blocks):
        shapes |= {f"MixerBlock_{k}/LayerNorm_{i}/{name}": (8,) for i in (0, 1) for name in ("scale", "bias")}
        for mixing, n_in, n_hidden in (("token_mixing", 4, 4), ("channel_mixing", 8, 32)):
            block = f"MixerBlock_{k}/{mixing}"
            shapes |= {f"{block}/Dense_0/kernel": (n_in, n_hidden), f"{block}/Dense_0/bias": (n_hidden,)}
            shapes |= {f"{block}/Dense_1/kernel": (n_hidden, n_in), f"{block}/Dense_1/bias": (n_in,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}, network


def layer_norm(x, scale, bias):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias


def dense(x, arrays, name):
    return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]


def perceptron(x, arrays, name):
    hidden = torch.from_numpy(dense(x, arrays, f"{name}/Dense_0"))
    return dense(nn.functional.gelu(hidden).numpy(), arrays, f"{name}/Dense_1")


def test_a_converted_mixer_computes_what_the_published_one_does():
    """Against the published forward pass, written out in NumPy on the arrays as published."""
    arrays, network = published_mixer()
    network.load_state_dict(convert_mixer(arrays, network.state_dict()), strict=False)
    image = np.random.default_rng(1).normal(size=(8, 8, 3)).astype(np.float32)
    patches = image.reshape(2, 4, 2, 4, 3).swapaxes(1, 2).reshape(4, 48)
    x = patches @ arrays["stem/kernel"].reshape(48, 8) + arrays["stem/bias"]
    for k in range(2):
        block = f"MixerBlock_{k}"
        norms = [(arrays[f"{block}/LayerNorm_{i}/scale"], arrays[f"{block}/LayerNorm_{i}/bias"]) for i in (0, 1)]
        x = x + perceptron(layer_norm(x, *norms[0]).T, arrays, f"{block}/token_mixing").T
        x = x + perceptron(layer_norm(x, *norms[1]), arrays, f"{block}/channel_mixing")
    expected = layer_norm(x, arrays["pre_head_layer_norm/scale"], arrays["pre_head_layer_norm/bias"])
    with torch.no_grad():
        found = network.eval().forward_features(torch.from_numpy(image.transpose(2, 0, 1))[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e4 * UNIT_ROUNDOFF[torch.float32] * abs(expected).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.pop("MixerBlock_1/token_mixing/Dense_0/bias"),
            "1 missing, the first 'MixerBlock_1/token_mixing/Den",
        ),
        (lambda a: a.update({"MixerBlock_2/LayerNorm_0/bias": a["stem/bias"]}), "1 not known, the first 'MixerBlock_2"),
        (
            lambda a: a.update({"stem/bias": np.zeros(9)}),
            r"stem/bias must become stem.proj.bias of shape \[8\], got \[9\]",
        ),
    ],
)
def test_the_conversion_is_strict(change, message):
    arrays, network = published_mixer()
    change(arrays)
    with pytest.raises(WeightsError, match=message):
        convert_mixer(arrays, network.state_dict())


def test_all_names_of_mixer_b16_are_known():
    state = timm.create_model("mixer_b16_224").state_dict()
    with pytest.raises(WeightsError, match=f"{len(state) - 2} missing, the first 'MixerBlock_0/LayerNorm_0/bias'"):
        convert_mixer({}, state)


def published_vit(state, seed=0):
    """Arrays of the names and shapes of a published ViT of two blocks of 128 features, for this state dict."""
    rng = np.random.default_rng(seed)
    C = 128
    shapes = {"embedding/kernel": (4, 4, 3, C), "embedding/bias": (C,), "cls": (1, 1, C)}
    shapes |= {"head/kernel": (C, 1000), "head/bias": (1000,)}
    shapes["Transformer/posembed_input/pos_embedding"] = tuple(state["pos_embed"].shape)
    shapes |= {f"Transformer/encoder_norm/{name}": (C,) for name in ("scale", "bias")}
    for k in range(2):
        block = f"Transformer/encoderblock_{k}"
        shapes |= {f"{block}/LayerNorm_{i}/{name}": (C,) for i in (0, 2) for name in ("scale", "bias")}
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (C, 4 * C), f"{block}/MlpBlock_3/Dense_0/bias": (4 * C,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (4 * C, C), f"{block}/MlpBlock_3/Dense_1/bias": (C,)}
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            shapes |= {f"{attention}/{name}/kernel": (C, 2, 64), f"{attention}/{name}/bias": (2, 64)}
        shapes |= {f"{attention}/out/kernel": (2, 64, C), f"{attention}/out/bias": (C,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def small_models(monkeypatch):
    """Let the pretrained networks be small ones of the same kinds, so that a test needs no gigabyte."""

    def create(name, pretrained=False, num_classes=1000):
        assert name in MODELS.values()
        if pretrained:
            raise ConnectionError("no route to the hub")
        sizes = {"img_size": 8, "patch_size": 4, "num_classes": num_classes}
        if name == MODELS["vit_b16"]:
            return timm.models.VisionTransformer(embed_dim=128, depth=2, num_heads=2, **sizes)
        return timm.models.MlpMixer(num_blocks=2, embed_dim=8, **sizes)

    monkeypatch.setattr(timm, "create_model", create)
    return create


@pytest.mark.parametrize("n_classes", [7, 1000])
def test_the_published_vit_is_read_but_for_its_last_layer(small_models, tmp_path, n_classes):
    arrays = published_vit(small_models(MODELS["vit_b16"]).state_dict())
    np.savez(tmp_path / "ViT-B_16.npz", **arrays)
    given = {"image_shape": RGB, "n_classes": n_classes, "seed": 0}
    network = transformer("vit_b16", folder=tmp_path, **given).network
    fresh = transformer("vit_b16", pretrained=False, **given).network
    np.testing.assert_array_equal(
        network.patch_embed.proj.weight.detach(), arrays["embedding/kernel"].transpose(3, 2, 0, 1)
    )
    query = arrays["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/query/kernel"].reshape(128, 128).T
    np.testing.assert_array_equal(network.blocks[1].attn.qkv.weight.detach()[:128], query)
    assert torch.equal(network.head.weight, fresh.head.weight)
    same = {name for name, tensor in network.state_dict().items() if torch.equal(tensor, fresh.state_dict()[name])}
    assert same == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("cls"), "those of a ViT of this depth: 1 missing, the first 'cls'"),
        (
            lambda a: a.update({"Transformer/encoderblock_2/LayerNorm_0/bias": a["embedding/bias"]}),
            "1 not known, the first 'Transformer/encoderblock_2",
        ),
        (lambda a: a.update({"embedding/bias": np.zeros(1)}), r"embedding/bias must have shape \[128\], got \[1\]"),
    ],
)
def test_a_vit_is_read_strictly(small_models, change, message):
    state = small_models(MODELS["vit_b16"]).state_dict()
    arrays = published_vit(state)
    check_vit(arrays, state)
    change(arrays)
    with pytest.raises(WeightsError, match=message):
        check_vit(arrays, state)


def test_all_names_of_vit_b16_are_known():
    state = timm.create_model(MODELS["vit_b16"]).state_dict()
    # Query, key and value are apart in the published file.
    n = len(state) - 2 + 12 * 2 * 2
    with pytest.raises(WeightsError, match=f"{n} missing, the first 'Transformer/encoder_norm/bias'"):
        check_vit({}, state)


def test_pretrained_networks_are_timms_own():
    """By their definitions: the exact GELU, layer norms with 1e-6, twelve blocks of 768 features."""
    for architecture in MODELS:
        network = build({"architecture": architecture}, image_shape=RGB, n_classes=7, seed=0, pretrained=False).network
        activations = [module for module in network.modules() if isinstance(module, nn.GELU)]
        norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
        assert len(network.blocks) == 12
        assert {module.approximate for module in activations} == {"none"}
        assert {(module.eps, module.normalized_shape) for module in norms} == {(1e-6, (768,))}


def test_vit_weights_are_fetched_where_the_file_is_not(monkeypatch, tmp_path):
    small = timm.models.VisionTransformer(img_size=8, patch_size=4, embed_dim=128, depth=2, num_heads=2, num_classes=0)

    def create(name, pretrained=False, num_classes=1000):
        if pretrained:
            assert (name, num_classes) == ("vit_base_patch16_224.sam_in1k", 0)
            return small
        sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 128, "depth": 2, "num_heads": 2}
        return timm.models.VisionTransformer(num_classes=num_classes, **sizes)

    monkeypatch.setattr(timm, "create_model", create)
    network = transformer("vit_b16", image_shape=RGB, n_classes=7, seed=0, folder=tmp_path).network
    assert torch.equal(network.blocks[1].attn.qkv.weight, small.blocks[1].attn.qkv.weight)
    assert network.head.out_features == 7


def test_pretrained_networks_are_given_the_range_they_were_trained_with(small_models):
    """-1 for black to 1 for white, however the dataset is normalised."""
    network = transformer("vit_b16", image_shape=RGB, n_classes=7, seed=0, pretrained=False)
    assert not {"mean", "std"} & network.state_dict().keys()
    given = []
    network.network = nn.Identity()
    network.network.register_forward_hook(lambda module, arguments, output: given.append(output))
    mean, std = [0.1, 0.4, 0.7], [0.2, 0.3, 0.25]
    network.normalised_by(mean, std)
    for white in (0, 255):
        pixels = torch.full((2, *RGB), white, dtype=torch.uint8)
        network(normalised(pixels, white=255, mean=mean, std=std))
    ends = given[1].new_tensor([-1, 1])
    for found, end in zip(given, ends, strict=True):
        assert found.shape == (2, 3, SIZE, SIZE)
        torch.testing.assert_close(found, end.expand_as(found))


@pytest.mark.parametrize(
    ("name", "url"),
    [("vit_b16", "vit_models/sam/ViT-B_16.npz"), ("mixer_b16", "mixer_models/sam/Mixer-B_16.npz")],
)
def test_missing_weights_are_told_where_to_get(small_models, name, url, tmp_path):
    with pytest.raises(WeightsError, match=rf"(?s)weights of {name} were not found at {tmp_path}.*{url}") as error:
        transformer(name, image_shape=RGB, n_classes=100, seed=0, folder=tmp_path)
    assert ("ConnectionError: no route to the hub" in str(error.value)) == (name == "vit_b16")


@pytest.mark.parametrize(("name", "file"), [("vit_b16", "ViT-B_16.npz"), ("mixer_b16", "Mixer-B_16.npz")])
def test_weights_that_are_no_archive_are_refused(small_models, name, file, tmp_path):
    (tmp_path / file).write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="is no whole npz file"):
        transformer(name, image_shape=RGB, n_classes=100, seed=0, folder=tmp_path)
    np.savez(tmp_path / file, a=np.zeros(1000))
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="is no whole npz file"):
        transformer(name, image_shape=RGB, n_classes=100, seed=0, folder=tmp_path)


def test_unknown_network():
    with pytest.raises(ValueError, match=r"architecture must be one of 'resnet10', .* got 'vgg'"):
        build({"architecture": "vgg"}, image_shape=RGB, n_classes=10, seed=0)


def test_the_settings_of_a_network_trained_for_hours_stay():
    """A changed fingerprint would throw the kept network of this profile away."""
    pipeline = Pipeline(PROFILES["cifar100-laptop"], PAPER)
    assert pipeline.network.fingerprint == "abc5a21152f5b374521c05ea7855478f0fd7045470a8baf62e949ceeaad859f7"


@pytest.mark.parametrize(
    "name", ["cifar100-resnet18", "cifar100-resnet50", "mini-imagenet-resnet18", "mini-imagenet-resnet50"]
)
def test_paper_sized_profiles_are_the_designs(name):
    pipeline, (dataset, architecture) = Pipeline(PROFILES[name], PAPER), name.rsplit("-", 1)
    settings = pipeline.network.settings
    assert settings == {
        "architecture": architecture, "width": 64, "stem": dataset.replace("cifar100", "cifar"),
        "epochs": 160, "batch_size": 512, "peak_learning_rate": 0.4, "weight_decay": 1e-6,
        "crop_padding": 4 if "cifar" in name else 10, "flip": True, "bfloat16": True, "seed": 0,
    }  # fmt: skip
    assert set(pipeline.figures) >= {"figure_a8", "figure_a9", "figure_a10"}
    assert len(pipeline.others["convnet"].posteriors) == 16
    assert len(pipeline.others["vit"].posteriors) == len(pipeline.others["mixer"].posteriors) == 12
