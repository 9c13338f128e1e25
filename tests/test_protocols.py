"""Held-out and EM densities of classes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from tolerances import MONTE_CARLO_SIGMAS

from classfit import DPGaussianMixture, GaussianMixture, protocols


def two_groups(n: int = 60, D: int = 3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(2 * n, D)) + np.repeat([[0.0], [5.0]], n, axis=0), np.repeat(["ant", "elk"], n)


def test_a_point_is_held_out_of_the_fit_that_gives_its_density(monkeypatch):
    X, names = two_groups()
    seen = []
    fit = DPGaussianMixture.fit

    def spy(self, X, y=None, groups=None):
        seen.append(np.array(X))
        return fit(self, X, y, groups)

    monkeypatch.setattr(DPGaussianMixture, "fit", spy)
    result = protocols.heldout(X, names, n_folds=4, protocol=None)
    fold = result.diagnostics["fold"]
    assert sorted(np.bincount(fold[names == "ant"])) == [15] * 4
    for f, points in enumerate(seen):
        held = {tuple(row) for row in X[fold == f]}
        assert not held & {tuple(row) for row in points}
        assert len(points) + len(held) == len(X)
    f = 2
    model = DPGaussianMixture(random_state=f).fit(X[fold != f], groups=names[fold != f])
    assert np.array_equal(result.log_density[fold == f], model.score_samples(X[fold == f], names[fold == f]))
    assert result.diagnostics["n_components"].shape == (4, 2)


def test_held_out_densities_of_a_gaussian_are_unbiased_and_in_sample_ones_higher():
    X, names = two_groups(150)
    result = protocols.heldout(X, names, protocol=None, n_init_components=1)
    centre = np.where(names == "ant", 0.0, 5.0)[:, None]
    truth = stats.norm.logpdf(X - centre).sum(1)
    gap = result.log_density - truth
    # A Gaussian of D = 3 fitted to n = 120 points loses about (D + D (D + 1) / 2) / 2n = 0.04 nats.
    assert abs(gap.mean() + 0.04) < MONTE_CARLO_SIGMAS * gap.std() / np.sqrt(len(X)) + 0.04
    # Points that were fitted gain as much, which the points' own spread hides: it is the same on both sides.
    lead = result.diagnostics["in_sample"] - result.log_density
    assert abs(lead.mean() - 0.08) < MONTE_CARLO_SIGMAS * lead.std() / np.sqrt(len(X)) + 0.01


def test_em_is_the_mixture_with_the_lowest_bic():
    X, names = two_groups(120)
    result = protocols.em(X, names, n_components=(1, 2))
    assert list(result.diagnostics["n_components"]) == [1, 1]
    model = GaussianMixture(1).fit(X, groups=names)
    assert np.allclose(result.log_density, model.score_samples(X, names))
    X[:60] += 12
    assert list(protocols.em(X, names, n_components=(1, 2)).diagnostics["n_components"]) == [2, 1]


def test_folds_and_densities_follow_the_rows_whatever_their_order():
    """Groups of other sizes, mixed: every fold has its share of each, and a point the density it has when sorted."""
    X, names = two_groups(24)
    X, names = X[:36], names[:36]
    order = np.random.default_rng(1).permutation(36)
    settings = {"n_folds": 4, "protocol": None, "n_init_components": 2}
    mixed = protocols.heldout(X[order], names[order], **settings).diagnostics
    assert mixed["groups"].tolist() == ["ant", "elk"]
    for name, size in (("ant", 6), ("elk", 3)):
        assert np.bincount(mixed["fold"][names[order] == name]).tolist() == [size] * 4
    f, fold = 1, mixed["fold"]
    model = DPGaussianMixture(2, random_state=f).fit(X[order][fold != f], groups=names[order][fold != f])
    labels, edge = model.posterior_.labels, int(model.posterior_.group_offsets[1])
    expected = [np.mean([len(np.unique(row)) for row in part]) for part in (labels[:, :edge], labels[:, edge:])]
    assert mixed["n_components"][f].tolist() == pytest.approx(expected)


def test_em_is_fitted_from_three_starts_of_the_seed():
    X, names = two_groups(40)
    found = [protocols.em(X, names, n_components=(5,), random_state=seed).log_density for seed in (3, 3, 4)]
    expected = GaussianMixture((5,), n_init=3, random_state=3).fit(X, groups=names).score_samples(X, names)
    assert np.array_equal(found[0], expected)
    assert np.array_equal(found[1], expected)
    assert not np.allclose(found[2], expected)


def test_diagnostics_of_a_fold():
    """Two groups of two points, of two labellings; four and two rounds of two chains."""
    posterior = SimpleNamespace(group_offsets=torch.tensor([0, 2, 4]), labels=np.array([[0, 1, 0, 0], [0, 0, 0, 0]]))
    chains = SimpleNamespace(
        rounds=np.array([4, 2]),
        log_joint=np.arange(16.0).reshape(4, 2, 2),
        **dict.fromkeys(("converged", "rhat_log_joint", "rhat_n_components"), np.zeros(2)),
    )
    found = protocols._fit_diagnostics(SimpleNamespace(protocol="converged", posterior_=posterior, convergence_=chains))
    assert found["n_components"].tolist() == [1.5, 1.0]
    # By chain and group: rounds 2 and 3 of the first group, round 1 of the second.
    assert found["log_joint"].tolist() == [[(8 + 12) / 2, 5], [(10 + 14) / 2, 7]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_folds": 1}, "n_folds must be an integer of at least 2, got 1"),
        ({"n_folds": 61}, "every group needs at least n_folds = 61 points, group ant has 60"),
        ({"checkpoint_folder": "missing"}, "checkpoint must be in a folder that is there, got 'missing/fold0.npz'"),
        ({"random_state": 2**32 - 4}, r"random_state must be an int from 0 to 2\^32 - n_folds, got 4294967292"),
        ({"random_state": 2**70}, r"random_state must be an int from 0 to 2\^32 - n_folds"),
        ({"random_state": "a"}, "random_state must be an int .* got 'a'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        protocols.heldout(*two_groups(), **settings)


def test_a_seed_may_be_drawn():
    X, names = two_groups(6)

    def density(random_state):
        return protocols.heldout(X, names, n_folds=2, protocol=None, random_state=random_state).log_density

    drawn = int(np.random.RandomState(3).randint(2**31 - 1))
    assert np.array_equal(density(np.random.RandomState(3)), density(drawn))
    assert np.isfinite(density(None)).all()
