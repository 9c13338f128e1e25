"""Activations of named layers, pooled and projected."""

import warnings

import numpy as np
import pytest
import torch
from tolerances import PEER_RELATIVE, UNIT_ROUNDOFF
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from classfit import extract_representations, representations

# Values are float32, sums over a few hundred entries of order one.
VALUES = 1000 * UNIT_ROUNDOFF[torch.float32]


class Network(nn.Module):
    """One layer of each kind of output; `inplace` changes what `linear` returned."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(6, 5, 3))
        self.linear = nn.Linear(5, 4)
        self.inplace = nn.ReLU(inplace=True)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = self.body(self.norm(self.conv(x)))
        return self.inplace(self.linear(x.mean((2, 3))))


class Tokens(nn.Module):
    def __init__(self, class_token: bool):
        super().__init__()
        if class_token:
            self.class_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = nn.Linear(3, 8)

    def forward(self, x):
        return self.block(x.flatten(2).transpose(1, 2))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().train()


@pytest.fixture
def images():
    return torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def loader(images, size=16):
    return DataLoader(TensorDataset(images, torch.arange(len(images))), batch_size=size)


@pytest.mark.parametrize("block_numbers", [representations.BLOCK_NUMBERS, 1, 60])
def test_values_are_the_pooled_activations_in_the_singular_basis(network, images, monkeypatch, block_numbers):
    """Also where they are taken in blocks of few rows, the last of which is shorter."""
    monkeypatch.setattr(representations, "BLOCK_NUMBERS", block_numbers)
    layers = ["body.1", "linear", "norm"]
    found = extract_representations(network, loader(images), layers)
    assert list(found) == layers
    network.eval()
    with torch.no_grad():
        norm = network.norm(network.conv(images))
        body = network.body(norm)
        expected = {"norm": norm.mean((2, 3)), "body.1": body.mean((2, 3)), "linear": network.linear(body.mean((2, 3)))}
    for layer, activations in expected.items():
        A = activations.double().numpy()
        values, components, singular_values = found[layer]
        C = A.shape[1]
        assert (values.dtype, components.dtype, singular_values.dtype) == (np.float32, np.float64, np.float64)
        np.testing.assert_allclose(components @ components.T, np.eye(C), atol=PEER_RELATIVE)
        np.testing.assert_allclose(singular_values, np.linalg.svd(A)[1], atol=VALUES * len(A))
        # The uncentred second moment, diagonal in this basis.
        np.testing.assert_allclose(values.T @ values, np.diag(singular_values**2), atol=VALUES * len(A))
        np.testing.assert_allclose(values @ components, A, atol=VALUES)
        largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], axis=1)
        assert (largest > 0).all()
        assert found[layer].variance_kept == 1.0


def test_a_layer_changed_in_place_afterwards_keeps_its_own_output(network, images):
    found = extract_representations(network, loader(images), ["linear", "inplace"])
    assert (found["linear"].values @ found["linear"].components).min() < 0
    assert (found["inplace"].values @ found["inplace"].components).min() > -VALUES


@pytest.mark.parametrize("class_token", [True, False])
def test_tokens(class_token, images):
    torch.manual_seed(0)
    model = Tokens(class_token)
    [found] = extract_representations(model, [images], ["block"]).values()
    with torch.no_grad():
        tokens = model(images)
    expected = tokens[:, 0] if class_token else tokens.mean(1)
    np.testing.assert_allclose(found.values @ found.components, expected, atol=VALUES)


@pytest.mark.parametrize("name", ["class_token", "cls_token"])
def test_a_class_token_of_a_part_of_the_model_is_one(name, images):
    model = nn.Sequential(Tokens(False))
    model[0].register_parameter(name, nn.Parameter(torch.zeros(1, 1, 8)))
    [found] = extract_representations(model, [images], ["0"]).values()
    np.testing.assert_allclose(found.values @ found.components, model(images)[:, 0].detach(), atol=VALUES)


@pytest.mark.parametrize("shape", [(50, 3, 64), (50, 3, 8, 8)])
def test_activations_of_few_digits_are_pooled_in_float32(shape, images):
    """In bfloat16 itself a mean of some 10 would be off by 0.03."""
    rounded = (10 + images).to(torch.bfloat16).reshape(shape)
    [found] = extract_representations(nn.Sequential(nn.Identity()), [rounded], ["0"]).values()
    expected = rounded.double().mean((2, 3) if rounded.ndim == 4 else 1)
    np.testing.assert_allclose(found.values @ found.components, expected, atol=10 * VALUES)


def test_does_not_depend_on_batches_or_their_form(network, images):
    whole = extract_representations(network, [images], ["linear"])["linear"]
    for batches in (loader(images, 7), [[images[:20], 0], [images[20:], 1]], iter([images[:49], images[49:]])):
        other = extract_representations(network, batches, ["linear"])["linear"]
        np.testing.assert_allclose(other.values, whole.values, atol=VALUES)


def test_number_of_components(network, images):
    def kept(n_components):
        found = extract_representations(network, loader(images), ["norm", "linear"], n_components=n_components)
        return {layer: len(r.components) for layer, r in found.items()}, found

    assert kept(3)[0] == {"norm": 3, "linear": 3}
    assert kept({"norm": None, "linear": 2})[0] == {"norm": 6, "linear": 2}
    sizes, found = kept(0.9)
    for layer, size in sizes.items():
        squares = found[layer].singular_values ** 2
        share = squares.cumsum() / squares.sum()
        assert share[size - 1] >= 0.9
        assert size == 1 or share[size - 2] < 0.9
        assert found[layer].variance_kept == pytest.approx(share[size - 1], rel=PEER_RELATIVE)
        assert found[layer].values.shape == (50, size)


def test_fewer_inputs_than_channels(network, images):
    found = extract_representations(network, [images[:3]], ["norm"])["norm"]
    assert found.values.shape == (3, 3)
    assert found.components.shape == (3, 6)
    assert len(found.singular_values) == 3


def test_a_dead_layer_has_nothing_to_lose(network, images):
    nn.init.zeros_(network.linear.weight)
    nn.init.zeros_(network.linear.bias)
    found = extract_representations(network, [images], ["linear"], n_components=2)["linear"]
    assert found.variance_kept == 1.0
    assert (found.values == 0).all()


def test_projections_of_training_data_serve_test_data(network, images):
    train = extract_representations(network, [images[:30]], ["norm", "linear"], n_components=2)
    test = extract_representations(network, [images[30:]], ["linear"], projections=train)
    everything = extract_representations(network, [images[30:]], ["linear"])["linear"]
    A = everything.values @ everything.components
    np.testing.assert_allclose(test["linear"].values, A @ train["linear"].components.T, atol=VALUES)
    assert test["linear"].components is train["linear"].components
    assert test["linear"].variance_kept == train["linear"].variance_kept


def test_leaves_the_model_as_it_was(network, images):
    network.norm.eval()
    statistics = network.norm.running_mean.clone()
    extract_representations(network, loader(images), ["linear"], device="cpu")
    check_untouched(network)
    assert torch.equal(network.norm.running_mean, statistics)
    assert all(parameter.grad is None for parameter in network.parameters())

    def failing():
        yield images
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        extract_representations(network, failing(), ["linear"])
    check_untouched(network)
    with pytest.raises(ValueError, match="ran 0 times"):
        extract_representations(network, [images], ["linear", "unused"])
    check_untouched(network)


def check_untouched(network):
    modes = {name: module.training for name, module in network.named_modules()}
    assert not modes.pop("norm")
    assert all(modes.values())
    assert not any(module._forward_hooks for module in network.modules())


def test_progress_only_when_verbose(network, images, capsys):
    extract_representations(network, loader(images), ["linear"])
    assert capsys.readouterr().out == ""
    extract_representations(network, loader(images), ["linear"], verbose=1)
    assert "representations" in capsys.readouterr().out


# ---------------------------------------------------------------- bad input


def test_unknown_layers_list_close_names(network, images):
    with pytest.raises(ValueError, match=r"no layer 'liner'; close names: linear"):
        extract_representations(network, [images], ["liner"])
    with pytest.raises(ValueError, match=r"no layer 'zzz'; close names: conv"):
        extract_representations(network, [images], ["linear", "zzz"])
    with pytest.raises(ValueError, match=r"layers must be a list .* got 'linear'"):
        extract_representations(network, [images], "linear")
    with pytest.raises(ValueError, match=r"layers must be a list .* got \[\]"):
        extract_representations(network, [images], [])
    with pytest.raises(ValueError, match=r"layers must name each layer once, got \['norm', 'linear', 'norm'\]"):
        extract_representations(network, [], ["norm", "linear", "norm"])


def test_a_layer_that_runs_twice(images):
    shared = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 3, 1), shared, nn.Conv2d(3, 3, 1), shared)
    with pytest.raises(ValueError, match=r"layer '1' must run once in a forward pass, it ran 2 times"):
        extract_representations(model, [images], ["1"])


def test_activations_that_are_not_finite(network, images):
    images[17, 0, 4, 4] = torch.inf
    with pytest.raises(
        ValueError, match=r"layer 'norm' must be finite, 1 of 50 inputs have others, the first is input 17"
    ):
        extract_representations(network, loader(images), ["norm"])


def test_outputs_that_cannot_be_pooled(images):
    flat = nn.Sequential(nn.Flatten(0))
    with pytest.raises(ValueError, match=r"layer '0' must have shape .* got \[9600\]"):
        extract_representations(flat, [images], ["0"])
    recurrent = nn.Sequential(nn.Flatten(2), nn.GRU(64, 5))
    with pytest.raises(ValueError, match="layer '1' must be a tensor, got tuple"):
        extract_representations(recurrent, [images], ["1"])


@pytest.mark.parametrize(
    ("n_components", "message"),
    [
        (0, "got 0"),
        (5, r"at most min\(N, C\) = 4 for layer 'linear', got 5"),
        (1.0, "got 1.0"),
        (True, "got True"),
        ("16", "got '16'"),
        ({"norm": 2}, "n_components must have an entry for every layer, it has none for 'linear'"),
    ],
)
def test_bad_number_of_components(network, images, n_components, message):
    with pytest.raises(ValueError, match=message):
        extract_representations(network, [images], ["linear"], n_components=n_components)


@pytest.mark.parametrize("given", ["tensor", "dataset", "images one by one"])
def test_images_without_batches_are_refused(network, images, given):
    """torch's convolutions would take one image for a batch without channels, and its channels for rows."""
    first = nn.Sequential(network.conv)
    loaders = {"tensor": images, "dataset": TensorDataset(images), "images one by one": list(images)}
    word = "must give one row for each of the 3 inputs of a batch, it gave 6" if "one" in given else "must give batches"
    with pytest.raises(ValueError, match=word):
        extract_representations(first, loaders[given], ["0"])


def test_a_layer_of_windows_is_refused(images):
    windows = nn.Sequential(nn.Unflatten(2, (2, 4)), nn.Flatten(0, 1), nn.Flatten(1), nn.Identity())
    with pytest.raises(ValueError, match=r"layer '3' must give one row for each of the 16 inputs .*, it gave 48 "):
        extract_representations(windows, loader(images), ["3"])


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.movedim(1, 3)


def test_warns_of_channels_that_come_last(network, images):
    with pytest.warns(UserWarning, match=r"'0', of shape \[16, 8, 8, 3\], is taken as \[B, C, H, W\]") as caught:
        extract_representations(nn.Sequential(ChannelsLast()), loader(images), ["0"])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract_representations(network, loader(images), ["conv", "body", "linear"])
        wide = torch.cat([images, images], 3)
        extract_representations(nn.Sequential(nn.Identity()), loader(wide), ["0"])


def test_a_device_that_is_not_here(network, images):
    with pytest.raises(ValueError, match="device must be a device that torch can use here, got 'gpu'"):
        extract_representations(network, [images], ["linear"], device="gpu")


def test_bad_projections_and_loaders(network, images):
    train = extract_representations(network, [images], ["linear"])
    with pytest.raises(ValueError, match="projections must have an entry for every layer, it has none for 'norm'"):
        extract_representations(network, [images], ["norm"], projections=train)
    with pytest.raises(ValueError, match=r"projections\['norm'\] must have components of width 6, .* got 4"):
        extract_representations(network, [images], ["norm"], projections={"norm": train["linear"]})
    with pytest.raises(ValueError, match="n_components must be None when projections are given, got 2"):
        extract_representations(network, [images], ["linear"], projections=train, n_components=2)
    with pytest.raises(ValueError, match="loader must give at least one batch"):
        extract_representations(network, [], ["linear"])
    with pytest.raises(ValueError, match=r"loader must give tensors, .* got dict"):
        extract_representations(network, [{"image": images}], ["linear"])
