"""Components of few points, by inner products: against scale matrices, and label for label against the reference."""

import importlib

import numpy as np
import pytest
import torch
from test_gibbs import make_labels, make_noise, make_prior
from tolerances import PEER_RELATIVE

from kernels import AlphaNoise, GibbsState, gibbs_sweep, log_joint
from kernels.cpu import small_components as small_form
from kernels.cpu.components import Scratch, build_scratch, make_components
from kernels.cpu.components import make_prior as engine_prior
from kernels.cpu.moments import factor_scratch
from kernels.cpu.tile import load_tile

gibbs = importlib.import_module("kernels.cpu.gibbs_sweep")

N, D, KAPPA0 = 40, 32, 0.01
MOST = D // 2


@pytest.fixture
def held():
    """Points about mu0, the scale S0, and a slot 0 with six of them, joined in this order."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, D)) * np.geomspace(3, 0.3, D)
    root = np.tril(rng.normal(size=(D, D))) / 8 + np.eye(D)
    S0 = root @ root.T
    scratch = factor_scratch(D)
    prior, components = engine_prior(x, KAPPA0, D + 2.0, S0, scratch), make_components(x, 1)
    u = small_form.features(x, KAPPA0, S0, scratch)
    small = small_form.make_small_components(x, 1, small_form.inner_products(u))
    members = [11, 3, 30, 7, 25, 0]
    small_form.clear(0, prior, components, small)
    for c, point in enumerate(members):
        components.log_det[0] += small_form.append(0, point, c, KAPPA0, small)
    components.size[0] = len(members)
    return x, S0, members, components, small, prior


def scale_matrix(x, S0, members):
    """kappa_n, m_n and S_n about mu0 = 0, from the definition."""
    kappa = KAPPA0 + len(members)
    mean = x[members].sum(0) / kappa
    return kappa, mean, S0 + x[members].T @ x[members] - kappa * np.outer(mean, mean)


def squared_distance(x, S0, members, point):
    _, mean, S = scale_matrix(x, S0, members)
    return (x[point] - mean) @ np.linalg.solve(S, x[point] - mean)


def log_det(x, S0, members):
    return np.linalg.slogdet(scale_matrix(x, S0, members)[2])[1]


def distances_of_tile(components, small):
    """Squared distances of the first points."""
    small_form.load_products(np.arange(N), 0, N, small)
    small_form.squared_distances(0, KAPPA0, components, small)
    return components.q[0]


def test_distances_and_determinant_are_those_of_the_scale_matrix(held):
    x, S0, members, components, small, _ = held
    assert components.log_det[0] == pytest.approx(log_det(x, S0, members), rel=PEER_RELATIVE)
    expected = [squared_distance(x, S0, members, i) for i in range(components.q.shape[1])]
    np.testing.assert_allclose(distances_of_tile(components, small), expected, rtol=PEER_RELATIVE)


def test_determinant_by_features(held):
    x, S0, members, *_ = held
    u = small_form.features(x, KAPPA0, S0, factor_scratch(D))
    found = small_form.log_det_of_members(u, np.array([*members, 99]), len(members), KAPPA0, np.full((8, 8), np.nan))
    expected = log_det(x, S0, members) - np.linalg.slogdet(S0)[1]
    assert found == pytest.approx(expected, rel=PEER_RELATIVE)


@pytest.mark.parametrize("point", [11, 7, 0])
def test_a_point_that_leaves(held, point):
    x, S0, members, components, small, _ = held
    rest = [i for i in members if i != point]
    q, change = small_form.without_point(0, point, len(members), KAPPA0, small)
    assert q == pytest.approx(squared_distance(x, S0, rest, point), rel=PEER_RELATIVE)
    assert change == pytest.approx(log_det(x, S0, rest) - log_det(x, S0, members), rel=PEER_RELATIVE)
    change = small_form.remove(0, point, len(members), KAPPA0, small)
    components.size[0] = len(rest)
    assert change == pytest.approx(log_det(x, S0, rest) - log_det(x, S0, members), rel=PEER_RELATIVE)
    expected = [squared_distance(x, S0, rest, i) for i in range(components.q.shape[1])]
    np.testing.assert_allclose(distances_of_tile(components, small), expected, rtol=PEER_RELATIVE)


def test_a_block_that_leaves(held):
    x, S0, members, _, small, _ = held
    before = small.R[0].copy()
    block, q = np.array([3, 14, 25, 0]), np.zeros(4)
    of_rest = small_form.without_block(0, block, len(members), KAPPA0, small, q)
    rest = [11, 30, 7]
    assert of_rest == pytest.approx(log_det(x, S0, rest) - np.linalg.slogdet(S0)[1], rel=PEER_RELATIVE)
    np.testing.assert_allclose(q, [squared_distance(x, S0, rest, i) for i in block], rtol=PEER_RELATIVE)
    assert np.array_equal(small.R[0], before)


def problem(n_components, dtype=torch.float64, seed=0, n=72, n_features=D, T=2):
    """Two groups of points in clusters of a few, more or less, as labels have them."""
    rng = np.random.default_rng(seed)
    offsets = torch.tensor([0, n, n + n // 4])
    centres = rng.normal(size=(30, n_features)) * 2
    x = centres[rng.integers(30, size=int(offsets[-1]))] + rng.normal(size=(int(offsets[-1]), n_features))
    state = GibbsState(make_labels(rng, offsets, n_components), torch.full((2,), 8.0, dtype=torch.float64))
    arguments = {"prior": make_prior(x, offsets), "group_offsets": offsets}
    return state, torch.from_numpy(x).to(dtype), *make_noise(rng, offsets, T), arguments


def sizes(labels):
    return labels.bincount()


def assert_labels_of_the_reference(state, x, order, uniforms, noise, arguments):
    expected = gibbs_sweep(state, x.double(), order, uniforms, noise, engine="reference", **arguments)
    for dtype in (torch.float64, torch.float32):
        got = gibbs_sweep(state, x.to(dtype), order, uniforms, noise, engine="cpu", **arguments)
        assert torch.equal(got.labels, expected.labels)
        assert torch.allclose(got.alpha, expected.alpha, rtol=1e-12)
    return expected


@pytest.mark.parametrize("n_features", [32, 37, 64])
@pytest.mark.parametrize(("block_size", "shared_new"), [(1, False), (4, False), (3, True)])
def test_labels_of_the_reference(n_features, block_size, shared_new):
    *numbers, arguments = problem(35, n_features=n_features)
    assert (sizes(numbers[0].labels[:72]) <= n_features // 2).sum() >= small_form.FEWEST
    arguments |= {"block_size": block_size, "shared_new": shared_new}
    expected = assert_labels_of_the_reference(*numbers, arguments)
    first, last = numbers[0].labels[:72], expected.labels[-1, :72]
    assert last.max() != first.max(), "none was opened or emptied"
    assert (last != first).any()


@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_labels_of_the_reference_at_another_temperature(beta):
    *numbers, _, arguments = problem(35)
    arguments["inverse_temperature"] = torch.full((2,), beta, dtype=torch.float64)
    assert_labels_of_the_reference(*numbers, None, arguments)


def test_both_forms_at_once_and_a_component_that_outgrows_the_small_one():
    # One large component beside many small ones, of which one has all the room it can have, and more points nearby.
    state, x, order, uniforms, noise, arguments = problem(30, n=150)
    rng = np.random.default_rng(1)
    labels = state.labels.clone()
    labels[:40] = 30
    x[:40] = torch.from_numpy(rng.normal(size=(40, D)))
    x[40:70] = 6 + torch.from_numpy(rng.normal(size=(30, D))) / 4
    labels[40 : 40 + MOST] = 31
    labels[:150] = torch.unique(labels[:150], return_inverse=True)[1]
    state = state._replace(labels=labels)
    before = sizes(labels[:150])
    assert (before > MOST).any()
    assert before[labels[40]] == MOST
    assert (before <= MOST).sum() >= small_form.FEWEST
    for block_size in (1, 4):
        expected = assert_labels_of_the_reference(
            state, x, order, uniforms, noise, arguments | {"block_size": block_size}
        )
        after = expected.labels[0, :150]
        assert sizes(after)[after[40]] > MOST


def test_more_components_than_memory_was_first_set_aside_for():
    # Nearly by the restaurant process alone, of many tables.
    state, x, order, uniforms, _, arguments = problem(20)
    assert (sizes(state.labels[:72]) <= MOST).sum() >= small_form.FEWEST
    state = state._replace(alpha=torch.full((2,), 300.0, dtype=torch.float64))
    arguments["inverse_temperature"] = torch.full((2,), 0.01, dtype=torch.float64)
    for block_size in (1, 4):
        arguments["block_size"] = block_size
        expected = assert_labels_of_the_reference(state, x, order, uniforms, None, arguments)
        assert state.labels[:72].max() + 1 + block_size <= 2 * gibbs.FIRST_CAPACITY < expected.labels[0, :72].max()


def test_components_that_move_to_other_slots():
    # The first slot is emptied in the first sweep, and all that follow it move up as they are.
    state, x, order, uniforms, noise, arguments = problem(20, T=3)
    rng = np.random.default_rng(2)
    cluster = torch.arange(72) % 18
    x[:72] = torch.from_numpy(8 * rng.normal(size=(18, D)))[cluster] + x[:72] / 8
    labels = cluster + 1
    labels[40] = 0
    state = state._replace(labels=torch.cat([labels, state.labels[72:]]))
    arguments["prior"] = make_prior(x.numpy(), arguments["group_offsets"], n_init_components=10**20)
    expected = assert_labels_of_the_reference(state, x, order, uniforms, noise, arguments)
    assert torch.equal(expected.labels[:, :72], cluster.expand(3, 72))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block_size", [1, 4])
def test_sweeps_in_one_call_equal_sweeps_one_by_one(dtype, block_size):
    # Fewer than FEWEST small components after some sweeps: what a sweep does depends on its own labels alone.
    state, x, order, uniforms, noise, arguments = problem(18, dtype, T=6)
    arguments["block_size"] = block_size
    together = gibbs_sweep(state, x, order, uniforms, noise, **arguments)
    few = [(sizes(labels[:72]) <= MOST).sum() < small_form.FEWEST for labels in (state.labels, *together.labels)]
    assert any(few)
    assert not all(few)
    for t in range(len(order)):
        state = gibbs_sweep(state, x, order[t], uniforms[t], AlphaNoise(*(f[t] for f in noise)), **arguments)
        assert torch.equal(state.labels, together.labels[t])
        assert torch.equal(state.alpha, together.alpha[t])


@pytest.mark.parametrize(("kappa0", "far"), [(1e-9, 0.0), (0.01, 3e4)])
def test_where_products_are_too_large_scale_matrices_take_over(kappa0, far):
    state, x, order, uniforms, noise, arguments = problem(35)
    x[5] += far
    arguments["prior"] = arguments["prior"]._replace(kappa0=torch.full((2,), kappa0, dtype=torch.float64))
    prior = (field[0].numpy() for field in arguments["prior"])
    mu0, _, _, S0 = prior
    points = x[:72].numpy() - mu0
    assert len(small_form.features(points, kappa0, S0, factor_scratch(D))) == 0
    assert_labels_of_the_reference(state, x, order, uniforms, noise, arguments)


def test_one_that_outgrows_its_form_gets_its_scale_matrix(held):
    x, S0, members, components, small, prior = held
    tile, row = np.zeros((D, components.q.shape[1])), np.zeros(D)
    scratch = Scratch(tile, tile.copy(), row, row.copy(), tile[0].copy(), row[None], np.zeros(1))
    load_tile(x, np.arange(N), 0, N, scratch.tile)
    assert gibbs._enlarge(x, 0, prior, components, small, scratch, build_scratch(N, D))
    assert not small.is_small[0]
    _, mean, S = scale_matrix(x, S0, members)
    W = components.W[0, :D, :D]
    np.testing.assert_allclose(components.mean[0], mean, rtol=PEER_RELATIVE)
    np.testing.assert_allclose(W @ S @ W.T, np.eye(D), atol=PEER_RELATIVE)
    assert components.log_det[0] == pytest.approx(log_det(x, S0, members), rel=PEER_RELATIVE)
    expected = [squared_distance(x, S0, members, i) for i in range(components.q.shape[1])]
    np.testing.assert_allclose(components.q[0], expected, rtol=PEER_RELATIVE)


@pytest.mark.parametrize("kappa0", [0.01, 1e-9])
def test_log_joint_of_the_reference(kappa0):
    # Three labellings, of which the second has no components that are held in this form.
    state, x, _, _, _, arguments = problem(35)
    arguments["prior"] = arguments["prior"]._replace(kappa0=torch.full((2,), kappa0, dtype=torch.float64))
    labels = torch.stack([state.labels, state.labels * 0, torch.arange(len(x)) % 18])
    labels[2, :40] = 0
    labels[2, 72:] = torch.unique(labels[2, 72:], return_inverse=True)[1]
    assert sizes(labels[2, :72])[0] > MOST
    state = GibbsState(labels, state.alpha.expand(3, 2))
    expected = log_joint(state, x, engine="reference", **arguments)
    found = log_joint(state, x, **arguments)
    assert torch.allclose(found, expected, rtol=PEER_RELATIVE)
    for t in range(3):
        alone = log_joint(GibbsState(labels[t], state.alpha[t]), x, **arguments)
        assert torch.equal(alone, found[t]), "a labelling does not look at others"


def test_corrected_blocks_of_the_reference():
    *numbers, arguments = problem(35)
    accept = torch.from_numpy(np.random.default_rng(6).random(numbers[2].shape))
    expected = assert_labels_of_the_reference(*numbers, arguments | {"block_size": 4, "correction": accept})
    refused = gibbs_sweep(*numbers, block_size=4, **arguments)
    assert not torch.equal(refused.labels, expected.labels), "no block is refused"


def test_a_component_that_changes_its_form_has_the_determinant_of_that_form(held):
    x, S0, _, _, small, prior = held
    labels, scratch = np.arange(N) % 5, build_scratch(N, D)

    def begun():
        components = make_components(x, 8)
        components.size[:5] = N // 5
        return components, small_form.make_small_components(x, 8, small.products)

    components, forms = begun()
    for uses_small in (False, True, False, True):
        fresh = begun()
        for each in ((components, forms), fresh):
            assert gibbs._rebuild(x, labels, 5, uses_small, prior, *each, scratch)
        assert np.array_equal(components.log_det, fresh[0].log_det)
        expected = [log_det(x, S0, np.flatnonzero(labels == k)) for k in range(5)]
        np.testing.assert_allclose(components.log_det[:5], expected, rtol=PEER_RELATIVE)
