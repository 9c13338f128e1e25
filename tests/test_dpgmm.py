"""Dirichlet-process mixtures: the estimator and its chains."""

import math
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import three_groups
from scipy import stats
from sklearn.utils.estimator_checks import parametrize_with_checks
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE, PUBLISHED_NATS

import kernels
from classfit import ConstantFeatureWarning, DPGaussianMixture, Posterior
from classfit.diagnostics import log_joint
from classfit.gibbs import Schedule, _random_numbers, advance, start
from classfit.prior import group_variances, niw_posterior, niw_prior, predictive, standardise, standardised

QUICK = {"n_sweeps": 24, "n_discard": 8, "thin": 4, "random_state": 0}


@parametrize_with_checks([DPGaussianMixture(n_sweeps=8, n_discard=4, thin=2)])
def test_scikit_learn_contract(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantFeatureWarning)
        check(estimator)


# --- Prior and predictive


def test_corrected_blocks_are_those_of_the_reference():
    X, names = three_groups(D=2)
    x, offsets = torch.from_numpy(X[np.argsort(names, kind="stable")]), torch.tensor([0, 25, 26, 86])
    prior = niw_prior(*group_variances(x, offsets), 6)
    problem = standardise(x, prior, offsets), offsets, [1, 2, 3], standardised(prior)
    schedule = Schedule(6, 4, 3, 0, 1, False, 5, corrected=True)
    ours = advance(start(schedule, offsets, [1, 2, 3]), 3, *problem, schedule)
    begun = start(schedule, offsets, [1, 2, 3])
    order, uniforms, noise, correction = _random_numbers(schedule, [1, 2, 3], 0, 3, offsets, x.device)
    expected = kernels.gibbs_sweep(
        kernels.GibbsState(torch.from_numpy(begun.labels).long(), torch.from_numpy(begun.alpha)),
        problem[0], order, uniforms, noise, prior=problem[3], group_offsets=offsets, block_size=4,
        correction=correction, engine="reference",
    )  # fmt: skip
    assert np.array_equal(ours.labels, expected.labels[-1].numpy())
    assert np.allclose(ours.alpha, expected.alpha[-1], rtol=PEER_RELATIVE)
    plain = advance(begun, 3, *problem, schedule._replace(corrected=False))
    assert not np.array_equal(ours.labels, plain.labels)


def test_the_prior_can_be_another():
    X, _ = three_groups()
    prior = DPGaussianMixture(**QUICK, kappa0=0.5, nu0=9.0, S0_scale=2.0).fit(X).posterior_.prior
    paper = DPGaussianMixture(**QUICK).fit(X).posterior_.prior
    assert (prior.kappa0.tolist(), prior.nu0.tolist()) == ([0.5], [9.0])
    assert torch.allclose(prior.S0, 2 * paper.S0, rtol=PEER_RELATIVE)
    assert torch.equal(prior.mu0, paper.mu0)


def test_prior_and_posterior_equations():
    X, _ = three_groups()
    x, offsets = torch.from_numpy(X), torch.tensor([0, len(X)])
    mean, variance = group_variances(x, offsets)
    prior = niw_prior(mean, variance, 6)
    D, n = 3, 20
    assert np.allclose(prior.S0[0], np.diag(X.var(0)) / 6 ** (2 / D), rtol=PEER_RELATIVE)
    assert (float(prior.kappa0), float(prior.nu0)) == (0.01, D + 2)
    members = x[:n]
    posterior = niw_posterior(prior, 0, kernels.component_statistics(members, torch.zeros(n, dtype=torch.int64), 1))
    # The predictive as the ratio of marginal likelihoods of n + 1 and n points, each a product of scipy's predictives.
    location, precision_chol, df = predictive(posterior)
    W = precision_chol[0].numpy()
    expected = stats.multivariate_t(location[0], np.linalg.inv(W.T @ W), df=float(df)).logpdf(X[n:])
    from test_gibbs import scipy_log_marginal

    ratio = [scipy_log_marginal(X[[*range(n), i]], prior) - scipy_log_marginal(X[:n], prior) for i in range(n, n + 5)]
    assert np.allclose(expected[:5], ratio, rtol=1e-9, atol=1e-9)


def test_log_joint_is_the_partition_probability_times_the_marginal_likelihoods():
    from test_gibbs import scipy_log_marginal

    X, _ = three_groups()
    X = X[:12]
    labels = torch.tensor([0, 0, 1, 2, 1, 0, 0, 1, 3, 3, 1, 0])
    offsets = torch.tensor([0, 12])
    prior = niw_prior(*group_variances(torch.from_numpy(X), offsets), 6)
    alpha = 0.8
    sizes = np.bincount(labels)
    partition = 4 * math.log(alpha) + sum(math.lgamma(n) for n in sizes) + math.lgamma(alpha) - math.lgamma(alpha + 12)
    expected = partition + sum(scipy_log_marginal(X[labels.numpy() == k], prior) for k in range(4))
    got = log_joint(labels, torch.tensor([alpha], dtype=torch.float64), torch.from_numpy(X), offsets, prior)
    assert float(got) == pytest.approx(expected, rel=PEER_RELATIVE)


# --- Chains


def test_a_chain_stopped_after_any_sweep_goes_on_to_the_same_bits():
    X, names = three_groups(dtype=np.float32)
    order = np.argsort(names, kind="stable")
    x = torch.from_numpy(X[order])
    offsets = torch.tensor([0, 25, 26, 86])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantFeatureWarning)
        prior = niw_prior(*group_variances(x, offsets), 6)
    z, standard = standardise(x, prior, offsets), standardised(prior)
    schedule = Schedule(6, 4, 12, 4, 2, False, seed=9)
    streams = [11, 12, 13]
    whole = advance(start(schedule, offsets, streams), 12, z, offsets, streams, standard, schedule)
    for stop in range(1, 12):
        chain = advance(start(schedule, offsets, streams), stop, z, offsets, streams, standard, schedule)
        chain = advance(chain, 12 - stop, z, offsets, streams, standard, schedule)
        for name, expected, got in zip(whole._fields, whole, chain, strict=True):
            assert np.array_equal(expected, got), name
    assert list(whole.trace_sweep) == [2, 4, 6, 8, 10, 12]
    assert len(whole.kept_labels) == 4


def test_a_fit_that_is_killed_goes_on_from_its_checkpoint_to_the_same_result(tmp_path):
    X, names = three_groups(D=8)
    X, names = np.tile(X, (12, 1)) + np.random.default_rng(0).normal(size=(12 * len(X), 8)) / 10, np.tile(names, 12)
    settings = {"n_sweeps": 600, "n_discard": 500, "random_state": 2}
    checkpoint = tmp_path / "chain.npz"
    np.savez(tmp_path / "data.npz", X=X, names=names)
    script = (
        "import numpy as np, classfit.dpgmm as d; d.SECONDS_BETWEEN_CHECKPOINTS = 0; d.SWEEPS_A_CALL = 3\n"
        f"z = np.load({str(tmp_path / 'data.npz')!r})\n"
        f"d.DPGaussianMixture(**{settings!r}, checkpoint={str(checkpoint)!r}).fit(z['X'], groups=z['names'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with np.load(checkpoint) as stored:
        reached = int(stored["sweep"])
    assert 0 < reached < 600, "the fit was to be killed half-way"
    resumed = DPGaussianMixture(**settings, checkpoint=checkpoint).fit(X, groups=names)
    undisturbed = DPGaussianMixture(**settings).fit(X, groups=names)
    assert np.array_equal(resumed.posterior_.labels, undisturbed.posterior_.labels)
    assert np.array_equal(resumed.posterior_.alpha, undisturbed.posterior_.alpha)
    for a, b in zip(resumed.trace_, undisturbed.trace_, strict=True):
        assert np.array_equal(a, b)
    with pytest.raises(ValueError, match="belongs to other data, other settings or another device"):
        DPGaussianMixture(**settings | {"random_state": 3}, checkpoint=checkpoint).fit(X, groups=names)
    checkpoint.write_bytes(b"not a chain")
    with pytest.raises(ValueError, match="damaged or something else"):
        DPGaussianMixture(**settings, checkpoint=checkpoint).fit(X, groups=names)


def test_checkpoints_take_a_twentieth_of_the_time_however_long_one_takes(tmp_path, monkeypatch):
    # By a clock on which ten sweeps take a second.
    X, _ = three_groups()
    now, written = [0.0], []

    def write(seconds):
        def write_checkpoint(path, *, sweep, **_):
            written.append(int(sweep))
            now[0] += seconds

        return write_checkpoint

    def later(chain, *arguments):
        now[0] += 1
        return advance(chain, *arguments)

    monkeypatch.setattr("classfit.dpgmm.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("classfit.dpgmm.advance", later)
    for seconds, expected in ((0.0, range(30, 601, 30)), (1.0, (30, 240, 450, 600))):
        written.clear()
        monkeypatch.setattr("classfit.dpgmm.write_checkpoint", write(seconds))
        DPGaussianMixture(n_sweeps=600, n_discard=500, random_state=0, checkpoint=tmp_path / "chain.npz").fit(X)
        assert written == list(expected)


def test_a_checkpoint_is_not_compressed(tmp_path):
    X, _ = three_groups()
    DPGaussianMixture(**QUICK, checkpoint=tmp_path / "chain.npz").fit(X)
    with zipfile.ZipFile(tmp_path / "chain.npz") as stored:
        assert {entry.compress_type for entry in stored.infolist()} == {zipfile.ZIP_STORED}


def test_a_checkpoint_belongs_to_its_data_and_its_prior(tmp_path):
    X, _ = three_groups()
    settings = QUICK | {"checkpoint": tmp_path / "chain.npz"}
    DPGaussianMixture(**settings).fit(X)
    for other, change in ((X[::-1], {}), (X, {"kappa0": 0.1}), (X, {"nu0": 9.0})):
        with pytest.raises(ValueError, match="belongs to other data, other settings"):
            DPGaussianMixture(**settings | change).fit(other)


def test_a_group_is_fitted_alike_alone_and_among_others_and_in_any_row_order():
    X, names = three_groups()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantFeatureWarning)
        together = DPGaussianMixture(**QUICK).fit(X, groups=names)
    fox = names == "fox"
    alone = DPGaussianMixture(**QUICK).fit(X[fox], groups=names[fox])
    assert np.array_equal(together.score_samples(X[fox], names[fox]), alone.score_samples(X[fox], names[fox]))
    assert list(together.groups_) == ["ant", "elk", "fox"]


def test_seeds_matter_and_repeat():
    X, _ = three_groups()
    fits = [DPGaussianMixture(**QUICK | {"random_state": seed}).fit(X).score_samples(X) for seed in (0, 0, 1)]
    assert np.array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_and_origin_do_not_matter(scale):
    X, _ = three_groups()
    plain = DPGaussianMixture(**QUICK).fit(X)
    moved = DPGaussianMixture(**QUICK).fit(X * scale + 3 * scale)
    expected = plain.score_samples(X) - X.shape[1] * np.log(scale)
    assert np.allclose(moved.score_samples(X * scale + 3 * scale), expected, rtol=1e-9, atol=1e-7)


def test_odd_data_give_finite_densities():
    X, _ = three_groups(D=4)
    constant = np.column_stack([X, np.full(len(X), 7.0)])
    with pytest.warns(
        ConstantFeatureWarning,
        match="features are constant .* in 1 of 1 groups, at most 1 of 5 each; the first is feature 4 of group 0",
    ):
        fitted = DPGaussianMixture(**QUICK).fit(constant)
    assert np.isfinite(fitted.score_samples(constant)).all()
    repeated = DPGaussianMixture(**QUICK).fit(np.repeat(X[:5], 8, axis=0))
    assert np.isfinite(repeated.score_samples(X)).all()
    few = DPGaussianMixture(**QUICK).fit(np.random.default_rng(0).normal(size=(5, 20)))
    assert np.isfinite(few.score_samples(np.zeros((1, 20)))).all()
    with pytest.warns(ConstantFeatureWarning):
        single = DPGaussianMixture(**QUICK).fit(X[:1])
    assert np.isfinite(single.score_samples(X)).all()


def test_what_varies_by_rounding_alone_is_constant():
    """By one unit in the last place of float32, which is none of float64's."""
    X = np.column_stack([three_groups()[0][:, 0], np.full(86, 1000.0)]).astype(np.float32)
    X[::2, 1] = np.nextafter(X[::2, 1], np.float32(2000))
    offsets = torch.tensor([0, 86])
    with pytest.warns(
        ConstantFeatureWarning, match="features are constant .* 1 of 2 each; the first is feature 1 of group 0"
    ):
        _, variance = group_variances(torch.from_numpy(X), offsets)
    assert variance[0].tolist() == pytest.approx([X[:, 0].astype(float).var(), 1])
    _, variance = group_variances(torch.from_numpy(X).double(), offsets)
    assert variance[0].tolist() == pytest.approx(X.astype(float).var(0))


def test_float32_data_agree_with_float64():
    X, names = three_groups(D=6, dtype=np.float32)
    fox = names == "fox"
    fits = [
        DPGaussianMixture(**QUICK).fit(X[fox].astype(dtype)).score_samples(X[fox]) for dtype in (np.float32, np.float64)
    ]
    assert np.abs(fits[0] - fits[1]).max() < 1e-4


def test_predict_names_the_component_of_well_separated_points():
    rng = np.random.default_rng(2)
    truth = np.repeat([0, 1, 2], 30)
    X = rng.normal(size=(90, 2)) + 40 * truth[:, None]
    model = DPGaussianMixture(**QUICK | {"n_sweeps": 60, "n_discard": 40}).fit(X)
    labels = model.predict(X)
    assert len(np.unique(labels)) == 3
    assert all(len(np.unique(labels[truth == k])) == 1 for k in range(3))
    np.testing.assert_array_equal(model.fit_predict(X), labels)
    probability = model.posterior_.component_probabilities(X)
    assert np.allclose(probability.sum(1), 1)


# --- Storage and bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_init_components": 0}, "n_init_components must be an integer of at least 1, got 0"),
        ({"block_size": 33}, "block_size must be an integer from 1 to 32, got 33"),
        ({"n_sweeps": 10, "n_discard": 9}, "10 - 9 < 4"),
        ({"thin": 1.5}, "thin must be an integer of at least 1, got 1.5"),
        ({"corrected": True, "official": True}, "corrected must be False with official"),
        ({"corrected": True, "protocol": "paper"}, "corrected must be False with protocol 'paper'"),
        ({"kappa0": 0}, "kappa0 must be a finite number above 0, got 0"),
        ({"nu0": 2.0}, "nu0 must be a finite number above 2, got 2.0"),
        ({"S0_scale": np.inf}, "S0_scale must be a finite number above 0, got inf"),
        ({"official": "no"}, "official must be True or False, got 'no'"),
        ({"corrected": 1}, "corrected must be True or False, got 1"),
        ({"checkpoint": "missing/chain.npz", "random_state": 0}, "a folder that is there, got 'missing/chain.npz'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DPGaussianMixture(**settings).fit(three_groups()[0])


def test_numbers_as_objects_are_numbers():
    X, names = three_groups()
    number = np.unique(names, return_inverse=True)[1]
    objects = number.astype(object)
    model = DPGaussianMixture(**QUICK).fit(X, groups=objects)
    assert model.groups_.tolist() == sorted(set(number.tolist()))
    plain = DPGaussianMixture(**QUICK).fit(X, groups=number)
    assert np.array_equal(model.score_samples(X, objects), plain.score_samples(X, number))


def test_a_second_fit_leaves_nothing_of_the_first(monkeypatch):
    X = three_groups()[0]
    monkeypatch.setattr("classfit.convergence.MAX_ROUNDS", 10)
    monkeypatch.setattr("classfit.convergence.CHECK_ROUNDS", 10)
    model = DPGaussianMixture(**QUICK).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.set_params(protocol="converged").fit(X[:30])
    assert hasattr(model, "convergence_")
    assert not hasattr(model, "trace_")
    model.set_params(protocol=None).fit(X)
    assert hasattr(model, "trace_")
    assert not hasattr(model, "convergence_")


def test_bad_data_are_refused():
    X, names = three_groups()
    with pytest.raises(ValueError, match=r"groups must hold one name for each of 86 rows of X, got shape \[85\]"):
        DPGaussianMixture(**QUICK).fit(X, groups=names[:-1])
    with pytest.raises(ValueError, match="groups must not hold nan, got one in row 3"):
        DPGaussianMixture(**QUICK).fit(X, groups=np.where(np.arange(len(X)) == 3, np.nan, 1.0))
    with pytest.raises(ValueError, match="random_state must be an integer with a checkpoint"):
        DPGaussianMixture(checkpoint="chain.npz").fit(X)
    with pytest.raises(ValueError, match="all numbers or all strings, got int, str"):
        DPGaussianMixture(**QUICK).fit(X, groups=np.array([*names[:-1], 3], dtype=object))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantFeatureWarning)
        model = DPGaussianMixture(**QUICK).fit(X, groups=names)
    with pytest.raises(ValueError, match="fitted with 3 groups"):
        model.score_samples(X)
    with pytest.raises(ValueError, match="'cow', which was not among the fitted groups"):
        model.score_samples(X[:1], ["cow"])
    with pytest.raises(ValueError, match=r"X must have shape \[n, 3\], got \[86, 2\]"):
        model.posterior_.log_density(X[:, :2])


# --- The published implementation


@pytest.mark.parametrize(("name", "G"), [("official_d16.npz", 3), ("official_d64.npz", 2)])
def test_official_mode_reproduces_the_published_arrays(golden, name, G):
    stored = golden(name)
    sizes = [len(stored[f"x{g}"]) for g in range(G)]
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]))
    x = torch.from_numpy(np.concatenate([stored[f"x{g}"] for g in range(G)]))
    mean, variance = group_variances(x, offsets)
    prior = niw_prior(mean, variance, 6)
    posterior = Posterior(
        x,
        offsets,
        np.arange(G),
        np.concatenate([stored[f"labels{g}"] for g in range(G)])[None].astype(np.int32),
        np.array([[float(stored[f"alpha{g}"]) for g in range(G)]]),
        prior,
        variance,
        official=True,
    )
    own = posterior.log_density(x, np.repeat(np.arange(G), sizes))
    every = posterior.log_density(x)
    entropy = posterior.relative_entropy(random_state=0)
    kl = posterior.kl_divergence(random_state=0)
    for g, (a, b) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        # Prior: float32 sums over N points.
        assert np.allclose(stored[f"prior_mean{g}"], prior.mu0[g], atol=1e-5)
        assert np.allclose(stored[f"prior_scale{g}"], prior.S0[g], rtol=1e-5, atol=1e-7)
        # Posterior: the published factors drifted over the chain by some 1e-5 of their size, ours are recomputed.
        labels = torch.from_numpy(stored[f"labels{g}"])
        exact = niw_posterior(prior, g, kernels.component_statistics(x[a:b], labels, int(labels.max()) + 1))
        S_n = stored[f"post_scale_chol{g}"].astype(np.float64)
        S_n = S_n @ S_n.transpose(0, 2, 1)
        assert np.array_equal(np.bincount(labels), stored[f"count{g}"])
        assert np.allclose(stored[f"post_mean{g}"], exact.m_n, atol=2e-4)
        size = exact.S_n.abs().amax((1, 2), keepdim=True).numpy()
        assert (np.abs(S_n - exact.S_n.numpy()) / size).max() < 5e-5
        # From the published parameters: the equations, to float32, which far out (|log p| of 500) is less in nats.
        theirs = predictive(
            type(exact)(
                exact.kappa_n, exact.nu_n, torch.from_numpy(stored[f"post_mean{g}"]).double(), torch.from_numpy(S_n)
            )
        )
        count, alpha = stored[f"count{g}"], float(stored[f"alpha{g}"])
        log_weight = torch.from_numpy(np.log((count + alpha) / (count + alpha).sum()))
        h = (g + 1) % G
        other = x[offsets[h] : offsets[h + 1]].double()
        for computed, published in (
            (kernels.student_t_log_density(x[a:b].double(), *theirs), stored[f"component_log_pdf{g}"]),
            (kernels.mixture_log_density(x[a:b].double(), log_weight, *theirs), stored[f"mixture_log_density{g}"]),
            (kernels.mixture_log_density(other, log_weight, *theirs), stored[f"mixture_log_density_other{g}"]),
        ):
            assert np.all(
                np.abs(computed.numpy() - published) < PUBLISHED_NATS * np.maximum(1, np.abs(published) / 100)
            )
        # From the labels alone, the drift of the published factors shows, most of all far out.
        assert np.abs(own[a:b] - stored[f"mixture_log_density{g}"]).max() < 3 * PUBLISHED_NATS
        published = stored[f"mixture_log_density_other{g}"]
        assert np.all(np.abs(every[offsets[h] : offsets[h + 1], g] - published) < 2e-4 * np.abs(published))
        # One published estimate is a mean over 10^5 draws of both logarithms.
        draws = posterior.sample(10_000, group=g, random_state=0)
        standard = (draws - mean[g].numpy()) / variance[g].sqrt().numpy()
        log_q = -0.5 * (standard**2 + np.log(2 * np.pi * variance[g].numpy())).sum(1)
        theirs_std = (posterior.log_density(draws, np.full(len(draws), g)) - log_q).std(ddof=1)
        error = np.hypot(theirs_std / np.sqrt(100_000), entropy.standard_error[g])
        assert abs(entropy.value[g] - stored[f"relative_entropy{g}"][0]) < MONTE_CARLO_SIGMAS * error
        for h in range(G):
            if h != g:
                error = np.sqrt(2) * kl.standard_error[g, h]
                assert abs(kl.value[g, h] - stored["kl_matrix"][0, g, h]) < MONTE_CARLO_SIGMAS * error


def test_official_mode_runs_the_published_sampler_and_averages_logs():
    X, _ = three_groups()
    model = DPGaussianMixture(**QUICK, block_size=4, official=True).fit(X)
    posterior = model.posterior_
    single = [
        Posterior(
            posterior.x,
            posterior.group_offsets,
            posterior.groups,
            posterior.labels[s : s + 1],
            posterior.alpha[s : s + 1],
            posterior.prior,
            posterior.variance,
            official=True,
        ).log_density(X)[:, 0]
        for s in range(len(posterior.labels))
    ]
    assert np.allclose(model.score_samples(X), np.mean(single, axis=0), rtol=PEER_RELATIVE)
    assert not np.allclose(single[0], single[-1])
    K = posterior.labels[-1].max() + 1
    weight = posterior.mixture(0).log_weight.exp()[-K:]
    count = np.bincount(posterior.labels[-1])
    alpha = posterior.alpha[-1, 0]
    assert np.allclose(weight, (count + alpha) / (count + alpha).sum(), rtol=PEER_RELATIVE)
    assert float(start(Schedule(6, 4, 1, 0, 1, True, 0), torch.tensor([0, 5]), [1]).alpha[0]) > 1
