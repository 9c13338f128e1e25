"""The embedded dataset, and training."""

import io
import itertools
from functools import partial

import pytest
import torch
from paper_repro_tiny import tiny_network
from rich.console import Console
from tolerances import PEER_RELATIVE
from torch import nn

from paper_repro import datasets, timing, training
from paper_repro.networks import accuracy, residual_network
from paper_repro.profiles import DIGITS
from paper_repro.training import TrainingSettings, crop, learning_rate, train

SETTINGS = TrainingSettings(epochs=6, batch_size=32, peak_learning_rate=0.05, crop_padding=1)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", test_fraction=0.2, seed=0)


def test_digits(digits):
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert digits.train_images.dtype == torch.uint8
    assert (int(digits.train_images.min()), int(digits.train_images.max())) == (0, digits.white)
    assert digits.class_names == [str(digit) for digit in range(10)]


def test_the_split_is_by_class_and_seeded(digits):
    train_counts, test_counts = digits.train_labels.bincount(), digits.test_labels.bincount()
    assert ((train_counts + test_counts) * 0.2 - test_counts).abs().max() <= 1
    again = datasets.load("digits", test_fraction=0.2, seed=0)
    other = datasets.load("digits", test_fraction=0.2, seed=1)
    assert torch.equal(again.train_images, digits.train_images)
    assert not torch.equal(other.train_images, digits.train_images)


def test_the_learning_rate_rises_then_falls_linearly():
    settings = TrainingSettings(epochs=1, batch_size=1, peak_learning_rate=0.4, warmup=0.15)
    rates = [learning_rate(update, 99, settings) for update in range(99)]
    assert max(rates) == rates[14] == pytest.approx(0.4, rel=PEER_RELATIVE)
    assert rates[0] == pytest.approx(0.4 / 15, rel=PEER_RELATIVE)
    assert rates[-1] == pytest.approx(0.4 / 85, rel=PEER_RELATIVE)
    for part in (rates[:15], rates[14:]):
        steps = [b - a for a, b in itertools.pairwise(part)]
        assert max(steps) - min(steps) < PEER_RELATIVE


def test_crops_are_shifts_of_the_padded_image_and_mirrored_ones():
    images = torch.randint(1, 256, (300, 2, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    top, left, turned = torch.randint(3, (3, 300), generator=torch.Generator().manual_seed(1))
    mirrored = turned > 0
    cropped = crop(images, top, left, mirrored, 1)
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    for i in range(300):
        window = padded[i, :, top[i] : top[i] + 4, left[i] : left[i] + 5]
        assert torch.equal(cropped[i], window.flip(2) if mirrored[i] else window)
    unchanged = crop(images, top * 0, left * 0, mirrored & False, 0)
    assert torch.equal(unchanged, images)


@pytest.mark.parametrize(("flip", "expected"), [(True, {False, True}), (False, {False})])
def test_images_are_flipped_only_where_asked_for(monkeypatch, digits, flip, expected):
    seen, shifts = set(), set()

    def watched(images, top, left, mirrored, padding):
        seen.update(mirrored.tolist())
        shifts.update(zip(top.tolist(), left.tolist(), strict=True))
        return crop(images, top, left, mirrored, padding)

    monkeypatch.setattr(training, "crop", watched)
    settings = SETTINGS._replace(epochs=1, flip=flip)
    train(tiny_network(), digits.train_images[:64], digits.train_labels[:64], settings, seed=0)
    assert seen == expected
    assert shifts == set(itertools.product(range(3), repeat=2))


def test_updates_have_their_rates_and_epochs_their_orders(digits, monkeypatch):
    """Three epochs of batches of 48 and 16 images, whose losses are 48 and 16."""
    seen, labels = [], digits.train_labels[:64]

    def watched(network, optimizer, images, labels, settings):
        (group,) = optimizer.param_groups
        assert (group["nesterov"], group["momentum"], group["weight_decay"]) == (True, 0.9, 1e-6)
        seen.append((group["lr"], labels.tolist()))
        return float(len(labels)), 1

    monkeypatch.setattr(training, "_update", watched)
    settings = SETTINGS._replace(epochs=3, batch_size=48)
    history = train(tiny_network(), digits.train_images[:64], labels, settings, seed=0)
    assert [rate for rate, _ in seen] == [learning_rate(update, 6, settings) for update in range(6)]
    orders = {tuple(seen[i][1] + seen[i + 1][1]) for i in (0, 2, 4)}
    assert len(orders) == 3
    assert all(sorted(order) == sorted(labels.tolist()) for order in orders)
    # The mean over images, not over batches.
    assert history[0].loss == pytest.approx((48 * 48 + 16 * 16) / 64)


@pytest.mark.parametrize(
    "change", [{}, {"optimizer": "adamw", "peak_learning_rate": 1e-3}, {"bfloat16": True, "flip": True}]
)
def test_a_stopped_training_goes_on_to_the_same_bits(digits, tmp_path, monkeypatch, change):
    data, settings = (digits.train_images[:96], digits.train_labels[:96]), SETTINGS._replace(**change)
    straight = tiny_network()
    history = train(straight, *data, settings, seed=5)

    class StoppedError(Exception):
        pass

    store = training._store

    def store_and_stop(*arguments):
        store(*arguments)
        raise StoppedError

    checkpoint = tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(training, "_store", store_and_stop)
    with pytest.raises(StoppedError):
        train(tiny_network(), *data, settings, seed=5, checkpoint=checkpoint)
    monkeypatch.setattr(training, "_store", store)
    continued = tiny_network(seed=9)
    assert train(continued, *data, settings, seed=5, checkpoint=checkpoint) == history
    assert len(history) == 6
    for name, value in straight.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name]), name
    # Another seed does not come out the same, so the comparison can fail.
    assert train(tiny_network(), *data, settings, seed=6) != history


def test_a_log_has_a_line_a_minute_whatever_the_checkpoints(digits, tmp_path, monkeypatch):
    """Epochs of 15 seconds, stored after every fourth."""
    clock = itertools.count(0, 15)
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock) / 2)  # read twice an epoch, or more
    console = Console(file=io.StringIO(), width=200)
    settings = SETTINGS._replace(epochs=40)
    images, labels = digits.train_images[:32], digits.train_labels[:32]
    train(tiny_network(), images, labels, settings, seed=0, checkpoint=tmp_path / "c", console=console)
    assert console.file.getvalue().count("of 40: loss") in range(5, 21)


@pytest.mark.parametrize(("amx", "expected"), [(True, True), (False, False)])
def test_bfloat16_is_for_processors_that_multiply_matrices_of_it(monkeypatch, amx, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": amx})
    assert training.bfloat16_is_fast(torch.device("cpu")) is expected


def test_an_estimate_is_of_all_updates(digits):
    data = digits.train_images[:96], digits.train_labels[:96]
    short = training.estimate_seconds(tiny_network(), *data, SETTINGS)
    long = training.estimate_seconds(tiny_network(), *data, SETTINGS._replace(epochs=6000))
    assert 0 < short < long


def test_an_estimate_is_of_the_epochs_that_are_left(digits, tmp_path):
    data, checkpoint = (digits.train_images[:32], digits.train_labels[:32]), tmp_path / "c"
    train(tiny_network(), *data, SETTINGS, seed=0, checkpoint=checkpoint)
    stored = len(training.read_tensors(checkpoint)[1])
    assert 0 < stored < SETTINGS.epochs
    seconds = [
        training.estimate_seconds(tiny_network(), *data, SETTINGS._replace(epochs=epochs), checkpoint=checkpoint)
        for epochs in (stored, SETTINGS.epochs)
    ]
    assert seconds[0] == 0 < seconds[1]


def test_an_estimate_passes_over_what_happens_once():
    """On a GPU the first batch of a size takes as long as a hundred others; on two cores every batch is long."""
    calls = []

    def on_a_gpu(n):
        calls.append(n)
        return 0.9 if len(calls) == 1 else 0.01

    assert timing.typical(on_a_gpu, 5) == 0.01
    assert set(calls) == {5}
    calls.clear()
    assert timing.typical(lambda n: calls.append(n) or 1.5, 5) == 1.5
    assert calls == [5]


def test_the_digits_profile_reaches_its_accuracy(digits):
    """97% on the test images, at the profile's own settings but for half the epochs, to save time."""
    network = residual_network((2, 2, 2, 2), width=DIGITS.width, n_classes=10, in_channels=1, seed=0)
    settings = TrainingSettings(
        epochs=DIGITS.epochs // 2,
        batch_size=DIGITS.batch_size,
        peak_learning_rate=DIGITS.peak_learning_rate,
        crop_padding=DIGITS.crop_padding,
    )
    mean, std = datasets.pixel_statistics(digits.train_images, digits.white)
    prepare = partial(datasets.normalised, white=digits.white, mean=mean, std=std)
    train(network, digits.train_images, digits.train_labels, settings, seed=0, prepare=prepare)
    assert accuracy(network, digits.test_images, digits.test_labels, prepare=prepare) >= 0.97
    assert not network.training
