"""The chain of a group: its start, what of it is kept and traced, its random numbers, and whose its checkpoint is."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import gammaln
from test_gibbs import scipy_log_marginal
from tolerances import PEER_RELATIVE

import kernels
from classfit import DPGaussianMixture
from classfit.gibbs import Schedule, _random_numbers, advance, start
from classfit.prior import group_variances, niw_prior, standardise, standardised
from kernels import NIWPrior

LEAST_P_VALUE = 1e-3
"""Of a Kolmogorov-Smirnov test at a fixed seed."""


def points(n: int = 16, D: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, D)) + 4 * (np.arange(n) % 2)[:, None]


@pytest.mark.parametrize(
    ("n_sweeps", "n_discard", "thin", "kept"),
    [(16, 5, 4, [9, 13]), (12, 8, 4, [12]), (6, 0, 3, [3, 6]), (7, 4, 1, [5, 6, 7])],
)
def test_every_thinth_sweep_after_the_discarded_ones_is_kept(n_sweeps, n_discard, thin, kept):
    schedule = Schedule(6, 1, n_sweeps, n_discard, thin, False, 0)
    assert [sweep for sweep in range(1, n_sweeps + 1) if schedule.kept(sweep)] == kept
    model = DPGaussianMixture(n_sweeps=n_sweeps, n_discard=n_discard, thin=thin, random_state=0).fit(points())
    assert len(model.posterior_.labels) == len(kept)


def test_the_trace_is_of_the_states_that_are_kept():
    """The log joint by scipy: of the points in the units of the prior, as the sampler sees them."""
    X, names = points(), np.array(["fox", "ant", "fox", "ant", "fox", "fox", "ant", "fox"] * 2)
    model = DPGaussianMixture(3, n_sweeps=12, n_discard=4, thin=2, random_state=1).fit(X, groups=names)
    posterior, trace = model.posterior_, model.trace_
    assert trace.sweep.tolist() == [2, 4, 6, 8, 10, 12]
    offsets = posterior.group_offsets
    z, prior = standardise(posterior.x, posterior.prior, offsets).numpy(), standardised(posterior.prior)
    for s, r in enumerate(range(2, 6)):
        for g in range(2):
            a, b = offsets[g : g + 2].tolist()
            labels, alpha = posterior.labels[s, a:b], posterior.alpha[s, g]
            sizes, own = np.bincount(labels), NIWPrior(*(field[g : g + 1] for field in prior))
            expected = len(sizes) * np.log(alpha) + gammaln(sizes).sum() + gammaln(alpha) - gammaln(alpha + b - a)
            expected += sum(scipy_log_marginal(z[a:b][labels == k], own) for k in range(len(sizes)))
            assert trace.alpha[r, g] == alpha
            assert trace.n_components[r, g] == len(sizes)
            assert trace.log_joint[r, g] == pytest.approx(expected, rel=PEER_RELATIVE)


def test_published_sweeps_are_those_of_the_reference():
    """Points of a block share a new component, and alpha is drawn as if its prior were Gamma(2, 1)."""
    x, offsets, streams = torch.from_numpy(points(30)), torch.tensor([0, 18, 30]), [1, 2]
    prior = niw_prior(*group_variances(x, offsets), 6)
    z, prior = standardise(x, prior, offsets), standardised(prior)
    schedule = Schedule(6, 4, 5, 0, 1, True, 5)
    begun = start(schedule, offsets, streams)
    order, uniforms, noise, _ = _random_numbers(schedule, streams, 0, 5, offsets, x.device)
    expected = kernels.gibbs_sweep(
        kernels.GibbsState(torch.from_numpy(begun.labels).long(), torch.from_numpy(begun.alpha)),
        z, order, uniforms, noise, prior=prior, group_offsets=offsets, block_size=4, shared_new=True, alpha_shape=2,
        engine="reference",
    )  # fmt: skip
    found = advance(begun, 5, z, offsets, streams, prior, schedule)
    assert np.array_equal(found.kept_labels, expected.labels.numpy())
    assert np.allclose(found.kept_alpha, expected.alpha, rtol=PEER_RELATIVE)


@pytest.mark.parametrize(("official", "least"), [(False, 0), (True, 1)])
def test_a_chain_starts_at_random_components_and_an_alpha_of_its_prior(official, least):
    n_groups, n = 400, 5
    schedule = Schedule(4, 1, 1, 0, 1, official, 0)
    begun = start(schedule, n * torch.arange(n_groups + 1), list(range(n_groups)))
    assert stats.kstest(begun.alpha - least, "expon").pvalue > LEAST_P_VALUE
    together = begun.labels.reshape(n_groups, n)[:, 0] == begun.labels.reshape(n_groups, n)[:, 1]
    assert stats.binomtest(int(together.sum()), n_groups, 1 / 4).pvalue > LEAST_P_VALUE


def test_no_number_of_a_sweep_serves_twice():
    schedule = Schedule(6, 4, 3, 0, 1, False, 7, corrected=True)
    order, uniforms, noise, correction = _random_numbers(
        schedule, [1, 2], 0, 3, torch.tensor([0, 20, 50]), torch.device("cpu")
    )
    assert len(torch.cat([uniforms, correction, noise.choice], 1).unique()) == 3 * (50 + 50 + 2)
    assert len(torch.cat([noise.beta, noise.gamma], 1).unique()) == 3 * (50 + 52)
    assert len({tuple(row) for row in order[:, 20:].tolist()}) == 3


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (["a"] * 9 + ["b"] * 7, {}),
        (["a"] * 8 + ["c"] * 8, {}),
        (["a"] * 8 + ["b"] * 8, {"official": True}),
        (["a"] * 8 + ["b"] * 8, {"corrected": True}),
        (["a"] * 8 + ["b"] * 8, {"block_size": 2}),
        (["a"] * 8 + ["b"] * 8, {"n_discard": 2}),
        (["a"] * 8 + ["b"] * 8, {"thin": 1}),
        (["a"] * 8 + ["b"] * 8, {"protocol": "paper"}),
    ],
)
def test_a_checkpoint_of_other_groups_or_settings_is_refused(tmp_path, names, settings):
    """The points are the same, and in the same order."""
    common = {"n_sweeps": 8, "n_discard": 4, "thin": 2, "block_size": 4, "random_state": 0}
    common["checkpoint"] = tmp_path / "chain.npz"
    DPGaussianMixture(**common).fit(points(), groups=["a"] * 8 + ["b"] * 8)
    with pytest.raises(ValueError, match="belongs to other data, other settings or another device"):
        DPGaussianMixture(**common | settings).fit(points(), groups=names)


def test_the_score_is_the_mean_log_density_of_each_point_in_its_group():
    X, names = points(), np.array(["fox", "ant"] * 8)
    model = DPGaussianMixture(n_sweeps=4, n_discard=2, thin=1, random_state=0).fit(X, groups=names)
    own = model.class_log_density(X)[np.arange(16), (names == "fox").astype(int)]
    assert model.score(X, groups=names) == pytest.approx(own.mean(), rel=PEER_RELATIVE)
