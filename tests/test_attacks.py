"""Attacks: accuracy falls with the budget, and PGD is never weaker than FGSM."""

import numpy as np
import pytest
import torch
from tolerances import UNIT_ROUNDOFF
from torch import nn

from paper_repro import datasets
from paper_repro.attacks import ATTACKS, survives
from paper_repro.networks import residual_network
from paper_repro.training import TrainingSettings, train

BUDGETS = (0.0, 0.05, 0.1, 0.2, 0.4)
WIDE = (0.0, 0.25, 0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def trained():
    data = datasets.load("digits", test_fraction=0.2, seed=0)
    mean, std = datasets.pixel_statistics(data.train_images, data.white)
    images, test = (
        datasets.normalised(part, white=data.white, mean=mean, std=std)
        for part in (data.train_images, data.test_images)
    )
    network = residual_network((1, 1, 1, 1), width=8, n_classes=10, in_channels=1, seed=0)
    settings = TrainingSettings(epochs=5, batch_size=64, peak_learning_rate=0.1, crop_padding=0)
    train(network, images, data.train_labels, settings, seed=0)
    return network.eval(), test[:60], data.test_labels[:60].numpy(), {"mean": mean, "std": std}


@pytest.fixture(scope="module")
def standing(trained):
    network, images, labels, units = trained
    budgets = {"Linf": BUDGETS, "L2": WIDE}
    return {
        name: survives(network, images, labels, name, budgets[attack.norm], **units)
        for name, attack in ATTACKS.items()
    }  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_accuracy_is_the_clean_one_at_zero_and_falls(trained, standing, name):
    network, images, labels, _ = trained
    with torch.no_grad():
        right = network(images).argmax(1).numpy() == labels
    np.testing.assert_array_equal(standing[name][0], right)
    assert (standing[name][1:] <= standing[name][:-1]).all()
    accuracy = standing[name].mean(1)
    assert accuracy[0] > 0.8
    assert accuracy[-1] < accuracy[1] <= accuracy[0]


def test_pgd_is_never_weaker_than_fgsm(standing):
    assert (standing["linf-pgd"] <= standing["fgsm"]).all()
    # And it is stronger somewhere, so that the comparison says something.
    assert (standing["linf-pgd"] < standing["fgsm"]).any()


def test_a_linear_classifier_falls_where_it_must():
    """The L2 distance to the boundary is known: L2 attacks succeed beyond it and never within it."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    weight = torch.tensor([1.0, -2.0, 0.5, 1.5])
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([weight, -weight]))
        network[1].bias.zero_()
    base = torch.full((1, 4), 0.5)
    base -= (base @ weight)[:, None] / weight.square().sum() * weight
    distance = torch.tensor([0.02, 0.05, 0.08, 0.12, 0.15])
    pixels = base + distance[:, None] * weight / weight.norm()
    assert float(pixels.min()) > 0.2
    assert float(pixels.max()) < 0.9
    images, labels = pixels.reshape(5, 1, 2, 2), np.zeros(5, dtype=np.int64)
    budgets = [0.0, 0.06, 0.1, 0.2]
    expected = distance.numpy()[None] > np.array(budgets)[:, None]
    for name in ("l2-pgd", "deepfool"):
        np.testing.assert_array_equal(survives(network, images, labels, name, budgets), expected)
    linf = survives(network, images, labels, "fgsm", [0.0, 0.06])
    dual = distance.numpy() * float(weight.norm() / weight.abs().sum())
    np.testing.assert_array_equal(linf[1], dual > 0.06)


def test_distances_are_in_pixels_whatever_the_units_of_a_channel():
    """A linear classifier of three channels, which are scaled by a factor of their own each."""
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.1, 0.2, 0.4])
    weight = torch.tensor([2.0, -0.5, 0.1])  # of pixels
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    offset = weight @ (mean - 0.5)
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([weight * std, -weight * std]))
        network[1].bias.copy_(torch.stack([offset, -offset]))
    distance = torch.tensor([0.05, 0.15])
    pixels = 0.5 + distance[:, None] * weight / weight.norm()
    images = ((pixels - mean) / std).reshape(2, 3, 1, 1)
    found = survives(network, images, np.zeros(2, int), "l2-pgd", [0.0, 0.04, 0.06, 0.2], mean=mean, std=std)
    assert found.tolist() == [[True, True], [True, True], [False, True], [False, False]]


def test_results_are_seeded_and_leave_the_global_generator_alone(trained):
    network, images, labels, units = trained
    before = torch.get_rng_state()
    first, again = (survives(network, images[:20], labels[:20], "l2-pgd", WIDE, seed=3, **units) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, again)


def test_units_are_pixels(trained):
    """Pixel values survive the round trip through the normalisation."""
    network, images, labels, units = trained
    scaled = images * units["std"][0] + units["mean"][0]

    class Undo(nn.Module):
        def forward(self, pixels):
            return network((pixels - units["mean"][0]) / units["std"][0])

    direct = survives(Undo(), scaled, labels, "fgsm", BUDGETS)
    normalised = survives(network, images, labels, "fgsm", BUDGETS, **units)
    assert (direct != normalised).mean() <= 1 / len(labels)
    assert float(scaled.max()) == pytest.approx(1, abs=8 * UNIT_ROUNDOFF[torch.float32])


def test_bad_input(trained):
    network, images, labels, _ = trained
    with pytest.raises(ValueError, match="attack must be one of fgsm, linf-pgd, l2-pgd, deepfool, got 'pgd'"):
        survives(network, images, labels, "pgd", BUDGETS)
    for budgets in ([0.1, 0.0], [-0.1, 0.1], [0.1, 0.1]):
        with pytest.raises(ValueError, match="budgets must rise from 0 or above"):
            survives(network, images, labels, "fgsm", budgets)


def test_weights_keep_their_state_and_get_no_gradients(trained):
    network, images, labels, units = trained
    first = next(network.parameters())
    first.requires_grad_(False)
    network.zero_grad()
    try:
        survives(network, images[:5], labels[:5], "fgsm", (0.0, 0.1), **units)
        assert all(parameter.grad is None for parameter in network.parameters())
        assert [p.requires_grad for p in network.parameters()] == [p is not first for p in network.parameters()]
    finally:
        first.requires_grad_(True)
