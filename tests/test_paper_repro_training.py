"""Dataset, network and training."""

import itertools

import pytest
import torch
import torchvision
from tolerances import PEER_RELATIVE, UNIT_ROUNDOFF
from torch import nn

from paper_repro import datasets, training
from paper_repro.networks import SmallImageResNet, accuracy, residual_network
from paper_repro.profiles import DIGITS
from paper_repro.training import TrainingSettings, learning_rate, random_crop, train

SETTINGS = TrainingSettings(epochs=6, batch_size=32, peak_learning_rate=0.05, crop_padding=1)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", test_fraction=0.2, seed=0)


def tiny_network(seed=0):
    return residual_network((1, 1, 1, 1), width=4, n_classes=10, in_channels=1, seed=seed)


def test_digits(digits):
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert digits.train_images.dtype == torch.float32
    assert digits.class_names == [str(digit) for digit in range(10)]
    accumulated = digits.train_images.numel() ** 0.5 * UNIT_ROUNDOFF[torch.float32]
    assert float(digits.train_images.mean()) == pytest.approx(0, abs=accumulated)
    assert float(digits.train_images.std()) == pytest.approx(1, abs=accumulated)
    # Pixels were 0..1 before.
    pixels = digits.train_images * digits.std + digits.mean
    assert float(pixels.min()) == pytest.approx(0, abs=accumulated)
    assert float(pixels.max()) == pytest.approx(1, abs=accumulated)


def test_the_split_is_by_class_and_seeded(digits):
    train_counts, test_counts = digits.train_labels.bincount(), digits.test_labels.bincount()
    assert ((train_counts + test_counts) * 0.2 - test_counts).abs().max() <= 1
    again = datasets.load("digits", test_fraction=0.2, seed=0)
    other = datasets.load("digits", test_fraction=0.2, seed=1)
    assert torch.equal(again.train_images, digits.train_images)
    assert not torch.equal(other.train_images, digits.train_images)


def test_unknown_dataset():
    with pytest.raises(ValueError, match="dataset must be one of 'digits', got 'mnist'"):
        datasets.load("mnist", test_fraction=0.2, seed=0)


def test_full_width_is_torchvisions_resnet18_but_for_the_stem():
    ours = residual_network((2, 2, 2, 2), width=64, n_classes=100, in_channels=3, seed=0)
    theirs = torchvision.models.resnet18(num_classes=100)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    expected = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert shapes.pop("conv1.weight") == (64, 3, 3, 3)
    del expected["conv1.weight"]
    assert shapes == expected
    assert SmallImageResNet.forward is torchvision.models.ResNet.forward
    assert ours.conv1.stride == (1, 1)


@pytest.mark.parametrize("width", [4, 10, 32])
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
        residual_network((2, 2), width=4, n_classes=10, in_channels=1, seed=0)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        residual_network((2, 2, 2, 2), width=0, n_classes=10, in_channels=1, seed=0)


def test_the_learning_rate_rises_then_falls_linearly():
    settings = TrainingSettings(epochs=1, batch_size=1, peak_learning_rate=0.4, warmup=0.15)
    rates = [learning_rate(update, 99, settings) for update in range(99)]
    assert max(rates) == rates[14] == pytest.approx(0.4, rel=PEER_RELATIVE)
    assert rates[0] == pytest.approx(0.4 / 15, rel=PEER_RELATIVE)
    assert rates[-1] == pytest.approx(0.4 / 85, rel=PEER_RELATIVE)
    for part in (rates[:15], rates[14:]):
        steps = [b - a for a, b in itertools.pairwise(part)]
        assert max(steps) - min(steps) < PEER_RELATIVE


def test_random_crops_are_shifts_of_the_padded_image():
    images = torch.randn(300, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    cropped = random_crop(images, 1, -3.0, torch.Generator().manual_seed(1))
    assert cropped.shape == images.shape
    padded = nn.functional.pad(images, (1, 1, 1, 1), value=-3.0)
    seen = set()
    for image, crop in zip(padded, cropped, strict=True):
        windows = {(top, left): image[:, top : top + 4, left : left + 5] for top in range(3) for left in range(3)}
        (where,) = (place for place, window in windows.items() if torch.equal(window, crop))
        seen.add(where)
    assert len(seen) == 9
    assert torch.equal(random_crop(images, 0, -3.0, torch.Generator()), images)


def test_a_stopped_training_goes_on_to_the_same_bits(digits, tmp_path, monkeypatch):
    data = digits.train_images[:96], digits.train_labels[:96]
    straight = tiny_network()
    history = train(straight, *data, SETTINGS, black=-1.0, seed=5)

    class StoppedError(Exception):
        pass

    store = training._store

    def store_and_stop(*arguments):
        store(*arguments)
        raise StoppedError

    checkpoint = tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(training, "_store", store_and_stop)
    with pytest.raises(StoppedError):
        train(tiny_network(), *data, SETTINGS, black=-1.0, seed=5, checkpoint=checkpoint)
    monkeypatch.setattr(training, "_store", store)
    continued = tiny_network(seed=9)
    assert train(continued, *data, SETTINGS, black=-1.0, seed=5, checkpoint=checkpoint) == history
    assert len(history) == 6
    for name, value in straight.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name]), name
    # Another seed does not come out the same, so the comparison can fail.
    other = tiny_network()
    assert train(other, *data, SETTINGS, black=-1.0, seed=6) != history


def test_an_estimate_is_of_all_updates(digits):
    data = digits.train_images[:96], digits.train_labels[:96]
    short = training.estimate_seconds(tiny_network(), *data, SETTINGS)
    long = training.estimate_seconds(tiny_network(), *data, SETTINGS._replace(epochs=6000))
    assert 0 < short < long


def test_the_digits_profile_reaches_its_accuracy(digits):
    """97% on the test images, at the profile's own settings but for half the epochs, to save time."""
    network = residual_network(DIGITS.blocks, width=DIGITS.width, n_classes=10, in_channels=1, seed=0)
    settings = TrainingSettings(
        epochs=DIGITS.epochs // 2,
        batch_size=DIGITS.batch_size,
        peak_learning_rate=DIGITS.peak_learning_rate,
        crop_padding=DIGITS.crop_padding,
    )
    train(network, digits.train_images, digits.train_labels, settings, black=-digits.mean / digits.std, seed=0)
    assert accuracy(network, digits.test_images, digits.test_labels) >= 0.97
    assert not network.training
