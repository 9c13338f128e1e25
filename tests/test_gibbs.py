"""Gibbs sweeps: engine against reference label for label; enumeration, Geweke's test, the published implementation."""

import importlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from cases import ragged
from scipy import stats
from scipy.integrate import quad
from scipy.special import gammaln
from tolerances import MONTE_CARLO_SIGMAS, PEER_RELATIVE

from kernels import AlphaNoise, GibbsState, NIWPrior, gibbs_sweep
from kernels.cpu import components


def make_prior(x: np.ndarray, group_offsets: torch.Tensor, n_init_components: int = 6) -> NIWPrior:
    """Data-driven prior with a full (not diagonal) scale matrix, so that a transposed factor would show."""
    D = x.shape[1]
    mu0, S0 = [], []
    for a, b in zip(group_offsets[:-1].tolist(), group_offsets[1:].tolist(), strict=True):
        mu0.append(x[a:b].mean(0))
        centred = x[a:b] - mu0[-1]
        S0.append((centred.T @ centred / (b - a) + np.eye(D)) / n_init_components ** (2 / D))
    G = len(mu0)
    return NIWPrior(
        torch.from_numpy(np.array(mu0)),
        torch.full((G,), 0.01, dtype=torch.float64),
        torch.full((G,), D + 2.0, dtype=torch.float64),
        torch.from_numpy(np.array(S0)),
    )


def make_noise(rng: np.random.Generator, group_offsets: torch.Tensor, T: int, alpha_shape: int = 1):
    sizes = group_offsets.diff().tolist()
    N, G = sum(sizes), len(sizes)
    order = np.stack([np.concatenate([rng.permutation(n) for n in sizes]) for _ in range(T)])
    noise = AlphaNoise(
        *(
            torch.from_numpy(a)
            for a in (rng.exponential(size=(T, N)), rng.exponential(size=(T, N + alpha_shape * G)), rng.random((T, G)))
        )
    )
    return torch.from_numpy(order), torch.from_numpy(rng.random((T, N))), noise


def make_labels(rng: np.random.Generator, group_offsets: torch.Tensor, n_components: int) -> torch.Tensor:
    return torch.from_numpy(
        np.concatenate(
            [
                np.unique(rng.integers(n_components, size=n), return_inverse=True)[1]
                for n in group_offsets.diff().tolist()
            ]
        )
    )


def make_problem(seed: int, N: int, D: int, G: int, T: int, n_components: int = 6):
    rng = np.random.default_rng(seed)
    group_offsets = ragged(N, G, seed)
    x = rng.normal(size=(N, D)) + 3 * rng.integers(0, 3, size=(N, 1))
    state = GibbsState(make_labels(rng, group_offsets, n_components), torch.from_numpy(rng.exponential(size=G) + 0.1))
    order, uniforms, noise = make_noise(rng, group_offsets, T)
    arguments = {"prior": make_prior(x, group_offsets), "group_offsets": group_offsets}
    return state, torch.from_numpy(x), order, uniforms, noise, arguments


@pytest.mark.parametrize(("block_size", "shared_new"), [(1, False), (4, False), (4, True), (3, True), (32, False)])
@pytest.mark.parametrize("D", [1, 2, 5, 17])
def test_engine_draws_the_labels_of_the_reference(D, block_size, shared_new):
    opened_or_emptied = 0
    for seed in range(2):
        state, x, order, uniforms, noise, arguments = make_problem(seed, N=60, D=D, G=3, T=2)
        arguments |= {"block_size": block_size, "shared_new": shared_new}
        expected = gibbs_sweep(state, x, order, uniforms, noise, engine="reference", **arguments)
        for dtype in (torch.float64, torch.float32):
            got = gibbs_sweep(state, x.to(dtype), order, uniforms, noise, engine="cpu", **arguments)
            assert torch.equal(got.labels, expected.labels)
            assert torch.allclose(got.alpha, expected.alpha, rtol=1e-12)
        states = torch.cat([state.labels[None], expected.labels])
        for a, b in pairwise(arguments["group_offsets"].tolist()):
            opened_or_emptied += int((states[:, a:b].amax(1).diff() != 0).sum())
    assert opened_or_emptied > 0, "no case opens or empties a component"


def test_engine_draws_the_labels_of_the_reference_from_all_singletons_and_from_one_component():
    # More components than memory is first set aside for, and room for none.
    for labels in (torch.arange(70), torch.zeros(70, dtype=torch.int64)):
        state, x, order, uniforms, noise, arguments = make_problem(5, N=70, D=3, G=1, T=2)
        state = GibbsState(labels, torch.tensor([30.0], dtype=torch.float64))
        results = [
            gibbs_sweep(state, x, order, uniforms, noise, engine=engine, **arguments) for engine in ("reference", "cpu")
        ]
        assert torch.equal(results[0].labels, results[1].labels)


def two_places():
    """Three points each at two places, so far apart that a component at one has no weight at all at the other."""
    group_offsets, nu0 = torch.tensor([0, 6]), 1e6
    x = torch.tensor([[0.0], [1e4], [0.0], [1e4], [0.0], [1e4]]).double()
    prior = NIWPrior(x[:1], *(torch.tensor([v]).double() for v in (0.01, nu0)), torch.tensor([[[nu0]]]).double())
    state = GibbsState(torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([1.0]).double())
    arguments = {"prior": prior, "group_offsets": group_offsets}
    return state, x, torch.arange(6)[None], torch.zeros(1, 6).double(), arguments


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_a_uniform_of_zero_draws_no_slot_without_weight(engine):
    state, x, order, uniforms, arguments = two_places()
    assert torch.equal(gibbs_sweep(state, x, order, uniforms, engine=engine, **arguments).labels[0], state.labels)


@pytest.mark.parametrize("alpha_shape", [1, 2, 3])
@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_alpha_comes_from_the_numbers_of_its_group_and_sweep(engine, alpha_shape):
    rng = np.random.default_rng(alpha_shape)
    state, x, order, uniforms, _, arguments = make_problem(1, N=24, D=2, G=3, T=3)
    noise = make_noise(rng, arguments["group_offsets"], 3, alpha_shape)[2]
    beta, gamma, choice = (field.numpy() for field in noise)
    options = {"alpha_shape": alpha_shape, "engine": engine}
    result = gibbs_sweep(state, x, order, uniforms, noise, **options, **arguments)
    for g, (a, b) in enumerate(pairwise(arguments["group_offsets"].tolist())):
        alpha, n = float(state.alpha[g]), b - a
        for t in range(3):
            smaller = alpha_shape + int(result.labels[t, a:b].max())
            rate = 1 + np.sum(beta[t, a:b] / (alpha + 1 + np.arange(n)))
            shape = smaller + (choice[t, g] < smaller / (smaller + n * rate))
            alpha = gamma[t, a + alpha_shape * g :][:shape].sum() / rate
            assert float(result.alpha[t, g]) == pytest.approx(alpha, rel=PEER_RELATIVE)


def test_64_dimensions_over_many_tiles():
    state, x, order, uniforms, noise, arguments = make_problem(7, N=140, D=64, G=2, T=1)
    expected = gibbs_sweep(state, x, order, uniforms, noise, engine="reference", **arguments)
    for dtype in (torch.float64, torch.float32):
        got = gibbs_sweep(state, x.to(dtype), order, uniforms, noise, **arguments)
        assert torch.equal(got.labels, expected.labels)


def test_sweeps_in_one_call_equal_sweeps_one_by_one(poisoned):
    for dtype in (torch.float64, torch.float32):
        state, x, order, uniforms, noise, arguments = make_problem(3, N=300, D=6, G=5, T=12)
        together = gibbs_sweep(state, x.to(dtype), order, uniforms, noise, **arguments)
        for t in range(len(order)):
            state = gibbs_sweep(
                state, x.to(dtype), order[t], uniforms[t], AlphaNoise(*(f[t] for f in noise)), **arguments
            )
            assert torch.equal(state.labels, together.labels[t])
            assert torch.equal(state.alpha, together.alpha[t])


def test_same_labels_on_one_and_two_threads_and_inputs_untouched(two_threads):
    state, x, order, uniforms, noise, arguments = make_problem(4, N=400, D=5, G=7, T=5)
    before = [t.clone() for t in (state.labels, state.alpha, x, order, uniforms)]
    torch.set_num_threads(1)
    one = gibbs_sweep(state, x, order, uniforms, noise, **arguments)
    torch.set_num_threads(2)
    two = gibbs_sweep(state, x, order, uniforms, noise, **arguments)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.alpha, two.alpha)
    for now, then in zip((state.labels, state.alpha, x, order, uniforms), before, strict=True):
        assert torch.equal(now, then)


def test_the_default_device_of_torch_does_not_matter():
    state, x, order, uniforms, _, arguments = make_problem(0, N=20, D=2, G=2, T=2)
    expected = gibbs_sweep(state, x, order, uniforms, engine="cpu", **arguments)
    with torch.device("meta"):  # in place of a GPU
        found = gibbs_sweep(state, x, order, uniforms, engine="cpu", **arguments)
    assert torch.equal(found.labels, expected.labels)


def test_labels_stay_without_gaps_and_alpha_positive():
    state, x, order, uniforms, noise, arguments = make_problem(11, N=500, D=2, G=6, T=10)
    result = gibbs_sweep(state, x, order, uniforms, noise, block_size=4, **arguments)
    for t in range(len(order)):
        for a, b in zip(arguments["group_offsets"][:-1], arguments["group_offsets"][1:], strict=True):
            used = torch.unique(result.labels[t, a:b])
            assert torch.equal(used, torch.arange(len(used)))
    assert (result.alpha > 0).all()
    assert torch.equal(gibbs_sweep(state, x, order, uniforms, **arguments).alpha[-1], state.alpha), (
        "no noise, no change"
    )


def far_problem(distances, dtype):
    """30 points about the prior's mean, but for as many as there are distances, far away in every feature."""
    rng = np.random.default_rng(11)
    n, D, T = 30, 16, 2
    x = rng.normal(size=(n, D))
    x[: len(distances)] += np.array(distances)[:, None]
    group_offsets = torch.tensor([0, n])
    prior = (np.zeros((1, D)), np.array([0.01]), np.array([D + 2.0]), np.eye(D)[None])
    prior = NIWPrior(*map(torch.from_numpy, prior))
    state = GibbsState(torch.zeros(n, dtype=torch.int64), torch.ones(1).double())
    arguments = {"prior": prior, "group_offsets": group_offsets}
    return state, torch.from_numpy(x).to(dtype), *make_noise(rng, group_offsets, T), arguments


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("distances", [(3e3, 1e4), (1e5, 3.0)])
def test_members_far_away_are_taken_out_in_float64(distances, block_size):
    # In float32, 1 - r q is below its rounding error for them; where it came out negative, all later points of the
    # sweep went to components of their own.
    *problem, arguments = far_problem(distances, torch.float32)
    arguments["block_size"] = block_size
    expected, actual = (gibbs_sweep(*problem, **arguments, engine=engine) for engine in ("reference", "cpu"))
    assert torch.equal(actual.labels, expected.labels)
    # A sweep depends on the state alone here, too.
    state, x, order, uniforms, noise = problem
    for t in range(len(order)):
        state = gibbs_sweep(state, x, order[t], uniforms[t], AlphaNoise(*(f[t] for f in noise)), **arguments)
        assert torch.equal(state.labels, actual.labels[t])
        assert torch.equal(state.alpha, actual.alpha[t])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_too_far_for_float64_is_refused(dtype):
    *problem, arguments = far_problem((3e6,), dtype)
    words = r"\(x - mu0\)' S0\^-1 \(x - mu0\) is below 4.5e\+13, or .* group 0 has a point above"
    with pytest.raises(ValueError, match=words):
        gibbs_sweep(*problem, **arguments, engine="cpu")


def far_in_the_second_group(place, far):
    """Groups of 3, 70 and 2 points, visited in order; that one of the second is far from mu0 = 0."""
    rng = np.random.default_rng(place)
    group_offsets, D = torch.tensor([0, 3, 73, 75]), 2
    x = rng.normal(size=(75, D))
    x[3 + place, 1] = far
    prior = (np.zeros((3, D)), np.full(3, 0.01), np.full(3, D + 2.0), np.tile(np.eye(D), (3, 1, 1)))
    state = GibbsState(torch.zeros(75, dtype=torch.int64), torch.ones(3).double())
    order = torch.cat([torch.arange(n) for n in group_offsets.diff().tolist()])
    arguments = {"prior": NIWPrior(*map(torch.from_numpy, prior)), "group_offsets": group_offsets}
    return state, torch.from_numpy(x), order, torch.from_numpy(rng.random(75)), arguments


@pytest.mark.parametrize("place", [0, 31, 32, 69])
def test_what_is_too_far_is_refused_wherever_it_is(place):
    state, x, order, uniforms, arguments = far_in_the_second_group(place, 3e7)
    with pytest.raises(ValueError, match=r"below 4.5e\+13, or .* group 1 has a point above"):
        gibbs_sweep(state, x, order, uniforms, engine="cpu", **arguments)


def test_a_scatter_that_overflows_is_refused():
    state, x, order, uniforms, arguments = far_in_the_second_group(0, 1e200)
    with pytest.raises(ValueError, match="group 1: a component's scale matrix is not positive definite in float64"):
        gibbs_sweep(state, x, order, uniforms, engine="cpu", **arguments)


def test_float32_that_overflows_about_the_mean_of_the_prior_is_swept_in_float64():
    state, x, order, uniforms, noise, arguments = make_problem(8, N=20, D=2, G=1, T=2)
    x, scale = (x / x.abs().max()).float(), 2.0**127
    prior = arguments["prior"]._replace(mu0=torch.full((1, 2), -1.5).double(), S0=torch.eye(2).double()[None] / 8)
    expected = gibbs_sweep(state, x.double(), order, uniforms, noise, **arguments | {"prior": prior})
    prior = prior._replace(mu0=scale * prior.mu0, S0=scale**2 * prior.S0)
    found = gibbs_sweep(state, scale * x, order, uniforms, noise, **arguments | {"prior": prior})
    assert (scale * (x + 1.5)).isinf().any()
    assert torch.equal(found.labels, expected.labels)


def moved_far_from_zero(x, prior, shift, grid=2.0**-6):
    """The points on a grid and about mu0 = 0; and where every value is larger by `shift`, on the same grid."""
    x = ((x - x.mean(0)) / grid).round() * grid
    at_zero = prior._replace(mu0=torch.zeros_like(prior.mu0))
    return (x, at_zero), (x + shift, at_zero._replace(mu0=at_zero.mu0 + shift))


@pytest.mark.parametrize("distances", [(), (3e3, 1e4)])
@pytest.mark.parametrize("block_size", [1, 4])
def test_float32_far_from_zero_loses_nothing(block_size, distances):
    # float32 holds these points as they are, but their means only to the grid.
    for seed in range(3):
        state, x, order, uniforms, noise, arguments = make_problem(seed, N=120, D=5, G=2, T=3)
        x[: len(distances)] += torch.tensor(distances, dtype=torch.float64)[:, None]
        near, far = moved_far_from_zero(x, arguments.pop("prior"), 2.0**17)
        results = []
        for points, prior in (near, far):
            assert torch.equal(points.float().double(), points)
            results.append(
                gibbs_sweep(
                    state, points.float(), order, uniforms, noise, prior=prior, block_size=block_size, **arguments
                )
            )
        assert torch.equal(results[0].labels, results[1].labels)
        assert torch.equal(results[0].alpha, results[1].alpha)


def test_float64_takes_over_with_the_points_as_they_are(monkeypatch):
    engine, given = importlib.import_module("kernels.cpu.gibbs_sweep"), []
    sweep = engine._sweep_group
    monkeypatch.setattr(engine, "_sweep_group", lambda *args: given.append(args[0]) or sweep(*args))
    *problem, arguments = far_problem((3e3, 1e4), torch.float32)
    prior = arguments["prior"]
    mu0 = torch.full_like(prior.mu0, 1 / 3)
    gibbs_sweep(*problem, **arguments | {"prior": prior._replace(mu0=mu0)})
    assert [x.dtype for x in given] == [np.float32, np.float64]
    assert np.array_equal(given[1], (problem[1].double() - mu0).numpy())


def test_float32_points_are_centred_and_components_rebuilt_in_float64():
    rng, n, D = np.random.default_rng(4), 50, 3
    mu0 = np.full(D, 2.0**10 / 3)
    given = (mu0 + rng.normal(size=(n, D))).astype(np.float32)
    x = components.centred(given, mu0)
    assert x.dtype == np.float32
    assert np.array_equal(x, (given.astype(np.float64) - mu0).astype(np.float32))
    one, kappa0, exact = components.make_components(x, 1), 0.01, x.astype(np.float64)
    assert components.rebuild_one(x, np.zeros(n, np.int64), 0, kappa0, np.eye(D), one, components.build_scratch(n, D))
    mean, scatter = exact.mean(0), np.cov(exact.T, bias=True) * n
    S_n = np.eye(D) + scatter + kappa0 * n / (kappa0 + n) * np.outer(mean, mean)
    assert one.log_det[0] == pytest.approx(np.linalg.slogdet(S_n)[1], rel=PEER_RELATIVE)


# --- Exactness: all partitions of six points


def partitions(n: int) -> list[tuple[int, ...]]:
    """All partitions of n points, as labels in order of first appearance."""
    grown = [(0,)]
    for _ in range(n - 1):
        grown = [(*p, k) for p in grown for k in range(max(p) + 2)]
    return grown


def scipy_log_marginal(x: np.ndarray, prior: NIWPrior) -> float:
    """log p(x) of one component's points, as the product of one-step-ahead Student-t predictives, all by scipy."""
    mu0, kappa, nu, S = (field[0].numpy() for field in prior)
    D = x.shape[1]
    total = 0.0
    mean = mu0.copy()
    for point in x:
        df = nu - D + 1
        total += stats.multivariate_t.logpdf(point, mean, S * (kappa + 1) / (kappa * df), df=df)
        S = S + kappa / (kappa + 1) * np.outer(point - mean, point - mean)
        mean = mean + (point - mean) / (kappa + 1)
        kappa, nu = kappa + 1, nu + 1
    return total


def alpha_integrand(alpha: float, K: int, n: int) -> float:
    """Gamma(1, 1) density of alpha times its part of the probability of a partition of n points into K."""
    return np.exp(-alpha + K * np.log(alpha) + gammaln(alpha) - gammaln(alpha + n))


def exact_posterior(
    x: np.ndarray, prior: NIWPrior, alpha: float | None, inverse_temperature: float = 1.0
) -> dict[tuple[int, ...], float]:
    """Posterior probability of every partition; alpha None integrates over Gamma(1, 1) numerically."""
    n = len(x)
    log_weight = {}
    for p in partitions(n):
        sizes = np.bincount(p)
        if alpha is None:
            partition = np.log(quad(alpha_integrand, 0, np.inf, args=(len(sizes), n))[0])
        else:
            partition = len(sizes) * np.log(alpha)
        likelihood = sum(scipy_log_marginal(x[np.array(p) == k], prior) for k in range(len(sizes)))
        log_weight[p] = partition + gammaln(sizes).sum() + inverse_temperature * likelihood
    weights = np.exp(np.array(list(log_weight.values())) - max(log_weight.values()))
    return dict(zip(log_weight, weights / weights.sum(), strict=True))


@pytest.mark.parametrize("alpha", [0.7, None])
def test_single_site_sweeps_sample_the_posterior_over_all_203_partitions(alpha):
    rng = np.random.default_rng(20)
    x = np.array([[0.0, 0.0], [0.4, 0.3], [2.5, 1.0], [2.2, 1.6], [1.2, 0.4], [-1.5, 2.0]])
    n_chains, n_sweeps, n_discard = 300, 220, 20
    prior = make_prior(x, torch.tensor([0, 6]), n_init_components=3)
    exact = exact_posterior(x, prior, alpha)
    assert len(exact) == 203

    group_offsets = 6 * torch.arange(n_chains + 1)
    every_prior = NIWPrior(*(field.expand(n_chains, *field.shape[1:]).contiguous() for field in prior))
    order, uniforms, noise = make_noise(rng, group_offsets, n_sweeps)
    state = GibbsState(
        torch.zeros(6 * n_chains, dtype=torch.int64), torch.full((n_chains,), alpha or 1.0, dtype=torch.float64)
    )
    result = gibbs_sweep(
        state,
        torch.from_numpy(np.tile(x, (n_chains, 1))),
        order,
        uniforms,
        noise if alpha is None else None,
        prior=every_prior,
        group_offsets=group_offsets,
    )
    labels = result.labels[n_discard:].reshape(-1, n_chains, 6).numpy()
    index = {p: i for i, p in enumerate(exact)}
    counts = np.zeros((n_chains, len(exact)))
    for chain in range(n_chains):
        for row in labels[:, chain]:
            first = {}
            counts[chain, index[tuple(first.setdefault(k, len(first)) for k in row)]] += 1
    share = counts / len(labels)
    probability = np.array(list(exact.values()))
    # Chains are independent, so their spread gives the standard error; rare partitions are pooled into one.
    rare = probability < 2e-3
    share = np.column_stack([share[:, ~rare], share[:, rare].sum(1)])
    probability = np.append(probability[~rare], probability[rare].sum())
    error = (share.mean(0) - probability) / (share.std(0, ddof=1) / np.sqrt(n_chains))
    assert np.abs(error).max() < MONTE_CARLO_SIGMAS
    assert len(probability) >= 15
    # All together: the mean square of as many standard normal errors is near 1.
    assert np.mean(error**2) < 1 + MONTE_CARLO_SIGMAS * np.sqrt(2 / len(error))


# --- Geweke's joint-distribution test


def draw_points(rng, labels: np.ndarray, D: int, kappa0: float, nu0: float) -> np.ndarray:
    """x | labels for chains [C, n]: a fresh (mu, Sigma) ~ NIW(0, kappa0, nu0, I) for every component of every chain."""
    C, n = labels.shape
    x = np.empty((C, n, D))
    for k in range(labels.max() + 1):
        covariance = stats.invwishart.rvs(df=nu0, scale=np.eye(D), size=C, random_state=rng).reshape(C, D, D)
        chol = np.linalg.cholesky(covariance)
        mean = np.einsum("cij,cj->ci", chol, rng.normal(size=(C, D))) / np.sqrt(kappa0)
        points = mean[:, None] + np.einsum("cij,cnj->cni", chol, rng.normal(size=(C, n, D)))
        x[labels == k] = points[labels == k]
    return x


def draw_partitions(rng, alpha: np.ndarray, n: int) -> np.ndarray:
    """Chinese restaurant process, one partition of n points for each alpha."""
    every = np.arange(len(alpha))
    labels, weight, K = np.zeros((len(alpha), n), np.int64), np.zeros((len(alpha), n + 1)), np.zeros_like(every)
    for i in range(n):
        weight[every, K] = alpha
        k = (weight.cumsum(1) <= (i + alpha)[:, None] * rng.random((len(alpha), 1))).sum(1)
        k = np.minimum(k, K)  # rounding
        weight[every, K] = 0
        weight[every, k] += 1
        labels[:, i] = k
        K += k == K
    return labels


def geweke_statistics(alpha: np.ndarray, labels: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    """[C] statistics of (alpha, labels, x) that a wrong sampler would shift; bounded, since x has heavy tails."""
    K = labels.max(1) + 1
    together = labels[:, 0] == labels[:, 1]
    near = np.exp(-np.linalg.norm(x[:, 0] - x[:, 1], axis=-1))
    return {
        "alpha": alpha,
        "log alpha": np.log(alpha),
        "components": K,
        "components squared": K**2,
        "largest component": np.array([np.bincount(row).max() for row in labels]),
        "first two together": together,
        "first two near": near,
        "together and near": together * near,
        "size of x": np.tanh(np.abs(x).mean((1, 2)) / 5),
        "alpha and components": np.log(alpha) * K,
    }


@pytest.mark.parametrize(("dtype", "alpha_shape"), [(torch.float64, 1), (torch.float32, 1), (torch.float64, 2)])
def test_joint_distribution_is_left_invariant(dtype, alpha_shape):
    """Draw (alpha, labels, x) from the model; then alternate sweeps with fresh x | labels: the law must not change."""
    rng = np.random.default_rng(77)
    C, n, D, kappa0, nu0 = 4000, 7, 2, 0.3, 5.0
    prior = NIWPrior(
        torch.zeros(C, D, dtype=torch.float64),
        torch.full((C,), kappa0, dtype=torch.float64),
        torch.full((C,), nu0, dtype=torch.float64),
        torch.eye(D, dtype=torch.float64).expand(C, D, D).contiguous(),
    )
    group_offsets = n * torch.arange(C + 1)
    forward_alpha = rng.gamma(alpha_shape, size=3 * C)
    forward_labels = draw_partitions(rng, forward_alpha, n)
    forward = geweke_statistics(forward_alpha, forward_labels, draw_points(rng, forward_labels, D, kappa0, nu0))

    alpha, labels = forward_alpha[:C], forward_labels[:C]
    for _ in range(6):
        x = draw_points(rng, labels, D, kappa0, nu0)
        order, uniforms, noise = make_noise(rng, group_offsets, 1, alpha_shape)
        state = gibbs_sweep(
            GibbsState(torch.from_numpy(labels.reshape(-1)), torch.from_numpy(alpha)),
            torch.from_numpy(x.reshape(-1, D)).to(dtype),
            order[0],
            uniforms[0],
            AlphaNoise(*(field[0] for field in noise)),
            prior=prior,
            group_offsets=group_offsets,
            alpha_shape=alpha_shape,
        )
        alpha, labels = state.alpha.numpy(), state.labels.reshape(C, n).numpy()
    after = geweke_statistics(alpha, labels, draw_points(rng, labels, D, kappa0, nu0))
    for name, values in after.items():
        fresh = forward[name][C:]  # chains did not start from these
        error = np.sqrt(values.var() / C + fresh.var() / len(fresh))
        assert abs(values.mean() - fresh.mean()) < MONTE_CARLO_SIGMAS * error, name


# --- The published implementation


@pytest.mark.parametrize("block_size", [1, 4])
def test_chain_has_the_law_of_the_published_chain(golden, block_size):
    stored = golden("official_chain.npz")
    x = stored["x"]
    n, D = x.shape
    n_chains, n_sweeps, n_discard = 80, 700, 100
    rng = np.random.default_rng(block_size)
    group_offsets = n * torch.arange(n_chains + 1)
    variance = x.astype(np.float64).var(0)
    prior = NIWPrior(
        torch.from_numpy(np.tile(x.astype(np.float64).mean(0), (n_chains, 1))),
        torch.full((n_chains,), 0.01, dtype=torch.float64),
        torch.full((n_chains,), D + 2.0, dtype=torch.float64),
        torch.from_numpy(np.tile(np.diag(variance) / 6 ** (2 / D), (n_chains, 1, 1))),
    )
    # The published code resamples alpha as under Gamma(2, 1), not the paper's Gamma(1, 1): its mean given K shows it.
    order, uniforms, noise = make_noise(rng, group_offsets, n_sweeps, alpha_shape=2)
    result = gibbs_sweep(
        GibbsState(make_labels(rng, group_offsets, 6), torch.from_numpy(1 + rng.exponential(size=n_chains))),
        torch.from_numpy(np.tile(x, (n_chains, 1))),
        order,
        uniforms,
        noise,
        prior=prior,
        group_offsets=group_offsets,
        block_size=block_size,
        shared_new=True,
        alpha_shape=2,
    )
    labels = result.labels[n_discard:].reshape(-1, n_chains, n)
    K = (labels.amax(2) + 1).double().mean(0).numpy()
    published = np.array(
        [
            stored[f"k_block{block_size}"][stored[f"run_block{block_size}"] == run].mean()
            for run in np.unique(stored[f"run_block{block_size}"])
        ]
    )
    ours, our_error = K.mean(), K.std(ddof=1) / np.sqrt(n_chains)
    published_error = {1: 0.15, 4: 0.11}[block_size]  # of the mean of K, as stated with the arrays
    assert abs(ours - published.mean()) < MONTE_CARLO_SIGMAS * np.hypot(our_error, published_error)
    if block_size == 1:  # an independent exact sampler's 240,000 sweeps: 4.656 +- 0.015
        assert abs(ours - 4.656) < MONTE_CARLO_SIGMAS * np.hypot(our_error, 0.015)

    grid = np.linspace(1e-3, 30, 30_000)
    for k in (3, 4, 5, 6):  # alpha given K under Gamma(2, 1): density a^(1 + K) exp(-a) Gamma(a) / Gamma(a + n)
        log_density = (1 + k) * np.log(grid) - grid + gammaln(grid) - gammaln(grid + n)
        weight = np.exp(log_density - log_density.max())
        expected = np.average(grid, weights=weight)
        theirs = stored[f"alpha_block{block_size}"][stored[f"k_block{block_size}"] == k]
        assert abs(theirs.mean() - expected) < 0.05 * expected

    together = torch.zeros(n_chains, n, n, dtype=torch.float64)
    for sweep in labels[::10]:
        together += sweep[:, :, None] == sweep[:, None, :]
    together = (together / len(labels[::10])).numpy()
    error = np.hypot(
        together.std(0, ddof=1) / np.sqrt(n_chains), np.maximum(stored[f"coclustering_se_block{block_size}"], 0.01)
    )
    deviation = np.abs(together.mean(0) - stored[f"coclustering_block{block_size}"]) / error
    # The published errors come from four runs and so are themselves uncertain by 40%.
    assert np.quantile(deviation[~np.eye(n, dtype=bool)], 0.99) < MONTE_CARLO_SIGMAS
