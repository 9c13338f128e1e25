"""Certification: on a linear classifier, whose radius is known in closed form, and the interval itself."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest, norm
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE
from torch import nn

from paper_repro.certification import ABSTAIN, certify, lower_bound, smoothed_counts

SIGMA, N_CERTIFICATES = 0.5, 10_000


def linear():
    """sign(w x + b) in two dimensions: P(right) = Phi(distance / sigma), so the true radius is the distance."""
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[3.0, -1.0], [-3.0, 1.0]]))
        network.bias.copy_(torch.tensor([0.5, -0.5]))
    return network.eval()


def distances(points):
    return np.abs(points @ np.array([3.0, -1.0]) + 0.5) / np.sqrt(10)


@pytest.fixture(scope="module")
def counted():
    """Votes for 10,000 points at distances of 0.05 to 0.9 from the boundary, on both sides of it."""
    rng, network = np.random.default_rng(0), linear()
    normal = np.array([3.0, -1.0]) / np.sqrt(10)
    signed = rng.uniform(0.05, 0.9, N_CERTIFICATES) * rng.choice([-1, 1], N_CERTIFICATES)
    along = rng.normal(size=N_CERTIFICATES)[:, None] * np.array([1.0, 3.0]) / np.sqrt(10)
    points = along + signed[:, None] * normal - 0.5 / np.sqrt(10) * normal
    images = torch.from_numpy(points).float()
    votes = [
        [smoothed_counts(network, image, n, sigma=SIGMA, n_classes=2, seed=2 * i + k) for k, n in enumerate((100, 500))]
        for i, image in enumerate(images)
    ]
    selection, estimation = (np.array(part) for part in zip(*votes, strict=True))
    np.testing.assert_allclose(distances(points), np.abs(signed), atol=PEER_RELATIVE)
    return selection, estimation, np.abs(signed), np.where(signed > 0, 0, 1)


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_radius_exceeds_the_truth_no_more_often_than_alpha(counted, alpha):
    selection, estimation, truth, label = counted
    found = certify(selection, estimation, sigma=SIGMA, alpha=alpha)
    wrong = (found.radius > truth) | ((found.predicted != label) & (found.predicted != ABSTAIN))
    # No more than chance makes of alpha; and not far below it either, or the bound would not be tight.
    assert wrong.sum() <= binom.ppf(0.9999, N_CERTIFICATES, alpha)
    assert wrong.sum() >= binom.ppf(0.0001, N_CERTIFICATES, 0.4 * alpha)


def test_the_radius_is_tight(counted):
    """As close to the truth as 500 draws allow: the mean is that of the bound at the binomial's quantiles."""
    selection, estimation, truth, _ = counted
    alpha = 0.001
    near = (truth > 0.3) & (truth < 0.7)
    found = certify(selection, estimation, sigma=SIGMA, alpha=alpha).radius[near]
    outcomes = np.arange(501)
    bound = np.maximum(norm.ppf(lower_bound(outcomes, np.array(500), alpha)), 0) * SIGMA
    p = norm.cdf(truth[near] / SIGMA)
    weights = binom.pmf(outcomes[None], 500, p[:, None])
    expected, second = weights @ bound, weights @ bound**2
    error = np.sqrt((second - expected**2).sum()) / near.sum()
    assert abs(found.mean() - expected.mean()) < MONTE_CARLO_SIGMAS * error
    assert (found / truth[near]).mean() > 0.75


def test_it_abstains_when_it_should():
    network, n = linear(), 2000
    on_the_boundary = torch.tensor([0.0, 0.5])

    def votes(n_draws, first_seed):
        seeds = range(first_seed, first_seed + 200)
        return np.array(
            [smoothed_counts(network, on_the_boundary, n_draws, sigma=1.0, n_classes=2, seed=s) for s in seeds]
        )

    selection, estimation = votes(50, 0), votes(n, 200)
    alpha = 0.05
    found = certify(selection, estimation, sigma=1.0, alpha=alpha)
    assert (found.predicted != ABSTAIN).sum() <= binom.ppf(0.9999, 200, alpha)
    assert (found.radius[found.predicted == ABSTAIN] == 0).all()
    far = smoothed_counts(network, torch.tensor([5.0, 0.0]), n, sigma=1.0, n_classes=2, seed=0)[None]
    assert certify(far, far, sigma=1.0, alpha=alpha).predicted.tolist() == [0]
    # A class that n0 draws voted for wrongly is not certified by n others.
    mistaken = certify(np.array([[0, 50]]), np.array([[1990, 10]]), sigma=1.0, alpha=alpha)
    assert mistaken.predicted.tolist() == [ABSTAIN]


@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_is_scipys(alpha):
    for k, n in ((0, 10), (1, 10), (7, 10), (10, 10), (993, 1000), (100_000, 100_000)):
        exact = binomtest(k, n).proportion_ci(confidence_level=1 - 2 * alpha, method="exact").low
        assert float(lower_bound(np.array(k), np.array(n), alpha)) == pytest.approx(exact, rel=PEER_RELATIVE)


def test_too_few_draws_are_warned_of():
    with pytest.warns(UserWarning, match=r"9 draws at alpha = 0.001 can only abstain.*at least 10 draws are needed"):
        found = certify(np.array([[0, 9]]), np.array([[0, 9]]), sigma=0.5, alpha=0.001)
    assert found.predicted.tolist() == [ABSTAIN]
    assert certify(np.array([[0, 10]]), np.array([[0, 10]]), sigma=0.5, alpha=0.001).predicted.tolist() == [1]


def test_noise_is_seeded_and_has_its_size():
    seen = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return x.flatten(1)

    image = torch.full((1, 2, 2), 3.0)
    counts = smoothed_counts(Recorder(), image, 2500, sigma=0.5, n_classes=4, seed=1)
    assert [len(batch) for batch in seen] == [1000, 1000, 500]
    noise = torch.cat(seen) - image
    assert abs(float(noise.std()) - 0.5) < MONTE_CARLO_SIGMAS * 0.5 / np.sqrt(2 * noise.numel())
    assert counts.sum() == 2500
    again = smoothed_counts(Recorder(), image, 2500, sigma=0.5, n_classes=4, seed=1)
    other = smoothed_counts(Recorder(), image, 2500, sigma=0.5, n_classes=4, seed=2)
    np.testing.assert_array_equal(counts, again)
    assert not np.array_equal(counts, other)


def test_bad_input():
    votes = np.ones((3, 2), dtype=np.int64)
    with pytest.raises(ValueError, match=r"must both be \[N, C\], got \[3, 2\] and \[2\]"):
        certify(votes, votes[0], sigma=0.5, alpha=0.001)
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got 1"):
        certify(votes, votes, sigma=0.5, alpha=1)
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        certify(votes, votes, sigma=0, alpha=0.1)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        smoothed_counts(linear(), torch.zeros(2), 0, sigma=0.5, n_classes=2, seed=0)
